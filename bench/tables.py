"""Stores the same events in SQLite and in PostgreSQL, in the form of usual audit tables.

A table has one row for each event: the fields in columns, the leaf as text, composite indexes for
the questions, and full-text search for words. Each database returns the same answer as our engine:
the newest hundred rows and the number of matches, or the page alone.
"""

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bench.postgres import Cluster
from ledger_core.event.times import parse_time

_SETTINGS = {
    "shared_buffers": "2GB",
    "effective_cache_size": "12GB",
    "work_mem": "64MB",
    "maintenance_work_mem": "1GB",
    "max_wal_size": "8GB",
    "random_page_cost": "1.1",
}
_COLUMNS = (
    "idx", "time_us", "actor", "actor_type", "action", "target", "target_type", "outcome",
    "tenant", "session", "service", "ip", "request", "trace", "region", "status", "words", "leaf",
)  # fmt: skip
# Each field with the order of the answer behind it, and the pairs that are asked for most.
_INDEXES = (
    "(actor, idx)",
    "(target, idx)",
    "(action, idx)",
    "(outcome, action, idx)",
    "(outcome, time_us)",
    "(time_us)",
    "(ip, idx)",
    "(tenant, idx)",
    "(service, idx)",
    "(session, idx)",
    "(request)",
    "(trace)",
)
_WORDS = re.compile(r"\[([a-z ]+)\]")
_ADDRESS = re.compile(r"\{([0-9a-f.:]+)\}")


class Question(NamedTuple):
    """A question in SQL: the condition, and what is wanted of the rows for which it holds.

    In the condition, `[words]` is a search in the text, and `{address}` an address.
    """

    where: str
    want: str = "page"
    offset: int = 0


class Timing(NamedTuple):
    """The seconds that an answer took, and its number of matches; -1: it gave none."""

    seconds: float
    total: int


def table_rows(leaves: Iterable[bytes]) -> Iterator[tuple[Any, ...]]:
    """The leaves as rows, in the order of `_COLUMNS`; addresses as text."""
    for index, leaf in enumerate(leaves):
        event = msgspec.json.decode(leaf)["event"]
        actor, source, context = event["actor"], event["source"], event["context"]
        (target,) = event["targets"]
        texts = (event["action"], actor.get("name"), target.get("name"), event.get("reason"))
        yield (
            index,
            parse_time(event["time"]),
            actor["id"],
            actor["type"],
            event["action"],
            target["id"],
            target["type"],
            event["outcome"],
            event["tenant"],
            actor["session"],
            source["service"],
            source["ip"],
            context["request_id"],
            context["trace_id"],
            context["region"],
            context.get("status"),
            re.sub(r"[._-]", " ", " ".join(filter(None, texts)).lower()),
            leaf.decode(),
        )


def statements(question: Question, *, is_counted: bool, day: str) -> list[str]:
    """The SQL of a question. `day`: the expression for the day of `time_us`."""
    where = f"FROM events WHERE {question.where}"
    if question.want == "histogram":
        return [f"SELECT {day}, count(*) {where} GROUP BY 1"]
    count = f"SELECT count(*) {where}"
    if question.want == "count":
        return [count]
    if question.want == "facets":
        return [
            f"SELECT {name}, count(*) {where} GROUP BY 1 ORDER BY 2 DESC LIMIT 10"
            for name in ("action", "actor", "ip", "outcome")
        ]
    page = f"SELECT idx, leaf {where} ORDER BY idx DESC LIMIT 100 OFFSET {question.offset}"
    return [page, count] if is_counted else [page]


class SQLite:
    """A table in a file, read in this process."""

    name = "SQLite"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = self._connect()

    @classmethod
    def build(cls, path: Path, rows: Iterable[tuple[Any, ...]]) -> None:
        """Load the rows, then make the indexes."""
        path.unlink(missing_ok=True)
        columns = ", ".join(name for name in _COLUMNS if name not in ("idx", "words"))
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.executescript(
                "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-1000000;"
                f"CREATE TABLE events (idx INTEGER PRIMARY KEY, {columns});"
                "CREATE VIRTUAL TABLE texts USING fts5(words, content='', detail=none);"
            )
            marks = ",".join("?" * (len(_COLUMNS) - 1))
            rest = iter(rows)
            while chunk := list(islice(rest, 50_000)):
                connection.executemany(
                    f"INSERT INTO events VALUES ({marks})",
                    [(*row[:11], pack(row[11]), *row[12:16], row[17]) for row in chunk],
                )
                connection.executemany(
                    "INSERT INTO texts (rowid, words) VALUES (?, ?)",
                    [(row[0], row[16]) for row in chunk],
                )
                connection.commit()
            for number, indexed in enumerate(_INDEXES):
                connection.execute(f"CREATE INDEX i{number} ON events {indexed}")
            connection.execute("INSERT INTO texts (texts) VALUES ('optimize')")
            connection.execute("ANALYZE")
            connection.commit()

    def ask(self, question: Question, *, is_counted: bool) -> Timing:
        """Answer a question."""
        day = "strftime('%Y-%m-%d', time_us / 1000000, 'unixepoch')"
        total = -1
        asked = [
            _ADDRESS.sub(
                lambda found: f"X'{pack(found[1]).hex()}'",
                _WORDS.sub(r"idx IN (SELECT rowid FROM texts WHERE texts MATCH '\1')", statement),
            )
            for statement in statements(question, is_counted=is_counted, day=day)
        ]
        start = time.perf_counter()
        for statement in asked:
            found = self._connection.execute(statement).fetchall()
            if statement.startswith("SELECT count"):
                total = found[0][0]
        return Timing(time.perf_counter() - start, total)

    def restart_cold(self) -> None:
        """Close, let the system forget the file, open."""
        self._connection.close()
        forget_files([self._path])
        self._connection = self._connect()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)
        connection.executescript(
            "PRAGMA cache_size=-2000000; PRAGMA mmap_size=30000000000;"
            "PRAGMA case_sensitive_like=ON;"
        )
        return connection


