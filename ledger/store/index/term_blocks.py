"""Blocks: consecutive terms of one dimension in one segment.

Most terms of a segment occur once (the id of a request, a target), so reading each by itself would
be mostly overhead. A block holds up to 3,000 bytes of terms, before compression:

    u16 terms n ‖ u8 plain ‖ u16 directory bytes ‖ the directory as one zstd frame ‖ n payloads

    plain        1 where every payload is an array
    directory    n × u16 count − 1 ‖ n × u16 form ‖ NUL ‖ value ‖ NUL ‖ value … ‖ NUL
    payload      that of a container (roaring_containers.py), its length given by the two numbers

A block is stored with its last value, so only the first block whose last value is not below a term
can hold that term. Values hold no NUL: one search finds a value with both its ends, and the number
of NULs before it is its rank. All integers are little-endian.

Sorted identifiers compress to a few bytes each: 8 for 16 random hexadecimal digits, 3 for one of
two million record numbers.
"""

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice, pairwise
from operator import add
from typing import Final

import zstandard

from ledger.store.index import roaring_containers as roaring
from ledger.store.index.postings import Postings, join
from ledger.store.index.roaring_containers import Container, from_little_endian, payload_bytes
from ledger_core.tlog.errors import MalformedError

BLOCK_TERMS_MAX: Final = 256
BLOCK_BYTES: Final = 3000
"""A block ends before it has more bytes, uncompressed, unless it has one term only."""

PAGE_TERMS_MAX: Final = 128

_HEAD = struct.Struct("<HBH")
_SEPARATOR = b"\0"
_DIRECTORY_BYTES_MAX = BLOCK_TERMS_MAX * (4 + 512) + 1
_TERM_BYTES = 6
_OBJECT_BYTES = 400
"""The memory that a block takes beside its text and its payloads."""
# Up to this length, sorting lists together is faster than reading them one by one.
_LOOSE_BYTES_MAX = 2 * 64
_compressor = zstandard.ZstdCompressor(level=1, write_checksum=False)


def encode_blocks(postings: Postings) -> Iterator[tuple[bytes, bytes]]:
    """The terms of a dimension as blocks, in order, each with its last value."""
    start = at = 0
    for end in _ends(postings):
        size = _payload_bytes(postings.counts[start:end], postings.forms[start:end])
        directory = _compressor.compress(_directory(postings, start, end))
        head = _HEAD.pack(end - start, not any(postings.forms[start:end]), len(directory))
        payload = postings.payload[at : at + size]
        yield postings.values[end - 1].encode(), b"".join((head, directory, payload))
        start = end
        at += size


def encode_stream(parts: Iterable[Postings]) -> Iterator[tuple[bytes, bytes]]:
    """As `encode_blocks`, of terms that come some at a time. The blocks are the same."""
    rest: list[tuple[str, Container]] = []
    for part in parts:
        terms = [*rest, *part]
        postings = join(terms)
        # The last block may go on.
        *ends, _ = _ends(postings)
        yield from islice(encode_blocks(postings), len(ends))
        rest = terms[ends[-1] if ends else 0 :]
    yield from encode_blocks(join(rest))


def canonical_pages(postings: Postings) -> Iterator[bytes]:
    """The pages of a dimension for the root of a segment: 128 terms each, in order.

    A page is the uncompressed directory and the payloads. Blocks have other boundaries.
    """
    at = 0
    for start in range(0, len(postings.values), PAGE_TERMS_MAX):
        end = start + PAGE_TERMS_MAX
        size = _payload_bytes(postings.counts[start:end], postings.forms[start:end])
        yield _directory(postings, start, end) + postings.payload[at : at + size]
        at += size


