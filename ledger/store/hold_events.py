"""What the log says of legal holds, also of those whose events were pruned.

A hold keeps the entries that it names. Its own event may be older than all of them, so it may be
pruned while the hold is in force. Nothing else would show then that a hold is gone from its file.

    meta "pruned_holds"   the names of the holds that the pruned events leave in force, as JSON
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from ledger.store import keyspace
from ledger.store.log import LogStore
from ledger.store.token_events import SERVICE_NAME
from ledger_core.event.canonical import parse_leaf

HOLD_ACTION: Final = b'"action":"ledger.retention.hold_'
ADDED: Final = "ledger.retention.hold_added"
RELEASED: Final = "ledger.retention.hold_released"


class HoldEvent(NamedTuple):
    """An event about a legal hold: added or released, and its name."""

    action: str
    name: str


def read_hold_event(leaf: bytes) -> HoldEvent | None:
    """The event about a hold in a leaf; None for another event. Raises: MalformedError."""
    if HOLD_ACTION not in leaf:
        return None
    parsed = parse_leaf(leaf)
    event = parsed.event
    # Nobody but the service logs such an action; its name says so once more.
    is_own = parsed.received.by == SERVICE_NAME and event.action in (ADDED, RELEASED)
    return HoldEvent(event.action, event.targets[0].id) if is_own and event.targets else None


def holds_in_force(before: Iterable[str], events: Iterable[HoldEvent]) -> set[str]:
    """The names of the holds in force after events in order. `before`: those that were before."""
    names = set(before)
    for event in events:
        (names.add if event.action == ADDED else names.discard)(event.name)
    return names


def pruned_holds(log: LogStore) -> list[str]:
    """The holds that the pruned events of a log leave in force."""
    row = log.environment.get(keyspace.META, keyspace.META_PRUNED_HOLDS)
    return [] if row is None else msgspec.json.decode(row, type=list[str])


def encode_pruned_holds(names: Iterable[str]) -> bytes:
    """The row of the holds that the pruned events leave in force."""
    return msgspec.json.encode(sorted(names))
