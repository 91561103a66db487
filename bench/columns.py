"""DuckDB and chDB over the same events as Parquet, as `ledger sql` and `ledger export` have them.

A file for each 65,536 events, with the leaf of each row; no index but what Parquet has itself, the
least and the greatest value of each column in each group of rows. DuckDB runs in this process. chDB
is ClickHouse's engine: its wheels take 0.9 GB, so it runs in a Python of its own, and a benchmark
without that Python says so and goes on:

    python3 -m venv bench/data/chdb && bench/data/chdb/bin/pip install chdb
"""

import json
import re
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Protocol

import duckdb

from bench.tables import Question, Timing, forget_files, statements
from ledger.query.leaf_cache import LeafCache
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.log import LogStore
from ledger_client.sql.parquet import format_line, write_parquet
from ledger_core.tlog.hashing import leaf_hash

CHDB_PYTHON: Final = Path(__file__).parent / "data" / "chdb" / "bin" / "python"

_WORDS: Final = re.compile(r"\[([a-z ]+)\]")
_ADDRESS: Final = re.compile(r"\{([0-9a-f.:]+)\}")
_PLAIN: Final[Mapping[str, str]] = {
    "idx": '"index"',
    "actor": "actor_id",
    "actor_type": "actor_type",
    "action": "action",
    "target": "target_id",
    "target_type": "target_type",
    "outcome": "outcome",
    "tenant": "tenant",
    "session": "session",
    "service": "source_service",
    "leaf": "leaf",
}
"""The columns of the questions that are columns of the Parquet files as they are."""

_TEXT: Final = "concat_ws(' ', action, actor_name, target_name, reason)"


class _Dialect(Protocol):
    """What the two engines write in their own way."""

    day: str
    derived: Mapping[str, str]

    def words(self, words: Sequence[str]) -> str:
        """The condition that a text has words."""


class _DuckDBDialect:
    day = "strftime(make_timestamp(time_us), '%Y-%m-%d')"
    derived: Mapping[str, str] = {
        "time_us": "epoch_us(time)",
        "ip": "CASE WHEN source_ip NOT LIKE '%:%' THEN"
        " split_part(source_ip, '.', 1)::UINTEGER * 16777216"
        " + split_part(source_ip, '.', 2)::UINTEGER * 65536"
        " + split_part(source_ip, '.', 3)::UINTEGER * 256"
        " + split_part(source_ip, '.', 4)::UINTEGER END",
        "request": "context ->> '$.request_id'",
        "trace": "context ->> '$.trace_id'",
        "words": f"string_split(translate(lower({_TEXT}), '._-', '   '), ' ')",
    }

    def words(self, words: Sequence[str]) -> str:
        return f"list_has_all(words, {list(words)})"


class _ChDBDialect:
    day = "toString(toDate(fromUnixTimestamp64Micro(time_us, 'UTC')))"
    derived: Mapping[str, str] = {
        "time_us": "toUnixTimestamp64Micro(toDateTime64(time, 6, 'UTC'))",
        "ip": "IPv4StringToNumOrNull(assumeNotNull(source_ip))",
        "request": "JSONExtractString(assumeNotNull(context), 'request_id')",
        "trace": "JSONExtractString(assumeNotNull(context), 'trace_id')",
        "words": "splitByChar(' ', replaceRegexpAll(lower(concat(ifNull(action, ''), ' ',"
        " ifNull(actor_name, ''), ' ', ifNull(target_name, ''), ' ', ifNull(reason, ''))),"
        " '[._-]', ' '))",
    }

    def words(self, words: Sequence[str]) -> str:
        return f"hasAll(words, {list(words)})"


def build_parquet(log: LogStore, folder: Path) -> None:
    """Write the events of a log as files of one segment each; those that are there stay."""
    folder.mkdir(exist_ok=True)
    leaf_cache, size = LeafCache(log, bytes_max=0), log.head().tree_size
    lines, made = folder / "lines.jsonl", folder / "made"
    for start in range(0, size, SEGMENT_ENTRIES_MAX):
        path = folder / f"{start:010d}.parquet"
        if path.exists():
            continue
        with lines.open("wb") as file:
            for first, leaves in leaf_cache.bundles(start, min(start + SEGMENT_ENTRIES_MAX, size)):
                for index, leaf in enumerate(leaves, first):
                    file.write(format_line(index, leaf, leaf_hash(leaf)))
        write_parquet(lines, made)
        made.rename(path)
    lines.unlink(missing_ok=True)