class OpenBlock:
    """Reads a block. Precondition of the constructor: `data` is a block that this code wrote.

    The decompressor belongs to the caller's thread. Cost: one decompression, 2 to 4 µs.
    """

    __slots__ = ("_counts", "_data", "_forms", "_is_plain", "_payloads", "_text", "count", "size")

    def __init__(self, data: bytes, decompressor: zstandard.ZstdDecompressor) -> None:
        self.count, self._is_plain, directory_bytes = _HEAD.unpack_from(data)
        self._payloads = _HEAD.size + directory_bytes
        self._data = data
        directory = decompressor.decompress(
            data[_HEAD.size : self._payloads], max_output_size=_DIRECTORY_BYTES_MAX
        )
        self.size: Final = len(data) + len(directory) + _OBJECT_BYTES
        self._counts = from_little_endian(directory[: 2 * self.count])
        self._forms = directory[2 * self.count : 4 * self.count]
        self._text = directory[4 * self.count :]

    def find(self, value: bytes) -> Container | None:
        """The posting list of a value."""
        at = self._text.find(_SEPARATOR + value + _SEPARATOR)
        if at < 0:
            return None
        rank = self._text.count(_SEPARATOR, 0, at)
        if not self._is_plain:
            return next(self._containers(rank, rank + 1))
        at = self._payloads + _payload_bytes(self._counts[:rank], ())
        return roaring.container_at(
            self._data, at, cardinality=self._counts[rank] + 1, form=roaring.FORM_ARRAY
        )

    def between(self, low: bytes, high: bytes) -> Iterable[Container]:
        """The posting lists of the values `low <= value < high`; short ones as one loose list."""
        values = self.values()
        start, end = bisect_left(values, low), bisect_left(values, high)
        if start == end:
            return ()
        size = _payload_bytes(self._counts[start:end], ())
        if not self._is_plain or size > _LOOSE_BYTES_MAX * (end - start):
            return self._containers(start, end)
        at = self._payloads + _payload_bytes(self._counts[:start], ())
        return (roaring.loose_container(self._data[at : at + size]),)

    def within(self, ranges: Iterable[tuple[bytes, bytes]]) -> list[Container]:
        """The posting lists of the values `low <= value < high` of ranges that ascend."""
        values = self.values()
        ranks: list[int] = []
        end = 0
        for low, high in ranges:
            start = bisect_left(values, low, end)
            end = bisect_left(values, high, start)
            ranks += range(start, end)
        if not ranks:
            return []
        first = ranks[0]
        containers = list(self._containers(first, ranks[-1] + 1))
        return [containers[rank - first] for rank in ranks]

    @property
    def text(self) -> bytes:
        """The values, ascending, with NUL between them."""
        return self._text[1:-1]

    def values(self) -> list[bytes]:
        """The values, ascending."""
        return self.text.split(_SEPARATOR)

    def postings(self) -> Postings:
        """All of the block's terms."""
        return Postings(
            self._text[1:-1].decode().split("\0"),
            counts=self._counts,
            forms=from_little_endian(self._forms),
            payload=self._data[self._payloads :],
        )

    def __iter__(self) -> Iterator[tuple[bytes, Container]]:
        return zip(self.values(), self._containers(0, self.count), strict=True)

    def _containers(self, start: int, end: int) -> Iterator[Container]:
        forms = from_little_endian(self._forms)
        before = () if self._is_plain else forms[:start]
        at = self._payloads + _payload_bytes(self._counts[:start], before)
        for rank in range(start, end):
            container = roaring.container_at(
                self._data, at, cardinality=self._counts[rank] + 1, form=forms[rank]
            )
            at += len(container.payload)
            yield container


def read_loose(data: bytes) -> Container | None:
    """All offsets of a block as one loose container, without reading its directory.

    None if some lists are bitsets or runs, or so long that reading each by itself is faster.
    """
    count, is_plain, directory_bytes = _HEAD.unpack_from(data)
    payload = data[_HEAD.size + directory_bytes :]
    if not is_plain or len(payload) > _LOOSE_BYTES_MAX * count:
        return None
    return roaring.loose_container(payload)


def check_block(data: bytes) -> list[tuple[bytes, Container]]:
    """The terms of a block from a source that may be corrupt.

    Raises: MalformedError.
    """
    try:
        block = OpenBlock(data, zstandard.ZstdDecompressor())
        terms = list(block)
    except (struct.error, zstandard.ZstdError, ValueError, IndexError) as error:
        raise MalformedError(f"not a block: {type(error).__name__}") from None
    values = [value for value, _ in terms]
    if not values or any(low >= high for low, high in pairwise(values)):
        raise MalformedError("not a block: its values do not ascend")
    if _HEAD.size + _HEAD.unpack_from(data)[2] + sum(len(c.payload) for _, c in terms) != len(data):
        raise MalformedError("not a block: its payloads do not fill it")
    return terms


def _ends(postings: Postings) -> Iterator[int]:
    """Where each block ends, as a number of terms."""
    counts, forms = postings.counts, postings.forms
    sizes = [len(value) + _TERM_BYTES for value in postings.values]
    if any(forms):
        payloads = [
            payload_bytes(cardinality=count + 1, form=form)
            for count, form in zip(counts, forms, strict=True)
        ]
        sizes = list(map(add, sizes, payloads))
    else:
        sizes = list(map(add, sizes, map(add, counts, counts)))
    ends = list(accumulate(sizes))
    start, before = 0, 0
    while start < len(ends):
        end = bisect_right(
            ends, before + BLOCK_BYTES, start, min(start + BLOCK_TERMS_MAX, len(ends))
        )
        start = max(end, start + 1)
        before = ends[start - 1]
        yield start


def _directory(postings: Postings, start: int, end: int) -> bytes:
    return b"".join(
        (
            roaring.to_little_endian(postings.counts[start:end]).tobytes(),
            roaring.to_little_endian(postings.forms[start:end]).tobytes(),
            _SEPARATOR,
            "\0".join(postings.values[start:end]).encode(),
            _SEPARATOR,
        )
    )


def _payload_bytes(counts: Sequence[int], forms: Sequence[int]) -> int:
    """The length of the payloads that a directory describes; no forms: all are arrays."""
    if not any(forms):
        return 2 * (sum(counts) + len(counts))
    return sum(
        payload_bytes(cardinality=count + 1, form=form)
        for count, form in zip(counts, forms, strict=True)
    )
