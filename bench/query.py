"""`python -m bench.query`: twenty questions to ten million events, beside four databases.

    --quick        100,000 events, half a second for each question, no service: a trial
    --events N     number of events; 1,000,000 suffice for a trial run
    --folder DIR   folder of all data, which is built once and kept: 30 GB for ten million
    --seconds S    seconds for each question and contender

Every contender holds the same events (`bench.varied`) and gives the same answers: the newest
hundred matches with their leaves and the exact total, then a second time the page alone. Our
engine, SQLite and DuckDB run in this process; PostgreSQL is asked through psql on a Unix socket, by
psql's own clock; chDB runs in a Python of its own (`bench.columns`) and is left out, loudly,
without it. DuckDB and chDB have the events as Parquet, the others as indexed tables. Warm: each
question with its eight values, repeatedly, after a first round. Cold: the first time after a
restart, with every file dropped from the page cache. The totals of all contenders must agree.
"""

import argparse
import json
import math
import resource
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec

from bench.append import ORIGIN
from bench.columns import CHDB_PYTHON, ChDB, DuckDB, build_parquet
from bench.questions import VALUES, Case, make_cases
from bench.rows import Row, format_table, p50, p95
from bench.searching import EXPORT_ROWS, asked_over_http, beside_reader, exported, sealing
from bench.tables import PostgreSQL, Question, SQLite, Timing, forget_files, table_rows
from bench.varied import START_UNIX_US, YEAR_US, fill_log
from ledger.demo.child_service import make_ledger
from ledger.query.engine import QueryEngine
from ledger.query.leaf_cache import LeafCache
from ledger.query.segment_builder import reindex
from ledger.service.data_dir import DirectoryPaths
from ledger.store.index.index_store import IndexStore
from ledger.store.log import LogStore
from ledger_core.query.parser import parse_query

FOLDER = Path(__file__).parent / "data" / "query"
NOW_UNIX_US: Final = START_UNIX_US + YEAR_US
COLD_SAMPLES = 3
SAMPLES_MAX = 400
QUICK_EVENTS: Final = 100_000
QUICK_SECONDS: Final = 0.5
RARE: Final = ("rare actor", "rare target", "a session or a request")
TWO_DIMENSIONS: Final = (
    "actor and action",
    "target type and outcome",
    "tenant and service",
    "service and outcome, common",
    "action prefix and failure",
    "NOT, within a tenant",
)
FOUR_FACETS: Final = "four facets over a month"
FACETS: Final = ("action", "actor", "source", "outcome")


class Ours:
    """Our engine, in this process."""

    name = "witnessed-ledger"

    def __init__(self, paths: DirectoryPaths) -> None:
        self._paths = paths
        self._open()

    def ask(self, case: Case, value: int, *, is_counted: bool) -> Timing:
        """Answer a question from its text."""
        limit = 100 if case.want == "page" else 0
        cursor = None
        if case.offset:
            cursor = self._cursor_after(case.query(value), case.offset)
        start = time.perf_counter()
        answer = self._engine.search(
            parse_query(case.query(value)),
            tenant=None,
            now_unix_us=NOW_UNIX_US,
            limit=limit,
            cursor=cursor,
            is_counted=is_counted,
            facets=FACETS if case.want == "facets" else (),
            histogram="day" if case.want == "histogram" else None,
        )
        elapsed = time.perf_counter() - start
        assert answer.complete, case.name
        assert all(facet.is_exact for facet in answer.facets), case.name
        return Timing(elapsed, answer.total if is_counted else -1)

    def restart_cold(self) -> None:
        """Close, drop the files from the page cache, open."""
        self.close()
        forget_files((self._paths.log / "data.mdb", *self._paths.index.glob("*.[fs]*")))
        self._open()

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def _open(self) -> None:
        self._log = LogStore.open(self._paths.log)
        self._index = IndexStore(self._paths.index)
        self._engine = QueryEngine(self._log, self._index)
        # A service does this in the background.
        self._engine.advance(1 << 20)

    def _cursor_after(self, query: str, rows: int) -> str | None:
        cursor = None
        for start in range(0, rows, 1000):
            cursor = self._engine.search(
                parse_query(query),
                tenant=None,
                now_unix_us=NOW_UNIX_US,
                limit=min(1000, rows - start),
                cursor=cursor,
                is_counted=False,
            ).cursor
        return cursor


class Theirs:
    """A database."""

    def __init__(self, database: SQLite | PostgreSQL | DuckDB | ChDB) -> None:
        self.name = database.name
        self._database = database
        self.restart_cold = database.restart_cold
        self.close = database.close

    def ask(self, case: Case, value: int, *, is_counted: bool) -> Timing:
        """Answer a question."""
        question = Question(case.sql(value), case.want, case.offset)
        return self._database.ask(question, is_counted=is_counted)


