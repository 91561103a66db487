"""Measures durable appends over HTTP: the rate, and the time to an acknowledgement."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from bench.events import event_stream
from bench.rows import Row
from ledger.demo.child_service import Service, make_ledger
from ledger_client import LedgerClient

ORIGIN = "bench.example/audit"
QUIET = ("--log-level", "warning")
PROOF = ("--path", "/v1/events?proof=1")
CONNECTIONS = (1, 32, 256)
SINGLE_REACH = 8_000
BATCH_REACH = 60_000
P99_REACH_MS = 10.0
RATE_PER_S = 1_000


def run(folder: Path, *, seconds: float) -> list[Row]:
    """Measure on a new ledger in `folder`."""
    directory = folder / "append"
    token = make_ledger(directory, origin=ORIGIN)
    policy = directory / "policy"
    with Service(directory, listen="127.0.0.1:0", flags=QUIET) as service:
        load(service.url, token, "--connections", "32", seconds=1)  # warm
        rows = [*_singles(service.url, token, seconds), *_batches(service.url, token, seconds)]
        figures = load(
            service.url, token, "--connections", "64", "--rate", str(RATE_PER_S), seconds=seconds
        )
        rows += [
            Row(
                name=f"acknowledgement at {RATE_PER_S:,} a second, p50",
                figure=figures["p50_ms"],
                unit="ms",
            ),
            Row(
                name=f"acknowledgement at {RATE_PER_S:,} a second, p99",
                figure=figures["p99_ms"],
                unit="ms",
                reach=P99_REACH_MS,
                at_most=True,
            ),
        ]
        rows += _client(service.url, token, policy, seconds)
    return rows


def load(
    url: str, token: str, *flags: str, seconds: float, may_fail: bool = False
) -> dict[str, float]:
    """Run the load generator in a process of its own; its figures."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.load", url, token, "--seconds", str(seconds), *flags],
        stdout=subprocess.PIPE,
        check=True,
    )
    figures: dict[str, float] = json.loads(done.stdout)
    if figures["failures"] and not may_fail:
        raise SystemExit(f"{figures['failures']:.0f} requests failed: the figure would be false")
    return figures


def _singles(url: str, token: str, seconds: float) -> list[Row]:
    rows = []
    for proof in (False, True):
        for connections in CONNECTIONS:
            flags = ["--connections", str(connections), *(PROOF if proof else ())]
            figures = load(url, token, *flags, seconds=seconds)
            rows.append(
                Row(
                    name=f"single events, {connections} connections{', with proof' * proof}",
                    figure=figures["requests_per_s"],
                    unit="events/s",
                    reach=SINGLE_REACH if connections == 32 and not proof else None,
                )
            )
    return rows


def _batches(url: str, token: str, seconds: float) -> list[Row]:
    rows = []
    for proof in (False, True):
        for batch in (100, 1_000):
            flags = ["--connections", "4", "--batch", str(batch), *(PROOF if proof else ())]
            figures = load(url, token, *flags, seconds=seconds)
            rows.append(
                Row(
                    name=f"batches of {batch:,}{', with range proof' * proof}",
                    figure=figures["requests_per_s"] * batch,
                    unit="events/s",
                    reach=BATCH_REACH if batch == 1_000 and not proof else None,
                )
            )
    return rows


def _client(url: str, token: str, policy: Path, seconds: float) -> list[Row]:
    """The Python client as an application uses it; its own work is in the figure."""
    rows = []
    for verify in (False, True):
        how = "verified by the client" if verify else "unverified"
        with LedgerClient(url, token, policy=policy) as client:
            events = (json.loads(raw) for raw in event_stream(time.time_ns()))
            single = _repeat(
                lambda: client.append(next(events), verify=verify),  # noqa: B023 - run at once
                threads=8,
                seconds=seconds,
            )
            batch = _repeat(
                lambda: client.append_many(list(islice(events, 1_000)), verify=verify),  # noqa: B023
                threads=1,
                seconds=seconds,
            )
        rows += [
            Row(name=f"LedgerClient.append, 8 threads, {how}", figure=single, unit="events/s"),
            Row(
                name=f"LedgerClient.append_many, 1,000 at once, {how}",
                figure=batch * 1_000,
                unit="events/s",
            ),
        ]
    return rows


def _repeat(call: Callable[[], object], *, threads: int, seconds: float) -> float:
    """Calls a second from some threads."""
    counts = [0] * threads
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        while time.perf_counter() < end:
            call()
            counts[number] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - start)
