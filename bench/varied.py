"""Generates a year of a company's audit events, any number of them, as varied as real ones.

Actors, tenants, actions and services are heavy-tailed, and there are two million targets. A session
is an actor's shift at one address, a request has its own id, and a trace spans three requests on
average. Some events have reasons, names, changes and further context. An event happens when it is
received, or for one in fifty up to two days earlier, as on a laptop that was offline. The same seed
gives the same events.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Final

import msgspec

from ledger.store.writer import LogWriter, NewEntry
from ledger_core.event.canonical import canonical_ip, format_leaf
from ledger_core.event.times import format_time
from ledger_core.tlog.hashing import leaf_hash

START_UNIX_US: Final = 1_767_225_600_000_000  # 2026-01-01
YEAR_US: Final = 365 * 86_400 * 1_000_000
ACTORS: Final = 60_000
TARGETS: Final = 2_000_000
TENANTS: Final = 200
COMMIT_EVENTS: Final = 10_000
USER_AGENT: Final = "Mozilla/5.0 Firefox/128.0"

_ACTIONS = (
    "record.viewed", "record.updated", "record.created", "record.exported", "record.deleted",
    "record.shared", "login.succeeded", "login.failed", "login.mfa_challenged", "login.locked",
    "session.started", "session.ended", "file.downloaded", "file.uploaded", "file.deleted",
    "file.renamed", "search.run", "report.run", "report.exported", "payment.refunded",
    "payment.captured", "payment.disputed", "invoice.sent", "invoice.voided", "user.created",
    "user.deleted", "user.role_changed", "user.password_changed", "user.mfa_reset",
    "user.impersonated", "group.member_added", "group.member_removed", "api_key.created",
    "api_key.used", "api_key.revoked", "webhook.created", "webhook.delivered", "webhook.failed",
    "config.changed", "config.read", "secret.read", "secret.rotated", "iam.CreateUser",
    "iam.AttachUserPolicy", "iam.DeleteAccessKey", "s3.GetObject", "s3.PutObject",
    "s3.DeleteObject", "ec2.RunInstances", "ec2.TerminateInstances", "db.queried",
    "db.row_deleted", "db.schema_changed", "backup.started", "backup.finished", "backup.restored",
    "admin.login", "admin.settings_changed", "audit.exported", "consent.withdrawn",
)  # fmt: skip
_FAILING = frozenset(("login.failed", "login.locked", "webhook.failed"))
_TARGET_TYPES = ("record", "file", "invoice", "user", "document", "table", "bucket", "key")
_SERVICES = (
    "api", "admin-web", "mobile-gateway", "billing", "reports", "worker", "sso", "files",
    "search", "webhooks", "db-proxy", "cron",
)  # fmt: skip
_REGIONS = ("eu-west-1", "eu-central-1", "us-east-1", "us-west-2", "ap-south-1")
_PATHS = (
    "/role", "/status", "/email", "/owner", "/limits/daily", "/billing/plan", "/name",
    "/permissions/3", "/mfa", "/expires",
)  # fmt: skip
_REASON_WORDS = (
    "customer", "request", "access", "review", "quarterly", "cleanup", "incident", "follow", "up",
    "duplicate", "account", "migration", "legal", "hold", "release", "finance", "approval",
    "rollback", "scheduled", "maintenance", "support", "call",
)  # fmt: skip
_FIRST = (
    "Ada", "Grace", "Linus", "Edsger", "Barbara", "Ken", "Dennis", "Radia", "Leslie", "Margaret",
    "Alan", "Frances",
)  # fmt: skip
_LAST = (
    "Okafor", "Müller", "Tanaka", "Silva", "Novák", "Haddad", "Jensen", "Rossi", "Dubois", "Kim",
    "Nowak", "Larsen",
)  # fmt: skip

_encode = msgspec.json.Encoder(order="sorted").encode


class _HeavyTail:
    """Picks from a sequence with weights 1/(rank + 3): few items often, most of them rarely."""

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = items
        self._cumulative = list(accumulate(1 / (rank + 3) for rank in range(len(items))))

    def pick(self, rng: random.Random, count: int) -> list[Any]:
        """`count` picks."""
        return rng.choices(self._items, cum_weights=self._cumulative, k=count)


def varied_events(count: int, *, seed: int = 4) -> Iterator[tuple[bytes, bytes, int]]:
    """`count` events over one year: canonical JSON, id bytes, and the time of receipt."""
    rng = random.Random(seed)
    actors = _HeavyTail([_actor(number) for number in range(ACTORS)])
    actions = _HeavyTail(_ACTIONS)
    step_us = YEAR_US // count
    trace = ""
    chunk = 10_000
    for first in range(0, count, chunk):
        size = min(chunk, count - first)
        for offset, (actor, action) in enumerate(
            zip(actors.pick(rng, size), actions.pick(rng, size), strict=True)
        ):
            received_us = START_UNIX_US + (first + offset) * step_us + rng.randrange(step_us)
            if not trace or rng.random() < 0.35:
                trace = f"{rng.getrandbits(128):032x}"
            event, id_bytes = _event(rng, actor, action, trace, received_us)
            yield _encode(event), id_bytes, received_us


def fill_log(path: Path, count: int) -> None:
    """Append `count` events through the writer of the log at `path`."""
    writer = LogWriter.open(path)
    supply = varied_events(count)
    while chunk := list(islice(supply, COMMIT_EVENTS)):
        writer.commit([make_entry(*each) for each in chunk])
    writer.close()


def make_entry(event_json: bytes, id_bytes: bytes, received_us: int) -> NewEntry:
    """One event of `varied_events` as the writer takes it."""
    leaf = format_leaf(
        event_json=event_json, by="billing-api", received_time=format_time(received_us)
    )
    return NewEntry(id_bytes, leaf, leaf_hash(leaf), event_json, time_filled=False)


def _actor(number: int) -> dict[str, Any]:
    """The properties of one actor."""
    digest = hashlib.sha256(b"actor %d" % number).digest()
    service = number % 50 == 0
    octets = (203 if digest[0] < 60 else 100, digest[1] % 40, digest[2], digest[3])
    return {
        "id": f"svc_{number:05d}" if service else f"u_{number:05d}",
        "type": "service" if service else "user",
        "name": ""
        if service or digest[4] < 160
        else f"{_FIRST[digest[5] % 12]} {_LAST[digest[6] % 12]}",
        "ip": canonical_ip(f"2001:db8:{digest[1]:x}{digest[2]:02x}::{digest[3]:x}")
        if digest[7] < 25
        else ".".join(map(str, octets)),
        "tenant": f"t_{min(int(TENANTS * (digest[8] / 256) ** 3), TENANTS - 1):03d}",
        "shift": digest[9] % 24,
        "secret": digest[:4].hex(),
        "credential": f"tok_{number % 4000}" if service or digest[10] < 60 else "",
        "service": _SERVICES[digest[11] * digest[12] * 12 // 65_536],
    }


def _event(
    rng: random.Random, actor: dict[str, Any], action: str, trace: str, received_us: int
) -> tuple[dict[str, Any], bytes]:
    unix_us = received_us - rng.randrange(50_000, 900_000)
    if rng.random() < 0.02:
        unix_us -= rng.randrange(2 * 86_400_000_000)
    shift = (unix_us // 3_600_000_000 + actor["shift"]) // 8
    who: dict[str, Any] = {
        "id": actor["id"],
        "type": actor["type"],
        "session": f"s_{shift:x}{actor['secret']}",
    }
    if actor["name"]:
        who["name"] = actor["name"]
    if actor["credential"]:
        who["credential"] = actor["credential"]
    ip = actor["ip"]
    if rng.random() < 0.08:
        ip = f"198.51.{rng.randrange(256)}.{rng.randrange(256)}"
    number = min(int(TARGETS * rng.random() ** 1.6), TARGETS - 1)
    target: dict[str, Any] = {
        "id": f"r_{number:07d}",
        "type": _TARGET_TYPES[(number * number >> 7) % 64 % 8],
    }
    if number % 5 == 0:
        target["name"] = f"{_LAST[number % 12]} contract {number % 1000}"
    chance = rng.random()
    outcome = "failure" if action in _FAILING or chance < 0.04 else "success"
    if 0.04 < chance < 0.06:
        outcome = "denied"
    id_int = unix_us // 1000 << 80 | 7 << 76 | rng.getrandbits(12) << 64 | 2 << 62
    id_int |= rng.getrandbits(62)
    text = f"{id_int:032x}"
    event: dict[str, Any] = {
        "id": "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:])),
        "time": format_time(unix_us),
        "actor": who,
        "action": action,
        "targets": [target],
        "source": {"ip": ip, "user_agent": USER_AGENT, "service": actor["service"]},
        "outcome": outcome,
        "context": {
            "request_id": f"{rng.getrandbits(64):016x}",
            "trace_id": trace,
            "region": _REGIONS[number % 5],
        },
        "tenant": actor["tenant"],
    }
    if chance > 0.85:
        words = " ".join(rng.choices(_REASON_WORDS, k=3))
        event["reason"] = f"{words} OPS-{rng.randrange(30_000)}"
    if action.endswith("changed") or chance > 0.97:
        event["changes"] = [{"path": rng.choice(_PATHS), "before": "a", "after": rng.randrange(9)}]
    if chance > 0.6:
        event["context"]["status"] = 200 if outcome == "success" else rng.choice((400, 403, 500))
    return event, id_int.to_bytes(16, "big")