Contender = Ours | Theirs


def measure(contender: Contender, case: Case, *, seconds: float) -> dict[str, list[float]]:
    """Seconds for a question: cold, warm, and warm for the page alone."""
    cold = []
    for value in range(COLD_SAMPLES if seconds >= 1 else 1):
        contender.restart_cold()
        cold.append(contender.ask(case, value, is_counted=True).seconds)
    figures = {"cold": cold, "warm": _warm(contender, case, seconds, is_counted=True)}
    if case.want == "page":
        figures["page"] = _warm(contender, case, seconds, is_counted=False)
    return figures


def _warm(contender: Contender, case: Case, limit_s: float, *, is_counted: bool) -> list[float]:
    """Seconds for all values in turn, for up to `limit_s`; each value at least once."""
    for value in range(VALUES):
        contender.ask(case, value, is_counted=is_counted)
    seconds: list[float] = []
    start = time.perf_counter()
    while len(seconds) < VALUES or time.perf_counter() - start < limit_s:
        value = len(seconds) % VALUES
        seconds.append(contender.ask(case, value, is_counted=is_counted).seconds)
        if len(seconds) >= SAMPLES_MAX:
            break
    return seconds


def build(folder: Path, events: int) -> list[Row]:
    """Build what is missing; return the cost of indexing the log as rows of the table."""
    paths = DirectoryPaths(folder / "ledger")
    if not (folder / "token").exists():
        shutil.rmtree(paths.root, ignore_errors=True)
        token = make_ledger(paths.root, origin=ORIGIN)
        fill_log(paths.log, events)
        (folder / "token").write_text(token)
    log = LogStore.open(paths.log)
    figures = folder / "index.json"
    if not figures.exists():
        figures.write_text(json.dumps(_build_index(log, paths.index)))
    found = json.loads(figures.read_text())
    rows = [
        Row("indexing, an event, on all processors", found["wall_us"], "µs", reach=8, at_most=True),
        Row("indexing, processor time an event", found["processor_us"], "µs"),
        Row("index on disk, an event", found["bytes"], "bytes", reach=60, at_most=True),
    ]
    if not (folder / "events.sqlite").exists():
        SQLite.build(folder / "events.sqlite.new", table_rows(_leaves(log)))
        (folder / "events.sqlite.new").rename(folder / "events.sqlite")
    if not (folder / "postgresql" / "built").exists():
        PostgreSQL.build(folder / "postgresql", table_rows(_leaves(log)))
        (folder / "postgresql" / "built").touch()
    build_parquet(log, folder / "parquet")
    log.close()
    return rows


def _build_index(log: LogStore, path: Path) -> dict[str, float]:
    before = _processor_s()
    start = time.perf_counter()
    entries = reindex(log, path) * 65_536
    return {
        "wall_us": (time.perf_counter() - start) / entries * 1e6,
        "processor_us": (_processor_s() - before) / entries * 1e6,
        "bytes": sum(file.stat().st_size for file in path.glob("*.[fs]*")) / entries,
    }


