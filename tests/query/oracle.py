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


def in_order(indices: Sequence[int], entries: Sequence[JSON], order: str) -> list[int]:
    """Indices in an order: of receipt, or of the events' own times, the index second."""
    return sorted(
        indices,
        key=lambda i: (unix_us(entries[i]["event"]["time"]), i) if "time" in order else i,
        reverse="newest" in order,
    )


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
            return has_value(field, value, is_prefix, key, entry)
        case ast.Has(field, key) if key:
            paths = {path for path, _ in PATHS[field](entry["event"])}
            return any(path == key or path.startswith(f"{key}.") for path in paths)
        case ast.Has(field):
            return bool(values_of(field, entry))
        case ast.NumberBetween():
            return has_number(condition, entry)
        case ast.Words(field, text, is_prefix):
            words, is_open = searched_words(text, is_prefix)
            if field:
                texts = values_of(field, entry)
                return any(has_words(words_in(some), words, is_open) for some in texts)
            return has_anywhere(condition, words, is_open, entry)
        case ast.InNetwork(network):
            found = values_of("source", entry)
            return any(ip_address(ip) in network for ip in found)
        case ast.Between(field, start, end):
            time = unix_us(entry["event" if field == "time" else "received"]["time"])
            first = start.resolve(now).unix_us if start else 0
            last = end.resolve(now).unix_us if end else 1 << 62
            return first <= time < last
    raise AssertionError(condition)


def is_value(found: str, value: str, is_prefix: bool) -> bool:
    return found.startswith(value) if is_prefix else found == value


def has_value(field: str, value: str, is_prefix: bool, key: str, entry: JSON) -> bool:
    """Whether a field has a value; of a target, its type may stand before the value."""
    found = values_of(field, entry, key)
    if field in FOLDED:
        value, found = value.casefold(), [each.casefold() for each in found]
    if any(is_value(each, value, is_prefix) for each in found):
        return True
    if field != "target":
        return False
    return any(
        is_value(target["id"], value[at + 1 :], is_prefix)
        for target in entry["event"].get("targets", [])
        for at, char in enumerate(value)
        if char == "/" and value[:at].casefold() == target.get("type", "").casefold() != ""
    )


def has_number(query: ast.NumberBetween, entry: JSON) -> bool:
    """Whether a number of the field is in a range."""
    low, high = query.low, query.high
    if query.field == "late":
        received, happened = (unix_us(entry[part]["time"]) for part in ("received", "event"))
        numbers = [Fraction(received - happened, 1_000_000)]
    else:
        numbers = [Fraction(v) for v in values_of(query.field, entry, query.key) if NUMBER(v)]
    return any(
        (low is None or (n > Fraction(low) if query.is_above_low else n >= Fraction(low)))
        and (high is None or (n < Fraction(high) if query.is_below_high else n <= Fraction(high)))
        for n in numbers
    )


def values_of(field: str, entry: JSON, key: str = "") -> list[str]:
    """The values of a field in an entry."""
    if field == "received.by":
        return [entry["received"]["by"]]
    return [value for value in VALUES[field](entry["event"], key) if value is not None]


def has_anywhere(query: ast.Words, words: list[str], is_open: bool, entry: JSON) -> bool:
    """Whether any text of an event has the words, or the text is an id or the address of it."""
    event = entry["event"]
    texts = [
        event["action"],
        *(text for name in TEXTS for text in values_of(name, entry)),
        *names_of(event),
        *changed(event, "before", ""),
        *changed(event, "after", ""),
    ]
    ids = [
        id_ for name in ("actor", "actor.on_behalf_of", "target") for id_ in values_of(name, entry)
    ]
    if any(has_words(words_in(text), words, is_open) for text in texts):
        return True
    if any(has_words(words_in(id_), words, is_open) for id_ in ids if not only_counts(id_)):
        return True
    if " " in query.text:
        return False
    if any(has_value(name, query.text, query.is_prefix, "", entry) for name in WHOLE):
        return True
    return not query.is_prefix and query.text in [event["id"], *values_of("source", entry)]


def only_counts(id_: str) -> bool:
    """Whether an id is a number behind some letters; the ids of `events` are no other numbers."""
    return re.fullmatch("[a-z]_[0-9]+", id_) is not None


def changed(event: JSON, side: str, key: str) -> list[str]:
    """The scalars before or after the changes at a path, or at any if it is empty."""
    return [text for path, text in changed_paths(event, side) if not key or path == key]


def changed_paths(event: JSON, side: str) -> list[tuple[str, str]]:
    """The scalars before or after changes, each with its path, folded."""
    return [
        (path.casefold(), text)
        for change in event.get("changes", [])
        if side in change
        for path, text in scalars(change["path"].removeprefix("/").replace("/", "."), change[side])
    ]


