"""A sealed segment: its record, its blocks, columns and times, and its root.

The root is the RFC 6962 root over the segment's pages in order. A page is up to 128 consecutive
terms of one dimension. Its leaf is the number of the dimension, one byte, and then the directory
and the payloads of `term_blocks`, uncompressed.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec
import zstandard

from ledger.store.index.postings import Postings
from ledger.store.index.roaring_containers import to_little_endian
from ledger.store.index.term_blocks import canonical_pages, encode_blocks
from ledger.store.index.time_column import encode_times
from ledger_core.query.fields import DIMENSION_NUMBERS
from ledger_core.tlog.hashing import Hash, leaf_hash
from ledger_core.tlog.tree import Frontier


class SegmentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The earliest and latest times of a segment, as the leaves spell them."""

    earliest: str
    latest: str
    first_received: str
    last_received: str


class SegmentRecord(SegmentFacts, frozen=True, kw_only=True):
    """The record of a sealed segment. `root` is its root hash in hexadecimal digits.

    `entries_hash` is the SHA-256, in hexadecimal digits, of the leaf hashes of the entries that it
    was built from. It is empty in a file that an earlier version wrote.
    """

    root: str
    entries_hash: str = ""
    terms: int
    block_bytes: int


class Blocks(Protocol):
    """The blocks of a dimension in order, each with its last value: a list, or on disk."""

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]: ...


class SealedSegment(NamedTuple):
    """The parts of a segment's file (segment_file.py)."""

    record: SegmentRecord
    blocks: Mapping[str, Blocks]
    """The blocks of each dimension that has terms, each with its last value."""
    columns: list[tuple[str, bytes]]
    times: list[tuple[bytes, bytes]]
    """The blocks of the event times, each with its label."""


def encode_segment(
    dimensions: Sequence[tuple[str, Postings]],
    columns: Iterable[tuple[str, "array[int]"]],
    times: Sequence[int],
    facts: SegmentFacts,
    *,
    entries_hash: str,
) -> SealedSegment:
    """Encode a segment. Precondition: dimensions and columns are in the order of their numbers."""
    blocks = {
        dimension: list(encode_blocks(postings))
        for dimension, postings in dimensions
        if postings.values
    }
    record = make_record(
        facts,
        root=segment_root(dimensions),
        entries_hash=entries_hash,
        terms=sum(len(postings.values) for _, postings in dimensions),
        block_bytes=sum(len(block) for some in blocks.values() for _, block in some),
    )
    return SealedSegment(record, blocks, compress_columns(columns), encode_times(times))


def make_record(
    facts: SegmentFacts, *, root: Hash, entries_hash: str, terms: int, block_bytes: int
) -> SegmentRecord:
    """The record of a segment."""
    return SegmentRecord(
        root=root.hex(),
        entries_hash=entries_hash,
        terms=terms,
        block_bytes=block_bytes,
        **msgspec.structs.asdict(facts),
    )


def compress_columns(columns: Iterable[tuple[str, "array[int]"]]) -> list[tuple[str, bytes]]:
    """The columns of dimensions as they are stored."""
    compressor = zstandard.ZstdCompressor(level=1)
    return [
        (name, compressor.compress(to_little_endian(column[:]).tobytes()))
        for name, column in columns
    ]


def segment_root(dimensions: Iterable[tuple[str, Postings]]) -> Hash:
    """The root of a segment from its dimensions in the order of their numbers."""
    root = Frontier()
    for dimension, postings in dimensions:
        number = bytes((DIMENSION_NUMBERS[dimension],))
        for page in canonical_pages(postings):
            root.append(leaf_hash(number + page))
    return root.root()
