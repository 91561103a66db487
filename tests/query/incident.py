"""An incident among the events of an ordinary year: a spray, one account taken over, what it did.

Nothing of the incident stands in any other event: its addresses, ids, words and actions are its
own, so what a question should find is known. `background` events are those of the benchmark.
"""

import json
import os
import uuid
from itertools import count
from pathlib import Path
from typing import Any, Final

from bench.varied import START_UNIX_US, YEAR_US, make_entry, varied_events
from ledger.store.log import create_log
from ledger.store.writer import LogWriter, NewEntry
from ledger_core.event.canonical import encode_event
from ledger_core.event.reader import Reader
from ledger_core.event.times import parse_time
from tests.store.entries import MAP_BYTES, ORIGIN

BACKGROUND: Final = int(os.environ.get("LEDGER_QUESTION_EVENTS", "6000"))
"""Events around the incident. `python -m bench.incident` runs the questions among a million."""

EVENT_BYTES_MAX: Final = 1024
"""What an event takes of the log, with much to spare."""

DAY: Final = "2026-06-15"
ATTACKER: Final = "192.0.2.66"
V6: Final = "2001:db8:bad::7"
AGENT: Final = "sqlmap/1.8.4#stable (https://sqlmap.org)"
HOUR_US: Final = 3_600_000_000

_numbers = count(1)


def event(
    time: str, actor: str, action: str, outcome: str = "success", **more: Any
) -> dict[str, Any]:
    """An event of the incident; `late` is the hours until it was received."""
    who: dict[str, Any] = {"id": actor, "type": "user"}
    for name in ("session", "credential", "on_behalf_of", "name"):
        if name in more:
            who[name] = more.pop(name)
    target = more.pop("target", None)
    source = {"ip": more.pop("ip", "198.18.0.5"), "user_agent": more.pop("agent", "Vivaldi/6 test")}
    return {
        "id": str(uuid.UUID(int=0x0190 << 112 | 7 << 76 | 2 << 62 | next(_numbers))),
        "time": f"{DAY}T{time}:00Z" if len(time) == 5 else time,
        "actor": who,
        "action": action,
        "outcome": outcome,
        "source": {**source, "service": more.pop("service", "portal")},
        **({"targets": [{"type": target[0], "id": target[1]}]} if target else {}),
        **more,
    }


def make_incident() -> list[dict[str, Any]]:
    """The events of the incident, in the order in which they happened, but for late ones."""
    bad: dict[str, Any] = {
        "ip": ATTACKER, "agent": AGENT, "session": "s_evil", "credential": "tok_evil",
    }  # fmt: skip
    failed = "portal.login.failed", "failure"
    spray = [
        event(
            f"01:{n:02d}",
            f"v_{n:02d}",
            "portal.login.failed",
            "failure",
            ip=f"192.0.2.{n % 3 + 64}",
        )
        for n in range(30)
    ]
    victim = "v_07"
    return [
        event("2026-03-01T09:00:00Z", "boss", "vault.created", target=("vault", "prod-keys")),
        *[event(f"2026-0{n}-02T10:00:00Z", victim, "portal.login.succeeded", ip="198.18.7.7",
                context={"country": "NO"}) for n in (3, 4, 5)],
        *spray,
        *[event(f"02:0{n}", victim, *failed, ip=ATTACKER) for n in range(4)],
        event("02:05", victim, "portal.login.succeeded", context={"country": "BR"}, **bad),
        event("02:07", victim, "portal.mfa_reset", target=("account", "v_09"), **bad),
        event("02:09", victim, "portal.role_changed", target=("account", victim),
              changes=[{"path": "/role", "before": "viewer", "after": "owner-of-all"}], **bad),
        event("02:10", victim, "portal.permission_changed", target=("vault", "prod-keys"),
              changes=[{"path": "/acl/0", "before": "none", "after": "read-write"}], **bad),
        event("02:11", victim, "portal.account_made", target=("account", "tmp_1"), **bad),
        *[event(f"02:{20 + n}", victim, "portal.exported", target=("vault", f"set-{n}"),
                context={"bytes_out": 1000 * (n + 1), "trace_id": "trace-evil"}, **bad)
          for n in range(6)],
        event("02:27", victim, "portal.read", target=("vault", "prod-keys"), ip=V6, agent=AGENT,
              context={"trace_id": "trace-evil"}, service="backend"),
        event("02:30", "helper", "portal.ticket_closed",
              on_behalf_of={"type": "user", "id": "boss"}, reason="Zugriff geprüft 東京都庁"),
        event("02:31", victim, "portal.log_set", "denied", target=("setting", "audit"), **bad),
        event("02:40", victim, "portal.account_deleted", target=("account", "tmp_1"), **bad),
        event("02:41", victim, "portal.read", late=30, target=("vault", "late-box"), **bad),
        event("02:50", "tmp_1", "portal.read", credential="tok_evil", ip="198.18.9.9",
              target=("vault", "copy")),
        *[event(time, actor, "desk.opened", service="desk", context={"country": country})
          for time, actor, country in (("12:00", "pilot", "NO"), ("12:40", "pilot", "JP"),
                                       ("12:10", "clerk", "NO"), ("18:00", "clerk", "SE"))],
        *[event(time, actor, "desk.opened", service="desk", session=session, ip=f"198.18.{net}.5")
          for time, actor, session, net in (
              ("13:00", "twice", "s_here", 0), ("13:30", "twice", "s_here", 0),
              ("13:10", "twice", "s_there", 5), ("13:50", "twice", "s_there", 5),
              ("13:00", "once", "s_first", 0), ("13:10", "once", "s_first", 0),
              ("13:20", "once", "s_second", 6))],
        event("15:00", "auditor", "ledger.evidence.exported", target=("ledger.case", "IR-7"),
              reason="review", service="ledger",
              context={"evidence": {"query": "actor:v_07"}}),
    ]  # fmt: skip


class Incident:
    """A log of the incident among the events of a year, and all events as they were logged."""

    def __init__(self, path: Path) -> None:
        reader = Reader(lambda: "", lambda: 0)
        made: list[tuple[int, NewEntry]] = []
        for each in make_incident():
            late = each.pop("late", 0)
            read = reader.read(json.dumps(each).encode())
            received = parse_time(each["time"]) + late * HOUR_US + 1_000_000
            body = encode_event(read.event)
            entry = make_entry(body, read.id_bytes, received)
            made.append((received, entry))
        for body, id_bytes, received in varied_events(BACKGROUND):
            made.append((received, make_entry(body, id_bytes, received)))
        made.sort(key=lambda pair: pair[0])
        entries = [entry for _, entry in made]
        map_bytes = MAP_BYTES + BACKGROUND * EVENT_BYTES_MAX
        create_log(path, origin=ORIGIN, map_bytes=map_bytes)
        writer = LogWriter.open(path, map_bytes=map_bytes)
        for start in range(0, len(entries), 10_000):
            writer.commit(entries[start : start + 10_000])
        writer.close()
        self.leaves = [entry.leaf for entry in entries]
        self.events: list[dict[str, Any]] = [json.loads(leaf)["event"] for leaf in self.leaves]
        self.now_unix_us = START_UNIX_US + YEAR_US
