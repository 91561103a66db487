"""Events of the log, found by index or id."""

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ledger.service.context import ServiceContext
from ledger.service.http.problems import ProblemError
from ledger.store.stored_log import reading
from ledger_core.event.canonical import Leaf, parse_leaf
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.text import parse_size

PRIVATE: Final = "private, no-cache"
"""The Cache-Control of answers that hold events."""

_is_uuid = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}").fullmatch


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event of the log: its index, its leaf's bytes, and the parsed leaf."""

    index: int
    leaf: bytes
    parsed: Leaf


async def find_event(context: ServiceContext, ref: str, *, tenant: str | None) -> StoredEvent:
    """The event at an index or with an id.

    Raises: ProblemError, also for another tenant's: `wrong-tenant` at an index, which everybody
    knows to be taken, and `no-event` for an id, which nobody should learn to be taken. PrunedError
    for an entry that was removed: at an index for everybody, by its id for its tenant.
    """
    return await reading(lambda: _find(context, ref, tenant))


def _find(context: ServiceContext, ref: str, tenant: str | None) -> StoredEvent:
    if _is_uuid(ref):
        id_bytes = bytes.fromhex(ref.replace("-", ""))
        for index in context.store.indices_of(id_bytes, tenant):
            if index is None and tenant is not None:
                # As much work as for another tenant's event: the time tells nobody of it either.
                with suppress(MalformedError, UnavailableError, VerificationError):
                    _stored(context, int.from_bytes(id_bytes) % max(context.tree_size, 1))
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
