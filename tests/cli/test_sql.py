"""`ledger sql` asks a folder, exports or the ledger itself, and proves what it shows."""

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import duckdb
import pytest

from ledger.demo.child_service import Service, make_ledger
from ledger_client import LedgerClient
from ledger_client.cli.app import run
from tests.cli.conftest import Output, run_here
from tests.served import ORIGIN, ServedLedger
from tests.waiting import until

FLAGS = ("--log-level", "error", "--parquet")
ODD = "\x1b[31m\u202eevil"


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedLedger]:
    """A ledger with ten events: index 0 made the token, 1 to 9 are of u_1 to u_9."""
    directory = tmp_path_factory.mktemp("sql") / "audit"
    token = make_ledger(directory, origin=ORIGIN)
    with Service(directory, listen="127.0.0.1:0", flags=FLAGS) as service:
        with LedgerClient(service.url, token, policy=directory / "policy") as client:
            client.append_many(
                [
                    {
                        "action": "record.viewed",
                        "actor": {"id": f"u_{n}"},
                        "outcome": "success",
                        "time": f"2026-06-15T10:0{n}:00Z",
                        "reason": ODD if n == 9 else f"case {n}",
                        "context": {"n": n},
                    }
                    for n in range(1, 10)
                ]
            )
            client.export("", directory / "events.jsonl")
            client.export("", directory / "events.parquet", format="parquet")
            client.export("", directory / "events.csv", format="csv")
            client.evidence(
                "actor:u_*", directory / "events.zip", case="IR-1", reason="a test of SQL"
            )
        yield ServedLedger(service.url, token, directory)


