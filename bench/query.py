"""`python -m bench.query`: twenty questions to ten million events, beside four databases.

    --quick         100,000 events, half a second for each question, no service: a trial
    --brief         all questions in minutes: half a second for each, nothing cold, no service, and
                    few values for a contender that takes seconds
    --ours          our engine alone
    --events N      number of events; 1,000,000 suffice for a trial run
    --folder DIR    folder of all data, which is built once and kept: 30 GB for ten million
    --seconds S     seconds for each question and contender
    --chdb PYTHON   the Python that has chDB

Every contender holds the same events (`bench.varied`) and gives the same answers: the newest
hundred matches with their leaves and the exact total, then a second time the page alone. Our
engine, SQLite and DuckDB run in this process; PostgreSQL is asked through psql on a Unix socket, by
psql's own clock; chDB runs in a Python of its own (`bench.columns`) and is left out, loudly,
without it. DuckDB and chDB have the events as Parquet, the others as indexed tables. Warm: each
question with its eight values, repeatedly, after a first round. Cold: the first time after a
restart, with every file dropped from the page cache. The totals of all contenders must agree. First
pages in the order of time are asked of our engine alone.
"""

import argparse
import json
import resource
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec

from bench.append import ORIGIN
from bench.columns import CHDB_PYTHON, ChDB, DuckDB, build_parquet
from bench.questions import VALUES, Case, make_cases, make_time_cases
from bench.rows import Row, format_table, p50
from bench.searching import EXPORT_ROWS, asked_over_http, beside_reader, exported, sealing
from bench.tables import PostgreSQL, Question, SQLite, Timing, forget_files, table_rows
from bench.varied import START_UNIX_US, YEAR_US, fill_log
from bench.verdicts import TWO_DIMENSIONS, format_comparison, verdicts
from ledger.demo.child_service import make_ledger
from ledger.query.engine import QueryEngine
from ledger.query.indexer import FOLLOW_ENTRIES
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
BRIEF_ROUND_S: Final = 1.5
"""A brief run asks no further values of a contender that took so long, but two in any case."""

BY_TIME_REACH_MS: Final = 15.0
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
            order=case.order,
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
        # A service does this in the background, in the same steps.
        while self._engine.advance(FOLLOW_ENTRIES):
            pass

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


def measure(
    contender: Contender, case: Case, values: Sequence[int], *, seconds: float, is_brief: bool
) -> dict[str, list[float]]:
    """Seconds for a question with some values: cold, warm, and warm for the page alone."""
    figures: dict[str, list[float]] = {}
    if not is_brief:
        figures["cold"] = []
        for value in values[: COLD_SAMPLES if seconds >= 1 else 1]:
            contender.restart_cold()
            figures["cold"].append(contender.ask(case, value, is_counted=True).seconds)
        for value in values:
            contender.ask(case, value, is_counted=True)
    figures["warm"] = _warm(contender, case, values, seconds, is_counted=True)
    if case.want == "page":
        figures["page"] = _warm(contender, case, values, seconds, is_counted=False)
    return figures


def _warm(
    contender: Contender, case: Case, values: Sequence[int], limit_s: float, *, is_counted: bool
) -> list[float]:
    """Seconds for the values in turn, for up to `limit_s`; each at least once."""
    seconds: list[float] = []
    start = time.perf_counter()
    while len(seconds) < len(values) or time.perf_counter() - start < limit_s:
        value = values[len(seconds) % len(values)]
        seconds.append(contender.ask(case, value, is_counted=is_counted).seconds)
        if len(seconds) >= SAMPLES_MAX:
            break
    return seconds


def by_time(ours: Ours, cases: Sequence[Case], *, seconds: float) -> list[Row]:
    """First pages of a hundred in the order of time, with their totals."""
    rows = []
    for case in cases:
        values = range(VALUES)
        for value in values:
            ours.ask(case, value, is_counted=True)
        found = p50(_warm(ours, case, values, seconds, is_counted=True)) * 1e3
        name = f"first page by time, {case.name}, p50, warm"
        rows.append(Row(name, found, "ms", reach=BY_TIME_REACH_MS, at_most=True))
    return rows


