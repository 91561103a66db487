"""Reads leaves by index for queries, many at once, and caches those that were read last.

The hundred rows of a page may lie in a hundred bundles of 256 entries, and reading one row costs
the decompression of its bundle. The next refinement of a query, or a proof, wants the same rows
again.
"""

import struct
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final

from ledger.store.log import UNREADABLE, DamagedBundleError, PrunedError
from ledger.store.stored_log import StoredLog
from ledger_core.tlog.tile import TILE_WIDTH, decode_bundle

CACHE_BYTES: Final = 64 << 20
PART_BYTES: Final = 1 << 20
_ENTRY_BYTES = 100
"""The memory that an entry of the table takes beside its leaf."""

_read_u16 = struct.Struct(">H").unpack_from


class LeafCache:
    """Reads leaves and evicts the least recently used ones. Safe from any thread."""

    def __init__(self, log: StoredLog, *, bytes_max: int = CACHE_BYTES) -> None:
        """`bytes_max` 0 turns caching off."""
        self._log = log
        self._bytes_max = bytes_max
        self._leaves: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def leaves(self, indices: Sequence[int]) -> list[bytes]:
        """The leaves at indices below the durable size, in the order of `indices`.

        Cost: 0.1 ms for each bundle with rows that are not cached. Raises: as `UNREADABLE`.
        """
        found, damaged = self._found(indices)
        if damaged is not None:
            raise damaged
        return [found[index] for index in indices]

    def in_parts(self, indices: Sequence[int]) -> Iterator[tuple[int, list[bytes]]]:
        """The leaves at indices in parts, each with the place of its first in `indices`.

        A part has `PART_BYTES` at most, or is one leaf. Between two parts none of the next is
        held, so that whoever waits there holds no more. Raises: as `UNREADABLE`.
        """
        start = 0
        while start < len(indices):
            some = self.leaves(indices[start:])
            count = size = 0
            for leaf in some:
                size += len(leaf)
                if count and size > PART_BYTES:
                    break
                count += 1
            del some[count:]
            yield start, some
            start += count

    def readable(self, indices: Sequence[int]) -> list[bytes | None]:
        """As `leaves`, with None for those in a damaged bundle, or pruned."""
        found, _ = self._found(indices)
        return [found.get(index) for index in indices]

    def scanned(self, indices: Sequence[int]) -> list[bytes | None]:
        """As `readable`, for many rows of one bundle that nobody asks for again: none is cached."""
        number = indices[0] // TILE_WIDTH
        self._log.expect([number])
        try:
            leaves = decode_bundle(self._bundle(number, max(indices) % TILE_WIDTH + 1))
        except UNREADABLE:
            return [None] * len(indices)
        return [leaves[index % TILE_WIDTH] for index in indices]

    def cached(self, indices: Sequence[int]) -> list[bytes] | None:
        """The leaves at indices if all of them are cached."""
        found = self._cached(indices)
        return list(map(found.__getitem__, indices)) if len(found) == len(indices) else None

    def _found(
        self, indices: Sequence[int]
    ) -> tuple[dict[int, bytes], DamagedBundleError | PrunedError | None]:
        """The leaves that can be read, and the last error of the others."""
        found = self._cached(indices)
        missing = sorted(index for index in indices if index not in found)
        damaged: DamagedBundleError | PrunedError | None = None
        self._log.expect(sorted({index // TILE_WIDTH for index in missing}))
        for number, some in groupby(missing, lambda index: index // TILE_WIDTH):
            try:
                found.update(self._read(number, [index % TILE_WIDTH for index in some]))
            except UNREADABLE as error:
                damaged = error
        if missing and self._bytes_max:
            self._cache((index, found[index]) for index in missing if index in found)
        return found, damaged

    def bundles(self, start: int, end: int) -> Iterator[tuple[int, list[bytes]]]:
        """The leaves `[start, end)` by bundle, each with the index of its first; none is cached.

        Precondition: `end` is at most the durable size. Raises: as `UNREADABLE`.
        """
        for first, stop in self.parts(start, end):
            number, offset = divmod(first, TILE_WIDTH)
            width = offset + stop - first
            yield first, decode_bundle(self._bundle(number, width))[offset:width]

    @staticmethod
    def parts(start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of `[start, end)` that lie in one bundle each."""
        while start < end:
            stop = min(end, (start // TILE_WIDTH + 1) * TILE_WIDTH)
            yield start, stop
            start = stop

    def _cached(self, indices: Sequence[int]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        with self._lock:
            leaves, move_to_end = self._leaves, self._leaves.move_to_end
            for index in indices:
                leaf = leaves.get(index)
                if leaf is not None:
                    move_to_end(index)
                    found[index] = leaf
        return found

    def _cache(self, rows: Iterable[tuple[int, bytes]]) -> None:
        with self._lock:
            for index, leaf in rows:
                if index not in self._leaves:
                    self._leaves[index] = leaf
                    self._bytes += len(leaf) + _ENTRY_BYTES
            while self._bytes > self._bytes_max:
                _, leaf = self._leaves.popitem(last=False)
                self._bytes -= len(leaf) + _ENTRY_BYTES

    def _read(self, number: int, offsets: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """The leaves at ascending offsets of a bundle, with their indices.

        It skips from length to length: most queries want one of the 256 leaves.
        """
        data = self._bundle(number, offsets[-1] + 1)
        at = passed = 0
        for offset in offsets:
            while passed < offset:
                at += 2 + _read_u16(data, at)[0]
                passed += 1
            (length,) = _read_u16(data, at)
            yield number * TILE_WIDTH + offset, data[at + 2 : at + 2 + length]

    def _bundle(self, number: int, width: int) -> bytes:
        """At least the first `width` leaves of a bundle, each behind its length."""
        data = self._log.bundle(index=number, width=TILE_WIDTH) or self._log.bundle(
            index=number, width=width
        )
        if data is None:
            raise self._log.damaged(number, f"it has fewer than {width} entries")
        return data
