"""SQL sees the events and the files that were given, and nothing else of the machine."""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from click.testing import CliRunner

from ledger_client.cli.app import cli
from ledger_client.sql.columns import COLUMNS
from ledger_client.sql.database import Database, QueryError, Sources, open_database
from ledger_client.sql.parquet import format_line, write_parquet
from ledger_client.sql.values import to_json, to_text
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import leaf_hash
from tests.client.test_parquet import LOG


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of JSON lines under a name that is a pattern to DuckDB and a quote to SQL."""
    path = tmp_path_factory.mktemp("lines") / "it's [1] *.jsonl"
    rows = (format_line(n, leaf, leaf_hash(leaf)) for n, leaf in enumerate(LOG.leaves))
    path.write_bytes(b"".join(rows) + b'{"trailer":{"rows":27}}\n')
    return path


@pytest.fixture(scope="module")
def parquet(lines: Path) -> Path:
    path = lines.with_name("segment.parquet")
    write_parquet(lines, path, with_leaf=False)
    return path


@pytest.fixture(scope="module")
def database(lines: Path) -> Iterator[Database]:
    with TemporaryDirectory() as folder, open_database(Sources(lines=[lines]), Path(folder)) as it:
        yield it


def ask(database: Database, sql: str) -> list[tuple[Any, ...]]:
    return list(database.ask(sql).rows)


def test_json_lines_and_parquet_have_the_same_rows_and_types(
    database: Database, parquet: Path, tmp_path: Path
) -> None:
    everything = 'SELECT * FROM events ORDER BY "index"'
    from_lines = database.ask(everything)
    with open_database(Sources(parquet=[parquet]), tmp_path) as sealed:
        from_parquet = sealed.ask(everything)
        assert (from_lines.columns, from_lines.types) == (COLUMNS, from_parquet.types)
        rows = list(from_lines.rows)
        assert rows == list(from_parquet.rows)
    assert len(rows) == len(LOG.leaves)
    assert [row[COLUMNS.index("leaf_hash")] for row in rows] == [
        leaf_hash(leaf).hex() for leaf in LOG.leaves
    ]


def test_both_kinds_of_files_are_one_view(lines: Path, parquet: Path, tmp_path: Path) -> None:
    with open_database(Sources(parquet=[parquet], lines=[lines]), tmp_path) as both:
        assert ask(both, "SELECT count(*), count(DISTINCT leaf_hash) FROM events") == [(54, 27)]


def test_targets_and_changes_are_views(database: Database) -> None:
    assert ask(database, 'SELECT * FROM targets WHERE "index" = 4 ORDER BY position') == [
        (4, 0, "row", "r_1", None),
        (4, 1, None, "r_2", None),
    ]
    assert ask(database, "SELECT path, before, after ->> '$.a' FROM changes") == [
        ("/role", None, "1")
    ]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.0/24"),
        ("2001:db8:bad::7", "2001:db8:bad::/48"),
        ("2001:db8::1", "2001:db8:0::/48"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
        ("::1", "0:0:0::/48"),
    ],
)
def test_the_network_of_an_address(database: Database, address: str, network: str) -> None:
    assert ask(database, f"SELECT network('{address}')") == [(network,)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd.csv'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_parquet('https://example.com/x.parquet')",
        "SELECT * FROM enable_logging(storage = 'file', storage_path = '{folder}/log')",
        "SELECT getenv('HOME')",
        "SELECT * FROM lines",
    ],
)
def test_other_files_the_network_and_python_are_out_of_reach(
    database: Database, tmp_path: Path, sql: str
) -> None:
    lines = [1]
    assert lines
    with pytest.raises(QueryError):
        ask(database, sql.format(folder=tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{file}'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{file}'",
        "SELECT 1; COPY (SELECT 1) TO '{file}'",
        "ATTACH '{file}'",
        "EXPORT DATABASE '{file}'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "PRAGMA database_list",
        "CREATE TABLE t AS SELECT 1",
        "CREATE OR REPLACE VIEW events AS SELECT 1",
        "DROP VIEW events",
        "CALL pragma_version()",
        "",
    ],
)
def test_anything_but_one_select_is_refused_and_changes_nothing(
    database: Database, lines: Path, sql: str
) -> None:
    before = lines.read_bytes()
    with pytest.raises(QueryError, match="want one SELECT"):
        ask(database, sql.format(file=str(lines).replace("'", "''")))
    assert lines.read_bytes() == before


def test_an_error_of_duckdb_is_shown_as_it_is(database: Database) -> None:
    with pytest.raises(QueryError, match='Referenced column "actr_id"') as raised:
        ask(database, "SELECT actr_id FROM events")
    assert "\nLINE 1: SELECT actr_id" in str(raised.value)


def test_further_files_are_views_by_their_names(lines: Path, tmp_path: Path) -> None:
    offices = tmp_path / "offices.csv"
    offices.write_text("actor,office\nu_3,Oslo\n")
    more = tmp_path / "more.jsonl"
    more.write_text('{"a": 1}\n')
    sources = Sources(lines=[lines], tables={"offices": offices, "more": more})
    (tmp_path / "x").mkdir()
    with open_database(sources, tmp_path / "x") as database:
        sql = "SELECT office FROM events JOIN offices ON actor = actor_id"
        assert ask(database, sql) == [("Oslo",)]
        assert ask(database, "SELECT a FROM more") == [(1,)]


def test_a_file_of_another_kind_is_named(lines: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd.parquet"
    odd.write_bytes(b"PAR1 and nothing else PAR1")
    with pytest.raises(MalformedError), open_database(Sources(parquet=[odd]), tmp_path):
        pass


def test_the_time_zone_is_that_in_which_sql_reads_hours(lines: Path, tmp_path: Path) -> None:
    at = "SELECT hour(TIMESTAMPTZ '2026-06-15 22:30:00Z'), dayname(TIMESTAMPTZ '2026-06-15 22:30Z')"
    with open_database(Sources(lines=[lines]), tmp_path, zone="Europe/Oslo") as database:
        assert ask(database, at) == [(0, "Tuesday")]


VALUES = """SELECT TIMESTAMPTZ '2026-06-15 22:30:00.5Z', TIMESTAMP '2026-06-15 22:30',
 DATE '2026-06-15',
 INTERVAL 90 MINUTE, 1.50::DECIMAL(9, 2), 170141183460469231731687303715884105727::HUGEINT,
 'NaN'::DOUBLE, [TIMESTAMPTZ '2026-06-15 22:30Z'], {'a': 1}, '{"b":1}'::JSON, NULL, true,
 '\\xC3\\xA9'::BLOB,
 '0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50'::UUID"""


def test_values_become_json_and_text_without_loss(database: Database) -> None:
    answer = database.ask(VALUES)
    (row,) = answer.rows
    values = [to_json(value, kind) for value, kind in zip(row, answer.types, strict=True)]
    texts = [to_text(value, kind) for value, kind in zip(row, answer.types, strict=True)]
    assert json.loads(bytes(values.pop(9))) == {"b": 1}
    assert values == [
        "2026-06-15T22:30:00.500000Z", "2026-06-15T22:30:00", "2026-06-15", "1:30:00", "1.50",
        "170141183460469231731687303715884105727", None, ["2026-06-15T22:30:00.000000Z"], {"a": 1},
        None, True, "c3a9", "0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50",
    ]  # fmt: skip
    assert texts[6:12] == [
        "nan",
        '["2026-06-15T22:30:00.000000Z"]',
        '{"a":1}',
        '{"b":1}',
        "",
        "true",
    ]


@pytest.fixture(scope="module")
def lying(lines: Path) -> Path:
    """Parquet with the same rows, which says of each column that the actor u_1 is not in it."""
    path = lines.with_name("lying.parquet")
    write_parquet(lines, path)
    data = path.read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    footer = data[start:-8]
    assert b"u_1" in footer
    path.write_bytes(data[:start] + footer.replace(b"u_1", b"u_0") + data[-8:])
    return path


QUESTIONS = (
    "SELECT count(*) FROM {} WHERE actor_id = 'u_1'",
    "SELECT max(actor_id), min(actor_id) FROM {}",
    "SELECT actor_id FROM {} ORDER BY actor_id DESC LIMIT 1",
    "SELECT count(*) FROM {} JOIN (VALUES ('u_1')) AS wanted(id) ON wanted.id = actor_id",
)


@pytest.mark.parametrize("question", QUESTIONS)
def test_what_parquet_of_others_says_of_its_columns_hides_no_row(
    question: str, database: Database, lying: Path, tmp_path: Path
) -> None:
    expected = ask(database, question.format("events"))
    for view, sources in (
        ("events", Sources(exports=[lying])),
        ("others", Sources(exports=[lying], tables={"others": lying})),
    ):
        folder = tmp_path / view
        folder.mkdir()
        with open_database(sources, folder) as opened:
            assert ask(opened, question.format(view)) == expected
    words = ["sql", question.format("events"), str(lying), "--json"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert tuple(json.loads(done.stdout).values()) == expected[0]


def test_rows_of_an_export_as_parquet_have_the_types_of_json_lines(
    database: Database, lying: Path, tmp_path: Path
) -> None:
    everything = 'SELECT * FROM events ORDER BY "index"'
    from_lines = database.ask(everything)
    with open_database(Sources(exports=[lying]), tmp_path) as opened:
        from_parquet = opened.ask(everything)
        assert (from_lines.columns, from_lines.types) == (COLUMNS, from_parquet.types)
        assert list(from_lines.rows) == list(from_parquet.rows)
