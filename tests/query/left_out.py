"""Open segments that hold hashes, or nothing, where their texts passed a small limit in bytes."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ledger.query import open_segments, segment_terms


@contextmanager
def small_limits(*, are_hashes_held: bool) -> Iterator[None]:
    """Limits that the random events of some dozen entries pass; a slice has a few entries."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_terms, "DECODED_BYTES_MAX", 2000)
        patch.setattr(open_segments, "SLICE_BYTES", 3000)
        patch.setattr(open_segments, "TEXT_BYTES_MAX", 6000)
        patch.setattr(open_segments, "HASH_BYTES_MAX", 1 << 20 if are_hashes_held else 500)
        patch.setattr(open_segments, "SMALL_BYTES", 20)
        yield
