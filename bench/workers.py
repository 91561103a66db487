"""Measures appends with and without workers, on ledgers that are served in turns.

Beside the rate, the processor time of each kind of process is measured for each event: on a machine
with enough cores the slowest kind bounds the rate. The rate of the sequencer's bound is what one
core of it would do, if front ends, clients and the disk kept up.
"""

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from bench.append import ORIGIN, PROOF, QUIET, load
from bench.rows import Row
from ledger.demo.child_service import Service, make_ledger

SHAPES: Mapping[str, tuple[str, ...]] = {
    "single events, 1 connection": ("--connections", "1"),
    "single events, 32 connections": ("--connections", "32"),
    "single events, 256 connections": ("--connections", "256"),
    "single events, 32 connections, with proof": ("--connections", "32", *PROOF),
    "batches of 1,000": ("--connections", "8", "--batch", "1000"),
}
REACH: Mapping[str, float] = {
    "single events, 1 connection": 1.5,
    "single events, 32 connections": 1.5,
    "single events, 256 connections": 2.5,
    "single events, 32 connections, with proof": 1.6,
    "batches of 1,000": 2.0,
}
SEQUENCER_REACH = 150_000
TICKS_S = os.sysconf("SC_CLK_TCK")


def run(folder: Path, *, seconds: float, workers: int = 2, rounds: int = 3) -> list[Row]:
    """Measure both in turns, each on a new ledger in `folder`."""
    rows = []
    with ExitStack() as stack:
        services = {}
        for number in (0, workers):
            directory = folder / f"workers-{number}"
            token = make_ledger(directory, origin=ORIGIN)
            serve = (*QUIET, "--workers", str(number))
            service = stack.enter_context(Service(directory, listen="127.0.0.1:0", flags=serve))
            load(service.url, token, "--connections", "32", seconds=1)  # warm
            services[number] = (service, token)
        for name, flags in SHAPES.items():
            batch = 1_000 if "--batch" in flags else 1
            rates: dict[int, float] = defaultdict(float)
            spent: dict[int, dict[str, float]] = {}
            for _ in range(rounds):
                for number, (service, token) in services.items():
                    before = processor_s(service.process_id)
                    figures = load(service.url, token, *flags, seconds=seconds)
                    after = processor_s(service.process_id)
                    rates[number] += figures["requests_per_s"] * batch / rounds
                    events = figures["requests_per_s"] * batch * seconds
                    for kind, used_s in after.items():
                        each = spent.setdefault(number, defaultdict(float))
                        each[kind] += (used_s - before.get(kind, 0)) / events / rounds * 1e6
            ratio = rates[workers] / rates[0]
            rows.append(Row(f"{name}: one process", rates[0], "events/s"))
            rows.append(Row(f"{name}: {workers} workers", rates[workers], "events/s"))
            rows.append(Row(f"{name}: ratio", ratio, "", reach=REACH[name]))
            rows += [
                Row(f"{name}, {number} workers: processor time of {kind}", us, "µs an event")
                for number, kinds in spent.items()
                for kind, us in kinds.items()
            ]
            if batch > 1:
                bound = 1e6 / spent[workers]["sequencer"]
                rows.append(Row("bound of the sequencer", bound, "events/s", SEQUENCER_REACH))
    return rows


def processor_s(process_id: int) -> dict[str, float]:
    """The processor time of a service's processes so far, by their kind."""
    found: dict[str, float] = defaultdict(float)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().decode()
        except OSError:
            continue
        if process_id not in (int(folder.name), int(fields[1])):
            continue
        module = re.search(r"ledger\.([a-z_.]+)", command)
        kinds = {"workers.front_end": "workers", "query.indexer": "indexer"}
        kind = kinds.get(module[1] if module else "", "other")
        kind = "sequencer" if int(folder.name) == process_id else kind
        found[kind] += (int(fields[11]) + int(fields[12])) / TICKS_S
    return found
