"""An export as Parquet has the rows of JSON lines, and no cell of it can be changed unnoticed."""

import io
import re
import shutil
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from ledger_client.cli.app import run
from ledger_client.extras import MissingExtraError
from ledger_client.plans.export import ExportVerifier, proof_path
from ledger_client.plans.export_proof import CheckedExport, check_export
from ledger_client.plans.heads import Heads
from ledger_client.plans.question import ask_query
from ledger_client.sql.parquet import (
    FAULTS_MAX,
    ParquetLines,
    altered_columns,
    check_parquet,
    rewrite_as_parquet,
)
from ledger_core.event.canonical import encode_event, format_leaf
from ledger_core.event.csv import COLUMNS
from ledger_core.event.times import format_time
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.policy import format_policy
from ledger_core.tlog.trust import TrustedLog
from tests.client.hosts import ENTRIES_SINCE_UNIX_US, READER, Host, event_id
from tests.client.test_exports import row
from tests.client.trees import SmallLog

RICH: list[dict[str, Any]] = [
    {"actor": {"id": "'; DROP TABLE x; --", "type": "user", "name": "", "session": "s_1"}},
    {"reason": 'a "b"\r\n\t=\u200b\U0001f600', "source": {"ip": "2001:db8::1", "port": 0}},
    {"source": {}, "tenant": "acme", "recorder": {"instance": "api-1", "seq": 2**53 - 1}},
    {"context": {"n": 1.5, "deep": {"a": [None, True, "1.0"]}, "\ufb00": 2**53 - 1}},
    {"targets": [{"id": "r_1", "type": "row"}, {"id": "r_2"}]},
    {"changes": [{"path": "/role", "before": None, "after": {"a": 1}}]},
    {"actor": {"id": "u_1", "on_behalf_of": {"id": "u_2", "name": "Ada"}, "credential": "c"}},
    *({"actor": {"id": f"u_{number}"}} for number in range(20)),
]


def leaf(number: int, fields: dict[str, Any]) -> bytes:
    time = format_time(ENTRIES_SINCE_UNIX_US + number)
    event = {"id": event_id(number), "time": time, "action": "a.b", "outcome": "denied"}
    read = READER.read_object({**event, "actor": {"id": "u_1"}, **fields})
    return format_leaf(event_json=encode_event(read.event), by="api", received_time=time)


LOG = SmallLog([leaf(number, fields) for number, fields in enumerate(RICH)])


class Export:
    """A verified export of all entries as Parquet, with its proofs beside it."""

    def __init__(self, folder: Path) -> None:
        lines = b"".join(row("jsonl", n, leaf) for n, leaf in enumerate(LOG.leaves))
        trailer = {
            "rows": len(LOG.leaves),
            "sha256": sha256(lines).hexdigest(),
            "tree_size": len(LOG.leaves),
        }
        self.body = body = lines + msgspec.json.encode({"trailer": trailer}) + b"\n"
        verifier = ExportVerifier(
            "jsonl",
            question=ask_query("", now_unix_us=0),
            heads=Heads(TrustedLog(LOG.policy)),
            export_id="an-export-of-this-test",
        )
        host = Host(LOG)
        self.proofs = host.run(verifier.feed(body))
        self.proofs += host.run(verifier.finish())[1]
        self.path = folder / "it's [1] *.parquet"
        with self.path.open("wb") as file:
            file.write(body)
            self.sha256, self.size = rewrite_as_parquet(file)
        proof_path(self.path).write_bytes(self.proofs)
        self.policy = folder / "policy"
        self.policy.write_text(format_policy([LOG.signer.verifier]))

    def check(self) -> CheckedExport:
        return check_export(
            ParquetLines(self.path), io.BytesIO(self.proofs), LOG.policy, is_table=True
        )

    def rewrite(self, select: str) -> None:
        """Make the file again of what a SELECT finds in its rows."""
        plain = self.path.with_name("plain.parquet")
        shutil.copy(self.path, plain)
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute(f"CREATE TABLE events AS SELECT * FROM read_parquet('{plain}')")
            connection.execute(f"COPY ({select}) TO '{plain}' (FORMAT parquet)")
        shutil.move(plain, self.path)

    def verify(self) -> tuple[int, str]:
        """Exit code and output of `ledger verify`."""
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            code = run(["verify", str(self.path), "--policy", str(self.policy)])
        return code, said.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return Export(tmp_path_factory.mktemp("parquet"))


@pytest.fixture
def export(made: Export) -> Iterator[Export]:
    data = made.path.read_bytes()
    yield made
    made.path.write_bytes(data)


def test_the_rows_are_those_of_json_lines_and_verify(export: Export) -> None:
    assert b"".join(iter(ParquetLines(export.path).read, b"")) == export.body
    checked = export.check()
    assert (checked.rows, checked.faults) == (len(RICH), ())
    assert altered_columns(export.path) == []
    assert export.path.stat().st_mode & 0o777 == 0o600
    assert export.path.stat().st_size == export.size
    with export.path.open("rb") as file:
        assert file_digest(file, "sha256").hexdigest() == export.sha256
    exit_code, output = export.verify()
    assert (exit_code, "27 events, each in the log" in output) == (0, True)