PATHS: dict[str, Callable[[JSON], list[tuple[str, str]]]] = {
    "context": lambda e: list(scalars("", e.get("context", {}))),
    "before": lambda e: changed_paths(e, "before"),
    "after": lambda e: changed_paths(e, "after"),
}


def masks(value: Any) -> list[str]:
    """The rules of masked parts anywhere in a value."""
    if isinstance(value, str):
        return re.findall(r"(?<![A-Za-z0-9])masked\.([a-z0-9-]+)", value)
    if isinstance(value, list):
        return [rule for item in value for rule in masks(item)]
    if isinstance(value, dict):
        own = [value["masked"]] if "masked" in value and len(value) < 3 else []
        return [*own, *(rule for item in value.values() for rule in masks(item))]
    return []


def family(user_agent: str) -> str | None:
    """The families of the user agents of `events`."""
    families = {"Firefox": "firefox", "Edg": "edge", "curl": "curl", "Python-": "python-requests"}
    found = [family for mark, family in families.items() if mark in user_agent]
    return found[0] if found else "w0" if user_agent else None


def context_values(event: JSON, key: str) -> list[str]:
    """The values of the context at a path."""
    return [text for path, text in scalars("", event.get("context", {})) if path == key]


VALUES: dict[str, Callable[[JSON, str], list[Any]]] = {
    "context": context_values,
    "action": lambda e, _: [e["action"]],
    "actor": lambda e, _: [e["actor"]["id"]],
    "actor.type": lambda e, _: [e["actor"].get("type")],
    "actor.on_behalf_of": lambda e, _: [e["actor"].get("on_behalf_of", {}).get("id")],
    "actor.name": lambda e, _: [e["actor"].get("name")],
    "after": lambda e, key: changed(e, "after", key),
    "before": lambda e, key: changed(e, "before", key),
    "masked": lambda e, _: masks(e),
    "port": lambda e, _: [str(e["source"]["port"])] if "port" in e.get("source", {}) else [],
    "recorder": lambda e, _: [e.get("recorder", {}).get("instance")],
    "target.name": lambda e, _: [target.get("name") for target in e.get("targets", [])],
    "user_agent": lambda e, _: [e.get("source", {}).get("user_agent")],
    "user_agent.family": lambda e, _: [family(e.get("source", {}).get("user_agent", ""))],
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


TEXTS = ("reason", "user_agent", "target.type")
WHOLE = (
    "actor", "actor.on_behalf_of", "target", "session", "credential", "request", "trace",
    "recorder",
)  # fmt: skip
UNCUT = ("action", "actor.name", "target.name", "user_agent")


def facet_counts(field: str, entries: Sequence[JSON]) -> Counter[str]:
    """Count the entries with each value of a field; a long value is mostly cut."""
    counts: Counter[str] = Counter()
    for entry in entries:
        counts.update(
            {value if field in UNCUT else value[:120] for value in values_of(field, entry)}
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


def has_words(found: list[str], words: list[str], is_prefix: bool) -> bool:
    """Whether words stand side by side."""
    for start in range(len(found) - len(words) + 1):
        part = found[start : start + len(words)]
        last = part[-1].startswith(words[-1]) if is_prefix else part[-1] == words[-1]
        if last and part[:-1] == words[:-1]:
            return True
    return False


@lru_cache
def words_in(text: str) -> list[str]:
    """The words of a text, folded; Han and Thai as pairs, with the last character behind them."""
    words: list[str] = []
    for run in runs_in(text):
        words += [run[at : at + 2] for at in range(len(run))] if is_dense(run[0]) else [run]
    return words


def runs_in(text: str) -> list[str]:
    """Runs of characters of words: those of Han and of Thai apart from others."""
    runs: list[str] = []
    before = ""
    for char in unicodedata.normalize("NFKC", text).casefold():
        kind = unicodedata.category(char)[0]
        is_word = kind in "LN" or (kind == "M" and before != "")
        if is_word and before and is_dense(char) == is_dense(before):
            runs[-1] += char
        elif is_word:
            runs.append(char)
        before = char if is_word else ""
    return runs


def is_dense(char: str) -> bool:
    name = unicodedata.name(char, "")
    return name.startswith(("CJK", "THAI"))


def searched_words(text: str, is_prefix: bool) -> tuple[list[str], bool]:
    """The words to look for, and whether the last one is a beginning."""
    words, last = words_in(text), runs_in(text)[-1]
    if not is_dense(last[0]):
        return words, is_prefix
    return (words, True) if len(last) == 1 else (words[:-1], False)


@cache
def unix_us(time: str) -> int:
    """Microseconds since 1970 of a time as it stands in the log."""
    moment = datetime.fromisoformat(time) - datetime(1970, 1, 1, tzinfo=UTC)
    return moment.days * 86_400_000_000 + moment.seconds * 1_000_000 + moment.microseconds
