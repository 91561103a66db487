"""Pages in the order of time stay exact while late events arrive, and without an index."""

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import zstandard

from ledger.query.answer import Answer
from ledger.query.budget import OverBudgetError, QueryLimits
from ledger.query.engine import QueryEngine
from ledger.query.event_times import ReadTimes, TimesUnknownError
from ledger.query.leaf_cache import LeafCache
from ledger.store.index.time_column import BLOCK_ENTRIES, decode_block, encode_times
from ledger.store.writer import LogWriter
from ledger_core.event.times import format_time
from ledger_core.query.ast import EVERYTHING
from ledger_core.query.order import Order
from ledger_core.tlog.errors import MalformedError
from tests.query.events import START_UNIX_US, make_entries, make_log

SEGMENT_ENTRIES = 64
NOW = START_UNIX_US + 10**12


def events(minutes: Sequence[int], start: int = 0) -> list[dict[str, object]]:
    return [
        {
            "id": f"00000000-0000-7000-8000-{number:012x}",
            "time": format_time(START_UNIX_US + minute * 60_000_000),
            "actor": {"id": "u_1"},
            "action": "a.b",
            "outcome": "success",
        }
        for number, minute in enumerate(minutes, start)
    ]


class Log:
    def __init__(self, path: Path, minutes: Sequence[int]) -> None:
        self.minutes = list(minutes)
        self.writer: LogWriter = make_log(path / "log", make_entries(events(minutes)))
        self.engine = QueryEngine(self.writer.store, None, segment_entries=SEGMENT_ENTRIES)

    def append(self, minutes: Sequence[int]) -> None:
        start = len(self.minutes)
        self.writer.commit(make_entries(events(minutes, start), start))
        self.minutes += minutes

    def page(self, order: Order, cursor: str | None = None, **options: object) -> Answer:
        given = {"limit": 7, "order": order, "cursor": cursor, **options}
        return self.engine.search(EVERYTHING, tenant=None, now_unix_us=NOW, **given)  # type: ignore[arg-type]  # options of one test

    def expected(self, order: Order, size: int) -> list[int]:
        by_time = sorted(range(size), key=lambda index: (self.minutes[index], index))
        return by_time if order == "time" else by_time[::-1]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    # Three segments, of which the first has no index; every seventh event is late, some at once.
    made = Log(tmp_path, [n - 50 * (n % 7 == 0) - n % 3 for n in range(100, 250)])
    yield made
    made.writer.close()


@pytest.mark.parametrize("order", ["time", "time-newest"])
def test_late_events_change_no_later_page(log: Log, order: Order) -> None:
    size = len(log.minutes)
    first = log.page(order)
    found = [row.index for row in first.rows]
    cursor = first.cursor
    late = iter([1, 90, 130, 131, 500] * size)
    while cursor is not None:
        log.append([next(late)])
        page = log.page(order, cursor)
        assert (page.total, page.total_exact, page.tree_size) == (size, True, size)
        found += [row.index for row in page.rows]
        cursor = page.cursor
    assert found == log.expected(order, size)
    now = log.page(order)
    assert [row.index for row in now.rows] == log.expected(order, now.tree_size)[:7]


def test_a_page_that_comes_with_counts_counts_anew(log: Log) -> None:
    cursor = log.page("time").cursor
    page = log.page("time", cursor, facets=("action",))
    assert (page.total, page.facets[0].counted) == (150, 150)


def test_without_time_to_read_when_events_happened_it_says_so(log: Log) -> None:
    with pytest.raises(TimesUnknownError, match="ask again, or by index"):
        log.page("time", limits=QueryLimits(time_s=0.0))
    assert log.page("newest", limits=QueryLimits(time_s=0.0)).rows == ()


def test_times_that_were_read_are_kept_for_the_next_question(log: Log) -> None:
    times = log.engine._read_times
    log.page("time")
    expected = [START_UNIX_US + minute * 60_000_000 for minute in log.minutes[:64]]

    def check() -> None:
        pytest.fail("they were read again")

    assert list(times.times(0, array("q"), end=150, check=check)) == expected


def test_times_are_kept_when_the_time_is_up_while_they_are_read(log: Log) -> None:
    """A log whose times take longer than the time of a search is put in order by the next one."""
    log.append([0] * 200)
    times = ReadTimes(LeafCache(log.writer.store), 1000)
    turns = iter((None, OverBudgetError()))

    def check() -> None:
        if error := next(turns):
            raise error

    known = array("q", [1, 2, 3])
    with pytest.raises(OverBudgetError):
        times.times(0, known, end=300, check=check)
    assert len(times.times(0, array("q"), end=256, check=check)) == 256
    assert known == array("q", [1, 2, 3])


@pytest.mark.parametrize(
    "times",
    [
        [0],
        [5, 5, 5],
        [7, 3, 1 << 52, 9],
        list(range(0, 3_000_000, 1000)),
        [
            1_790_000_000_000_000 + 3_000_000 * n - 90_000_000_000 * (n % 9 == 0)
            for n in range(2500)
        ],
    ],
)
def test_times_are_read_as_they_were_written(times: list[int]) -> None:
    decompressor = zstandard.ZstdDecompressor()
    blocks = encode_times(times)
    found: list[int] = []
    for place, (label, block) in enumerate(blocks):
        entries = min(BLOCK_ENTRIES, len(times) - place * BLOCK_ENTRIES)
        found += decode_block(label, block, entries=entries, decompressor=decompressor)
        if len(set(times)) > 1:
            with pytest.raises(MalformedError):
                decode_block(label, block, entries=entries + 1, decompressor=decompressor)
            with pytest.raises(MalformedError):
                decode_block(label, b"no frame", entries=entries, decompressor=decompressor)
    assert found == times