class DuckDB:
    """DuckDB in this process."""

    name = "DuckDB"

    def __init__(self, folder: Path) -> None:
        self._files = sorted(folder.glob("*.parquet"))
        self._dialect = _DuckDBDialect()
        self._connection = self._connect()

    def ask(self, question: Question, *, is_counted: bool) -> Timing:
        """Answer a question."""
        asked, total = _asked(question, self._dialect, is_counted=is_counted), -1
        start = time.perf_counter()
        for statement in asked:
            found = self._connection.execute(statement).fetchall()
            if statement.startswith("SELECT count"):
                total = int(found[0][0])
        return Timing(time.perf_counter() - start, total)

    def restart_cold(self) -> None:
        """Close, let the system forget the files, open."""
        self.close()
        forget_files(self._files)
        self._connection = self._connect()

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def _connect(self) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect()
        source = f"read_parquet({[str(path) for path in self._files]})"
        connection.execute(_view(source, self._dialect))
        return connection


class ChDB:
    """chDB in a Python of its own, which tells the times."""

    name = "chDB"

    def __init__(self, folder: Path, python: Path = CHDB_PYTHON) -> None:
        """Precondition: `python` has the package chdb."""
        self._folder = folder
        self._files = sorted(folder.glob("*.parquet"))
        self._dialect = _ChDBDialect()
        self._python = python
        self._process = self._start()

    @staticmethod
    def is_there(python: Path = CHDB_PYTHON) -> bool:
        """Whether that Python has chDB."""
        if not python.exists():
            return False
        return not subprocess.run([python, "-c", "import chdb"], check=False).returncode

    def ask(self, question: Question, *, is_counted: bool) -> Timing:
        """Answer a question; the time is what the other process measures."""
        total, seconds = -1, 0.0
        for statement in _asked(question, self._dialect, is_counted=is_counted):
            answer = self._run(statement)
            seconds += answer["seconds"]
            if statement.startswith("SELECT count"):
                total = int(answer["text"])
        return Timing(seconds, total)

    def restart_cold(self) -> None:
        """End the process, let the system forget the files, start it."""
        self.close()
        forget_files(self._files)
        self._process = self._start()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _start(self) -> "subprocess.Popen[str]":
        self._process = subprocess.Popen(
            [self._python, "-c", _CHDB_LOOP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        source = f"file('{self._folder}/*.parquet', Parquet)"
        self._run(_view(source, self._dialect))
        return self._process

    def _run(self, statement: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(statement) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(f"{statement}: {answer['error']}")
        return answer


_CHDB_LOOP: Final = """
import json, sys, time
from chdb import session
asked = session.Session()
for line in sys.stdin:
    start = time.perf_counter()
    try:
        text = str(asked.query(json.loads(line), "TabSeparated"))
        answer = {"seconds": time.perf_counter() - start, "text": text[:100]}
    except Exception as error:
        answer = {"error": str(error)[:2000]}
    print(json.dumps(answer), flush=True)
"""


def _view(source: str, dialect: _Dialect) -> str:
    columns = {**_PLAIN, **dialect.derived}
    chosen = ", ".join(f"{expression} AS {name}" for name, expression in columns.items())
    return f"CREATE VIEW events AS SELECT {chosen} FROM {source}"


def _asked(question: Question, dialect: _Dialect, *, is_counted: bool) -> Iterable[str]:
    """The statements of a question, with words and addresses as the engine writes them."""
    return [
        _ADDRESS.sub(
            lambda found: str(int(ip_address(found[1]))),
            _WORDS.sub(lambda found: dialect.words(found[1].split()), statement),
        )
        for statement in statements(question, is_counted=is_counted, day=dialect.day)
    ]
