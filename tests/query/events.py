"""Random events over few values, so that queries match several, and logs of these events."""

import json
import random
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ledger.store.log import create_log
from ledger.store.writer import LogWriter, NewEntry
from ledger_core.event.canonical import encode_event, format_leaf
from ledger_core.event.reader import Reader
from ledger_core.event.times import format_time
from ledger_core.tlog.hashing import leaf_hash
from tests.store.entries import MAP_BYTES, ORIGIN

START_UNIX_US = 1_790_000_000_000_000
RECEIVED_EVERY_US = 1_500_000
LONG = "x" * 119

ACTORS = ("u_1", "u_2", "u_3", "svc", "Ünal", LONG, f"{LONG}a", f"{LONG}ab", f"{LONG}b")
ACTIONS = (
    "login",
    "login.failed",
    "login.succeeded",
    "role_changed",
    "iam.user.add",
    "IAM.user.Add",
    "Login",
    "log-out",
    f"{LONG}.a",
    f"{LONG}.b",
)  # Longer than a term.
OUTCOMES = ("success", "failure", "denied", "unknown")
TYPES = (
    "user", "service", "Service", "a/b", "Größe", "GRÖSSE", "ß" * 119, f"{LONG}A", f"{LONG}aB",
)  # fmt: skip
TARGETS = (
    "r_1", "r_10", "r_2", "u_1", "a b", 'q"uote', "comma,", "b/c", "user/u_1", "alice@example.com",
    f"{LONG}a last/words",
)  # fmt: skip
ADDRESSES = (
    "203.0.113.9",
    "203.0.113.200",
    "203.0.114.1",
    "10.0.0.1",
    "255.255.255.255",
    "2001:db8::1",
    "2001:db8:0:1::9",
    "::",
)
WORDS = (
    "access", "Review", "legal", "hold", "ÉTÉ", "straße", "OPS-12", "12", "x_y", "東京都庁", "東京",
    "京", "ข้อมูล", "हिन्दी",
)  # fmt: skip
USER_AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    f"Mozilla/5.0 ({'Macintosh; ' * 20}) Chrome/126.0 Safari/537.36 Edg/126.0",
    "curl/8.5.0",
    "Python-Requests/2.32",
    "",
    " " + " ".join(f"w{n}" for n in range(135)),
)
PORTS = (0, 443, 1023, 1024, 51_234, 65_535)
TOKENS = ("tests", "billing-api", LONG + "b")
RECORDERS = ("api-1", "api-2", "worker-1")
MASKS = (
    "masked.password", "a masked.jwt in it", "unmasked.x", {"masked": "aws-key"},
    {"masked": "real", "other": 1, "more": 2}, {"masked": "pwd", "digest": "0" * 32},
)  # fmt: skip
LATE_US = (0, 0, 999_999, 1_000_000, 1_000_001, 3_600_000_000, 86_400_000_000, -1_000_000, -7)
KEYS = ("region", "a.b", "status", "nested", "list", 'k"ey', "request_id", "trace_id", LONG[:117])
VALUES = (
    *("eu", "us", "", "1", "true", "007", "1e3", "1e21", "1.2.3", LONG, f"{LONG}é"),
    *(1, 1.5, -7, True, None, 0, 1000, 1001, 1001.5, 123_456, 123_499, -0.05, -123_456, 1e-7),
)
TENANTS = ("acme", "umbrella")
PATHS = ("/role", "/Role", "/email", "", "/limits/daily")
CHANGED = ("owner", "Member", 7, None, {"daily": 5, "x": ["legal hold"]}, LONG + "é")


def random_event(rng: random.Random, number: int) -> dict[str, Any]:
    """An event as a client sends it; its time is near that of its receipt, on either side."""
    time = START_UNIX_US + number * 7_000_000 + rng.choice((0, 0, -1, 250_000, -7_300_000_000))
    if rng.random() < 0.3:
        time = START_UNIX_US + number * RECEIVED_EVERY_US - rng.choice(LATE_US)
    event: dict[str, Any] = {
        "id": str(uuid.UUID(int=rng.choice((0, 1, 0xA0)) << 120 | number)),
        "time": format_time(time),
        "actor": {"id": rng.choice(ACTORS)},
        "action": rng.choice(ACTIONS),
        "outcome": rng.choice(OUTCOMES),
    }
    _add_actor(rng, event["actor"])
    if rng.random() < 0.8:
        event["targets"] = [_target(rng) for _ in range(rng.choice((0, 1, 1, 1, 2, 4)))]
    if rng.random() < 0.7:
        event["source"] = _source(rng)
    _add_texts(rng, event)
    if rng.random() < 0.3:
        event["recorder"] = {"instance": rng.choice(RECORDERS), "seq": number + 1}
    if rng.random() < 0.7:
        event["tenant"] = rng.choice(TENANTS)
    return event


