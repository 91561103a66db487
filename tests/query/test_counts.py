"""Groups, distinct values, numbers and histograms are those of a plain count of every event."""

import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from ipaddress import ip_address, ip_network
from itertools import pairwise
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import msgspec
import pytest
from pyroaring import BitMap

from ledger.query import facets, tallies
from ledger.query.answer import Answer
from ledger.query.budget import QueryLimits
from ledger.query.columns import InMemorySource
from ledger.query.engine import QueryEngine
from ledger.query.leaf_cache import LeafCache
from ledger.query.segment_builder import SegmentBuilder, reindex
from ledger.query.segment_terms import SegmentTerms
from ledger.store.index.index_store import IndexStore
from ledger.store.index.index_writer import IndexWriter
from ledger.store.log import LogStore
from ledger_core.asking import AskCount, CountAnswer
from ledger_core.query.ast import EVERYTHING, Expression, Is
from ledger_core.query.counting import Unit, bucket_of, parse_count_field, parse_zone
from ledger_core.query.parser import parse_query
from ledger_core.tlog.errors import MalformedError
from tests.query.events import make_entries, make_log, random_event
from tests.query.left_out import small_limits
from tests.query.oracle import JSON, UNCUT, matching_indices, values_of
from tests.query.queries import NOW_UNIX_US

SEGMENT_ENTRIES = 64
ENTRIES = 5 * SEGMENT_ENTRIES + 20


class Log:
    def __init__(self, path: Path, sealed: int) -> None:
        rng = random.Random(5)
        events = [random_event(rng, number) for number in range(ENTRIES)]
        for made in events:
            # With very many keys an event has more values than the index holds.
            if len(made.get("context", {})) > 9:
                made["context"] = {"region": "eu"}
            some = [each for each in made.get("changes", []) if each["path"]]
            made["changes"] = some
        entries = make_entries(events)
        self.events: list[JSON] = [json.loads(entry.leaf) for entry in entries]
        make_log(path / "log", entries).close()
        self.store = LogStore.open(path / "log")
        writer = IndexWriter.open(path / "index", segment_entries=SEGMENT_ENTRIES)
        builder = SegmentBuilder(self.store, writer)
        for _ in range(sealed):
            assert builder.seal_next()
        writer.close()
        index = IndexStore(path / "index", segment_entries=SEGMENT_ENTRIES)
        self.engine = QueryEngine(self.store, index, segment_entries=SEGMENT_ENTRIES)
        self._found: dict[Expression, list[JSON]] = {}
        self._asked: dict[Expression, Answer] = {}

    def ask(self, query: Expression, *counts: AskCount, **options: Any) -> Answer:
        return self.engine.search(
            query, tenant=None, now_unix_us=NOW_UNIX_US, limit=0, counts=counts, **options
        )

    def found(self, query: Expression) -> list[JSON]:
        """The entries that a slow evaluation of all rows finds, kept for the next test."""
        if query not in self._found:
            indices = matching_indices(query, self.events, now_unix_us=NOW_UNIX_US)
            self._found[query] = [self.events[index] for index in indices]
        return self._found[query]

    def asked(self, query: Expression) -> Answer:
        """The answer with all counts of ASKED, of one search for all of these tests."""
        if query not in self._asked:
            self._asked[query] = self.ask(query, *ASKED)
        return self._asked[query]


