"""Measures the cost of a quorum: the time from an append to the checkpoint that covers it, and the
processor time of a head.
"""

import time
from contextlib import ExitStack
from pathlib import Path

from bench.append import ORIGIN, QUIET, load
from bench.mirror import processor_s
from bench.rows import Row
from ledger.demo.child_service import Service, make_ledger, require_witnesses, witnesses
from ledger.service.data_dir import DirectoryPaths
from ledger_client import LedgerClient

WITNESSES = 8
ADDED_REACH_MS = 50.0
ROUNDS = 60
RATE_PER_S = 1_000
HEAD_WITNESSES = 3
HEAD_INTERVALS_S = (1.0, 0.2)
TURNS = 2
SETTLING_S = 2.0
EVENT = {"actor": {"id": "u_1"}, "action": "record.viewed", "outcome": "success"}
# A short interval, so that the round is measured and not the wait for its turn.
HASTY = ("--log-level", "error", "--publish-interval-s", "0.005")


def run(folder: Path, *, seconds: float) -> list[Row]:
    """Measure the same ledger without witnesses and with eight, each a process of its own."""
    alone = _measure(folder / "alone", count=0, seconds=seconds)
    witnessed = _measure(folder / "witnessed", count=WITNESSES, seconds=seconds)
    return [
        Row(name="append to published, no witness, p50", figure=alone["published_ms"], unit="ms"),
        Row(
            name=f"append to published, {WITNESSES} witnesses, all of them the quorum, p50",
            figure=witnessed["published_ms"],
            unit="ms",
        ),
        Row(
            name="what the round adds",
            figure=witnessed["published_ms"] - alone["published_ms"],
            unit="ms",
            reach=ADDED_REACH_MS,
            at_most=True,
        ),
        *(
            Row(
                name=f"acknowledgement at {RATE_PER_S:,} a second, {who}, {part}",
                figure=figures[f"{part}_ms"],
                unit="ms",
            )
            for who, figures in (("no witness", alone), (f"{WITNESSES} witnesses", witnessed))
            for part in ("p50", "p99")
        ),
        *_head_costs(folder / "heads", seconds=seconds),
    ]


def _head_costs(folder: Path, *, seconds: float) -> list[Row]:
    """The processor time of a head: what more of them a second cost, by turns at two intervals."""
    spent = {
        interval_s: [
            _spend(folder / f"{interval_s}-{turn}", interval_s, seconds=2 * seconds)
            for turn in range(TURNS)
        ]
        for interval_s in HEAD_INTERVALS_S
    }
    few, many = (
        [sum(each) / TURNS for each in zip(*spent[interval_s], strict=True)]
        for interval_s in HEAD_INTERVALS_S
    )
    more = 1 / HEAD_INTERVALS_S[1] - 1 / HEAD_INTERVALS_S[0]
    names = (f"of the ledger, with {HEAD_WITNESSES} witnesses", "of each witness")
    return [
        Row(f"processor time of a head, {name}", (after - before) / more * 1e3, "ms")
        for name, before, after in zip(names, few, many, strict=True)
    ]


def _spend(folder: Path, interval_s: float, *, seconds: float) -> tuple[float, float]:
    """Processor seconds a second of a ledger, and of each of its witnesses, at a few events."""
    token = make_ledger(folder / "log", origin=ORIGIN)
    policy = DirectoryPaths(folder / "log").policy
    flags = (*QUIET, "--publish-interval-s", str(interval_s))
    with ExitStack() as stack:
        running = stack.enter_context(witnesses(folder, HEAD_WITNESSES, log_policy=policy))
        require_witnesses(policy, running, threshold=HEAD_WITNESSES - 1)
        service = stack.enter_context(Service(folder / "log", listen="127.0.0.1:0", flags=flags))
        process_ids = [service.process_id, *(each.process_id for each in running)]
        time.sleep(SETTLING_S)
        before_s = [processor_s(each) for each in process_ids]
        load(service.url, token, "--connections", "4", "--rate", "20", seconds=seconds)
        ledger_s, *witnesses_s = (
            (processor_s(each) - before) / seconds
            for each, before in zip(process_ids, before_s, strict=True)
        )
    return ledger_s, sum(witnesses_s) / len(witnesses_s)


def _measure(directory: Path, *, count: int, seconds: float) -> dict[str, float]:
    token = make_ledger(directory, origin=ORIGIN)
    policy = DirectoryPaths(directory).policy
    with ExitStack() as stack:
        if count:
            running = stack.enter_context(
                witnesses(directory.parent / f"{directory.name}-w", count, log_policy=policy)
            )
            require_witnesses(policy, running, threshold=count)
        with (
            Service(directory, listen="127.0.0.1:0", flags=HASTY) as service,
            LedgerClient(service.url, token, policy=policy) as client,
        ):
            client.append(EVENT, wait_witnessed=True)
            times_s = []
            for _ in range(ROUNDS):
                start_s = time.perf_counter()
                client.append(EVENT, wait_witnessed=True)
                times_s.append(time.perf_counter() - start_s)
        with Service(directory, listen="127.0.0.1:0", flags=QUIET) as service:
            figures = load(
                service.url,
                token,
                *("--connections", "64", "--rate", str(RATE_PER_S)),
                seconds=seconds,
            )
    times_s.sort()
    return {**figures, "published_ms": times_s[len(times_s) // 2] * 1e3}