def _add_actor(rng: random.Random, actor: dict[str, Any]) -> None:
    if rng.random() < 0.6:
        actor["type"] = rng.choice(TYPES)
    if rng.random() < 0.4:
        actor["session"] = f"s_{rng.randrange(5)}"
        actor["credential"] = f"tok_{rng.randrange(3)}"
    if rng.random() < 0.3:
        actor["name"] = random_text(rng)
    if rng.random() < 0.2:
        actor["on_behalf_of"] = {"id": rng.choice(ACTORS), "name": random_text(rng)}


def _source(rng: random.Random) -> dict[str, Any]:
    source: dict[str, Any] = {"ip": rng.choice(ADDRESSES), "service": rng.choice(("api", "web"))}
    if rng.random() < 0.6:
        source["user_agent"] = rng.choice(USER_AGENTS)
    if rng.random() < 0.6:
        source["port"] = rng.choice(PORTS)
    return source


def _add_texts(rng: random.Random, event: dict[str, Any]) -> None:
    if rng.random() < 0.3:
        many = " ".join(f"w{n}" for n in range(140))
        event["reason"] = rng.choice((many, "!", *(random_text(rng) for _ in range(8))))
    if rng.random() < 0.3:
        event["changes"] = [_change(rng) for _ in range(2)]
    if rng.random() < 0.6:
        event["context"] = _context(rng)
    if rng.random() < 0.2:
        event.setdefault("context", {})["body"] = rng.choice(MASKS)


def random_text(rng: random.Random) -> str:
    """A few words, with signs between them."""
    return rng.choice((" ", ", ", "-")).join(rng.choices(WORDS, k=rng.randrange(1, 5)))


def _target(rng: random.Random) -> dict[str, Any]:
    target: dict[str, Any] = {"id": rng.choice(TARGETS)}
    if rng.random() < 0.7:
        target["type"] = rng.choice(TYPES)
    if rng.random() < 0.4:
        target["name"] = random_text(rng)
    return target


def _change(rng: random.Random) -> dict[str, Any]:
    if rng.random() < 0.05:
        return {"path": "", "after": [f"n{n}" for n in range(40)]}
    sides = rng.choice((("before",), ("after",), ("before", "after"), ()))
    return {"path": rng.choice(PATHS), **{side: rng.choice(CHANGED) for side in sides}}


def _context(rng: random.Random) -> dict[str, Any]:
    if rng.random() < 0.05:
        return {f"k{n}": n for n in range(50)}
    context = {key: _value(rng) for key in rng.sample(KEYS, k=rng.randrange(4))}
    if rng.random() < 0.2:
        context["nested"] = {"a": _value(rng), "b": {"c": _value(rng)}}
        context["list"] = [_value(rng), _value(rng), {"d": _value(rng)}]
    return context


def _value(rng: random.Random) -> Any:
    return rng.choice(VALUES)


def make_entries(events: Sequence[dict[str, Any]], start: int = 0) -> list[NewEntry]:
    """The entries of events, received a second and a half apart."""
    reader = Reader(lambda: "", lambda: 0)
    entries = []
    for number, event in enumerate(events, start):
        read = reader.read(json.dumps(event).encode())
        leaf = format_leaf(
            event_json=encode_event(read.event),
            by=TOKENS[number % len(TOKENS)],
            received_time=format_time(START_UNIX_US + number * RECEIVED_EVERY_US),
        )
        entries.append(
            NewEntry(read.id_bytes, leaf, leaf_hash(leaf), read.event_json, time_filled=False)
        )
    return entries


def make_log(path: Path, entries: Sequence[NewEntry]) -> LogWriter:
    """A log of entries, open for writing."""
    create_log(path, origin=ORIGIN, map_bytes=MAP_BYTES)
    writer = LogWriter.open(path, map_bytes=MAP_BYTES)
    if entries:
        writer.commit(entries)
    return writer
