"""Replaces conditions on ids and on the time of receipt by conditions on indices.

The log itself answers both without the index, before there is a plan: its ids are a sorted table,
and the time of receipt never decreases along the log.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ledger.query.leaf_cache import LeafCache
from ledger.store.index.segment import SegmentRecord
from ledger.store.stored_log import StoredLog
from ledger_core.event.ids import is_uuid
from ledger_core.query import ast
from ledger_core.query.analyzer import decode_view
from ledger_core.query.ast import Expression
from ledger_core.tlog.tile import TILE_WIDTH

IDS_MAX: Final = 10_000
"""Above this many ids with one prefix, the query reads rows instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdResolver:
    """Resolves conditions in a tree of one size."""

    log: StoredLog
    leaf_cache: LeafCache
    tree_size: int
    records: Mapping[int, SegmentRecord]
    segment_entries: int

    def resolve(self, expression: Expression) -> Expression:
        """The expression with conditions on id and receipt as conditions on the index."""
        return ast.replace_conditions(expression, self._resolve)

    def _resolve(self, condition: Expression) -> Expression:
        match condition:
            case ast.Is("id", value, is_prefix):
                return self._ids(value) if is_prefix else self._id(value)
            case ast.Words("", text, False) if is_uuid(text.lower()):
                return ast.any_of((condition, self._id(text.lower())))
            case ast.Between("received", start, end):
                first = self._before_damage(self._first_at(start)) if start else 0
                return ast.IndexBetween(first, self._first_at(end) if end else self.tree_size)
        return condition

    def _id(self, value: str) -> Expression:
        id_bytes = bytes.fromhex(value.replace("-", ""))
        indices = self.log.indices_between(low=id_bytes, last=id_bytes, most=IDS_MAX)
        if indices is None:
            return ast.Is("id", value)
        return ast.IndexIn(tuple(sorted(indices)))

    def _ids(self, prefix: str) -> Expression:
        digits = prefix.replace("-", "")
        if not digits:
            return ast.EVERYTHING
        indices = self.log.indices_between(
            low=bytes.fromhex(digits.ljust(32, "0")),
            last=bytes.fromhex(digits.ljust(32, "f")),
            most=IDS_MAX,
        )
        if indices is None:
            return ast.Is("id", prefix, is_prefix=True)
        return ast.IndexIn(tuple(sorted(indices)))

    def _first_at(self, moment: ast.Moment) -> int:
        """The first index that was received at a moment or later.

        Cost: as many reads of rows as the tree size has bits, most of them in one bundle.
        """
        text = ast.time_text(moment.unix_us)
        size = self.segment_entries
        # The records narrow the search: most of its steps would read a bundle each.
        start = max(
            [(n + 1) * size for n, r in self.records.items() if r.last_received < text], default=0
        )
        start = max(start, self.log.minimum_index)
        end = min(
            [n * size for n, r in self.records.items() if r.first_received >= text],
            default=self.tree_size,
        )
        if start >= self.tree_size:
            return self.tree_size
        return bisect_left(range(min(end, self.tree_size)), text, lo=start, key=self._received_at)

    def _before_damage(self, index: int) -> int:
        """The index, or the first of the unreadable entries before it: some may be received later.

        Unreadable entries before an end are found too, since `_received_at` takes them as earlier.
        """
        while index > self.log.minimum_index and self.leaf_cache.readable((index - 1,)) == [None]:
            index = (index - 1) // TILE_WIDTH * TILE_WIDTH
        return index

    def _received_at(self, index: int) -> str:
        """The time of receipt of an entry; in a damaged bundle, that of the last one before it."""
        while index >= self.log.minimum_index:
            (leaf,) = self.leaf_cache.readable((index,))
            if leaf is not None:
                return decode_view(leaf).received.time
            index = index // TILE_WIDTH * TILE_WIDTH - 1
        return ""