def _processor_s() -> float:
    """Processor time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _leaves(log: LogStore) -> Iterator[bytes]:
    for _, leaves in LeafCache(log).bundles(0, log.head().tree_size):
        yield from leaves


def _samples(log_path: Path) -> list[dict[str, Any]]:
    """One event for each value, spread over the log."""
    log = LogStore.open(log_path)
    size = log.head().tree_size
    leaves = LeafCache(log).leaves([size * (2 * n + 1) // (2 * VALUES) for n in range(VALUES)])
    log.close()
    return [msgspec.json.decode(leaf)["event"] for leaf in leaves]


def main() -> None:
    """Build, ask, compare, print."""
    parser = argparse.ArgumentParser(prog="bench.query")
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.events, options.seconds = QUICK_EVENTS, QUICK_SECONDS
        options.folder = options.folder.with_name("query-quick")
    folder: Path = options.folder.resolve()  # PostgreSQL runs elsewhere.
    folder.mkdir(parents=True, exist_ok=True)
    rows = build(folder, options.events)
    paths = DirectoryPaths(folder / "ledger")
    cases = make_cases(_samples(paths.log))
    contenders: list[Contender] = [
        Ours(paths),
        Theirs(SQLite(folder / "events.sqlite")),
        Theirs(PostgreSQL(folder / "postgresql")),
        Theirs(DuckDB(folder / "parquet")),
    ]
    if ChDB.is_there():
        contenders.append(Theirs(ChDB(folder / "parquet")))
    else:
        print(f"LEFT OUT: chDB. {CHDB_PYTHON} has no package chdb; bench/columns.py says how.")
    try:
        results = {case.name: _compare(contenders, case, options.seconds) for case in cases}
    finally:
        for contender in contenders:
            contender.close()
    (folder / "results.json").write_text(json.dumps(results, indent=1))
    print(format_comparison(results))
    rows += verdicts(results)
    if not options.quick:
        rows += _around(folder, cases, rows_exported=min(EXPORT_ROWS, options.events // 2))
    print()
    print(format_table(rows))


def _around(folder: Path, cases: Sequence[Case], *, rows_exported: int) -> list[Row]:
    """The cost of a search in a service, and for the service."""
    token = (folder / "token").read_text()
    asked = [case.query(n) for case in cases if case.name in TWO_DIMENSIONS for n in range(VALUES)]
    with TemporaryDirectory(dir=folder) as scratch:
        return [
            *asked_over_http(folder / "ledger", token, asked, rounds=5),
            *exported(folder / "ledger", token, rows=rows_exported),
            *beside_reader(folder / "ledger", token, seconds=10.0),
            *sealing(Path(scratch), seconds=10.0),
        ]


Results = dict[str, dict[str, dict[str, list[float]]]]
"""Question -> contender -> cold, warm, page -> seconds."""


def _compare(
    contenders: Sequence[Contender], case: Case, seconds: float
) -> dict[str, dict[str, list[float]]]:
    totals = {
        value: {c.ask(case, value, is_counted=True).total for c in contenders} - {-1}
        for value in range(VALUES)
    }
    if any(len(found) > 1 for found in totals.values()):
        raise SystemExit(f"{case.name}: the contenders count differently: {totals}")
    found = {contender.name: measure(contender, case, seconds=seconds) for contender in contenders}
    print(
        case.name,
        {name: f"{p50(f['warm']) * 1e3:.2f} ms" for name, f in found.items()},
        flush=True,
    )
    return found


def format_comparison(results: Results) -> str:
    """A Markdown table, milliseconds: for each contender warm p50 and p95, the page alone, cold."""
    names = list(next(iter(results.values())))
    lines = [
        "| question | " + " | ".join(f"{n}: p50 | p95 | page | cold" for n in names) + " |",
        "|---|" + "---:|" * (4 * len(names)),
    ]
    for question, found in results.items():
        cells = []
        for name in names:
            figures = found[name]
            page = _ms(p50(figures["page"])) if "page" in figures else ""
            cells += [
                _ms(p50(figures["warm"])),
                _ms(p95(figures["warm"])),
                page,
                _ms(p50(figures["cold"])),
            ]
        lines.append(f"| {question} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdicts(results: Results) -> list[Row]:
    """The targets of docs/benchmarks.md."""
    ours, *others = next(iter(results.values()))
    two = [name for name in results if name in TWO_DIMENSIONS]
    networks = [name for name in results if name.startswith("/")]
    slowest = {
        name: max(p50(found[name]["warm"]) for found in results.values())
        for name in (ours, *others)
    }
    return [
        Row(
            "two dimensions over everything, the slowest p95, warm",
            max(p95(results[name][ours]["warm"]) for name in two) * 1e3,
            "ms",
            reach=10,
            at_most=True,
        ),
        Row(
            "a network and an outcome, the slowest p95, warm",
            max(p95(results[name][ours]["warm"]) for name in networks) * 1e3,
            "ms",
            reach=50,
            at_most=True,
        ),
        *(
            Row(f"{name}, p50, warm", found * 1e3, "ms", reach=reach, at_most=True)
            for name, found, reach in (
                *((name, p50(results[name][ours]["warm"]), 0.3) for name in RARE),
                ("four facets over a month", p50(results[FOUR_FACETS][ours]["warm"]), 40),
                ("our slowest question", slowest[ours], 60),
            )
        ),
        Row(
            "geometric mean against the fastest other, page and total",
            _mean_ratio(results, ours, others, "warm"),
            "times",
            reach=5,
        ),
        *(
            Row(f"… against {name}", _mean_ratio(results, ours, [name], "warm"), "times")
            for name in others
        ),
        Row(
            "geometric mean against the fastest other, page alone",
            _mean_ratio(results, ours, others, "page"),
            "times",
            reach=0.5,
        ),
        Row(
            "our slowest against their slowest",
            min(slowest[name] for name in others) / slowest[ours],
            "times",
            reach=10,
        ),
    ]


def _mean_ratio(results: Results, ours: str, others: Sequence[str], kind: str) -> float:
    ratios = [
        min(p50(found[name][kind]) for name in others) / p50(found[ours][kind])
        for found in results.values()
        if kind in found[ours]
    ]
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f}" if seconds < 0.1 else f"{seconds * 1e3:,.0f}"


if __name__ == "__main__":
    main()