@pytest.fixture
def connected(ledger: ServedLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_URL", ledger.url)
    monkeypatch.setenv("LEDGER_TOKEN", ledger.token)
    monkeypatch.setenv("LEDGER_POLICY", str(ledger.policy))


def sql(*arguments: str | Path) -> Output:
    return run_here("sql", *arguments)


pytestmark = pytest.mark.usefixtures("connected")
COUNT = "SELECT count(*) AS n FROM events WHERE action = 'record.viewed'"


def sources(ledger: ServedLedger, name: str) -> list[Path]:
    return [] if name == "the ledger" else [ledger.directory / name]


@pytest.mark.parametrize(
    "name", ["the ledger", "", "events.jsonl", "events.parquet", "events.csv", "events.zip"]
)
def test_every_source_gives_the_same_answer(ledger: ServedLedger, name: str) -> None:
    done = sql(COUNT, *sources(ledger, name), "--json")
    assert (done.code, json.loads(done.out)) == (0, {"n": 9})
    question = 'SELECT "index", actor_id, context ->> \'$.n\' AS n FROM events WHERE "index" = 3'
    proven = sql(question, *sources(ledger, name), "--json", "--verify")
    assert proven.code == 0, proven.err
    assert json.loads(proven.out) == {"index": 3, "actor_id": "u_3", "n": "3"}
    assert "verified: 1 event" in proven.err


def test_a_copy_that_was_altered_is_not_asked(ledger: ServedLedger, tmp_path: Path) -> None:
    altered = tmp_path / "events.csv"
    data = (ledger.directory / "events.csv").read_bytes()
    altered.write_bytes(data.replace(b"u_3", b"u_4"))
    done = sql(COUNT, altered)
    assert (done.code, "row 4" in done.err) == (1, True)
    altered.write_bytes(data[:-20])
    assert "cut short" in sql(COUNT, altered).err
    bundle = tmp_path / "events.zip"
    shutil.copy(ledger.directory / "events.zip", bundle)
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr("more.txt", "nothing")
    done = sql(COUNT, bundle)
    assert (done.code, "does not belong here" in done.err) == (1, True)


def test_what_is_no_source_is_refused_with_what_is(tmp_path: Path) -> None:
    other = tmp_path / "list.csv"
    other.write_text("ip,seen\n203.0.113.7,2\n")
    done = sql(COUNT, other)
    assert (done.code, "CSV, Parquet, evidence" in done.err) == (2, True)
    done = sql(COUNT, "s3://bucket/log")
    assert (done.code, "is an address" in done.err) == (2, True)


def test_the_open_segment_of_a_folder_is_asked_as_it_grows(ledger: ServedLedger) -> None:
    added = "SELECT count(*) AS n FROM events WHERE action = 'record.added'"
    assert json.loads(sql(added, ledger.directory, "--json").out) == {"n": 0}
    with LedgerClient(ledger.url, ledger.token, policy=ledger.policy) as client:
        client.append({"action": "record.added", "actor": {"id": "u_1"}, "outcome": "success"})
    assert json.loads(sql(added, ledger.directory, "--json").out) == {"n": 1}


def test_where_limits_what_is_fetched(ledger: ServedLedger) -> None:
    done = sql("SELECT actor_id FROM events", "--where", "actor:u_4", "--csv")
    assert done.out == "actor_id\r\nu_4\r\n"
    assert "each proven to be in its tree" in done.err
    assert sql(COUNT, ledger.directory, "--where", "actor:u_4").code == 2
    assert "did you mean" in sql(COUNT, "--where", "acter:u_4").err


def test_a_table_for_people_has_no_character_that_a_terminal_obeys(ledger: ServedLedger) -> None:
    done = sql("SELECT reason, 12 AS n FROM events WHERE actor_id = 'u_9'", ledger.directory)
    assert "evil" in done.out
    assert all(char.isprintable() or char == "\n" for char in done.out)
    exact = sql("SELECT reason FROM events WHERE actor_id = 'u_9'", ledger.directory, "--csv")
    assert ODD in exact.out


def test_no_cell_of_csv_is_a_formula_of_a_spreadsheet(ledger: ServedLedger) -> None:
    cells = """'=1+1' AS "=x", ['a;=2'] AS many, -5 AS n, -1.5::DECIMAL(4, 1) AS d, 'a;=1' AS t"""
    done = sql(f"SELECT {cells} FROM events LIMIT 1", ledger.directory, "--csv")
    assert done.out == '\'=x,many,n,d,t\r\n\'=1+1,"[""a;\\u003d2""]",-5,-1.5,a;\'=1\r\n'


def test_times_are_utc_or_in_the_zone(ledger: ServedLedger) -> None:
    at = "SELECT time, hour(time) AS h FROM events WHERE actor_id = 'u_1' AND context IS NOT NULL"
    utc = json.loads(sql(at, ledger.directory, "--json").out)
    assert utc == {"time": "2026-06-15T10:01:00.000000Z", "h": 10}
    oslo = json.loads(sql(at, ledger.directory, "--json", "--zone", "Europe/Oslo").out)
    assert oslo == {"time": "2026-06-15T12:01:00+02:00", "h": 12}
    assert sql(at, ledger.directory, "--zone", "Mars").code == 2


def test_a_limit_says_that_there_is_more(ledger: ServedLedger) -> None:
    done = sql("SELECT 1 FROM events", ledger.directory, "--limit", "2", "--csv")
    assert done.out.count("\r\n") == 3
    assert "2 rows, and more: --limit shows them" in done.err


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("SELEC 1", "Parser Error"),
        ("SELECT * FROM read_text('/etc/hostname')", "Permission Error"),
        ("COPY (SELECT 1) TO 'x.csv'", "want one SELECT"),
    ],
)
def test_refused_sql_is_explained(ledger: ServedLedger, query: str, named: str) -> None:
    done = sql(query, ledger.directory)
    assert (done.code, named in done.err) == (2, True)


def test_events_are_not_counted_twice(ledger: ServedLedger) -> None:
    done = sql(COUNT, ledger.directory / "events.jsonl", ledger.directory / "events.parquet")
    assert done.code == 2
    assert "10 events would be counted twice" in done.err


