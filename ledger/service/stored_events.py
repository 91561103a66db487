"""Events of the log as answers show them: found by index or id, and encoded with their leaf."""

import re
from dataclasses import dataclass
from typing import Final

import msgspec

from ledger.query.answer import Row
from ledger.service.context import ServiceContext
from ledger.service.http.problems import ProblemError
from ledger.store.log import tenant_id_key
from ledger_core.api import FoundEvent
from ledger_core.event.canonical import Leaf, late_s, parse_leaf
from ledger_core.event.model import Received
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.text import format_base64, parse_size

PRIVATE: Final = "private, no-cache"
"""The Cache-Control of answers that hold events."""

_is_uuid = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}").fullmatch


class _Timed(msgspec.Struct, frozen=True):
    """The time of an event."""

    time: str


class _Leaf(msgspec.Struct, frozen=True):
    """A leaf of the log with its event undecoded."""

    event: msgspec.Raw
    received: Received
    v: int


_decode_leaf = msgspec.json.Decoder(_Leaf).decode
_decode_timed = msgspec.json.Decoder(_Timed).decode


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event of the log: its index, its leaf's bytes, and the parsed leaf."""

    index: int
    leaf: bytes
    parsed: Leaf


def find_event(context: ServiceContext, ref: str, *, tenant: str | None) -> StoredEvent:
    """The event at an index or with an id.

    Raises: ProblemError, also for another tenant's: `wrong-tenant` at an index, which everybody
    knows to be taken, and `no-event` for an id, which nobody should learn to be taken.
    """
    if _is_uuid(ref):
        id_bytes = bytes.fromhex(ref.replace("-", ""))
        for key in (id_bytes, tenant_id_key(id_bytes, tenant)):
            index = context.store.index_of(key)
            found = None if index is None else _stored(context, index)
            if found is not None and tenant in (None, found.parsed.event.tenant):
                return found
        raise ProblemError("no-event", "no event has this id")
    try:
        index = parse_size(ref)
    except MalformedError as error:
        raise ProblemError(
            "bad-parameter", f"neither an index nor a UUID: {error}", field="ref"
        ) from None
    found = _stored(context, index)
    if found is None:
        raise ProblemError(
            "no-event",
            f"no event has the index {index}, the tree has size {context.tree_size}",
            limit=context.tree_size,
            got=index,
        )
    if tenant not in (None, found.parsed.event.tenant):
        raise ProblemError("wrong-tenant", "the token is bound to one tenant, this is another's")
    return found


def _stored(context: ServiceContext, index: int) -> StoredEvent | None:
    leaf = context.store.leaf(index)
    return None if leaf is None else StoredEvent(index, leaf, parse_leaf(leaf))


def make_found_event(row: Row, *, because: tuple[str, ...] = ()) -> FoundEvent:
    """A found event for an answer. Its leaf was checked when it was appended."""
    parts = _decode_leaf(row.leaf)
    return FoundEvent(
        index=row.index,
        event=parts.event,
        received=parts.received,
        leaf_hash=format_base64(leaf_hash(row.leaf)),
        leaf=row.leaf.decode(),
        late_s=late_s(_decode_timed(parts.event).time, parts.received.time),
        because=because,
    )
