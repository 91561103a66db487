"""`python -m bench.peers`: durable writes beside what people would pick instead, in one run.

    --seconds S      seconds for each figure
    --folder DIR     where all of them keep their data: it should be one disk
    --workers N …    the numbers of worker processes with which our service runs

Each contender takes the same kind of event, of about 480 bytes, and answers when it is on the disk:

    witnessed-ledger   `ledger serve` under bench.load
    PostgreSQL         an audit table with six indexes, under pgbench (prepared) and by COPY;
                       and the same table with a chain of hashes that a trigger keeps
    SQLite             the same table in one process, WAL, synchronous=FULL
    Tessera            its POSIX log: under its hammer (entries integrated), and bench.load

The load generator runs on the same cores. How often each contender syncs a file is counted with
strace in a run of its own, so that none wins by not writing. A contender that isn't installed
is named and left out:

    apt install postgresql strace
    go install github.com/transparency-dev/tessera/cmd/conformance/posix@v1.0.4
    go install github.com/transparency-dev/tessera/internal/hammer@v1.0.4
"""

import argparse
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from bench import tessera
from bench.append import ORIGIN, QUIET, load
from bench.contender import CONNECTIONS, SYNCS_S, count_syncs, single_event_rows
from bench.events import event_stream
from bench.postgres import POSTGRES_BIN, POSTGRES_USER, Cluster
from bench.rows import Row, format_table
from ledger.demo.child_service import Service, make_ledger
from ledger_core.event.times import parse_time

FOLDER: Final = Path(__file__).parent / "data" / "peers"
BATCH: Final = 1_000
COPY_CLIENTS: Final = 2
PGBENCH_S_MIN: Final = 5
"""Seconds: 256 connections take one or two of them."""

_TABLE: Final = """
CREATE TABLE events (
    idx bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, time_us bigint NOT NULL,
    actor text NOT NULL, action text NOT NULL, target text NOT NULL, outcome text NOT NULL,
    tenant text NOT NULL, ip inet NOT NULL, event text NOT NULL, hash bytea
);
CREATE INDEX ON events (time_us); CREATE INDEX ON events (actor, idx);
CREATE INDEX ON events (target, idx); CREATE INDEX ON events (action, idx);
CREATE INDEX ON events (ip, idx); CREATE INDEX ON events (tenant, idx);
"""
_CHAIN: Final = """
CREATE FUNCTION chain() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE before bytea;
BEGIN
    PERFORM pg_advisory_xact_lock(1);
    SELECT hash INTO before FROM events ORDER BY idx DESC LIMIT 1;
    NEW.hash := sha256(coalesce(before, ''::bytea) || convert_to(NEW.event, 'UTF8'));
    RETURN NEW;
END $$;
CREATE TRIGGER chain BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION chain();
"""
_SETTINGS: Final = {"max_connections": "300", "shared_buffers": "2GB", "max_wal_size": "8GB"}
"""fsync and synchronous_commit are on, as they are by default."""

_COLUMNS: Final = ("time_us", "actor", "action", "target", "outcome", "tenant", "ip", "event")
_INSERT: Final = f"INSERT INTO events ({', '.join(_COLUMNS)}) VALUES "


def run(folder: Path, *, seconds: float, workers: Sequence[int]) -> list[Row]:
    """Measure all contenders that are installed; the names of the others go to standard error."""
    rows: list[Row] = []
    for count in workers:
        rows += _ours(folder / f"ours-{count}", seconds=seconds, workers=count)
    contenders: list[tuple[str, Callable[[], list[Row]], bool]] = [
        ("PostgreSQL", lambda: _postgresql(folder, seconds=seconds), POSTGRES_BIN.exists()),
        ("SQLite", lambda: _sqlite(folder, seconds=seconds), True),
        (
            "Tessera",
            lambda: tessera.measure(folder / "tessera", seconds=seconds),
            tessera.is_installed(),
        ),
    ]
    for name, measure, is_installed in contenders:
        if is_installed:
            rows += measure()
        else:
            print(f"LEFT OUT: {name} is not installed, see bench/peers.py", file=sys.stderr)
    return rows


def _ours(folder: Path, *, seconds: float, workers: int) -> list[Row]:
    token = make_ledger(folder, origin=ORIGIN)
    name = f"witnessed-ledger, {workers} workers"
    rows = []
    flags = (*QUIET, "--workers", str(workers)) if workers else QUIET
    with Service(folder, listen="127.0.0.1:0", flags=flags) as service:
        load(service.url, token, seconds=1)  # warm
        for count in CONNECTIONS:
            figures = load(service.url, token, "--connections", str(count), seconds=seconds)
            rows += single_event_rows(name, count, figures)
        batches = ("--connections", "4", "--batch", str(BATCH))
        figures = load(service.url, token, *batches, seconds=seconds)
        rate = figures["requests_per_s"] * BATCH
        rows.append(Row(f"{name}, batches of {BATCH:,}", rate, "events/s"))
        with count_syncs(name, (service.process_id,), rows):
            load(service.url, token, "--connections", "32", seconds=SYNCS_S)
    return rows


def _postgresql(folder: Path, *, seconds: float) -> list[Row]:
    rows: list[Row] = []
    for name, schema in (("PostgreSQL", _TABLE), ("PostgreSQL, hash chain", _TABLE + _CHAIN)):
        cluster = Cluster.make(folder / name.replace(", ", "-").replace(" ", "-"), _SETTINGS)
        cluster.start()
        try:
            cluster.run_sql(schema)
            for count in CONNECTIONS:
                rows += _pgbench(cluster, name, connections=count, seconds=seconds)
            rows.append(_copies(cluster, name, seconds=seconds))
            with count_syncs(name, cluster.process_ids(), rows):
                _pgbench(cluster, name, connections=32, seconds=SYNCS_S)
        finally:
            cluster.stop()
    return rows


