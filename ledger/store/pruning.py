"""Prunes a log: a copy of it without the entries below a minimum index takes its place.

One pass over the entries that go remembers what must outlive them: whose each id was
(`id_rows`), and what events about tokens and legal holds said (`token_events`, `hold_events`).
It also names the private values that stand for nothing any more, which the caller destroys first.

The copy has the tree and all tiles as they were. It is checked before it takes the place of the
log: it must have the same head, the same ids, and every entry that stays.
"""

from array import array
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Final

import msgspec

from ledger.store import keyspace
from ledger.store.compaction import check_unused, compact
from ledger.store.environment import Environment, lock_for_writing
from ledger.store.erasable_values import FORGOTTEN, SUBJECT_BYTES, event_key
from ledger.store.hold_events import (
    HoldEvent,
    encode_pruned_holds,
    holds_in_force,
    pruned_holds,
    read_hold_event,
)
from ledger.store.id_rows import decode_id_row, tenant_mark
from ledger.store.log import LogStore
from ledger.store.log_start import check_right_edge
from ledger.store.minimum_index import Pruning, encode_pruning
from ledger.store.released import Elsewhere
from ledger.store.token_events import (
    TOKEN_ACTION,
    TokenEvent,
    encode_token_events,
    pruned_token_events,
    read_token_event,
)
from ledger_core.event.commitments import HASH_CHARS, find_commitments
from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.tile import TILE_WIDTH

_NEEDLE: Final = b'"commitment'
Progress = Callable[[int, int], None]


class _Event(msgspec.Struct, gc=False):
    id: str
    tenant: str = ""


class _Leaf(msgspec.Struct, gc=False):
    event: _Event


_decode_leaf = msgspec.json.Decoder(_Leaf).decode


@dataclass(slots=True)
class Removed:
    """What outlives the entries that go. `marks`: by entry the number of its tenant in `tenants`.

    `value_keys`: the keys of private values that stand in these entries alone.
    """

    first_index: int
    tenants: dict[bytes, int] = field(default_factory=lambda: {b"": 0})
    marks: "array[int]" = field(default_factory=lambda: array("I"))
    token_events: list[tuple[int, TokenEvent]] = field(default_factory=list)
    hold_events: list[HoldEvent] = field(default_factory=list)
    value_keys: set[bytes] = field(default_factory=set)

    def add(self, leaf: bytes) -> None:
        """Note what outlives an entry. Raises: MalformedError, msgspec.MsgspecError."""
        index = self.first_index + len(self.marks)
        event = _decode_leaf(leaf).event
        self.marks.append(
            self.tenants.setdefault(tenant_mark(event.tenant or None), len(self.tenants))
        )
        if TOKEN_ACTION in leaf and (about := read_token_event(leaf)) is not None:
            self.token_events.append((index, about))
        if (hold := read_hold_event(leaf)) is not None:
            self.hold_events.append(hold)
        if _NEEDLE in leaf:
            key = event_key(event.id, event.tenant or None)
            whole = msgspec.json.decode(leaf)["event"]
            self.value_keys |= {each.hash.encode() + key for each in find_commitments(whole)}


def read_removed(log: LogStore, minimum_index: int, progress: Progress) -> Removed:
    """One pass over the entries of a log that go with a minimum index.

    Raises: DamagedBundleError. Cost: reads these entries; four bytes of memory for each.
    """
    removed = Removed(log.minimum_index)
    with log.environment.read() as snapshot:
        bundles = log.leaves_between(snapshot, log.minimum_index, minimum_index)
        for done, leaves in enumerate(bundles, start=1):
            for leaf in leaves:
                removed.add(leaf)
            progress(log.minimum_index + done * TILE_WIDTH, minimum_index)
    return removed


