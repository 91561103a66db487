"""Event -> the values that are derived from it: texts, ids, changed values, masks, the context."""

import re
from collections.abc import Iterable, Iterator
from typing import Final, Literal, TypeAlias

import msgspec

from ledger_core.query.analyzer import ABSENT, EventView, PrincipalView, fold, scalars

Side: TypeAlias = Literal["before", "after"]
SIDES: Final[tuple[Side, ...]] = ("before", "after")

_find_masks: Final = re.compile(r"(?<![A-Za-z0-9])masked\.([a-z0-9-]+)").findall
_is_rule: Final = re.compile(r"[a-z0-9-]{1,64}").fullmatch


def texts_of(event: EventView) -> Iterator[str]:
    """The texts of an event in which a search without a field looks for words; ids apart."""
    yield event.action
    yield event.reason
    yield event.source.user_agent
    yield from names_of(event)
    for target in event.targets:
        yield target.type
    for _, text in (*change_scalars(event, "before"), *change_scalars(event, "after")):
        yield text


def names_of(event: EventView) -> list[str]:
    """The names of an event's targets, its actor, and the principal that the actor acted for."""
    return [each.name for each in _principals(event) if each.name != ABSENT]


def ids_of(event: EventView) -> list[str]:
    """The ids of an event that have words: of targets, actor, and whom the actor acted for."""
    return [each.id for each in _principals(event)]


def _principals(event: EventView) -> list[PrincipalView]:
    behalf = event.actor.on_behalf_of
    return [*event.targets, event.actor, *(() if behalf is None else (behalf,))]


def key_of(path: str) -> str:
    """The path of a change as a query names it: `/limits/daily` is `limits.daily`, folded."""
    return fold(path.removeprefix("/").replace("/", "."))


def change_scalars(event: EventView, side: Side) -> list[tuple[str, str]]:
    """Every scalar before or after the changes of an event as text, each with its path."""
    found: list[tuple[str, str]] = []
    for change in event.changes:
        value = getattr(change, side)
        if value is not msgspec.UNSET:
            key = key_of(change.path)
            # A change of the whole object has the empty path; its members have theirs.
            some = scalars(key, value)
            found += [(fold(path if key else path.removeprefix(".")), text) for path, text in some]
    return found


def change_values(event: EventView, side: Side, path: str) -> list[str]:
    """The scalars before or after the changes at a path, as text; at any path if it is empty."""
    found = change_scalars(event, side)
    return [text for key, text in found if not path or key == path]


def masks_of(event: EventView) -> list[str]:
    """The rules by which secrets of an event were masked, each once."""
    found: dict[str, None] = {}
    _find_rules(msgspec.to_builtins(event), found)
    return list(found)


def _find_rules(value: object, found: dict[str, None]) -> None:
    if isinstance(value, str):
        found.update(dict.fromkeys(_find_masks(value)))
    elif isinstance(value, dict):
        rule = value.get("masked")
        if isinstance(rule, str) and len(value) <= len(("masked", "digest")) and _is_rule(rule):
            found[rule] = None
        for key, member in value.items():
            _find_rules(key, found)
            _find_rules(member, found)
    elif isinstance(value, list | tuple):
        for item in value:
            _find_rules(item, found)


def context_values(event: EventView, path: str) -> list[str]:
    """The scalars at a path of an event's context, as text."""
    return [
        text
        for key, value in event.context.items()
        # A path begins with its key; keys may hold dots themselves.
        if path.startswith(key)
        for found, text in scalars(key, value)
        if found == path
    ]


def context_scalars(event: EventView) -> Iterator[tuple[str, str]]:
    """Every scalar of an event's context as text, each with its path."""
    for key, value in event.context.items():
        yield from scalars(key, value)


def has_path(found: Iterable[tuple[str, str]], path: str) -> bool:
    """Whether there is a scalar at a path or below it."""
    return any(key == path or key.startswith(f"{path}.") for key, _ in found)
