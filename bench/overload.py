"""Measures a service that gets twice what it can take, and single appends beside that.

The capacity is that of a few connections that wait for each answer. Then many connections send
batches at twice that rate, whether or not the earlier ones are answered. The generators run on the
cores of the service. Rates are those by which the log grows. Memory is that of the service: at its
most, and what it holds of its own, without pages of files, after a rest more than before.
"""

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

from bench.append import ORIGIN, QUIET, load
from bench.rows import Row
from ledger.demo.child_service import Service, make_ledger

BATCH = 1_000
CAPACITY_CONNECTIONS = 8
CONNECTIONS = 128
SINGLES_PER_S = 20
RAMP_S = 12.0
"""More than a large append waits for its turn: from then on some are refused."""
REST_S = 15.0
ACCEPTED_REACH = 0.8
P99_REACH_MS = 1_000.0
GROWTH_REACH_MB = 64.0


def run(folder: Path, *, seconds: float) -> list[Row]:
    """Measure on a new ledger in `folder`."""
    directory = folder / "overload"
    token = make_ledger(directory, origin=ORIGIN)
    few = ("--connections", str(CAPACITY_CONNECTIONS), "--batch", str(BATCH))
    with (
        Service(directory, listen="127.0.0.1:0", flags=QUIET) as service,
        ThreadPoolExecutor() as pool,
    ):

        def measure(*flags: str) -> tuple[float, float, dict[str, float]]:
            """Entries a second, processor time of an entry in µs, and the figures of singles."""
            run_s = RAMP_S + seconds
            single = ("--connections", "16", "--rate", str(SINGLES_PER_S))
            loads = [
                pool.submit(load, service.url, token, *each, seconds=run_s, may_fail=True)
                for each in (flags, single)
            ]
            time.sleep(RAMP_S)
            size, start = _tree_size(service.url), time.perf_counter()
            used_s = _processor_s(service.process_id)
            time.sleep(seconds)
            entries = _tree_size(service.url) - size
            cost_us = (_processor_s(service.process_id) - used_s) / entries * 1e6
            rate = entries / (time.perf_counter() - start)
            return rate, cost_us, [each.result() for each in loads][1]

        load(service.url, token, *few, seconds=2)  # warm
        capacity, cost_us, _ = measure(*few)
        before = _memory_mb(service.process_id, "RssAnon")
        many = ("--connections", str(CONNECTIONS), "--batch", str(BATCH))
        over, over_cost_us, single = measure(*many, "--rate", str(2 * capacity / BATCH))
        peak = _memory_mb(service.process_id, "VmHWM")
        time.sleep(REST_S)
        after = _memory_mb(service.process_id, "RssAnon")
    return [
        Row(
            name=f"batches of {BATCH:,}, {CAPACITY_CONNECTIONS} connections: the capacity",
            figure=capacity,
            unit="events/s",
        ),
        Row(
            name="at twice the capacity, accepted, of the capacity",
            figure=over / capacity,
            unit="",
            reach=ACCEPTED_REACH,
        ),
        Row(
            name="processor time of an accepted event at the capacity, of that at twice",
            figure=cost_us / over_cost_us,
            unit="",
            reach=ACCEPTED_REACH,
        ),
        Row(
            name="single events beside them, p99",
            figure=single["p99_ms"],
            unit="ms",
            reach=P99_REACH_MS,
            at_most=True,
        ),
        Row(name="single events beside them, refused", figure=single["failures"], unit="events"),
        Row(name="resident memory under overload, at its most", figure=peak, unit="MB"),
        Row(
            name="memory of the process that stays after a rest",
            figure=after - before,
            unit="MB",
            reach=GROWTH_REACH_MB,
            at_most=True,
        ),
    ]


def _tree_size(url: str) -> int:
    with urlopen(f"{url}/v1/log") as answer:
        return int(json.load(answer)["tree_size"])


def _processor_s(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mb(process_id: int, name: str) -> float:
    text = Path(f"/proc/{process_id}/status").read_text(encoding="utf-8")
    found = re.search(rf"{name}:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) / 1e3
