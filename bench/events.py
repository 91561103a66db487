"""Generates varied events for load: 480 bytes of canonical JSON on average, each id used once."""

import random
import uuid
from collections.abc import Iterator

import msgspec

from ledger_core.event.times import format_time

ACTIONS = ("user.login", "user.role_changed", "record.viewed", "record.deleted", "payment.refunded")
OUTCOMES = ("success", "success", "success", "failure", "denied")
START_UNIX_US = 1_790_000_000_000_000


def event_stream(seed: int) -> Iterator[bytes]:
    """Yield events as canonical JSON without end. The same seed gives the same events."""
    rng = random.Random(seed)
    unix_us = START_UNIX_US
    while True:
        unix_us += rng.randrange(1, 5_000)
        yield msgspec.json.encode(_event(rng, unix_us), order="sorted")


def _event(rng: random.Random, unix_us: int) -> dict[str, object]:
    actor = f"u_{int(rng.paretovariate(1.1)) % 5_000:05d}"
    return {
        "id": str(uuid.UUID(int=(unix_us // 1000 << 80) | 7 << 76 | 2 << 62 | rng.getrandbits(62))),
        "time": format_time(unix_us),
        "actor": {"type": "user", "id": actor, "session": f"s_{rng.getrandbits(40):010x}"},
        "action": rng.choice(ACTIONS),
        "targets": [{"type": "record", "id": f"r_{rng.randrange(2_000_000):07d}"}],
        "source": {
            "ip": f"198.51.{rng.randrange(256)}.{rng.randrange(256)}",
            "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
            "service": "admin-web",
        },
        "outcome": rng.choice(OUTCOMES),
        "context": {
            "request_id": f"{rng.getrandbits(64):016x}",
            "trace_id": f"{rng.getrandbits(128):032x}",
        },
        "tenant": f"t_{rng.randrange(40):03d}",
    }
