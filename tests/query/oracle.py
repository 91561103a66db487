"""The oracle: tests every event against a query, slowly and plainly, without any code of ours.

It reads leaves with the standard library's JSON and implements conditions as the documentation
describes them, not as the index stores them.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from functools import cache, lru_cache
from ipaddress import ip_address
from typing import Any

from ledger_core.query import ast
from ledger_core.query.ast import Expression

JSON = dict[str, Any]
FOLDED = ("action", "actor.type", "target.type", "field")
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?", re.IGNORECASE).fullmatch


def matching_indices(query: Expression, entries: Sequence[JSON], *, now_unix_us: int) -> list[int]:
    """The indices of the entries for which a query holds."""
    return [i for i, entry in enumerate(entries) if holds(query, i, entry, now_unix_us)]


def holds(query: Expression, index: int, entry: JSON, now: int) -> bool:
    """Whether a query holds for one entry."""
    match query:
        case ast.Everything():
            return True
        case ast.And(parts):
            return all(holds(part, index, entry, now) for part in parts)
        case ast.Or(parts):
            return any(holds(part, index, entry, now) for part in parts)
        case ast.Not(part):
            return not holds(part, index, entry, now)
        case ast.IndexBetween(start, end):
            return start <= index < end
    return condition_holds(query, entry, now)


def condition_holds(condition: Expression, entry: JSON, now: int) -> bool:
    """Whether a condition on an event holds for one entry."""
    match condition:
        case ast.Is(field, value, is_prefix, key):
            found = values_of(field, entry["event"], key)
            if field in FOLDED:
                value, found = value.casefold(), [v.casefold() for v in found]
            return any(v.startswith(value) if is_prefix else v == value for v in found)
        case ast.Has("context", key):
            paths = {path for path, _ in scalars("", entry["event"].get("context", {}))}
            return any(path == key or path.startswith(f"{key}.") for path in paths)
        case ast.Has(field):
            return bool(values_of(field, entry["event"]))
        case ast.NumberBetween(field, low, high, is_above, is_below, key):
            numbers = [Fraction(v) for v in values_of(field, entry["event"], key) if NUMBER(v)]
            return any(
                (low is None or (low < n if is_above else low <= n))
                and (high is None or (n < high if is_below else n <= high))
                for n in numbers
            )
        case ast.Words(field, words, is_prefix):
            event = entry["event"]
            texts = [event.get("reason", "")]
            if not field:
                texts += [event["action"], *names_of(event)]
            return any(has_words(text, list(words), is_prefix) for text in texts)
        case ast.InNetwork(network):
            found = values_of("source", entry["event"])
            return any(ip_address(ip) in network for ip in found)
        case ast.Between(field, start, end):
            time = unix_us(entry["event" if field == "time" else "received"]["time"])
            first = start.resolve(now).unix_us if start else 0
            last = end.resolve(now).unix_us if end else 1 << 62
            return first <= time < last
    raise AssertionError(condition)


def values_of(field: str, event: JSON, key: str = "") -> list[str]:
    """The values of a field in an event."""
    return [value for value in VALUES[field](event, key) if value is not None]


def context_values(event: JSON, key: str) -> list[str]:
    """The values of the context at a path."""
    return [text for path, text in scalars("", event.get("context", {})) if path == key]


VALUES: dict[str, Callable[[JSON, str], list[Any]]] = {
    "context": context_values,
    "action": lambda e, _: [e["action"]],
    "actor": lambda e, _: [e["actor"]["id"]],
    "actor.type": lambda e, _: [e["actor"].get("type")],
    "actor.on_behalf_of": lambda e, _: [e["actor"].get("on_behalf_of", {}).get("id")],
    "credential": lambda e, _: [e["actor"].get("credential")],
    "field": lambda e, _: [change["path"] for change in e.get("changes", [])],
    "id": lambda e, _: [e["id"]],
    "outcome": lambda e, _: [e["outcome"]],
    "reason": lambda e, _: [e.get("reason")],
    "request": lambda e, _: context_values(e, "request_id"),
    "service": lambda e, _: [e.get("source", {}).get("service")],
    "session": lambda e, _: [e["actor"].get("session")],
    "source": lambda e, _: [e.get("source", {}).get("ip")],
    "target": lambda e, _: [target["id"] for target in e.get("targets", [])],
    "target.type": lambda e, _: [target.get("type") for target in e.get("targets", [])],
    "tenant": lambda e, _: [e.get("tenant")],
    "trace": lambda e, _: context_values(e, "trace_id"),
}


def facet_counts(field: str, entries: Sequence[JSON]) -> Counter[str]:
    """Count the entries with each value of a field; a long value, but no action, is cut."""
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
    found = words_in(text)
    for start in range(len(found) - len(words) + 1):
        part = found[start : start + len(words)]
        last = part[-1].startswith(words[-1]) if is_prefix else part[-1] == words[-1]
        if last and part[:-1] == words[:-1]:
            return True
    return False


@lru_cache
def words_in(text: str) -> list[str]:
    """The words of a text, folded."""
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold())


@cache
def unix_us(time: str) -> int:
    """Microseconds since 1970 of a time as it stands in the log."""
    moment = datetime.fromisoformat(time) - datetime(1970, 1, 1, tzinfo=UTC)
    return moment.days * 86_400_000_000 + moment.seconds * 1_000_000 + moment.microseconds
