"""The audit events of a small company's bad week, for the demo and for tests.

    bad_week.toml  people, shops, machines, addresses, the intrusion row by row, questions
    event_maker    times, randomness, and what an event is made of
    company        the types of that file, and its content
    staff tasks    the ordinary week of the staff, and the tasks of each team
    shops machines
    intrusion      the scenes of the intrusion and of the response, and the events drawn for them

The ordinary week has odd things of its own: mistyped passwords, forgotten ones, a trip abroad, a
failed settlement run.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

from ledger.demo.data.company import INTRUDER, QUESTIONS, Intruder, Question
from ledger.demo.data.event_maker import DAY_US, EventMaker, TimedEvent
from ledger.demo.data.intrusion import intrusion, response
from ledger.demo.data.machines import machines
from ledger.demo.data.shops import shops
from ledger.demo.data.staff import staff
from ledger_core.event.ids import format_uuid7
from ledger_core.event.times import format_time

__all__ = ["INTRUDER", "QUESTIONS", "Intruder", "Question", "bad_week", "week_before"]

WEEK_US = 7 * DAY_US
# 1970 began on a Thursday.
FIRST_MONDAY_US = 4 * DAY_US

SCENES: tuple[Callable[[EventMaker], Iterator[TimedEvent]], ...] = (
    staff,
    shops,
    machines,
    intrusion,
    response,
)


def bad_week(*, start_unix_us: int, seed: int) -> Iterator[dict[str, Any]]:
    """Some 2,700 events in order of time; the same arguments give the same events and ids.

    The seed changes the ordinary week and the seconds; the events of `bad_week.toml` are in each.

    Raises: ValueError when `start_unix_us` is not the start of a Monday in UTC.
    """
    if start_unix_us % WEEK_US != FIRST_MONDAY_US:
        raise ValueError(f"the week starts on a Monday at 00:00 UTC, got {start_unix_us} µs")
    timed_events: list[TimedEvent] = []
    for scene in SCENES:
        maker = EventMaker(start_unix_us=start_unix_us, rng=_generator(seed, scene.__name__))
        timed_events.extend(scene(maker))
    timed_events.sort(key=lambda timed: timed.at_unix_us)
    ids = _generator(seed, "ids")
    return (_with_id_and_time(timed, ids) for timed in timed_events)


def week_before(unix_us: int) -> int:
    """The start of the last whole week, Monday to Sunday in UTC, that is over at `unix_us`."""
    return unix_us - (unix_us - FIRST_MONDAY_US) % WEEK_US - WEEK_US


def _generator(seed: int, scene: str) -> random.Random:
    # Each scene has its own generator, so a line added to one leaves the others as they were.
    return random.Random(f"{seed} {scene}")  # noqa: S311 -- invented events need no secrecy


def _with_id_and_time(timed: TimedEvent, ids: random.Random) -> dict[str, Any]:
    return {
        "id": format_uuid7(unix_ms=timed.at_unix_us // 1000, random=ids.randbytes(10)),
        "time": format_time(timed.at_unix_us),
        **timed.event,
    }
