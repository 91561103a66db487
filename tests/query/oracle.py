"""What a query should answer, told by looking at every event: slow, plain, and no code of ours.

It reads leaves with the standard library's JSON and knows the conditions as the documentation
tells them, not as the index keeps them.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import Any

from ledger_core.query.ast import (
    And,
    Between,
    Everything,
    Expression,
    IndexBetween,
    InNetwork,
    Is,
    Not,
    Or,
    Words,
)

JSON = dict[str, Any]


def matching_indices(query: Expression, leaves: Sequence[bytes], *, now_unix_us: int) -> list[int]:
    """The indices of the leaves for which a query holds."""
    entries = [json.loads(leaf) for leaf in leaves]
    return [i for i, entry in enumerate(entries) if holds(query, i, entry, now_unix_us)]


def holds(query: Expression, index: int, entry: JSON, now: int) -> bool:
    """Whether a query holds for one entry."""
    match query:
        case Everything():
            return True
        case And(parts):
            return all(holds(part, index, entry, now) for part in parts)
        case Or(parts):
            return any(holds(part, index, entry, now) for part in parts)
        case Not(part):
            return not holds(part, index, entry, now)
        case IndexBetween(start, end):
            return start <= index < end
        case Is(field, value, is_prefix, key):
            found = values_of(field, entry["event"], key)
            return any(v.startswith(value) if is_prefix else v == value for v in found)
        case Words(field, words, is_prefix):
            event = entry["event"]
            texts = [event.get("reason", "")]
            if not field:
                texts += [event["action"], *names_of(event)]
            return any(has_words(text, list(words), is_prefix) for text in texts)
        case InNetwork(network):
            found = values_of("source", entry["event"])
            return any(ip_address(ip) in network for ip in found)
        case Between(field, start, end):
            time = unix_us(entry["event" if field == "time" else "received"]["time"])
            first = start.resolve(now).unix_us if start else 0
            last = end.resolve(now).unix_us if end else 1 << 62
            return first <= time < last
    raise AssertionError(query)


def values_of(field: str, event: JSON, key: str = "") -> list[str]:
    """The values of a field in an event."""
    actor, source = event["actor"], event.get("source", {})
    context = event.get("context", {})
    found: dict[str, list[Any]] = {
        "action": [event["action"]],
        "actor": [actor["id"]],
        "actor.type": [actor.get("type")],
        "actor.on_behalf_of": [actor.get("on_behalf_of", {}).get("id")],
        "context": [text for path, text in scalars("", context) if path == key],
        "credential": [actor.get("credential")],
        "field": [change["path"] for change in event.get("changes", [])],
        "id": [event["id"]],
        "outcome": [event["outcome"]],
        "request": [text for path, text in scalars("", context) if path == "request_id"],
        "service": [source.get("service")],
        "session": [actor.get("session")],
        "source": [source.get("ip")],
        "target": [target["id"] for target in event.get("targets", [])],
        "target.type": [target.get("type") for target in event.get("targets", [])],
        "tenant": [event.get("tenant")],
        "trace": [text for path, text in scalars("", context) if path == "trace_id"],
    }
    return [value for value in found[field] if value is not None]


def facet_counts(field: str, entries: Sequence[JSON]) -> Counter[str]:
    """How many entries have each value of a field; long ones, but no action, by their beginning."""
    counts: Counter[str] = Counter()
    for entry in entries:
        counts.update(
            {
                value if field == "action" else value[:120]
                for value in values_of(field, entry["event"])
            }
        )
    return counts


def scalars(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """The scalars inside a value, by their path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from scalars(f"{path}.{key}" if path else key, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from scalars(path, inner)
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)


def names_of(event: JSON) -> list[str]:
    """Every name in an event."""
    actor = event["actor"]
    people = [actor, actor.get("on_behalf_of", {}), *event.get("targets", [])]
    return [one["name"] for one in people if "name" in one]


def has_words(text: str, words: list[str], is_prefix: bool) -> bool:
    """Whether words stand side by side in a text."""
    found = re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold())
    for start in range(len(found) - len(words) + 1):
        part = found[start : start + len(words)]
        last = part[-1].startswith(words[-1]) if is_prefix else part[-1] == words[-1]
        if last and part[:-1] == words[:-1]:
            return True
    return False


def unix_us(time: str) -> int:
    """Microseconds since 1970 of a time as it stands in the log."""
    from datetime import UTC, datetime

    moment = datetime.fromisoformat(time) - datetime(1970, 1, 1, tzinfo=UTC)
    return moment.days * 86_400_000_000 + moment.seconds * 1_000_000 + moment.microseconds