def test_columns_have_types_and_absent_values_are_null(export: Export) -> None:
    path = re.sub(r"([*?\[])", r"[\1]", str(export.path))
    with duckdb.connect() as connection:
        described = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [path]).fetchall()
        assert [each[0] for each in described] == [*COLUMNS, "leaf"]
        kinds = {each[0]: each[1] for each in described}
        assert (kinds["time"], kinds["id"]) == ("TIMESTAMP WITH TIME ZONE", "UUID")
        assert (kinds["context"], kinds["index"]) == ("JSON", "BIGINT")
        rows = connection.execute(
            "SELECT \"index\", actor_name, source_port, recorder_seq, target_id, context ->> '$.n'"
            ' FROM read_parquet(?) ORDER BY "index" LIMIT 5',
            [path],
        ).fetchall()
    assert rows == [
        (0, "", None, None, None, None),
        (1, None, 0, None, None, None),
        (2, None, None, 2**53 - 1, None, None),
        (3, None, None, None, None, "1.5"),
        (4, None, None, None, "r_1", None),
    ]


CHECKED = [name for name in COLUMNS if name not in ("index", "leaf_hash")]
OTHER = "'other'"
OTHERS = {"id": "uuid()", "time": "now()", "received_time": "now()", "source_port": "1"}
OTHERS |= {"recorder_seq": "1", "targets": "'[]'", "changes": "'[]'", "context": "'{}'"}


@pytest.mark.parametrize("start", range(0, len(CHECKED), FAULTS_MAX))
def test_each_changed_column_is_named(export: Export, start: int) -> None:
    names = dict(enumerate(CHECKED[start : start + FAULTS_MAX], 9))
    changes = (
        f'CASE WHEN "index" = {index} THEN {OTHERS.get(name, OTHER)} ELSE "{name}" END AS "{name}"'
        for index, name in names.items()
    )
    export.rewrite(f"SELECT * REPLACE ({', '.join(changes)}) FROM events")
    assert altered_columns(export.path) == [
        f"entry {index}: a column is not what its leaf says" for index in names
    ]
    exit_code, output = export.verify()
    assert (exit_code, "entry 9: a column" in output) == (1, True)


@pytest.mark.parametrize(
    ("select", "named"),
    [
        ('SELECT * FROM events WHERE "index" <> 9', "rows"),
        ('SELECT * FROM events ORDER BY "index" DESC', "order of an export"),
        ("SELECT * FROM events UNION ALL SELECT * FROM events", "it has no proof"),
        ('SELECT * REPLACE ("index" + 1 AS "index") FROM events', "can't be proven"),
        ("SELECT * REPLACE (replace(leaf, 'denied', 'success') AS leaf) FROM events", "row 1 "),
        ("SELECT * REPLACE (repeat('0', 64) AS leaf_hash) FROM events", "row 1 "),
    ],
)
def test_rows_that_are_changed_are_named(export: Export, select: str, named: str) -> None:
    export.rewrite(select)
    assert any(named in fault for fault in export.check().faults)
    assert export.verify()[0] == 1


@pytest.mark.parametrize(
    "select",
    [
        "SELECT * EXCLUDE (leaf) FROM events",
        "SELECT 1 AS x",
        "SELECT * REPLACE ('Z' AS leaf_hash) FROM events",
        "SELECT * REPLACE (NULL AS leaf) FROM events",
        "SELECT * REPLACE ('[' AS leaf) FROM events",
    ],
)
def test_another_table_is_malformed(export: Export, select: str) -> None:
    export.rewrite(select)
    assert export.verify()[0] == 2


def test_a_damaged_file_is_refused(export: Export) -> None:
    data = export.path.read_bytes()
    for damaged in (
        data[:-1],
        data[: len(data) // 2],
        b"PAR1",
        data[:200] + b"x" * 50 + data[250:],
    ):
        export.path.write_bytes(damaged)
        assert export.verify()[0] in (1, 2)


def test_without_the_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(MissingExtraError, match=r"witnessed-ledger-client\[sql\]"):
        check_parquet()


def test_a_file_that_is_no_parquet_is_malformed(tmp_path: Path) -> None:
    path = tmp_path / "none.parquet"
    path.write_bytes(b"PAR1 and nothing else PAR1")
    with pytest.raises(MalformedError, match="Parquet: "):
        altered_columns(path)


def test_a_small_file_with_very_many_rows_is_refused(export: Export) -> None:
    export.rewrite("SELECT events.* FROM events, range(5000)")
    code, said = export.verify()
    assert code == 2
    assert "at least 32 for each" in said


@pytest.mark.parametrize(
    "replaced",
    [
        "repeat('x', 200000) AS leaf",
        "repeat('0', 200000) AS leaf_hash",
        "repeat('x', 200000) AS reason",
        "repeat('[', 60000) AS leaf",
        "[repeat('x', 200000)] AS context",
    ],
)
def test_a_long_text_that_is_stored_once_is_not_read_for_each_row(
    export: Export, replaced: str
) -> None:
    export.rewrite(f"SELECT events.* REPLACE ({replaced}) FROM events, range(20)")
    tracemalloc.start()
    try:
        assert export.verify()[0] in (1, 2)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 16 * 1024 * 1024
