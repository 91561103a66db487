"""A firing as an event of the log: `ledger.alarm.fired`, or `ledger.alarm.muted` in quiet times.

Id and content follow from the log and the firing, so a follower that was killed logs it once: the
log answers that it has the event already.
"""

import hashlib
import uuid
from typing import Any, Final

import msgspec

from ledger.alarms.config import AlarmConfig
from ledger.follow.firings import FIRED, MUTED
from ledger_core.event.times import format_time

INDICES_MAX: Final = 100
"""Indices that a firing names: the latest of more."""

RANGES_MAX: Final = 100
"""Ranges of missing numbers that a firing names: the first of more."""

TEXT_CHARS_MAX: Final = 500
"""Of a query in the reason of the event, which has a limit of its own and holds the group too."""


class Firing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An alarm that fired. `indices`: of the events that made it.

    `count`: of events, values or missing numbers. `tenant`: of the group, where its ids are those
    of a tenant. `missing`: the numbers of a gap.
    """

    alarm: str
    group: str
    count: int
    indices: tuple[int, ...]
    time_us: int
    tenant: str = ""
    missing: tuple[tuple[int, int], ...] = ()


def firing_event(
    firing: Firing, alarm: AlarmConfig, *, origin: str, mirror: str = "", test: str = ""
) -> bytes:
    """The event as JSON. `test`: marks it as a test, with another id.

    `mirror`: the host of the mirror that evaluated it, if it was not the log's own.
    """
    key = msgspec.json.encode([origin, firing, test, *filter(None, (mirror,))])
    context: dict[str, Any] = {
        "alarm": firing.alarm,
        "severity": alarm.severity,
        "count": firing.count,
        "indices": list(firing.indices),
        "window_s": alarm.silence_s or alarm.window_s,
    }
    if firing.group:
        context |= {"by": alarm.grouped_by, "group": firing.group}
    if firing.missing:
        context["missing"] = [list(each) for each in firing.missing]
    if mirror:
        context["mirror"] = mirror
    if firing.tenant:
        context["tenant"] = firing.tenant
    if test:
        context["test"] = True
    is_quiet = alarm.is_quiet(firing.time_us) and not test
    event = {
        "id": str(uuid.UUID(bytes=hashlib.sha256(key).digest()[:16], version=5)),
        "time": format_time(firing.time_us),
        "actor": {"type": "ledger", "id": "ledger"},
        "action": MUTED if is_quiet else FIRED,
        "targets": [{"type": "ledger.alarm", "id": firing.alarm}],
        "outcome": "unknown",
        "reason": describe(firing, alarm),
        "context": context,
    }
    return msgspec.json.encode(event)


def describe(firing: Firing, alarm: AlarmConfig) -> str:
    """The firing as one line for people."""
    what = alarm.summary or alarm.query or f"alarm of kind {alarm.kind}"
    if len(what) > TEXT_CHARS_MAX:
        what = f"{what[: TEXT_CHARS_MAX - 1]}…"
    return f"{firing.alarm}: {what}" + (
        f" ({alarm.grouped_by} {firing.group})" if firing.group else ""
    )
