"""Events, free values and spellings of JSON for property tests."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from ledger_core.event.model import INTEGER_MAX

Draw = Callable[[st.SearchStrategy[Any]], Any]

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
ids = st.text("ab:é😀\ufb33_-. ", min_size=1, max_size=8)
integers = st.integers(-INTEGER_MAX, INTEGER_MAX)
floats = st.floats(-INTEGER_MAX, INTEGER_MAX) | st.sampled_from(
    [0.0, -0.0, 1e-4, 9.9e-5, 1e-7, 0.1]
)
scalars = st.none() | st.booleans() | integers | floats | texts


def values(levels: int) -> st.SearchStrategy[Any]:
    """Free values whose objects and arrays stand at most so many levels deep."""
    if levels == 0:
        return scalars
    inner = values(levels - 1)
    arrays = st.lists(inner, max_size=3)
    objects = st.dictionaries(ids | texts, inner, max_size=3)
    return st.one_of(scalars, arrays, objects)


principals = st.fixed_dictionaries({"id": ids}, optional={"type": ids, "name": texts})
actors = st.fixed_dictionaries(
    {"id": ids},
    optional={"type": ids, "session": ids, "credential": ids, "on_behalf_of": principals},
)
addresses = st.ip_addresses().map(str) | st.ip_addresses(v=4).map(lambda ip: f"::ffff:{ip}")
sources = st.fixed_dictionaries(
    {},
    optional={
        "ip": addresses,
        "port": st.integers(0, 65_535),
        "user_agent": texts,
        "service": ids,
    },
)
changes = st.fixed_dictionaries({"path": texts}, optional={"before": values(2), "after": values(2)})
times = st.sampled_from(
    [
        "2026-11-25T02:03:36.123456Z",
        "2026-11-25T02:03:36Z",
        "2026-11-25t02:03:36.123456789+05:30",
        "1970-01-01T00:00:00-11:00",
    ]
)
events: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "action": st.from_regex(r"[A-Za-z0-9_-]{1,8}(\.[A-Za-z0-9_-]{1,8}){0,3}", fullmatch=True),
        "actor": actors,
        "outcome": st.sampled_from(["success", "failure", "denied", "unknown"]),
    },
    optional={
        "id": st.uuids().map(str) | st.uuids().map(lambda value: str(value).upper()),
        "time": times,
        "targets": st.lists(principals, max_size=3),
        "source": sources,
        "reason": texts,
        "changes": st.lists(changes, max_size=2),
        "context": st.dictionaries(ids | texts, values(3), max_size=4),
        "tenant": ids,
        "recorder": st.fixed_dictionaries({"instance": ids, "seq": st.integers(1, INTEGER_MAX)}),
    },
)


def write_spelled(value: object, draw: Draw, *, repeating: bool) -> str:
    """Write JSON in any spelling: white space, escapes, and repeated members when `repeating`."""
    space = draw(st.sampled_from(["", "", " ", "\n\t"]))
    if isinstance(value, dict):
        members = list(value.items())
        if repeating and members and draw(st.integers(0, 3)) == 0:
            name, _ = draw(st.sampled_from(members))
            at = draw(st.integers(0, len(members)))
            members.insert(at, (name, draw(st.sampled_from(["a:b", 1, None, {":": ":"}]))))
        written = (
            f"{_spell_text(name, draw)}{space}:{space}"
            f"{write_spelled(member, draw, repeating=repeating)}"
            for name, member in members
        )
        return f"{{{space}{','.join(written)}{space}}}"
    if isinstance(value, list):
        return f"[{','.join(write_spelled(item, draw, repeating=repeating) for item in value)}]"
    if isinstance(value, str):
        return _spell_text(value, draw)
    return json.dumps(value)


def _spell_text(text: str, draw: Draw) -> str:
    style = draw(st.sampled_from(["plain", "plain", "ascii", "colons", "all"]))
    if style == "all":
        units = text.encode("utf-16-be")
        pairs = zip(units[::2], units[1::2], strict=True)
        return '"' + "".join(f"\\u{high:02x}{low:02X}" for high, low in pairs) + '"'
    written = json.dumps(text, ensure_ascii=style == "ascii")
    return written.replace(":", "\\u003a") if style == "colons" else written
