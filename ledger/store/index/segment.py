"""A sealed segment: what is known of it, what is stored of it, and its root.

The root is the RFC 6962 root over the segment's pages in order. A page is up to 128 consecutive
terms of one dimension; what is hashed of it is the number of the dimension, one byte, and then its
directory and its payloads, as store/index/term_blocks.py describes them, uncompressed.
"""

from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import zstandard

from ledger.store.index.postings import Postings
from ledger.store.index.roaring_containers import to_little_endian
from ledger.store.index.term_blocks import canonical_pages, encode_blocks
from ledger_core.query.fields import DIMENSION_NUMBERS
from ledger_core.tlog.hashing import Hash, leaf_hash
from ledger_core.tlog.tree import Frontier


class SegmentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a segment before it is stored: its times, as they stand in the leaves."""

    earliest: str
    latest: str
    first_received: str
    last_received: str


class SegmentRecord(SegmentFacts, frozen=True, kw_only=True):
    """What is known of a sealed segment. `root` is its root hash as hexadecimal digits."""

    root: str
    terms: int
    block_bytes: int


class SealedSegment(NamedTuple):
    """A segment as it is stored: keys and values of its rows, the keys without the segment."""

    record: SegmentRecord
    blocks: list[tuple[str, bytes, bytes]]
    """Dimension, last value, block; in their order."""
    columns: list[tuple[str, bytes]]


def encode_segment(
    dimensions: Sequence[tuple[str, Postings]],
    columns: Iterable[tuple[str, "array[int]"]],
    facts: SegmentFacts,
) -> SealedSegment:
    """A segment from its dimensions, in their order, and its columns, in the order of theirs."""
    blocks = [
        (dimension, last, block)
        for dimension, postings in dimensions
        for last, block in encode_blocks(postings)
    ]
    compressor = zstandard.ZstdCompressor(level=1)
    record = SegmentRecord(
        root=segment_root(dimensions).hex(),
        terms=sum(len(postings.values) for _, postings in dimensions),
        block_bytes=sum(len(block) for _, _, block in blocks),
        **msgspec.structs.asdict(facts),
    )
    frames = [
        (name, compressor.compress(to_little_endian(column[:]).tobytes()))
        for name, column in columns
    ]
    return SealedSegment(record, blocks, frames)


def segment_root(dimensions: Iterable[tuple[str, Postings]]) -> Hash:
    """The root of a segment from its dimensions, in their order."""
    root = Frontier()
    for dimension, postings in dimensions:
        number = bytes((DIMENSION_NUMBERS[dimension],))
        for page in canonical_pages(postings):
            root.append(leaf_hash(number + page))
    return root.root()
