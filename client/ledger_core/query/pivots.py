"""Builds the follow-up queries of an investigation: around an event, by an actor, from an address.

Each is an expression like any other, built from an event or a name instead of from text.
"""

from ipaddress import ip_network
from typing import Final, Literal, TypeAlias

from ledger_core.event.times import parse_time
from ledger_core.query import ast
from ledger_core.query.analyzer import decode_view
from ledger_core.query.ast import Expression
from ledger_core.query.parser import parse_query
from ledger_core.query.predicate import values_of
from ledger_core.query.scanner import QueryError
from ledger_core.tlog.errors import MalformedError

Reason: TypeAlias = Literal["actor", "session", "source", "target"]
Role: TypeAlias = Literal["actor", "on_behalf_of", "target"]

_REASONS: Final[tuple[Reason, ...]] = ("actor", "session", "source", "target")
_ROLES: Final[dict[str, Role]] = {
    "actor": "actor",
    "actor.on_behalf_of": "on_behalf_of",
    "target": "target",
}


def around(leaf: bytes, *, minutes: int) -> Expression:
    """The events that share an actor, session, source or target with one, close to it in time."""
    view = decode_view(leaf)
    shared = [_same(field, value) for field in _REASONS for value in values_of(field, view)]
    at, span = parse_time(view.event.time), minutes * ast.MINUTE_US
    within = ast.Between(
        "time", ast.Moment(max(at - span, 0)), ast.Moment(min(at + span + 1, ast.UNIX_US_END))
    )
    return ast.all_of([ast.any_of(shared), within])


def _same(field: str, value: str) -> Expression:
    """The condition on one value; an address is a network of one address."""
    return ast.InNetwork(ip_network(value)) if field == "source" else ast.Is(field, value)


def around_reasons(leaf: bytes, other: bytes) -> tuple[Reason, ...]:
    """The fields that two events share a value of."""
    one, two = decode_view(leaf), decode_view(other)
    return tuple(
        field
        for field in _REASONS
        if not set(values_of(field, one)).isdisjoint(values_of(field, two))
    )


def timeline(actor_id: str) -> Expression:
    """The events of an actor, on its behalf, and with it as a target."""
    return ast.any_of(ast.Is(field, actor_id) for field in _ROLES)


def timeline_roles(actor_id: str, leaf: bytes) -> tuple[Role, ...]:
    """The roles of an actor in an event."""
    view = decode_view(leaf)
    return tuple(role for field, role in _ROLES.items() if actor_id in values_of(field, view))


def from_source(text: str) -> Expression:
    """The events from an address or network. Raises: QueryError when the text is neither."""
    try:
        # Quotes keep any text within one value.
        return parse_query('source:"{}"'.format(text.replace("\\", "\\\\").replace('"', '\\"')))
    except MalformedError:
        raise QueryError(
            "neither an address nor a network",
            text=text,
            position=0,
            length=len(text),
            expected=("an address", "a network such as 203.0.113.0/24"),
        ) from None
