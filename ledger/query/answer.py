"""The answers of the engine: rows, a page with its counts, and the state of the index."""

from dataclasses import dataclass

import msgspec

from ledger_core.asking import CountAnswer
from ledger_core.search_answers import Facet, Histogram


class Row(msgspec.Struct, frozen=True, gc=False):
    """An entry: its index and its leaf bytes."""

    index: int
    leaf: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One page of matches with counts of all matches.

    `complete`: no limit was reached, neither for the page nor for the counts. `total` counts all
    matches below `tree_size`; after a limit it is a lower bound. `scanned` counts the rows that
    were read because the index alone did not decide. `unreadable` are damaged bundles among the
    entries that were searched; their events are left out, so the answer isn't complete. `cursor`
    continues with the next page; None is the end.
    """

    rows: tuple[Row, ...]
    tree_size: int
    total: int
    total_exact: bool
    scanned: int
    complete: bool
    unreadable: tuple[int, ...] = ()
    cursor: str | None
    facets: tuple[Facet, ...]
    histogram: Histogram | None
    counts: tuple[CountAnswer, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexStatus:
    """The size of the log and of the index on disk: its full and its sealed segments."""

    tree_size: int
    segment_entries: int
    sealed_segments: int
    full_segments: int
    is_current: bool
    """False while the index is built anew for other rules of analysis."""
    damaged_segments: tuple[int, ...] = ()
    """Damaged and set aside; they are built again."""
    unreadable: tuple[str, ...] = ()
    """Which entries of the log proved damaged."""
    failure: str = ""
    """The reason why the folder of the index can't be read."""
