"""The ids of an archived log: tables of full segments in the bucket, and the rest in memory.

The rest is what the bucket has no table of: the open segment, and full ones whose table is missing,
up to `OPEN_ENTRIES_MAX` entries. It grows on a thread, before the head that covers it is served.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.archive.ids import TABLE_BYTES, IdTableName, check_table, find_ids, id_of
from ledger.object_storage.fetching import Part
from ledger.object_storage.objects import SEGMENT_OBJECTS_MAX
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.stored_log import DamagedObjectError

OPEN_ENTRIES_MAX: Final = 4 * SEGMENT_ENTRIES_MAX
"""Ids in memory, 100 bytes each."""


@dataclass(frozen=True, slots=True)
class IdTable:
    """The table of one segment in the bucket."""

    name: IdTableName

    @property
    def part(self) -> Part:
        """Its object."""
        return Part(self.name.name, TABLE_BYTES)

    @property
    def start(self) -> int:
        """The index of the first entry of its segment."""
        return self.name.segment * SEGMENT_ENTRIES_MAX

    def find(self, data: bytes, *, low: bytes, last: bytes, most: int) -> list[int]:
        """The places of ids in the segment. Raises: MalformedError for another table."""
        check_table(self.name, data)
        return find_ids(data, low=low, last=last, most=most)


@dataclass(frozen=True, slots=True)
class IdsSnapshot:
    """The ids of one moment."""

    tables: Mapping[int, Sequence[IdTable]]
    open_ids: Sequence[tuple[bytes, int]]
    faults: Sequence[str]
    """Why some ids are unknown."""

    def tables_for(self, low: bytes, last: bytes) -> list[Sequence[IdTable]]:
        """The tables by segment, the newest first, where one may have an id of a range.

        All of a segment: one that is whole vouches for the segment where another is damaged.
        """
        return [
            some
            for _, some in sorted(self.tables.items(), reverse=True)
            if any(table.name.may_have(low, last) for table in some)
        ]

    def check_known(self) -> None:
        """Check that no table is unknown: else an id may be in it. Raises: DamagedObjectError."""
        if self.faults:
            raise DamagedObjectError(f"some ids are unknown: {self.faults[0]}")

    def open_between(self, low: bytes, last: bytes) -> list[int]:
        """The indices of the ids of a range that are in memory."""
        found = []
        for at in range(bisect_left(self.open_ids, (low, -1)), len(self.open_ids)):
            each, index = self.open_ids[at]
            if each > last:
                break
            found.append(index)
        return found


class ArchivedIds:
    """The ids of one archive. Changed by one thread at a time, and read by any."""

    def __init__(self) -> None:
        # Replaced as a whole.
        self._snapshot = IdsSnapshot({}, (), ())
        self._missing: Sequence[str] = ()
        self._open_start = 0
        self._open_end = 0

    def snapshot(self) -> IdsSnapshot:
        """The ids as they are now."""
        return self._snapshot

    def take_tables(self, names: Iterable[str], *, full_segments: int) -> int:
        """Note the tables that the bucket lists; the first entry whose id must be in memory."""
        tables: dict[int, list[IdTable]] = {}
        for name in sorted(names):
            parsed = IdTableName.parse(name)
            if parsed is not None and parsed.segment < full_segments:
                some = tables.setdefault(parsed.segment, [])
                # Whoever writes into the bucket can put others there: none of them hides one.
                if len(some) < SEGMENT_OBJECTS_MAX:
                    some.append(IdTable(parsed))
        first = max(0, full_segments - OPEN_ENTRIES_MAX // SEGMENT_ENTRIES_MAX + 1)
        lacking = [each for each in range(full_segments) if each not in tables]
        self._missing = [
            f"the archive has no table of the ids of segment {each}, which a service of this "
            "version uploads"
            for each in lacking
            if each < first
        ]
        before = self._snapshot
        self._snapshot = IdsSnapshot(tables, before.open_ids, (*self._missing,))
        start = min((each for each in lacking if each >= first), default=full_segments)
        return start * SEGMENT_ENTRIES_MAX

    def first_unknown(self, start: int) -> int:
        """The first entry from `start` on whose id is not in memory."""
        return self._open_end if self._open_start <= start <= self._open_end else start

    def extend(
        self,
        start: int,
        end: int,
        bundles: Iterable[tuple[int, Sequence[bytes]]],
        faults: Sequence[str],
    ) -> None:
        """Keep the ids of the entries from `start` to `end` in memory, and no earlier ones.

        `bundles`: for those from `first_unknown` on, the index of the first leaf, and the leaves;
        `faults`: why some of them can't be read.
        """
        unknown = self.first_unknown(start)
        ids = [each for each in self._snapshot.open_ids if start <= each[1] < unknown]
        for first, leaves in bundles:
            ids += [
                (id_of(leaf), index) for index, leaf in enumerate(leaves, first) if index >= unknown
            ]
        self._open_start, self._open_end = start, end if not faults else unknown
        self._snapshot = IdsSnapshot(self._snapshot.tables, sorted(ids), (*self._missing, *faults))
