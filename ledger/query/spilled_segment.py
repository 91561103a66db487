"""A full segment whose terms don't fit into memory, as the index stores it.

The terms of some entries after the others become sorted runs on disk, for each dimension that is
held. Merged, they give its blocks, and the terms that are derived from its values, which become
runs themselves. What is in memory has a limit: the terms of a piece, `DERIVED_MAX` derived ones of
a dimension, a buffer of each run, and for each page a hash, for each block its last value.

The segment is the same to the byte as one that was made in memory: the order of terms and the form
of each list do not depend on the way.
"""

from array import array
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from ledger.query.segment_terms import SegmentTerms
from ledger.query.term_sources import DERIVED, HELD, TIMES, Derive
from ledger.store.index.postings import NO_PLACE, Postings, join
from ledger.store.index.roaring_containers import (
    FORM_ARRAY,
    Container,
    assemble,
    from_little_endian,
    union,
)
from ledger.store.index.segment import SealedSegment, SegmentFacts, compress_columns, make_record
from ledger.store.index.sorted_runs import (
    Record,
    Scratch,
    SortedRuns,
    SpilledBlocks,
    unite_entries,
    unite_in_runs,
)
from ledger.store.index.term_blocks import PAGE_TERMS_MAX, canonical_pages, encode_stream
from ledger.store.index.time_column import encode_times
from ledger_core.query.fields import COLUMNS, DIMENSION_NUMBERS, DIMENSIONS
from ledger_core.tlog.hashing import HASH_BYTES, leaf_hash
from ledger_core.tlog.tree import Frontier

DERIVED_MAX: Final = 200_000
"""Terms of values of one dimension that are held until they become a run, in some 60 MB."""

TERMS_AT_ONCE: Final = 32 * PAGE_TERMS_MAX


class SpilledSegment:
    """The runs of one segment, to which the pieces of it are added in order.

    Its disk is given back when nothing refers to it or to the segment that it made.
    """

    def __init__(self, folder: Path, segment_entries: int) -> None:
        """`folder` has disk for some times what the segment will take. Raises: OSError."""
        self._entries = segment_entries
        self._scratch = Scratch(folder)
        self._blocks = Scratch(folder)
        self._runs = {
            name: SortedRuns(self._scratch, unite_in_runs if name in TIMES else unite_entries)
            for name in HELD
        }
        self._event_times: array[int] = array("q")

    def add(self, terms: SegmentTerms) -> None:
        """Add the terms of the next entries. Raises: OSError."""
        for name, runs in self._runs.items():
            postings = terms.postings(name)
            if postings.values:
                runs.add((value.encode(), container, False) for value, container in postings)
        self._event_times.extend(terms.event_times)

    def seal(self, facts: SegmentFacts, *, entries_hash: str) -> SealedSegment:
        """The segment as it is stored, its blocks on disk. Raises: OSError."""
        derived = {name: _DerivedTerms(self._scratch) for name in DERIVED}
        made: dict[str, _Dimension] = {}
        for name, runs in self._runs.items():
            sinks = [
                (derived[dimension], derive)
                for dimension, sources in DERIVED.items()
                for source, derive in sources
                if source == name
            ]
            records = _derived_from(runs, sinks)
            if name in DIMENSION_NUMBERS:
                made[name] = self._encode(name, records)
            else:
                deque(records, 0)
            for sink, _ in sinks:
                sink.flush()
        for name, terms in derived.items():
            made[name] = self._encode(name, terms.runs)
        root = Frontier()
        for name in DIMENSIONS:
            hashes = made[name].page_hashes
            for start in range(0, len(hashes), HASH_BYTES):
                root.append(bytes(hashes[start : start + HASH_BYTES]))
        columns = [(name, made[name].column) for name in COLUMNS]
        blocks = {name: made[name].blocks for name in DIMENSIONS if made[name].terms}
        record = make_record(
            facts,
            root=root.root(),
            entries_hash=entries_hash,
            terms=sum(each.terms for each in made.values()),
            block_bytes=sum(some.block_bytes for some in blocks.values()),
        )
        frames = compress_columns((name, each) for name, each in columns if each is not None)
        return SealedSegment(record, blocks, frames, encode_times(self._event_times))

    def _encode(self, name: str, records: Iterable[Record]) -> "_Dimension":
        made = _Dimension(name, self._entries if name in COLUMNS else 0)
        made.blocks = SpilledBlocks(self._blocks, encode_stream(made.read(records)))
        return made


class _Dimension:
    """The blocks of a dimension, and what else comes of its terms as they are read."""

    blocks: SpilledBlocks

    def __init__(self, name: str, column_entries: int) -> None:
        self._number = bytes((DIMENSION_NUMBERS[name],))
        self.page_hashes: Final = bytearray()
        self.terms = 0
        self._places = array("H", [NO_PLACE]) * column_entries

    @property
    def column(self) -> "array[int] | None":
        """As `TermsBuilder.column`."""
        return self._places if self._places and self.terms < NO_PLACE else None

    def read(self, records: Iterable[Record]) -> Iterator[Postings]:
        """The terms, some of them at a time."""
        rest = iter(records)
        while some := list(islice(rest, TERMS_AT_ONCE)):
            postings = join((term.decode(), container) for term, container, _ in some)
            for page in canonical_pages(postings):
                self.page_hashes.extend(leaf_hash(self._number + page))
            if self._places and self.terms < NO_PLACE:
                for place, (_, container, _) in enumerate(some, self.terms):
                    self._place(min(place, NO_PLACE), container)
            self.terms += len(some)
            yield postings

    def _place(self, place: int, container: Container) -> None:
        if container.form == FORM_ARRAY:
            offsets: Iterable[int] = from_little_endian(container.payload)
        else:
            offsets = assemble([(0, container)])
        for offset in offsets:
            self._places[offset] = place


class _DerivedTerms:
    """The terms of a dimension that is derived from values of others, as these are read."""

    def __init__(self, scratch: Scratch) -> None:
        self.runs: Final = SortedRuns(scratch, unite_in_runs)
        self._lists: dict[str, list[Container]] = defaultdict(list)
        self._held = 0

    def add(self, terms: Iterable[str], container: Container) -> None:
        """Add the terms of one value."""
        for term in terms:
            self._lists[term].append(container)
            self._held += 1
        if self._held >= DERIVED_MAX:
            self.flush()

    def flush(self) -> None:
        """Make a run of what was added."""
        if self._lists:
            self.runs.add(
                (term.encode(), union(lists), len(lists) > 1)
                for term, lists in sorted(self._lists.items())
            )
        self._lists = defaultdict(list)
        self._held = 0


def _derived_from(
    records: Iterable[Record], sinks: list[tuple[_DerivedTerms, Derive]]
) -> Iterator[Record]:
    """The records as they are; what is derived from each is added to the sinks."""
    for record in records:
        term, container, _ = record
        value = term.decode() if sinks else ""
        for sink, derive in sinks:
            sink.add(derive(value), container)
        yield record