@pytest.fixture(
    scope="module",
    params=[(0, None), (2, None), (5, None), (4, True), (4, False)],
    ids=["0", "2", "5", "hashes", "little"],
)
def log(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    """A log with some sealed segments; in memory it may leave out texts, and hashes too."""
    sealed, are_hashes_held = request.param
    made = Log(tmp_path_factory.mktemp("counts"), sealed)
    with ExitStack() as limited:
        if are_hashes_held is not None:
            limited.enter_context(small_limits(are_hashes_held=are_hashes_held))
        yield made
    made.store.close()


def values(name: str, entry: JSON) -> list[str]:
    """The values of an event by which it is counted, each once; long ones are cut."""
    field, _, bits = name.partition("/")
    key = ""
    if field.startswith(("context.", "after.")):
        field, _, key = field.partition(".")
    chars = 120 - (len(json.dumps(key)) if key and key != "request_id" else 0)
    # RFC 8785 writes this number of `events` so, and Python otherwise.
    found = [value.replace("1e-07", "1e-7") for value in values_of(field, entry, key)]
    if field not in UNCUT:
        found = [value[:chars] for value in found]
    if bits:
        found = [network(ip, int(bits)) for ip in found]
    return list(dict.fromkeys(found))


def network(ip: str, bits: int) -> str:
    version = ip_address(ip).version
    usual = 24 if version == 4 else 48
    length = bits if (version == 4) == (bits <= 32) else usual
    return str(ip_network(f"{ip}/{length}", strict=False))


ASKED = [
    AskCount(by=("actor",), top=3),
    AskCount(by=("context.region",), top=10_000),
    AskCount(by=("context.request_id",), top=10_000),
    AskCount(by=("after.role",), top=10_000),
    AskCount(by=("source/24",), top=10_000),
    AskCount(by=("source/48",), rarest=True, top=2),
    AskCount(by=("user_agent",), top=10_000),
    AskCount(by=("source/24",), distinct="actor", top=10_000),
    AskCount(by=("source", "actor"), top=10_000),
    AskCount(by=("target", "context.region"), distinct="session", top=10_000),
    AskCount(by=("actor",), numbers="context.status", top=10_000),
    AskCount(
        by=("outcome", "port"), distinct="target", numbers="context.status", rarest=True, top=5
    ),
]
QUERIES = [EVERYTHING, Is("outcome", "denied"), parse_query("NOT actor:u_1 OR has:session")]


@pytest.mark.parametrize("query", QUERIES, ids=str)
@pytest.mark.parametrize("ask", ASKED, ids=str)
def test_groups_are_those_of_a_plain_count(log: Log, query: Expression, ask: AskCount) -> None:
    groups: dict[tuple[str, ...], list[JSON]] = defaultdict(list)
    found = log.found(query)
    for entry in found:
        firsts = [(value,) for value in values(ask.by[0], entry)]
        more = values(ask.by[1], entry) if len(ask.by) > 1 else None
        for group in (
            firsts if more is None else [(*one, other) for one in firsts for other in more]
        ):
            groups[group].append(entry)
    answer = log.asked(query)
    counted = answer.counts[ASKED.index(ask)]
    assert (answer.total, counted.exact, counted.counted) == (len(found), True, len(found))

    def weight(group: tuple[str, ...]) -> int:
        if ask.distinct is None:
            return len(groups[group])
        return len({value for entry in groups[group] for value in values(ask.distinct, entry)})

    ordered = sorted(groups, key=lambda group: ((1 if ask.rarest else -1) * weight(group), group))
    assert [each.values for each in counted.values] == ordered[: ask.top]
    assert counted.others == max(0, len(groups) - ask.top)
    for each in counted.values:
        assert each.count == len(groups[each.values])
        assert each.distinct == (None if ask.distinct is None else weight(each.values))
        if ask.numbers is not None:
            texts = [t for e in groups[each.values] for t in values(ask.numbers, e)]
            numbers = [Decimal(t) for t in texts if is_number(t)]
            assert (each.sum, each.least, each.most, each.average) == (
                (
                    float(sum(numbers)),
                    float(min(numbers)),
                    float(max(numbers)),
                    float(sum(numbers) / len(numbers)),
                )
                if numbers
                else (None,) * 4
            )


def is_number(text: str) -> bool:
    return text == "007" or re.fullmatch(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?", text) is not None


@pytest.mark.parametrize("by", [("actor",), ("source/24", "action")])
def test_what_is_new_has_no_event_before(log: Log, by: tuple[str, ...]) -> None:
    times = sorted(entry["event"]["time"] for entry in log.events)
    since = times[len(times) // 4]
    old: set[tuple[str, ...]] = set()
    new: set[tuple[str, ...]] = set()
    for entry in log.found(Is("outcome", "success")):
        groups = [()]
        for name in by:
            groups = [(*group, value) for group in groups for value in values(name, entry)]  # type: ignore[misc]
        (old if entry["event"]["time"] < since else new).update(groups)
    ask = AskCount(by=by, new_since=since, top=10_000)
    (counted,) = log.ask(Is("outcome", "success"), ask).counts
    assert {each.values for each in counted.values} == new - old
    assert counted.exact


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/New_York"])
@pytest.mark.parametrize("unit", ["minute", "hour", "day", "weekday", "hour-of-day"])
def test_a_histogram_has_every_bucket_of_its_zone(log: Log, unit: Unit, zone: str) -> None:
    query = Is("outcome", "denied")
    answer = log.ask(query, histogram=unit, zone=parse_zone(zone), is_filled=True)
    assert answer.histogram is not None
    expected: dict[str, int] = defaultdict(int)
    for entry in log.found(query):
        local = datetime.fromisoformat(entry["event"]["time"]).astimezone(ZoneInfo(zone))
        if unit == "weekday":
            name = f"{local:%A}"
        elif unit == "hour-of-day":
            name = f"{local:%H}"
        else:
            chars = {"minute": 16, "hour": 13, "day": 10}[unit]
            name = local.isoformat()[:chars]
        expected[name] += 1
    chars = {"minute": 16, "hour": 13, "day": 10}.get(unit, 20)
    found = {bucket.start[:chars]: bucket.count for bucket in answer.histogram.buckets}
    assert {name: count for name, count in found.items() if count} == expected
    assert sum(found.values()) == answer.total == answer.histogram.counted
    assert answer.histogram.zone == zone
    starts = [bucket.start for bucket in answer.histogram.buckets]
    if unit == "weekday":
        assert starts[0] == "Monday"
        assert len(starts) == 7
    elif unit == "hour-of-day":
        assert starts == [f"{hour:02d}" for hour in range(24)]
    else:
        moments = [datetime.fromisoformat(start) for start in starts]
        step = {"minute": 60, "hour": 3600, "day": 86_400}[unit]
        assert all(b - a == timedelta(seconds=step) for a, b in pairwise(moments))


def test_a_day_of_another_length_is_one_bucket(tmp_path: Path) -> None:
    times = ("2026-10-24T12:00:00Z", "2026-10-25T22:30:00Z", "2026-10-26T12:00:00Z")
    events = [{**random_event(random.Random(1), n), "time": time} for n, time in enumerate(times)]
    make_log(tmp_path / "log", make_entries(events)).close()
    engine = QueryEngine(LogStore.open(tmp_path / "log"), None, segment_entries=SEGMENT_ENTRIES)
    answer = engine.search(
        EVERYTHING, tenant=None, now_unix_us=0, limit=0, histogram="day",
        zone=parse_zone("Europe/Berlin"), is_filled=True,
    )  # fmt: skip
    assert answer.histogram is not None
    assert [(each.start, each.count) for each in answer.histogram.buckets] == [
        ("2026-10-24T00:00:00+02:00", 1),
        ("2026-10-25T00:00:00+02:00", 1),
        ("2026-10-26T00:00:00+01:00", 1),
    ]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
@pytest.mark.parametrize("time", ["9999-12-31T23:59:59.999999Z", "1970-01-01T00:00:00Z"])
def test_the_first_and_the_last_time_have_buckets(tmp_path: Path, time: str, zone: str) -> None:
    usual = "2026-10-24T12:00:00Z"
    rng = random.Random(1)
    events = [{**random_event(rng, n), "time": each} for n, each in enumerate((time, usual))]
    make_log(tmp_path / "log", make_entries(events)).close()
    engine = QueryEngine(LogStore.open(tmp_path / "log"), None, segment_entries=SEGMENT_ENTRIES)
    units: tuple[Unit, ...] = ("minute", "hour", "day", "weekday", "hour-of-day")
    for unit in units:
        for text in ("", f"time:{time}..{time}"):
            found = engine.search(
                parse_query(text), tenant=None, now_unix_us=0, limit=0, histogram=unit,
                zone=parse_zone(zone), is_filled=True,
            ).histogram  # fmt: skip
            assert found is not None
            assert sum(each.count for each in found.buckets) == (1 if text else 2)
    # Behind its last year a zone has no more buckets; weekdays and hours go on.
    offset_h = {"UTC": 0, "Asia/Tokyo": 9, "America/New_York": -5}[zone]
    if time.startswith("9999"):
        zone_info = parse_zone(zone)
        assert bucket_of(time, "hour", zone_info).startswith(
            "9999-12-31T18:00" if offset_h < 0 else "9999-12-31T23:00"
        )
        assert bucket_of(time, "weekday", zone_info) == ("Saturday" if offset_h > 0 else "Friday")
        assert bucket_of(time, "hour-of-day", zone_info) == f"{(23 + offset_h) % 24:02d}"


@pytest.mark.parametrize(
    ("zone", "day"), [("America/Havana", "2026-11-01"), ("Atlantic/Azores", "2026-10-25")]
)
def test_a_day_whose_midnight_comes_twice_is_one_bucket(zone: str, day: str) -> None:
    start = datetime.fromisoformat(f"{day}T00:00").replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    minutes = [start + timedelta(minutes=minute) for minute in range(0, 25 * 60, 10)]
    buckets = {bucket_of(f"{each:%Y-%m-%dT%H:%M}", "day", parse_zone(zone)) for each in minutes}
    assert [each[:16] for each in buckets] == [f"{day}T00:00"]
    hours = {bucket_of(f"{each:%Y-%m-%dT%H:%M}", "hour", parse_zone(zone)) for each in minutes}
    assert len(hours) == 25


def test_counts_that_are_not_exact_say_so(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = AskCount(by=("source", "actor"), distinct="target")
    monkeypatch.setattr(tallies, "CELLS_MAX", 3)
    assert not log.ask(EVERYTHING, pairs).counts[0].exact
    monkeypatch.undo()
    late = log.ask(EVERYTHING, pairs, limits=QueryLimits(time_s=0.0)).counts[0]
    assert (late.exact, late.counted) == (False, 0)


@pytest.mark.parametrize("name", ["actor", "source/24", "context.region"])
@pytest.mark.parametrize("query", [EVERYTHING, Is("outcome", "success")], ids=str)
def test_groups_of_one_field_are_as_many_as_a_tally_holds(
    log: Log, name: str, query: Expression, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment alone may have two million targets, and a search eight tallies of them."""
    whole = log.ask(query, AskCount(by=(name,), top=10_000)).counts[0]
    assert whole.exact
    assert len(whole.values) > 2
    monkeypatch.setattr(tallies, "CELLS_MAX", 2)
    found = log.ask(query, AskCount(by=(name,), top=10_000)).counts[0]
    assert not found.exact
    assert len(found.values) + found.others <= 2
    assert found.counted == whole.counted
    most = {each.values: each.count for each in whole.values}
    assert all(each.count <= most[each.values] for each in found.values)


def test_the_tallies_of_a_search_hold_a_bounded_number_of_groups_together(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = [AskCount(by=("actor",), top=10_000)] * 4
    monkeypatch.setattr(tallies, "ALL_CELLS_MAX", 8)
    for found in log.ask(EVERYTHING, *asks).counts:
        assert len(found.values) + found.others <= 2
        assert not found.exact


def test_a_number_that_no_reader_of_json_takes_is_left_out_of_a_sum(tmp_path: Path) -> None:
    """One event with such a number would have the whole answer refused by who reads it."""
    made = []
    for number, amount in enumerate(["1e999", "-1e400", 5, "7", "1e30"]):
        made.append(random_event(random.Random(1), number) | {"context": {"amount": amount}})
    make_log(tmp_path / "log", make_entries(made)).close()
    engine = QueryEngine(LogStore.open(tmp_path / "log"), None, segment_entries=SEGMENT_ENTRIES)
    ask = AskCount(by=("context.amount",), numbers="context.amount")
    found = engine.search(EVERYTHING, tenant=None, now_unix_us=0, limit=0, counts=(ask,)).counts[0]
    assert not found.exact
    again = msgspec.json.decode(msgspec.json.encode(found), type=CountAnswer)
    sums = {each.values: (each.sum, each.average) for each in again.values}
    assert sums == {
        ("1e999",): (None, None),
        ("-1e400",): (None, None),
        ("5",): (5, 5.0),
        ("7",): (7, 7.0),
        ("1e30",): (1e30, 1e30),
    }


def test_counts_of_a_segment_that_the_time_ends_are_no_counts_of_its_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is looked at before each block of terms, and half a segment is not counted."""
    made = [
        random_event(random.Random(number), number)
        | {"targets": [{"type": "t", "id": f"t_{number}_{each}"} for each in range(32)]}
        for number in range(SEGMENT_ENTRIES)
    ]
    make_log(tmp_path / "log", make_entries(made)).close()
    store = LogStore.open(tmp_path / "log")
    reindex(store, tmp_path / "index", segment_entries=SEGMENT_ENTRIES, processes=1)
    index = IndexStore(tmp_path / "index", segment_entries=SEGMENT_ENTRIES)
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1.0
        return now

    engine = QueryEngine(store, index, segment_entries=SEGMENT_ENTRIES, clock=clock)
    monkeypatch.setattr(facets, "RUNS_AT_ONCE", 1)
    late = 0
    asks = (AskCount(by=("target",)), AskCount(by=("target",), new_since="-1d"))
    for time_s in range(1, 60):
        answer = engine.search(
            EVERYTHING, tenant=None, now_unix_us=0, limit=0, counts=asks, facets=("target",),
            limits=QueryLimits(time_s=time_s),
        )  # fmt: skip
        targets = answer.facets[0]
        for values, exact, of in (
            *((found.values, found.exact, found.counted) for found in answer.counts),
            (targets.values, targets.is_exact, targets.counted),
        ):
            assert exact or not values or of == SEGMENT_ENTRIES
            late += not exact and answer.total == SEGMENT_ENTRIES
    # 2,048 targets are eight blocks at least: in each of them the time may be up.
    assert late > 3 * 8
    store.close()


def test_an_event_with_more_values_than_the_index_holds_is_flagged(tmp_path: Path) -> None:
    made = random_event(random.Random(1), 1)
    made["context"] = {f"k{n}": n for n in range(50)}
    make_log(tmp_path / "log", make_entries([made])).close()
    engine = QueryEngine(LogStore.open(tmp_path / "log"), None, segment_entries=SEGMENT_ENTRIES)
    for ask in (AskCount(by=("context.k1",)), AskCount(by=("actor",), numbers="context.k49")):
        answer = engine.search(EVERYTHING, tenant=None, now_unix_us=0, limit=0, counts=(ask,))
        assert not answer.counts[0].exact


@pytest.mark.parametrize(
    "name", ["", "id", "time", "context.", "source/0", "source/129", "actor/8", "shoe"]
)
def test_what_can_not_be_counted_is_refused(name: str) -> None:
    with pytest.raises(MalformedError):
        parse_count_field(name)


def test_the_time_is_looked_at_for_each_event_with_several_values() -> None:
    """An event of 32 targets and 256 changes is in 8,192 groups, a segment of these in millions."""
    event = {
        "targets": [{"type": "t", "id": f"t_{number}"} for number in range(8)],
        "changes": [{"path": f"/p{number}", "after": number} for number in range(30)],
    }
    made = [random_event(random.Random(5), number) | event for number in range(20)]
    terms = SegmentTerms()
    terms.add([entry.leaf for entry in make_entries(made)])
    asked = 0

    def is_over() -> bool:
        nonlocal asked
        asked += 1
        return asked > 5

    for ask in (
        AskCount(by=("target", "field")),
        AskCount(by=("target",), distinct="field"),
        AskCount(by=("target",), numbers="after./p1"),
    ):
        asked = 0
        tally = tallies.Tally(ask, leaf_cache=cast("LeafCache", None), is_over=is_over)
        tally._add_segment(InMemorySource(terms), BitMap(range(20)))
        answer = tally.answer(is_all=True)
        assert (answer.counted, answer.exact) == (5, False)
        assert {each.count for each in answer.values} == {5}


@pytest.mark.parametrize("is_rarest_first", [False, True])
@pytest.mark.parametrize("most", [0, 1, 3, 7, 50])
def test_the_first_groups_are_in_order_of_number_and_text(most: int, is_rarest_first: bool) -> None:
    rng = random.Random(2)
    for values in (1, 3, 100):
        texts = [f"{rng.getrandbits(20):x}" for _ in range(40)]
        numbers: dict[tuple[str, ...], int] = {(text,): rng.randrange(values) for text in texts}
        sign = 1 if is_rarest_first else -1
        expected = sorted(numbers, key=lambda group: (sign * numbers[group], group))
        assert (
            tallies.first_groups(numbers, most, is_rarest_first=is_rarest_first) == expected[:most]
        )
