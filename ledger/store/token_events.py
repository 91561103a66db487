"""The events about tokens in the log, and what they say of the tokens that are in use.

The store of tokens can be put back from an older copy, or a bit of it can flip. The log has the
events `ledger.token.created` and `ledger.token.revoked`, which only the service logs. So a token
that the store has in use, though the log says that it was revoked, is noticed.

    meta "token_events"   in the log's environment: the indices of these events, u64 each

With this row the events are read at a start without a pass over the log.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Final, NamedTuple

import msgspec

from ledger.store import keyspace
from ledger.store.log import UNREADABLE, DamagedBundleError, LogStore
from ledger.store.tokens import TokenLimits, TokenRecord
from ledger_core.tlog.tile import TILE_WIDTH

SERVICE_NAME: Final = "ledger"
"""The principal of the service's own events, which no token may be named after."""

TOKEN_ACTION: Final = b'"action":"ledger.token.'
STORED_PARTS: Final = 4
"""Of a `TokenEvent`, those that the rows of pruned and released events have."""

CREATED: Final = "ledger.token.created"
REVOKED: Final = "ledger.token.revoked"


class TokenRights(msgspec.Struct, frozen=True):
    """What a token may do, as its event and its record have it."""

    scopes: tuple[str, ...] = ()
    tenant: str | None = None
    networks: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    limits: TokenLimits | None = None
    expires: str | None = None


class TokenEvent(NamedTuple):
    """An event about a token: created or revoked, its name, and when.

    `old_expires`: when the tokens of this name that were in use before it expire at the latest.
    `rights`: those of a token that was created; None where they are not known, as of pruned events.
    """

    action: str
    name: str
    time: str
    old_expires: str = ""
    rights: TokenRights | None = None


class _Target(msgspec.Struct):
    id: str


class _Context(TokenRights, frozen=True):
    old_expires: str = ""


class _Event(msgspec.Struct):
    action: str
    time: str
    targets: tuple[_Target, ...] = ()
    context: _Context = _Context()
    tenant: str | None = None


class _Received(msgspec.Struct):
    by: str


class _Leaf(msgspec.Struct):
    event: _Event
    received: _Received


_decode_leaf = msgspec.json.Decoder(_Leaf).decode
_decode_event = msgspec.json.Decoder(_Event).decode


def read_token_event(data: bytes, *, is_leaf: bool = True) -> TokenEvent | None:
    """The token event in a leaf, or in an event of the outbox; None for another event."""
    if TOKEN_ACTION not in data:
        return None
    try:
        leaf = (
            _decode_leaf(data) if is_leaf else _Leaf(_decode_event(data), _Received(SERVICE_NAME))
        )
    except msgspec.MsgspecError:
        return None
    event = leaf.event
    if leaf.received.by != SERVICE_NAME or event.action not in (CREATED, REVOKED):
        return None
    if not event.targets:
        return None
    return TokenEvent(
        event.action,
        event.targets[0].id,
        event.time,
        event.context.old_expires,
        _rights_of(event.context, event.tenant) if event.context.scopes else None,
    )


def logged_token_events(log: LogStore) -> list[TokenEvent]:
    """The token events of a log, in order, without those in damaged bundles, which the log names.

    Those that were pruned or released are remembered. Cost: a read for each other one.
    """
    indices = log.environment.get(keyspace.META, keyspace.META_TOKEN_EVENTS) or b""
    known = [*pruned_token_events(log), *released_token_events(log)]
    events, local_start = [event for _, event in known], log.local_start()
    for start in range(0, len(indices), keyspace.U64_BYTES):
        index = keyspace.decode_u64(indices[start : start + keyspace.U64_BYTES])
        if index < local_start:
            continue
        leaf = None
        with suppress(*UNREADABLE):
            leaf = log.leaf(index)
        event = None if leaf is None else read_token_event(leaf)
        if event is not None:
            events.append(event)
    return events


def pruned_token_events(log: LogStore) -> list[tuple[int, TokenEvent]]:
    """The token events whose entries were pruned, in order, each with its index."""
    row = log.environment.get(keyspace.META, keyspace.META_PRUNED_TOKEN_EVENTS)
    return [] if row is None else msgspec.json.decode(row, type=list[tuple[int, TokenEvent]])


def released_token_events(log: LogStore) -> list[tuple[int, TokenEvent]]:
    """The token events whose entries were released, and not pruned since, as `pruned_token_events`.

    So a start and fsck need no archive.
    """
    row = log.environment.get(keyspace.META, keyspace.META_RELEASED_TOKEN_EVENTS) or b"[]"
    events = msgspec.json.decode(row, type=list[tuple[int, TokenEvent]])
    return [each for each in events if each[0] >= log.minimum_index]


def encode_token_events(events: Iterable[tuple[int, TokenEvent]]) -> bytes:
    """The row of token events whose entries were pruned or released: names and times.

    Without them, nothing would show that a token which was revoked is in use again. The rights are
    not in it: earlier versions read these rows too.
    """
    return msgspec.json.encode([(index, event[:STORED_PARTS]) for index, event in events])


