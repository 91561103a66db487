"""The firings of alarms on a mirror, which logs no events: rows of its outbox.

On the host of a log the service appends what is in the outbox, and sinks deliver the entry. On a
mirror it stays there: sinks of the mirror read it from the outbox, and a mirror that is promoted
appends it to its log. Only the latest `KEPT_MAX` firings are kept.
"""

from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from ledger.store.tokens import AccessStore

FIRED: Final = "ledger.alarm.fired"
MUTED: Final = "ledger.alarm.muted"
FIRING_ACTIONS: Final = frozenset({FIRED, MUTED})
KEPT_MAX: Final = 10_000
"""More than the alarms fire until a sink that runs has read them, whatever one client sends."""


class WaitingFiring(NamedTuple):
    """A firing in the outbox: its number there, and the event as JSON."""

    number: int
    event: bytes


class _Action(msgspec.Struct):
    action: str = ""


_decode: Final = msgspec.json.Decoder(_Action).decode


def is_mirror(directory: Path) -> bool:
    """Whether a folder is that of a mirror."""
    return (directory / "mirror.toml").exists()


def read_firings(access: AccessStore, start: int = 0) -> list[WaitingFiring]:
    """The firings in the outbox from a number on, ascending. A damaged row is none."""
    found = []
    for number, event in access.outbox(start):
        try:
            is_firing = _decode(event).action in FIRING_ACTIONS
        except (msgspec.MsgspecError, UnicodeError):
            continue
        if is_firing:
            found.append(WaitingFiring(number, event))
    return found


def drop_old_firings(access: AccessStore) -> None:
    """Keep the latest `KEPT_MAX` firings of a mirror."""
    old = read_firings(access)[:-KEPT_MAX]
    if old:
        access.clear_outbox([firing.number for firing in old])
