"""Measures a log of a million entries: proofs and tiles a second, start, memory, disk."""

import json
import time
from pathlib import Path
from urllib.request import urlopen

from bench.append import ORIGIN, QUIET, load
from bench.events import event_stream
from bench.rows import Row
from ledger.demo.child_service import Service, make_ledger
from ledger.query.segment_builder import reindex
from ledger.service.data_dir import DirectoryPaths
from ledger.store.writer import LogWriter, NewEntry
from ledger_core.event.canonical import format_leaf
from ledger_core.event.reader import Reader
from ledger_core.tlog.hashing import leaf_hash

PROOFS_REACH = 4_000
START_REACH_S = 2.0
MEMORY_REACH_MB = 300.0
DISK_REACH_BYTES = 220.0
BATCH = 1_000


def run(folder: Path, *, entries: int, seconds: float) -> list[Row]:
    """Measure on a log that the log writer filled beforehand, without the service."""
    directory = folder / "million"
    token = make_ledger(directory, origin=ORIGIN)
    event_bytes = fill_log(directory, entries)
    disk = _disk_bytes(DirectoryPaths(directory).log)
    start = time.perf_counter()
    with Service(directory, listen="127.0.0.1:0", flags=QUIET) as service:
        _answers(service.url)
        started_s = time.perf_counter() - start
        proofs = load(
            service.url,
            token,
            "--get",
            "/v1/proofs/inclusion?index={index}",
            "--below",
            str(entries),
            seconds=seconds,
        )
        tiles = load(
            service.url, token, "--get", "/{tile}", "--below", str(entries // 256), seconds=seconds
        )
        memory_mb = resident_mb(service.process_id)
    return [
        Row(
            f"inclusion proofs, tree of {entries:,}, 32 connections",
            proofs["requests_per_s"],
            "proofs/s",
            reach=PROOFS_REACH,
        ),
        Row("full tiles, 32 connections", tiles["requests_per_s"], "tiles/s"),
        Row(
            f"from start to first answer, {entries:,} entries",
            started_s,
            "s",
            reach=START_REACH_S,
            at_most=True,
        ),
        Row(
            f"resident memory after that load, {entries:,} entries",
            memory_mb,
            "MB",
            reach=MEMORY_REACH_MB,
            at_most=True,
        ),
        Row(
            f"on disk, an event of {event_bytes:.0f} bytes",
            disk / entries,
            "bytes",
            reach=DISK_REACH_BYTES,
            at_most=True,
        ),
    ]


def fill_log(directory: Path, entries: int, *, seed: int = 1) -> float:
    """Append through the log writer; return the mean size of an event.

    The same seed gives the same events, whose ids the log takes once.
    """
    reader = Reader(lambda: "", lambda: 0)
    events = event_stream(seed)
    size = 0
    writer = LogWriter.open(DirectoryPaths(directory).log)
    for _ in range(0, entries, BATCH):
        batch = []
        for _ in range(BATCH):
            read = reader.read(next(events))
            leaf = format_leaf(
                event_json=read.event_json, by="bench", received_time=str(read.event.time)
            )
            size += len(read.event_json)
            batch.append(
                NewEntry(read.id_bytes, leaf, leaf_hash(leaf), read.event_json, time_filled=False)
            )
        writer.commit(batch)
    # As in a log that grew for months, all segments are sealed.
    reindex(writer.store, DirectoryPaths(directory).index)
    writer.close()
    return size / entries


def _answers(url: str) -> None:
    with urlopen(f"{url}/v1/log") as answer:
        json.load(answer)


def _disk_bytes(path: Path) -> int:
    return (path / "data.mdb").stat().st_blocks * 512


def resident_mb(process_id: int) -> float:
    """The anonymous memory of a process: the kernel can reclaim the pages of the map."""
    fields = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{process_id}/status").read_text(encoding="ascii").splitlines()
        if ":" in line
    )
    return int(fields["RssAnon"].split()[0]) / 1024
