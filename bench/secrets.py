"""Measures the scan of an event for secrets, in the server and in the client."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from bench.events import event_stream
from bench.rows import Row
from ledger_core.event.secrets import default_rules

T = TypeVar("T")

EVENTS = 5_000
ROUNDS = 5
REACH_US = 15.0


def run() -> list[Row]:
    """The best of five rounds each, in microseconds an event."""
    rules = default_rules()
    plain = list(itertools.islice(event_stream(1), EVENTS))
    escaped = [event.replace(b'"id":"u_', b'"id":"CORP\\\\u_') for event in plain]
    objects = [msgspec.json.decode(event) for event in plain]
    secret = [
        event.replace(b'"trace_id":"', b'"password":"x","trace_id":"') for event in plain[::10]
    ]
    return [
        _row("find, an event without secrets", plain, rules.find),
        _row("find, an event with a backslash", escaped, rules.find),
        _row("mask, an object without secrets", objects, rules.mask),
        _row("find, an event with a password", secret, rules.find, reach=None),
    ]


def _row(
    name: str, events: Sequence[T], call: Callable[[T], object], reach: float | None = REACH_US
) -> Row:
    best_s = min(_round(events, call) for _ in range(ROUNDS))
    return Row(
        name=f"secrets: {name}",
        figure=best_s / len(events) * 1e6,
        unit="µs",
        reach=reach,
        at_most=True,
    )


def _round(events: Sequence[T], call: Callable[[T], object]) -> float:
    started_s = time.perf_counter()
    for event in events:
        call(event)
    return time.perf_counter() - started_s