def prune_log(
    path: Path,
    pruning: Pruning,
    *,
    before: Callable[[Removed], None] = lambda _removed: None,
    elsewhere: Elsewhere | None = None,
    progress: Progress = lambda _done, _total: None,
) -> bool:
    """Remove the entries of a log below a minimum index; whether they were still there.

    `before` gets what outlives the entries, when the copy is checked and they are all still there:
    whatever fails until then, a full disk or a damaged entry, has changed nothing.
    `elsewhere` reads entries that were released; the archive keeps those that go.
    Precondition: the entry of the event is not below the minimum index. Raises: UnavailableError
    while another process has the log open; DamagedBundleError, VerificationError, with the log as
    it was.
    Cost: reads the entries that go, and writes the log that stays.
    """
    check_unused(path)
    with (
        lock_for_writing(path),
        closing(LogStore.open(path, elsewhere=elsewhere)) as log,
    ):
        if log.minimum_index >= pruning.minimum_index:
            return False
        if not pruning.minimum_index <= pruning.event_index < log.head().tree_size:
            raise VerificationError("the event of a pruning must be an entry that stays")
        removed = read_removed(log, pruning.minimum_index, progress)
        head, ids = log.head(), log.environment.count(keyspace.IDS)
        token_events = [*pruned_token_events(log), *removed.token_events]
        added = {
            keyspace.META_FORMAT: (
                keyspace.PRUNED_FORMAT if log.release() is None else keyspace.RELEASED_FORMAT
            ),
            keyspace.META_MINIMUM: encode_pruning(pruning),
            keyspace.META_PRUNED_TOKEN_EVENTS: encode_token_events(token_events),
            keyspace.META_PRUNED_HOLDS: encode_pruned_holds(
                holds_in_force(pruned_holds(log), removed.hold_events)
            ),
        }

        def change(
            name: bytes, rows: Iterator[tuple[bytes, bytes]]
        ) -> Iterator[tuple[bytes, bytes]]:
            if name == keyspace.ENTRIES:
                return _kept_entries(rows, pruning.minimum_index)
            if name == keyspace.IDS:
                return _marked_ids(rows, removed)
            return iter(sorted({**dict(rows), **added}.items())) if name == keyspace.META else rows

        def check(draft: Path) -> None:
            with closing(LogStore.open(draft)) as copy:
                if (copy.pruning, copy.head()) != (pruning, head):
                    raise VerificationError("the copy without the pruned entries has another head")
                if copy.environment.count(keyspace.IDS) != ids:
                    raise VerificationError("the copy without the pruned entries lacks ids")
                check_right_edge(copy)
                _check_entries(log, copy)
            before(removed)

        compact(log.environment, change=change, check=check)
    return True


def forget_values(private: Environment, removed: Removed) -> None:
    """Delete the private values of entries that go; none of them is ever stored again.

    Their rows stay in free pages until the environment is compacted. The keys of subjects stay.
    """
    with private.write() as transaction:
        for row in [row for row, _ in transaction.rows(keyspace.BY_SUBJECT)]:
            key = row[SUBJECT_BYTES:]
            if key not in removed.value_keys:
                continue
            transaction.delete(keyspace.BY_SUBJECT, row)
            transaction.delete(keyspace.VALUES, key)
            commitment = key[:HASH_CHARS]
            if transaction.get(keyspace.VALUES, commitment) is None:
                transaction.put(keyspace.VALUES, commitment, FORGOTTEN)


def _kept_entries(
    rows: Iterator[tuple[bytes, bytes]], minimum_index: int
) -> Iterator[tuple[bytes, bytes]]:
    start, end = keyspace.bundle_key(0), keyspace.bundle_key(minimum_index // TILE_WIDTH)
    return ((key, value) for key, value in rows if not start <= key < end)


def _marked_ids(
    rows: Iterator[tuple[bytes, bytes]], removed: Removed
) -> Iterator[tuple[bytes, bytes]]:
    marks, first = list(removed.tenants), removed.first_index
    end = first + len(removed.marks)
    for key, value in rows:
        index = decode_id_row(value).leaf_index
        yield key, (value + marks[removed.marks[index - first]] if first <= index < end else value)


def _check_entries(log: LogStore, copy: LogStore) -> None:
    """Check that a copy has every entry that stays on this disk, byte for byte."""
    tree_size, start = log.head().tree_size, copy.local_start()
    with log.environment.read() as old, copy.environment.read() as new:
        pairs = zip(
            chain.from_iterable(log.leaves_between(old, start, tree_size)),
            chain.from_iterable(copy.leaves_between(new, start, tree_size)),
            strict=True,
        )
        if any(one != other for one, other in pairs):
            raise VerificationError("the copy without the pruned entries has another entry")
