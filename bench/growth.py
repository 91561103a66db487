"""Measures what appends, memory, the start and the disk cost as a log grows.

Each size is reached by the log writer, with the index built as in a log that grew for months. Then
the service starts, and is measured quiet, right after a burst of batches while the index catches
up, and after a rest. Other work on the machine changes rates; the processor time of an append, and
the ratios of one run, say more then.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.request import urlopen

from bench.append import ORIGIN, QUIET, RATE_PER_S, load
from bench.million import fill_log, resident_mb
from bench.rows import Row
from bench.workers import processor_s
from ledger.demo.child_service import Service, make_ledger
from ledger.service.data_dir import DirectoryPaths

SIZES: Final = (100_000, 1_000_000, 10_000_000)
REST_S: Final = 15.0
RATIO_REACH: Final = 0.9
SINGLES: Final = ("--connections", "32")
BATCHES: Final = ("--connections", "4", "--batch", "1000")


def run(folder: Path, *, sizes: Sequence[int] = SIZES, seconds: float) -> list[Row]:
    """Measure one log at each size, ascending."""
    directory = folder / "growth"
    token = make_ledger(directory, origin=ORIGIN)
    rows: list[Row] = []
    size = 0
    first = 0.0
    for wanted in sizes:
        fill_log(directory, max(0, wanted - size), seed=wanted)
        os.sync()  # Else the disk writes what filled the log while commits wait for it.
        found, quiet_s, size = _measure(directory, token, max(wanted, size), seconds)
        rows += found
        first = first or quiet_s
        ratio = first / quiet_s
        rows.append(
            Row(f"{wanted:,} entries: processor time of an append at the first size to that here",
                ratio, "", reach=RATIO_REACH)
        )  # fmt: skip
        print(*(f"{row.name}: {row.figure:,.2f} {row.unit}" for row in rows[-12:]), sep="\n")
    return rows


def _measure(
    directory: Path, token: str, entries: int, seconds: float
) -> tuple[list[Row], float, int]:
    """The rows of one size, the processor seconds of an append, and the size afterwards."""
    paths = DirectoryPaths(directory)
    log = (paths.log / "data.mdb").stat().st_blocks * 512
    index = sum(each.stat().st_blocks * 512 for each in paths.index.glob("*"))
    start_s = time.perf_counter()
    with Service(directory, listen="127.0.0.1:0", flags=(*QUIET, "--workers", "0")) as service:
        urlopen(f"{service.url}/v1/log").close()
        started_s = time.perf_counter() - start_s
        at_start = resident_mb(service.process_id)
        load(service.url, token, *SINGLES, seconds=1)  # warm

        def appends(flags: Sequence[str]) -> tuple[dict[str, float], float]:
            """The figures of single appends, and the processor time of one in the service."""
            before = processor_s(service.process_id)["sequencer"]
            figures = load(service.url, token, *flags, seconds=seconds)
            spent = processor_s(service.process_id)["sequencer"] - before
            return figures, spent / figures["answers"]

        quiet, quiet_s = appends(SINGLES)
        paced, _ = appends(("--connections", "64", "--rate", str(RATE_PER_S)))
        burst = load(service.url, token, *BATCHES, seconds=4 * seconds)
        after_burst = resident_mb(service.process_id)
        behind, behind_s = appends(SINGLES)
        time.sleep(REST_S)
        rested = resident_mb(service.process_id)
        with urlopen(f"{service.url}/checkpoint") as answer:
            size = int(answer.read().split(b"\n")[1])
    name = f"{entries:,} entries"
    rows = [
        Row(f"{name}: single events, 32 connections", quiet["requests_per_s"], "events/s"),
        Row(f"{name}: processor time of one", quiet_s * 1e6, "µs"),
        Row(f"{name}: p99 at {RATE_PER_S:,} a second", paced["p99_ms"], "ms"),
        Row(f"{name}: a burst of batches", burst["requests_per_s"] * 1000, "events/s"),
        Row(f"{name}: single events right after it", behind["requests_per_s"], "events/s"),
        Row(f"{name}: processor time of one then", behind_s * 1e6, "µs"),
        Row(f"{name}: from start to first answer", started_s, "s"),
        Row(f"{name}: memory at the start", at_start, "MB"),
        Row(f"{name}: memory after the burst", after_burst, "MB"),
        Row(f"{name}: memory after a rest", rested, "MB"),
        Row(f"{name}: log on disk, an event", log / entries, "bytes"),
        Row(f"{name}: index on disk, an event", index / entries, "bytes"),
    ]
    return rows, quiet_s, size
