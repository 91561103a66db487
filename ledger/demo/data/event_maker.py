"""Makes the demo's events: moments of one week, each an event that lacks only its id and time."""

import enum
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
DAY_US = 24 * 60 * MINUTE_US

Thing = Mapping[str, str]
"""A target, or a principal."""

Details = Mapping[str, Any]
"""Further members of an event: see `EventMaker.event`."""


class Day(enum.IntEnum):
    """The days of the week, counted from its start."""

    MONDAY = 0
    TUESDAY = 1
    WEDNESDAY = 2
    THURSDAY = 3
    FRIDAY = 4
    SATURDAY = 5
    SUNDAY = 6

    @property
    def short(self) -> str:
        """Three letters, such as "Mon"."""
        return self.name[:3].title()


WORKDAYS = (Day.MONDAY, Day.TUESDAY, Day.WEDNESDAY, Day.THURSDAY, Day.FRIDAY)


@dataclass(frozen=True, slots=True)
class TimedEvent:
    """An event and when it happened."""

    at_unix_us: int
    event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Caller:
    """A principal at an address: the event's `actor` and `source`."""

    actor: Mapping[str, Any]
    source: Mapping[str, Any]

    def via(self, service: str) -> "Caller":
        """The same caller, seen by another service of the company."""
        return replace(self, source={**self.source, "service": service})

    def without_session(self) -> "Caller":
        """The same caller before the login, when there is no session yet."""
        return replace(self, actor={k: v for k, v in self.actor.items() if k != "session"})

    def on_behalf_of(self, principal: Thing) -> "Caller":
        return replace(self, actor={**self.actor, "on_behalf_of": principal})


def thing(kind: str, id_: str, name: str | None = None) -> dict[str, str]:
    return {"type": kind, "id": id_} | ({"name": name} if name else {})


class EventMaker:
    """Makes the events of one scene: knows when the week began and owns the scene's randomness."""

    def __init__(self, *, start_unix_us: int, rng: random.Random) -> None:
        self.start_unix_us = start_unix_us
        self.rng = rng

    def at(self, day: Day, clock: str) -> int:
        """A random instant in the minute `clock`, such as "03:12"."""
        hours, minutes = map(int, clock.split(":"))
        minute_us = (day * 24 * 60 + hours * 60 + minutes) * MINUTE_US
        return self.start_unix_us + minute_us + self.rng.randrange(MINUTE_US)

    def later(self, at_unix_us: int, *, seconds: int) -> int:
        """At most `seconds` later, and at least a tenth of that."""
        return at_unix_us + self.rng.randrange(seconds * SECOND_US // 10, seconds * SECOND_US)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def session(self, person: str, day: Day) -> str:
        """The one session of a person's day, the same in every scene."""
        return f"s_{crc32(f'{self.start_unix_us} {person} {day}'.encode()):08x}"

    def number(self, prefix: str, first: int, end: int) -> str:
        """An id such as `cus_4021`, numbered in [first, end)."""
        return f"{prefix}_{self.rng.randrange(first, end)}"

    def trace(self) -> str:
        """A W3C trace id; a letter in every eighth place, so it never looks like a card number."""
        return "".join(
            self.rng.choice("abcdef") + f"{self.rng.getrandbits(28):07x}" for _ in range(4)
        )

    def event(
        self,
        at_unix_us: int,
        caller: Caller,
        action: str,
        *targets: Thing,
        outcome: str = "success",
        reason: str | None = None,
        tenant: str | None = None,
        trace: str | None = None,
        **details: Any,
    ) -> TimedEvent:
        """An event; `trace` links the events of one operation.

        A detail whose name is a path (`"/role": (before, after)`) is a change; the others go to
        `context`.
        """
        changes = [
            {"path": path, "before": values[0], "after": values[1]}
            for path, values in details.items()
            if path.startswith("/")
        ]
        context = {name: value for name, value in details.items() if not name.startswith("/")}
        event: dict[str, Any] = {
            "actor": caller.actor,
            "action": action,
            "targets": list(targets),
            "source": caller.source,
            "outcome": outcome,
            "reason": reason,
            "changes": changes,
            "context": {
                "request_id": f"r-{self.rng.getrandbits(28):07x}",
                **({"trace_id": trace} if trace else {}),
                **context,
            },
            "tenant": tenant,
        }
        return TimedEvent(at_unix_us, {key: value for key, value in event.items() if value})
