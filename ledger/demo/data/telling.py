"""How the story is told: moments of one week, each an event that lacks but its id and time."""

import enum
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
DAY_US = 24 * 60 * MINUTE_US


class Day(enum.IntEnum):
    """The days of the week, by what they are from its start."""

    MONDAY = 0
    TUESDAY = 1
    WEDNESDAY = 2
    THURSDAY = 3
    FRIDAY = 4
    SATURDAY = 5
    SUNDAY = 6


WORKDAYS = (Day.MONDAY, Day.TUESDAY, Day.WEDNESDAY, Day.THURSDAY, Day.FRIDAY)


@dataclass(frozen=True, slots=True)
class Moment:
    """An event and when it happened."""

    at_unix_us: int
    event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Presence:
    """Somebody at a place: the event's `actor` and `source`."""

    actor: Mapping[str, Any]
    source: Mapping[str, Any]

    def through(self, service: str) -> "Presence":
        """The same, seen by another of our services."""
        return replace(self, source={**self.source, "service": service})

    def signed_out(self) -> "Presence":
        """The same at the door, where there is no session yet."""
        return replace(self, actor={k: v for k, v in self.actor.items() if k != "session"})

    def on_behalf_of(self, principal: Mapping[str, str]) -> "Presence":
        return replace(self, actor={**self.actor, "on_behalf_of": principal})


def thing(kind: str, id_: str, name: str | None = None) -> dict[str, str]:
    """A target, or a principal."""
    return {"type": kind, "id": id_} | ({"name": name} if name else {})


def change(path: str, before: object, after: object) -> dict[str, object]:
    return {"path": path, "before": before, "after": after}


class Teller:
    """Knows when the week began and rolls the dice of one scene."""

    def __init__(self, *, start_unix_us: int, rng: random.Random) -> None:
        self.start_unix_us = start_unix_us
        self.rng = rng

    def at(self, day: Day, clock: str) -> int:
        """Some instant in the minute `clock`, which reads "03:12"."""
        hours, minutes = map(int, clock.split(":"))
        minute_us = (day * 24 * 60 + hours * 60 + minutes) * MINUTE_US
        return self.start_unix_us + minute_us + self.rng.randrange(MINUTE_US)

    def later(self, at_unix_us: int, *, seconds: int) -> int:
        """Up to so many seconds later, and at least a tenth of that."""
        return at_unix_us + self.rng.randrange(seconds * SECOND_US // 10, seconds * SECOND_US)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def session(self, person: str, day: Day) -> str:
        """The one session of somebody's day, whichever scene tells of it."""
        return f"s_{crc32(f'{self.start_unix_us} {person} {day}'.encode()):08x}"

    def number(self, prefix: str, first: int, end: int) -> str:
        """An id such as `cus_4021`, numbered in [first, end)."""
        return f"{prefix}_{self.rng.randrange(first, end)}"

    def trace(self) -> str:
        """A W3C trace id; a letter in every eighth place, lest it look like a card number."""
        return "".join(
            self.rng.choice("abcdef") + f"{self.rng.getrandbits(28):07x}" for _ in range(4)
        )

    def tell(
        self,
        at_unix_us: int,
        who: Presence,
        action: str,
        *targets: Mapping[str, str],
        outcome: str = "success",
        reason: str | None = None,
        changes: Sequence[Mapping[str, object]] = (),
        tenant: str | None = None,
        trace: str | None = None,
        **context: object,
    ) -> Moment:
        """The moment at which `who` did `action`; `trace` ties it to others of its scene."""
        event: dict[str, Any] = {
            "actor": who.actor,
            "action": action,
            "targets": list(targets),
            "source": who.source,
            "outcome": outcome,
            "reason": reason,
            "changes": list(changes),
            "context": {
                "request_id": f"r-{self.rng.getrandbits(28):07x}",
                **({"trace_id": trace} if trace else {}),
                **context,
            },
            "tenant": tenant,
        }
        return Moment(at_unix_us, {key: value for key, value in event.items() if value})
