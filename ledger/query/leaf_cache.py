"""Leaves by index, for queries: many at once, and those that were just read at hand.

A page is spread over the log: its hundred rows may lie in a hundred bundles of 256 entries, and
reading one row costs the decompression of its bundle. So the rows that were read last are kept: the
next refinement of a query, or a proof, wants them again.
"""

import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from ledger.store.log import LogStore
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.tile import TILE_WIDTH, decode_bundle

KEPT_BYTES: Final = 64 << 20
_ENTRY_BYTES = 100
"""What an entry of the table takes beside its leaf."""

_read_u16 = struct.Struct(">H").unpack_from


class RowReader:
    """Reads leaves, from any thread."""

    def __init__(self, log: LogStore, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._log = log
        self._kept_bytes = kept_bytes
        self._leaves: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def leaves(self, indices: Sequence[int]) -> list[bytes]:
        """The leaves at indices, which are below the durable size, in the order of `indices`.

        Cost: 0.1 ms for each bundle with rows that are not at hand.
        """
        found = self._kept(indices)
        missing = sorted(index for index in indices if index not in found)
        for number, some in groupby(missing, lambda index: index // TILE_WIDTH):
            found.update(self._read(number, [index % TILE_WIDTH for index in some]))
        if missing and self._kept_bytes:
            self._keep([(index, found[index]) for index in missing])
        return [found[index] for index in indices]

    def bundles(self, start: int, end: int) -> Iterator[tuple[int, list[bytes]]]:
        """The leaves `[start, end)` by bundle, each with the index of its first; none is kept.

        Precondition: `end` is at most the durable size.
        """
        while start < end:
            number, offset = divmod(start, TILE_WIDTH)
            stop = min(end - number * TILE_WIDTH, TILE_WIDTH)
            yield start, decode_bundle(self._bundle(number, stop))[offset:stop]
            start = number * TILE_WIDTH + stop

    def _kept(self, indices: Sequence[int]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        with self._lock:
            for index in indices:
                leaf = self._leaves.get(index)
                if leaf is not None:
                    self._leaves.move_to_end(index)
                    found[index] = leaf
        return found

    def _keep(self, rows: Sequence[tuple[int, bytes]]) -> None:
        with self._lock:
            for index, leaf in rows:
                if index not in self._leaves:
                    self._leaves[index] = leaf
                    self._bytes += len(leaf) + _ENTRY_BYTES
            while self._bytes > self._kept_bytes:
                _, leaf = self._leaves.popitem(last=False)
                self._bytes -= len(leaf) + _ENTRY_BYTES

    def _read(self, number: int, offsets: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """The leaves at ascending offsets of a bundle, with their indices."""
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
            raise MalformedError(f"bundle {number} has fewer than {width} entries")
        return data