def build(folder: Path, events: int, *, is_ours: bool) -> list[Row]:
    """Build what is missing; return the cost of indexing the log as rows of the table.

    `is_ours`: not for the databases.
    """
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
    log.close()
    found = json.loads(figures.read_text())
    if not is_ours:
        # An LMDB environment must not cross fork().
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            list(pool.map(_build_database, (folder,) * len(_DATABASES), _DATABASES))
    return [
        Row("indexing, an event, on all processors", found["wall_us"], "µs", reach=8, at_most=True),
        Row(
            "indexing, processor time an event", found["processor_us"], "µs", reach=10, at_most=True
        ),
        Row("index on disk, an event", found["bytes"], "bytes", reach=90, at_most=True),
    ]


_DATABASES: Final = ("SQLite", "PostgreSQL", "Parquet")


def _build_database(folder: Path, name: str) -> None:
    """Build what one database reads, if it is missing."""
    log = LogStore.open(DirectoryPaths(folder / "ledger").log)
    if name == "SQLite" and not (folder / "events.sqlite").exists():
        SQLite.build(folder / "events.sqlite.new", table_rows(_leaves(log)))
        (folder / "events.sqlite.new").rename(folder / "events.sqlite")
    if name == "PostgreSQL" and not (folder / "postgresql" / "built").exists():
        PostgreSQL.build(folder / "postgresql", table_rows(_leaves(log)))
        (folder / "postgresql" / "built").touch()
    if name == "Parquet":
        build_parquet(log, folder / "parquet")
    log.close()


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
    parser.add_argument("--brief", action="store_true")
    parser.add_argument("--ours", action="store_true")
    parser.add_argument("--chdb", type=Path, default=CHDB_PYTHON)
    options = parser.parse_args()
    if options.quick:
        options.events = QUICK_EVENTS
        options.folder = options.folder.with_name("query-quick")
    if options.quick or options.brief:
        options.seconds = QUICK_SECONDS
    folder: Path = options.folder.resolve()  # PostgreSQL runs elsewhere.
    folder.mkdir(parents=True, exist_ok=True)
    rows = build(folder, options.events, is_ours=options.ours)
    paths = DirectoryPaths(folder / "ledger")
    samples = _samples(paths.log)
    cases, ours = make_cases(samples), Ours(paths)
    contenders: list[Contender] = [ours]
    if not options.ours:
        contenders += _theirs(folder, options.chdb)
    try:
        results = {
            case.name: _compare(contenders, case, options.seconds, is_brief=options.brief)
            for case in cases
        }
        rows += by_time(ours, make_time_cases(samples), seconds=options.seconds)
    finally:
        for contender in contenders:
            contender.close()
    (folder / "results.json").write_text(json.dumps(results, indent=1))
    print(format_comparison(results))
    rows += verdicts(results)
    if not (options.quick or options.brief):
        rows += _around(folder, cases, rows_exported=min(EXPORT_ROWS, options.events // 2))
    print()
    print(format_table(rows))


def _theirs(folder: Path, chdb_python: Path) -> list[Theirs]:
    """The databases."""
    contenders = [
        Theirs(SQLite(folder / "events.sqlite")),
        Theirs(PostgreSQL(folder / "postgresql")),
        Theirs(DuckDB(folder / "parquet")),
    ]
    if ChDB.is_there(chdb_python):
        contenders.append(Theirs(ChDB(folder / "parquet", chdb_python)))
    else:
        print(f"LEFT OUT: chDB. {chdb_python} has no package chdb; bench/columns.py says how.")
    return contenders


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


def _compare(
    contenders: Sequence[Contender], case: Case, seconds: float, *, is_brief: bool
) -> dict[str, dict[str, list[float]]]:
    totals: dict[int, dict[str, int]] = {value: {} for value in range(VALUES)}
    found: dict[str, dict[str, list[float]]] = {}
    for contender in contenders:
        start = time.perf_counter()
        for asked, value in enumerate(totals):
            if is_brief and asked > 1 and time.perf_counter() - start > BRIEF_ROUND_S:
                break
            total = contender.ask(case, value, is_counted=True).total
            if total != -1:
                totals[value][contender.name] = total
        values = range(asked + (value == VALUES - 1))
        found[contender.name] = measure(contender, case, values, seconds=seconds, is_brief=is_brief)
    if any(len(set(some.values())) > 1 for some in totals.values()):
        raise SystemExit(f"{case.name}: the contenders count differently: {totals}")
    print(
        case.name,
        {name: f"{p50(f['warm']) * 1e3:.2f} ms" for name, f in found.items()},
        flush=True,
    )
    return found


if __name__ == "__main__":
    main()
