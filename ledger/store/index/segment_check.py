"""Compares a stored segment with its own record and with one that was rebuilt from the log."""

from collections.abc import Iterator
from itertools import zip_longest

import msgspec
import zstandard

from ledger.store.index.group_filter import GroupFilter, segments_of
from ledger.store.index.index_snapshot import IndexSnapshot
from ledger.store.index.index_writer import make_filter
from ledger.store.index.postings import join
from ledger.store.index.roaring_containers import Container
from ledger.store.index.segment import SealedSegment, segment_root
from ledger.store.index.term_blocks import check_block
from ledger.store.index.time_column import decode_block
from ledger_core.query.fields import DIMENSIONS
from ledger_core.tlog.errors import MalformedError, VerificationError


def check_segment(snapshot: IndexSnapshot, segment: int, rebuilt: SealedSegment) -> None:
    """Check a stored segment against its own record and against one rebuilt from the log.

    Raises: VerificationError or MalformedError that names the first difference.
    """
    record = snapshot.records[segment]
    # The same blocks give the same root. Another version of zstd writes others.
    if any(
        stored != made
        for name in DIMENSIONS
        for stored, made in zip_longest(
            snapshot.blocks(name, segment), rebuilt.blocks.get(name, ())
        )
    ):
        root = segment_root(
            (name, join(_stored_terms(snapshot, name, segment))) for name in DIMENSIONS
        ).hex()
        if root != record.root:
            raise VerificationError(
                f"segment {segment}: its blocks give the root {root}, its record says {record.root}"
            )
    if record.root != rebuilt.record.root:
        raise VerificationError(
            f"segment {segment}: the log gives the root {rebuilt.record.root}, the index has "
            f"{record.root}"
        )
    # Other versions of zstd give other sizes, and earlier files have no hash of the entries.
    want = msgspec.structs.replace(rebuilt.record, block_bytes=record.block_bytes)
    if not record.entries_hash:
        want = msgspec.structs.replace(want, entries_hash="")
    if want != record:
        raise VerificationError(f"segment {segment}: the log gives another record")
    for dimension, frame in rebuilt.columns:
        stored_column = snapshot.column(dimension, segment)
        if stored_column is None or stored_column.places != snapshot.decode_column(frame):
            raise VerificationError(f"segment {segment}: the log gives another column {dimension}")
    stored = snapshot.times(segment)
    for place, (label, block) in enumerate(rebuilt.times):
        times = decode_block(
            label,
            block,
            entries=stored.entries_in(place),
            decompressor=zstandard.ZstdDecompressor(),
        )
        if stored.read(place) != times:
            raise VerificationError(f"segment {segment}: the log gives other event times")


def check_filters(snapshot: IndexSnapshot, *, is_strict: bool) -> None:
    """Check the filters of an index; if `is_strict`, against the terms of their segments.

    Raises: MalformedError, VerificationError.
    """
    filters = snapshot.filters
    for group, reason in filters.damaged.items():
        raise MalformedError(f"filter {group} of the index: {reason}")
    for group in filters:
        # A running service may have put a larger one in its place.
        found = filters.of(group)
        if is_strict and found is not None and not _is_right(snapshot, found):
            raise VerificationError(f"filter {group} of the index: its segments give another one")
        filters.check(group)


def _is_right(snapshot: IndexSnapshot, found: GroupFilter) -> bool:
    """Whether the segments of a filter give just this one, unless one was set aside since."""
    known = zip(segments_of(found.head.group), found.head.roots, strict=True)
    if any(bool(root) != (segment in snapshot.records) for segment, root in known):
        return True
    return make_filter(found.head.group, snapshot, is_anew=True) == found.content()


def _stored_terms(
    snapshot: IndexSnapshot, dimension: str, segment: int
) -> Iterator[tuple[str, Container]]:
    for last, data in snapshot.blocks(dimension, segment):
        try:
            terms = check_block(data)
        except MalformedError as error:
            raise MalformedError(f"segment {segment}, {dimension}: {error}") from None
        if terms[-1][0] != last:
            raise MalformedError(
                f"segment {segment}, {dimension}: a block has another's last value"
            )
        for value, container in terms:
            yield value.decode(), container
