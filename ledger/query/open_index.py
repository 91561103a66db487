"""Opens the index of a log on this disk; a segment that was built from other entries is set aside.

The index is a folder beside the log. Somebody may have put that of another ledger there, or have
put back an older copy of the log under the index of a newer one. Such files are whole, and by them
a search would leave out entries of this log. Each says when its first and its last entry were
received, in microseconds, and that is held against the log when the file is first read.

It shows a mistake, not an attack: whoever writes a segment can write these times too. `ledger fsck`
holds the hashes of all entries of a segment against the log, and `fsck --strict` builds it again.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from ledger.store.index.index_store import IndexStore
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.index.segment import SegmentRecord
from ledger.store.log import LogStore
from ledger_core.query.analyzer import decode_view
from ledger_core.tlog.errors import MalformedError, UnavailableError

OTHER_ENTRIES: Final = "it was built from entries of another log, or of another past of this one"
NO_ENTRIES: Final = "it has entries that the log does not have"


def open_index(log: LogStore, path: Path, *, sets_aside: bool = False) -> IndexStore:
    """The index of a log in a folder. `sets_aside`: as `IndexStore`. Cost: 0.1 ms a segment."""
    return IndexStore(path, sets_aside=sets_aside, fault_of=fault_of(log, SEGMENT_ENTRIES_MAX))


def fault_of(log: LogStore, segment_entries: int) -> Callable[[int, SegmentRecord], str]:
    """A function that says why a segment is not of a log; empty when it seems to be."""
    return partial(_fault_of, log, segment_entries)


def _fault_of(log: LogStore, segment_entries: int, segment: int, record: SegmentRecord) -> str:
    start = segment * segment_entries
    last = start + segment_entries - 1
    if last >= log.head().tree_size:
        return NO_ENTRIES
    try:
        local_start = log.local_start()
        for index, told in ((start, record.first_received), (last, record.last_received)):
            # What left this disk would have to be fetched, and what was pruned is gone.
            leaf = log.leaf(index) if index >= local_start else None
            if leaf is not None and decode_view(leaf).received.time != told:
                return OTHER_ENTRIES
    except (MalformedError, UnavailableError):
        pass  # Damaged entries say nothing of the index.
    return ""