def _pgbench(cluster: Cluster, name: str, *, connections: int, seconds: float) -> list[Row]:
    """Inserts, each a transaction of its own; the events differ in their ids, numbers and times."""
    script = cluster.folder / "insert.sql"
    script.write_text(_pgbench_script(), encoding="utf-8")
    shutil.chown(script, POSTGRES_USER)
    logs = cluster.folder / "latencies"
    command = [
        *(str(POSTGRES_BIN / "pgbench"), "-n", "-M", "prepared", "-h", str(cluster.folder)),
        *("-U", POSTGRES_USER, "-c", str(connections), "-j", str(min(connections, 2))),
        *(
            "-T",
            str(max(PGBENCH_S_MIN, round(seconds))),
            "-f",
            str(script),
            "-l",
            f"--log-prefix={logs}",
        ),
        "postgres",
    ]
    for old in cluster.folder.glob("latencies*"):
        old.unlink()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rate = re.search(r"tps = ([0-9.]+)", done.stdout)
    assert rate is not None, done.stdout
    times_us = sorted(
        int(line.split()[2])
        for path in cluster.folder.glob("latencies*")
        for line in path.read_text().splitlines()
    )
    figures = {
        "requests_per_s": float(rate[1]),
        "p99_ms": times_us[int(len(times_us) * 0.99)] / 1e3,
    }
    return single_event_rows(name, connections, figures)


def _pgbench_script() -> str:
    """An event of `bench.events` whose ids are variables of pgbench."""
    event = msgspec.json.decode(next(event_stream(1)))
    text = msgspec.json.encode(event, order="sorted").decode()
    for value, variable in (
        (event["id"], "' || gen_random_uuid()::text || '"),
        (event["actor"]["id"], "' || :actor || '"),
        (event["targets"][0]["id"], "' || :target || '"),
        (event["context"]["request_id"], "' || lpad(:request::text, 16, '0') || '"),
    ):
        text = text.replace(value, variable)
    return (
        "\\set actor random(1, 5000)\n\\set target random(1, 2000000)\n"
        "\\set request random(1, 1000000000000)\n"
        f"{_INSERT}(1790000000000000 + :request, 'u_' || :actor, 'user.login', 'r_' || :target, "
        "'success', 't_' || (:actor % 40), ('198.51.' || (:actor % 256) || '.' || "
        f"(:target % 256))::inet, '{text}');\n"
    )


def _copies(cluster: Cluster, name: str, *, seconds: float) -> Row:
    """COPY of 1,000 events a transaction, from two clients, whose texts are made beforehand."""
    counts = [0] * COPY_CLIENTS
    texts = [_copy_texts(seed) for seed in range(COPY_CLIENTS)]
    end_s = time.monotonic() + seconds

    def copy(client: int) -> None:
        with cluster.psql() as psql:
            assert psql.stdin is not None
            assert psql.stdout is not None
            while time.monotonic() < end_s:
                psql.stdin.write(texts[client][counts[client] % len(texts[client])])
                psql.stdin.flush()
                assert psql.stdout.readline().strip() == "done"
                counts[client] += 1

    start_s = time.monotonic()
    threads = [threading.Thread(target=copy, args=(client,)) for client in range(COPY_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = sum(counts) * BATCH / (time.monotonic() - start_s)
    return Row(f"{name}, COPY of {BATCH:,} by {COPY_CLIENTS} clients", rate, "events/s")


def _copy_texts(seed: int) -> list[str]:
    events = event_stream(seed)
    texts = []
    for _ in range(20):
        lines = ("\t".join(map(_copy_field, _row(raw))) for raw in islice(events, BATCH))
        columns = ", ".join(_COLUMNS)
        body = "\n".join(lines)
        texts.append(f"COPY events ({columns}) FROM STDIN;\n{body}\n\\.\n\\echo done\n")
    return texts


def _copy_field(value: object) -> str:
    return str(value).replace("\\", "\\\\")


def _row(raw: bytes) -> tuple[Any, ...]:
    event = msgspec.json.decode(raw)
    return (
        parse_time(event["time"]),
        event["actor"]["id"],
        event["action"],
        event["targets"][0]["id"],
        event["outcome"],
        event["tenant"],
        event["source"]["ip"],
        raw.decode(),
    )


def _sqlite(folder: Path, *, seconds: float) -> list[Row]:
    path = folder / "events.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
        identity = "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
        table = _TABLE.replace(identity, "INTEGER PRIMARY KEY")
        connection.executescript(
            table.replace("CREATE INDEX ON", "CREATE INDEX {} ON").format(
                *(f"i{number}" for number in range(table.count("CREATE INDEX")))
            )
        )
        events = map(_row, event_stream(1))
        statement = f"{_INSERT}({', '.join('?' * len(_COLUMNS))})"
        for batch in (1, BATCH):
            count, start_s = 0, time.monotonic()
            while time.monotonic() - start_s < seconds:
                connection.execute("BEGIN")
                connection.executemany(statement, islice(events, batch))
                connection.execute("COMMIT")
                count += batch
            rate = count / (time.monotonic() - start_s)
            how = "single events, in the process" if batch == 1 else f"batches of {BATCH:,}"
            rows.append(Row(f"SQLite, {how}", rate, "events/s"))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.peers")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    flags = parser.parse_args()
    shutil.rmtree(flags.folder, ignore_errors=True)
    print(format_table(run(flags.folder, seconds=flags.seconds, workers=flags.workers)))
    with suppress(OSError):
        shutil.rmtree(flags.folder)


if __name__ == "__main__":
    main()