def find_token_events(log: LogStore) -> bytes:
    """The indices of all token events, for the row of a log that has none. Reads the whole log.

    It leaves out those in damaged bundles, which the log names.
    """
    found = bytearray()
    tree_size = log.head().tree_size
    with log.environment.read() as snapshot:
        for first in range(log.minimum_index, tree_size, TILE_WIDTH):
            parts: list[list[bytes]] = []
            with suppress(DamagedBundleError):
                parts += log.leaves_between(snapshot, first, min(first + TILE_WIDTH, tree_size))
            for leaf_index, leaf in enumerate(chain.from_iterable(parts), start=first):
                if TOKEN_ACTION in leaf and read_token_event(leaf) is not None:
                    found += keyspace.encode_u64(leaf_index)
    return bytes(found)


def revived_tokens(events: Iterable[TokenEvent], records: Iterable[TokenRecord]) -> list[str]:
    """The names of tokens that are in use though the events say that they were revoked."""
    in_use, created = _replay(events)
    names = (
        record.name
        for record in records
        if record.revoked is None
        and (record.name, record.created) in created
        and record.created not in in_use.get(record.name, {})
    )
    return list(dict.fromkeys(names))


def prolonged_tokens(
    events: Iterable[TokenEvent], records: Iterable[TokenRecord]
) -> list[tuple[TokenRecord, str]]:
    """The tokens that expire later than the events say since they were replaced, and when to."""
    in_use, _ = _replay(events)
    found = []
    for record in records:
        expires = in_use.get(record.name, {}).get(record.created, "")
        is_later = record.expires is None or record.expires > expires
        if record.revoked is None and expires and is_later:
            found.append((record, expires))
    return found


def token_problems(events: Iterable[TokenEvent], records: Iterable[TokenRecord]) -> list[str]:
    """The differences between the store of tokens and the events."""
    events, records = list(events), list(records)
    in_use, created = _replay(events)
    problems = [
        f"the token {name!r} is in use, but was revoked" for name in revived_tokens(events, records)
    ]
    problems += [
        f"the token {record.name!r} of {record.created} was replaced, and expires at {expires}"
        for record, expires in prolonged_tokens(events, records)
    ]
    problems += _widened(events, records)
    known = {(record.name, record.created) for record in records}
    for name, time in sorted(created - known):
        problems.append(f"the token {name!r} of {time} is missing")
    for record in records:
        if (record.name, record.created) not in created:
            problems.append(f"the token {record.name!r} of {record.created} has no event")
        elif record.revoked is not None and record.created in in_use.get(record.name, {}):
            problems.append(f"the token {record.name!r} is revoked, but no event says so")
    return problems


def _widened(events: Iterable[TokenEvent], records: Iterable[TokenRecord]) -> Iterator[str]:
    """The tokens in use that have other rights than their events say: somebody has edited them."""
    made = {(each.name, each.time): each.rights for each in events if each.action == CREATED}
    for record in records:
        told = made.get((record.name, record.created))
        if record.revoked is not None or told is None:
            continue
        has = _rights_of(record, record.tenant)
        if told.expires and has.expires and has.expires < told.expires:
            has = msgspec.structs.replace(has, expires=told.expires)  # It was replaced.
        others = [
            f"{name} {_text(value)}, where its event says {_text(getattr(told, name))}"
            for name, value in msgspec.structs.asdict(has).items()
            if value != getattr(told, name)
        ]
        if others:
            yield (
                f"the token {record.name!r} of {record.created} has {'; '.join(others)}: revoke "
                "it, and make another one"
            )


def _rights_of(holder: TokenRights | TokenRecord, tenant: str | None) -> TokenRights:
    return TokenRights(
        scopes=tuple(sorted(holder.scopes)),
        tenant=tenant,
        networks=tuple(sorted(holder.networks)),
        actions=tuple(sorted(holder.actions)),
        limits=holder.limits,
        expires=holder.expires,
    )


def _text(value: object) -> str:
    """A right as a message has it."""
    if isinstance(value, TokenLimits):
        value = tuple(f"{name} {most}" for name, most in msgspec.structs.asdict(value).items())
    return ascii(", ".join(value) if isinstance(value, tuple) else value) if value else "none"


def _replay(
    events: Iterable[TokenEvent],
) -> tuple[dict[str, dict[str, str]], set[tuple[str, str]]]:
    """The tokens that aren't revoked, and all that were ever created.

    The former by name and by the time of creation, with the time at which one that was replaced
    expires at the latest, or nothing.
    """
    in_use: dict[str, dict[str, str]] = {}
    created: set[tuple[str, str]] = set()
    for event in events:
        if event.action == CREATED:
            tokens = in_use.setdefault(event.name, {})
            if event.old_expires:
                for time, expires in tokens.items():
                    tokens[time] = min(expires or event.old_expires, event.old_expires)
            tokens[event.time] = ""
            created.add((event.name, event.time))
        else:
            in_use.pop(event.name, None)
    return in_use, created