def test_verify_needs_an_index_and_a_policy(
    ledger: ServedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "needs the column" in sql(COUNT, ledger.directory, "--verify").err
    bad = sql("SELECT 'x' AS index", ledger.directory, "--verify")
    assert (bad.code, "indices of events" in bad.err) == (2, True)
    beyond = sql('SELECT 999 AS "index"', ledger.directory, "--verify")
    assert (beyond.code, "not covered yet" in beyond.err) == (1, True)
    monkeypatch.delenv("LEDGER_POLICY")
    missing = sql('SELECT 1 AS "index"', ledger.directory, "--verify")
    assert (missing.code, "--policy" in missing.err) == (2, True)


@pytest.mark.parametrize("has_proofs", [True, False])
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_an_altered_event_is_refused(
    ledger: ServedLedger, tmp_path: Path, ending: str, *, has_proofs: bool
) -> None:
    name = f"events.{ending}"
    altered, original = tmp_path / name, ledger.directory / name
    if ending == "jsonl":
        altered.write_bytes(original.read_bytes().replace(b'"u_3"', b'"u_x"'))
    else:
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute(
                "COPY (SELECT * REPLACE (replace(actor_id, 'u_3', 'u_x') AS actor_id)"
                f" FROM '{original}') TO '{altered}'"
            )
    if has_proofs:
        proofs = original.with_name(f"{name}.proof").read_bytes()
        altered.with_name(f"{name}.proof").write_bytes(proofs)
    done = sql("SELECT \"index\" FROM events WHERE actor_id = 'u_x'", altered, "--verify")
    assert done.code == 1
    assert "not verified" in done.err
    assert done.out == ""


@pytest.mark.parametrize("text", ["index,id\n", '{"actor":{"id":"u_1"},"action":"x"}\n', "{\n"])
def test_a_file_that_is_no_export_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(text)
    done = sql("SELECT 1", file)
    assert (done.code, "is no export: want a folder" in done.err) == (2, True)
    (tmp_path / "empty").mkdir()
    assert "there is no ledger in" in sql("SELECT 1", tmp_path / "empty").err


def test_a_table_is_joined_by_its_name(ledger: ServedLedger, tmp_path: Path) -> None:
    offices = tmp_path / "offices.csv"
    offices.write_text("actor,office\nu_3,Oslo\n")
    question = "SELECT office FROM events JOIN offices ON actor = actor_id"
    done = sql(question, ledger.directory, "--table", f"offices={offices}", "--csv")
    assert done.out == "office\r\nOslo\r\n"
    for wrong in ("offices", "events=x", f"a b={offices}", "x=/nowhere"):
        assert sql(question, ledger.directory, "--table", wrong).code == 2


def test_segments_are_made_on_demand_or_by_the_service(
    ledger: ServedLedger, tmp_path: Path
) -> None:
    until((ledger.directory / "parquet" / "lock").exists)
    copy = tmp_path / "copy"
    shutil.copytree(ledger.directory / "log", copy / "log")
    for folder, code in ((ledger.directory, 4), (copy, 0)):
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(out):
            assert run(["parquet", str(folder), "--json"]) == code
        assert ("is being written by process" in out.getvalue()) == (code == 4)
    made = json.loads(out.getvalue())
    assert (made["made"], made["files"], made["missing"]) == (0, 0, [])


def playbook(*arguments: str | Path) -> Output:
    return run_here("playbook", *arguments)


def test_a_recipe_by_sql_asks_the_ledger_or_a_folder_and_shows_its_sql(
    ledger: ServedLedger,
) -> None:
    fetched = playbook("off-hours", "UTC", "--since", "2026-06-01", "--json")
    assert (fetched.code, fetched.out) == (0, "")
    assert "--where '(actor.type:user) since:2026-06-01'" in fetched.err
    asked = playbook("dwell", "192.0.2.1", "--from", ledger.directory, "--json")
    assert json.loads(asked.out)["events"] == 0
    assert "WHERE source_ip = '192.0.2.1'\n" in asked.err
    shown = playbook("travel", "--show", "--from", ledger.directory)
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith(f"ledger sql - {ledger.directory} <<'SQL'\n")
    assert playbook("spray", "--show").out.startswith("ledger query ")


def test_a_recipe_by_query_says_how_many_events_it_found(ledger: ServedLedger) -> None:
    assert "no event found" in playbook("spray").err
    late = playbook("late", "--json")
    assert (len(late.out.splitlines()), "9 of 9 events" in late.err) == (9, True)


@pytest.mark.parametrize(
    "wrong",
    [
        ("travle",),
        ("travel", "v_07"),
        ("dwell",),
        ("large-exports", "ten"),
        ("travel", "--since", "soon"),
        ("spray", "--from", "."),
    ],
)
def test_a_wrong_recipe_is_explained(wrong: tuple[str, ...]) -> None:
    assert playbook(*wrong).code == 2


def test_the_recipes_are_listed() -> None:
    listed = json.loads(playbook("--json").out)
    assert {"name": "blast-radius", "takes": "credential"}.items() <= {
        key: value
        for each in listed
        if each["name"] == "blast-radius"
        for key, value in each.items()
    }.items()
    assert "by SQL" in playbook().out
