"""What the log says of legal holds, also of those whose events were pruned.

A hold keeps the entries that it names. Its own event may be older than all of them, so it may be
pruned while the hold is in force. Nothing else would show then that a hold is gone from its file.

    meta "pruned_holds"   the holds that the pruned events leave in force, as JSON: by the name of
                          each the hashes of what it holds. The first version had the names alone

An event says what its hold holds, so a hold that was changed in its file is noticed like one that
is missing: whoever can write the file would release it without an event.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, TypeAlias

import msgspec

from ledger.store import keyspace
from ledger.store.log import LogStore
from ledger.store.token_events import SERVICE_NAME
from ledger_core.event.canonical import parse_leaf

HOLD_ACTION: Final = b'"action":"ledger.retention.hold_'
ADDED: Final = "ledger.retention.hold_added"
RELEASED: Final = "ledger.retention.hold_released"
HELD_HASH: Final = "held_sha256"
"""In the context of the event: a query with an id that looks like a secret is masked there."""


class _Waiting(msgspec.Struct, frozen=True):
    action: str
    targets: tuple[dict[str, str], ...] = ()
    context: Mapping[str, object] = {}


HoldsInForce: TypeAlias = Mapping[str, frozenset[str]]
"""By name the hashes of what was held under it since it was last released; none if unknown."""


class HoldEvent(NamedTuple):
    """An event about a legal hold: added or released, its name, and the hash of what it holds.

    The hash is empty where the event does not say.
    """

    action: str
    name: str
    held_hash: str


def hash_held(target: str) -> str:
    """The SHA-256, in hex, of what a hold holds, as people read it."""
    return hashlib.sha256(target.encode()).hexdigest()


def read_hold_event(leaf: bytes) -> HoldEvent | None:
    """The event about a hold in a leaf; None for another event. Raises: MalformedError."""
    if HOLD_ACTION not in leaf:
        return None
    parsed = parse_leaf(leaf)
    event = parsed.event
    # Nobody but the service logs such an action; its name says so once more.
    is_own = parsed.received.by == SERVICE_NAME and event.action in (ADDED, RELEASED)
    if not is_own or not event.targets:
        return None
    context = event.context or {}
    held_hash = context.get(HELD_HASH)
    return HoldEvent(
        event.action, event.targets[0].id, held_hash if isinstance(held_hash, str) else ""
    )


def read_waiting_hold(event: bytes) -> HoldEvent | None:
    """The event about a hold in a row of the outbox; None for another event, or a damaged one."""
    try:
        decoded = msgspec.json.decode(event, type=_Waiting)
    except msgspec.MsgspecError:
        return None
    if decoded.action not in (ADDED, RELEASED) or not decoded.targets:
        return None
    held_hash = decoded.context.get(HELD_HASH)
    name = decoded.targets[0].get("id", "")
    return HoldEvent(decoded.action, name, held_hash if isinstance(held_hash, str) else "")


def holds_in_force(before: HoldsInForce, events: Iterable[HoldEvent]) -> HoldsInForce:
    """The holds in force after events in order. `before`: those that were before."""
    holds = dict(before)
    for event in events:
        if event.action == ADDED:
            known = holds.get(event.name, frozenset())
            holds[event.name] = known | ({event.held_hash} if event.held_hash else frozenset())
        else:
            holds.pop(event.name, None)
    return holds


def pruned_holds(log: LogStore) -> HoldsInForce:
    """The holds that the pruned events of a log leave in force."""
    row = log.environment.get(keyspace.META, keyspace.META_PRUNED_HOLDS)
    if row is None:
        return {}
    found = msgspec.json.decode(row, type=list[str] | dict[str, list[str]])
    if isinstance(found, list):
        return dict.fromkeys(found, frozenset())
    return {name: frozenset(hashes) for name, hashes in found.items()}


def encode_pruned_holds(holds: HoldsInForce) -> bytes:
    """The row of the holds that the pruned events leave in force."""
    return msgspec.json.encode({name: sorted(holds[name]) for name in sorted(holds)})