class PostgreSQL:
    """A server of our own in a scratch folder, asked through `psql`, which tells the times."""

    name = "PostgreSQL"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cluster = Cluster(folder, _SETTINGS)
        self._start()

    @classmethod
    def build(cls, folder: Path, rows: Iterable[tuple[Any, ...]]) -> None:
        """Make a cluster, load the rows, then make the indexes."""
        Cluster.make(folder, _SETTINGS)
        server = cls(folder)
        try:
            server.load(rows)
        finally:
            server.close()

    def load(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Load the rows, then make the indexes."""
        types = {"idx": "bigint PRIMARY KEY", "time_us": "bigint", "ip": "inet", "status": "int"}
        columns = ", ".join(f"{name} {types.get(name, 'text')}" for name in _COLUMNS)
        self._run(f"CREATE UNLOGGED TABLE events ({columns})")
        copy = self._cluster.psql("-c", "COPY events FROM STDIN")
        assert copy.stdin is not None
        for row in rows:
            copy.stdin.write("\t".join(map(_copy_text, row)) + "\n")
        copy.stdin.close()
        assert copy.wait() == 0
        for indexed in _INDEXES:
            # So that a prefix is a range, whatever the locale.
            by_pattern = indexed.replace("(action,", "(action text_pattern_ops,")
            self._run(f"CREATE INDEX ON events {by_pattern}")
        self._run("CREATE INDEX ON events USING gin (to_tsvector('simple', words))")
        self._run("VACUUM ANALYZE events")

    def ask(self, question: Question, *, is_counted: bool) -> Timing:
        """Answer a question; the time is what psql says, its own part included."""
        day = "to_char(to_timestamp(time_us / 1000000) AT TIME ZONE 'UTC', 'YYYY-MM-DD')"
        words = r"to_tsvector('simple', words) @@ plainto_tsquery('simple', '\1')"
        seconds = 0.0
        total = -1
        for statement in statements(question, is_counted=is_counted, day=day):
            answer, elapsed = self._run(_ADDRESS.sub(r"'\1'::inet", _WORDS.sub(words, statement)))
            seconds += elapsed
            if statement.startswith("SELECT count"):
                total = int(answer[0])
        return Timing(seconds, total)

    def restart_cold(self) -> None:
        """Stop, let the system forget the files, start."""
        self.close()
        forget_files(path for path in (self._folder / "data").rglob("*") if path.is_file())
        self._start()

    def close(self) -> None:
        """Stop the server."""
        assert self._psql.stdin is not None
        self._psql.stdin.close()
        self._psql.wait()
        self._cluster.stop()

    def _start(self) -> None:
        self._cluster.start()
        self._psql = self._cluster.psql()
        # The first statement of a connection reads the catalogue; it is not what is measured.
        self._run("SELECT idx FROM events LIMIT 0" if self._has_events() else "SELECT 1")

    def _has_events(self) -> bool:
        return (self._folder / "built").exists()

    def _run(self, statement: str) -> tuple[list[str], float]:
        assert self._psql.stdin is not None
        assert self._psql.stdout is not None
        self._psql.stdin.write(f"\\timing on\n{statement};\n\\timing off\n\\echo done\n")
        self._psql.stdin.flush()
        lines: list[str] = []
        elapsed = 0.0
        for line in self._psql.stdout:
            text = line.rstrip("\n")
            if text == "done":
                break
            if text.startswith("Time: "):
                elapsed = float(text.split()[1]) / 1e3
            elif text.startswith("ERROR"):
                raise RuntimeError(f"{statement}: {text}")
            else:
                lines.append(text)
        return lines, elapsed


def pack(ip: str) -> bytes:
    """An address as bytes whose order is that of addresses, the version first."""
    address = ip_address(ip)
    return bytes((address.version,)) + address.packed


def forget_files(paths: Iterable[Path]) -> None:
    """Ask the system to drop files from its page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _copy_text(value: object) -> str:
    if value is None:
        return "\\N"
    return str(value).replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")
