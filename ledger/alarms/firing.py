"""A firing as an event of the log: `ledger.alarm.fired`, or `ledger.alarm.muted` in quiet times.

Id and content follow from the log and the firing, so a follower that was killed logs it once: the
log answers that it has the event already.
"""

import hashlib
import uuid
from typing import Any, Final

import msgspec

from ledger.alarms.config import AlarmConfig
from ledger.alarms.evaluator import Firing
from ledger_core.event.times import format_time

FIRED = "ledger.alarm.fired"
MUTED = "ledger.alarm.muted"
TEXT_CHARS_MAX: Final = 500
"""Of a query in the reason of the event, which has a limit of its own and holds the group too."""


def firing_event(firing: Firing, alarm: AlarmConfig, *, origin: str, test: str = "") -> bytes:
    """The event, as JSON. `test`: makes a test of it, and its id another one."""
    key = msgspec.json.encode([origin, firing, test])
    context: dict[str, Any] = {
        "alarm": firing.alarm,
        "severity": alarm.severity,
        "count": firing.count,
        "indices": list(firing.indices),
        "window_s": alarm.silence_s or alarm.window_s,
    }
    if firing.group:
        context |= {"by": alarm.by, "group": firing.group}
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
    """One line for people."""
    what = alarm.summary or alarm.query
    if len(what) > TEXT_CHARS_MAX:
        what = f"{what[: TEXT_CHARS_MAX - 1]}…"
    return f"{firing.alarm}: {what}" + (f" ({alarm.by} {firing.group})" if firing.group else "")
