"""`ledger query` and `ledger export`, as people and programs use them."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ledger.demo.child_service import Service, make_ledger
from ledger.store.index.segment import SealedSegment, SegmentRecord
from ledger.store.index.segment_file import encode_segment_file
from ledger_client import Entry, LedgerClient, RejectedError
from ledger_client.cli.query import QueryMistakeError
from ledger_client.cli.render import table
from ledger_core.api import Problem
from ledger_core.event.model import Actor, Event, Principal, Received, Source
from tests.cli.conftest import Command
from tests.served import ORIGIN, ServedLedger

ESCAPE = "\x1b[31m\x07evil"
NAMED = ("who", "on behalf of", "session", "credential")


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A ledger of its own, with events to find."""
    directory = tmp_path_factory.mktemp("query") / "audit"
    token = make_ledger(directory, origin=ORIGIN)
    with Service(directory, listen="127.0.0.1:0", flags=("--log-level", "error")) as service:
        with LedgerClient(service.url, token, policy=directory / "policy") as client:
            client.append_many(
                [
                    {
                        "actor": {"id": f"u_{number % 4}"},
                        "action": "login.failed" if number % 3 else "login.succeeded",
                        "outcome": "failure" if number % 3 else "success",
                        "source": {"ip": f"203.0.113.{number % 10}"},
                        "targets": [{"type": "shop", "id": f"s_{number}"}],
                        "time": f"2026-11-2{number % 5}T10:00:00Z",
                    }
                    for number in range(90)
                ]
            )
            client.append(
                {
                    "actor": {"id": ESCAPE},
                    "action": "terminal.attacked",
                    "outcome": "denied",
                    "targets": [{"id": "=1+1"}],
                }
            )
        yield ServedLedger(service.url, token, directory)


def test_a_query_is_answered_with_a_table_of_verified_events(command: Command) -> None:
    done = command("query", "action:login.failed", "actor:u_1")
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["index", "time", "actor", "action", "outcome", "target", "source"]
    assert all("login.failed" in row and "u_1" in row and "shop:s_" in row for row in rows)
    assert "\x1b[" not in done.stdout
    assert f"{len(rows)} of {len(rows)} events, proven by the head of size" in done.stderr


def test_a_table_shows_some_and_says_how_many_there_are(command: Command) -> None:
    done = command("query", "action:login.*")
    assert len(done.stdout.splitlines()) == 1 + 50
    assert "50 of 90 events" in done.stderr
    few = command("query", "action:login.*", "--limit", "3", "--order", "oldest")
    assert len(few.stdout.splitlines()) == 1 + 3


def test_json_is_a_line_an_event_and_all_of_them(command: Command) -> None:
    done = command("query", "--json", "action:login.*")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 90
    assert all(line["verified"] for line in lines)
    assert {line["event"]["action"] for line in lines} == {"login.failed", "login.succeeded"}


def test_csv_has_all_columns_and_no_formula(command: Command) -> None:
    done = command("query", "--csv", "action:terminal.attacked")
    (row,) = csv.DictReader(io.StringIO(done.stdout, newline=""))
    assert row["target_id"] == "'=1+1"
    both = command("query", "--json", "--csv")
    assert both.returncode == 2


def test_a_terminal_is_not_told_what_to_do_by_an_event(command: Command) -> None:
    done = command("query", "action:terminal.attacked")
    assert "\x1b" not in done.stdout
    assert "\x07" not in done.stdout
    assert "evil" in done.stdout


def test_a_mistake_is_marked_where_it_is(command: Command) -> None:
    done = command("query", "action:login.* outcom:failure")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    mark = next(number for number, line in enumerate(lines) if "^" in line)
    assert lines[mark - 1].strip() == "action:login.* outcom:failure"
    assert lines[mark].index("^") == lines[mark - 1].index("outcom")
    assert "outcome" in done.stderr


def test_no_place_is_marked_in_a_query_with_relative_times(command: Command) -> None:
    done = command("query", "time:9998-01-01..-1h")
    assert done.returncode == 2
    assert "with its relative times resolved" in done.stderr
    assert "ends before it begins" in done.stderr
    refused = RejectedError(Problem(detail="newer", position=3))
    assert "^" in QueryMistakeError("actor:u_1", refused).message
    assert QueryMistakeError("since:-1h", refused).message == "newer"


def test_values_and_days_are_counted(command: Command) -> None:
    done = command("query", "action:login.*", "--count", "action", "--histogram", "day")
    assert done.returncode == 0, done.stderr
    assert "login.failed" in done.stdout
    assert "60" in done.stdout
    assert done.stdout.count("2026-11-2") == 5
    as_json = json.loads(command("query", "--count", "outcome", "--json").stdout)
    assert as_json["total"] > 90
    assert as_json["is_total_exact"]
    assert as_json["is_complete"]


def test_groups_are_counted_with_what_is_different_and_new(command: Command) -> None:
    done = command("query", "action:login.*", "--count", "source/24", "--distinct", "actor")
    assert done.returncode == 0, done.stderr
    assert "203.0.113.0/24         90  4 different" in done.stdout
    asked = ("--count", "actor,action", "--top", "2", "--rarest", "--json")
    said = json.loads(command("query", "action:login.*", *asked).stdout)["counts"][0]
    assert (len(said["values"]), said["others"], said["exact"]) == (2, 6, True)
    new = command("query", "action:login.*", "--count", "target", "--new-since", "2026-11-24")
    assert "90 events" in new.stderr
    assert "and 8 more values" in new.stdout
    hours = command(
        "query", "--histogram", "hour-of-day", "--zone", "Asia/Kolkata", "target.type:shop"
    )
    assert "15         90" in hours.stdout
    assert command("query", "--top", "3").returncode == 2
    for wrong in (("--count", "shoe"), ("--count", "actor", "--distinct", "shoe")):
        refused = command("query", *wrong)
        assert (refused.returncode, "can't be counted" in refused.stderr) == (2, True)
    assert command("query", "--histogram", "hour", "--zone", "Mars").returncode == 2
    assert command("query", "--count", "actor", "--new-since", "soon").returncode == 2


def test_every_value_of_a_field_is_printed(command: Command) -> None:
    done = command("query", "action:login.*", "--count", "target", "--all")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert sorted(lines) == sorted(["1", f"s_{number}"] for number in range(90))
    assert "90 values of 90 events" in done.stderr
    assert "'=1+1,1\n" in command("query", "--count", "target", "--all", "--csv").stdout
    as_json = command("query", "action:login.*", "--count", "actor", "--all", "--json").stdout
    assert json.loads(as_json.splitlines()[1]) == {"value": "u_1", "count": 23}
    as_csv = command(
        "query", "action:login.*", "--count", "target", "--all", "--csv"
    ).stdout.splitlines()
    assert (as_csv[0], len(as_csv)) == ("target,count", 91)
    for wrong in (("--count", "actor,action"), ("--count", "actor", "--top", "3"), ()):
        assert command("query", *wrong, "--all").returncode == 2


def test_a_list_is_read_from_a_file(command: Command, tmp_path: Path) -> None:
    feed = tmp_path / "feed.txt"
    others = "\n".join(f"198.51.{n // 250}.{n % 250}" for n in range(500))
    feed.write_text(f"# bad addresses\n203.0.113.7\n203.0.113.8 # seen before\n\n{others}\n")
    done = command("query", "--json", f"source:@{feed}", "action:login.failed")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line)["event"]["source"]["ip"] for line in done.stdout.splitlines()]
    assert (len(found), set(found)) == (12, {"203.0.113.7", "203.0.113.8"})
    counted = command("query", f"source:@{feed}", "--count", "action")
    assert "login.failed            12" in counted.stdout
    feed.write_text("# nothing\n")
    assert "has no value" in command("query", f"source:@{feed}").stderr
    assert "No such file" in command("query", f"actor:@{tmp_path}/none").stderr


def test_an_answer_says_what_a_saved_query_stood_for(command: Command) -> None:
    assert command("query", "actor:u_1,u_2", "--save", "watched").returncode == 0
    for options in ((), ("--count", "action"), ("--limit", "0")):
        done = command("query", "@watched outcome:success", *options)
        assert "  asked: (actor:u_1 OR actor:u_2) outcome:success\n" in done.stderr
    assert "asked:" not in command("query", "actor:u_1").stderr
    assert command("query", "--delete", "watched").returncode == 0


def test_what_happened_around_an_event_says_why_it_shows(command: Command) -> None:
    index = json.loads(command("query", "--json", "target:s_8").stdout)["index"]
    done = command("around", str(index), "--minutes", "10")
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split()[-1] == "because"
    # Of the same minute, and by the same actor or from the same address, or both.
    near = [n for n in range(90) if n % 5 == 8 % 5]
    shared = {
        "actor": [n for n in near if n % 4 == 8 % 4],
        "source": [n for n in near if n % 10 == 8],
        "target": [8],
    }
    because = {
        f"shop:s_{n}": ", ".join(what for what, those in shared.items() if n in those) for n in near
    }
    wanted = {target: why for target, why in because.items() if why}
    assert {row.split()[5]: row[head.index("because") :] for row in rows} == wanted
    assert re.search(
        rf"^{len(rows)} events within 10 minutes of it, proven by the head of size [0-9,]+$",
        done.stderr,
        re.MULTILINE,
    )
    lines = [
        json.loads(line) for line in command("around", str(index), "--json").stdout.split("\n")[:-1]
    ]
    assert [line["event"]["id"] for line in lines if "target" in line["because"]] == [
        json.loads(command("show", str(index), "--json").stdout)["event"]["id"]
    ]
    assert command("around", "999999").returncode == 6
    assert command("around", "nothing").returncode == 2
    assert command("around", str(index), "--minutes", "0").returncode == 2


def test_a_timeline_has_what_was_done_by_somebody_and_to_them(
    command: Command, ledger: ServedLedger
) -> None:
    with LedgerClient(ledger.url, ledger.token, policy=ledger.policy) as client:
        victim = {"targets": [{"type": "user", "id": "u_3"}]}
        client.append({"actor": {"id": "u_9"}, "action": "x", "outcome": "success", **victim})
    rows = command("timeline", "u_3").stdout.splitlines()[1:]
    assert rows[0].split()[-1] == "target"
    assert all(row.split()[-1] == "actor" for row in rows[1:])
    assert len(rows) == 1 + len([n for n in range(90) if n % 4 == 3])
    limited = command("timeline", "u_3", "--limit", "2", "--csv")
    assert len(limited.stdout.splitlines()) == 1 + 2
    assert "2 events; there may be more: that is the --limit, proven by the head" in limited.stderr
    nothing = command("timeline", "u_nobody").stderr
    assert re.match(r"0 events, as of size [0-9,]+; the head has size [0-9,]+\n", nothing)


@pytest.fixture(scope="module")
def acted_for(ledger: ServedLedger) -> dict[str, object]:
    """An event that an agent did for a person, by a token; and its actor."""
    actor = {
        "type": "agent",
        "id": "helper-7",
        "session": "s_20261125_1",
        "credential": "tok_17",
        "on_behalf_of": {"type": "user", "id": "u_88"},
    }
    event = {"action": "page.read", "outcome": "success", "source": {"ip": "192.0.2.88"}}
    with LedgerClient(ledger.url, ledger.token, policy=ledger.policy) as client:
        receipt = client.append({**event, "actor": actor})
    return {"index": receipt.index, "actor": actor}


@pytest.mark.parametrize(
    "arguments",
    [
        ("query", "action:page.read"),
        ("timeline", "u_88"),
        ("timeline", "helper-7"),
        ("around", "INDEX"),
        ("seen", "192.0.2.88"),
    ],
)
def test_a_table_tells_for_whom_and_by_which_session_and_credential_it_was_done(
    command: Command, acted_for: dict[str, object], arguments: tuple[str, ...]
) -> None:
    done = command(*(each.replace("INDEX", str(acted_for["index"])) for each in arguments))
    head, row, *_ = done.stdout.splitlines()
    cells = dict(zip(head.split()[2:6], row.split()[2:6], strict=True))
    assert cells == {
        "actor": "helper-7",
        "on_behalf_of": "u_88",
        "session": "s_20261125_1",
        "credential": "tok_17",
    }


def test_further_columns_are_shown_where_they_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    event = Event(
        action="a.b",
        outcome="success",
        actor=Actor(id="jo"),
        reason="legal-hold",
        source=Source(user_agent="curl/8"),
        context={"shift": "night", "deep": {"er": [1]}, "with.dot": True},
    )
    names = ["reason", "user_agent", "tenant", "context.shift", "context.deep.er"]
    names += ["context.with.dot", "context.none", "action"]
    entry = Entry(
        index=1, event=event, received=Received(by="b", time=""), leaf=b"", head=None, proof=None
    )
    table(columns=names).show([entry], 0)
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == names
    assert row.split() == ["legal-hold", "curl/8", "night", "[1]", "true", "a.b"]


def test_a_column_that_a_later_event_needs_comes_with_another_heading(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def entry(**actor: Any) -> Entry:
        event = Event(action="a.b", outcome="success", actor=Actor(id="jo", **actor))
        received = Received(by="b", time="")
        return Entry(index=1, event=event, received=received, leaf=b"", head=None, proof=None)

    shown = table()
    shown.show_heading()
    for each in (entry(), entry(on_behalf_of=Principal(id="kim")), entry()):
        shown.show([each], 1)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[2:4] for line in lines] == [
        ["actor", "action"],
        ["jo", "a.b"],
        ["actor", "on_behalf_of"],
        ["jo", "kim"],
        ["jo", "a.b"],
    ]


def test_an_event_and_its_proof_tell_for_whom_and_by_which_session_and_credential(
    command: Command, acted_for: dict[str, object], tmp_path: Path
) -> None:
    index = str(acted_for["index"])
    assert command("prove", index, "-o", "read").returncode == 0
    for arguments in (("show", index), ("verify", "read.leaf.json", "read.tlog-proof")):
        lines = [line.strip() for line in command(*arguments).stdout.splitlines()]
        assert [line for line in lines if line.split("  ")[0] in NAMED] == [
            "who  agent helper-7",
            "on behalf of  user u_88",
            "session  s_20261125_1",
            "credential  tok_17",
        ]
        told = json.loads(command(*arguments, "--json").stdout)
        assert told["event"]["actor"] == acted_for["actor"]


def test_an_address_was_seen_first_and_last(command: Command) -> None:
    done = command("seen", "203.0.113.0/29")
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if "203.0.113." in line]) == 2
    assert "72 events from 203.0.113.0/29" in done.stderr
    said = json.loads(command("seen", "203.0.113.7", "--json").stdout)
    assert (said["total"], said["actions"]) == (9, {"login.failed": 6, "login.succeeded": 3})
    first = said["first"]
    assert f"first  happened {first['event']['time']}  received {first['received']['time']}" in (
        command("seen", "203.0.113.7").stdout
    )
    # By the time at which they happened: the event received last is of the day before.
    first, last = (
        json.loads(command("seen", "203.0.113.0/29", "--json").stdout)[end]
        for end in ("first", "last")
    )
    assert (first["event"]["time"][:10], last["event"]["time"][:10]) == ("2026-11-20", "2026-11-24")
    assert last["index"] - first["index"] == 84  # 87 was received later.
    assert "0 events from 192.0.2.1, as of size" in command("seen", "192.0.2.1").stderr
    assert command("seen", "somewhere").returncode == 2


def test_an_export_is_verified_whatever_its_events_say(
    command: Command, ledger: ServedLedger
) -> None:
    event = {"actor": {"id": "u_zip"}, "action": "page.read", "outcome": "success"}
    with LedgerClient(ledger.url, ledger.token, policy=ledger.policy) as client:
        size = client.append({**event, "reason": f"PK\x05\x06{'a' * 40}"}).index + 1
    exported = command("export", "actor:u_zip", "--format", "csv", "-o", "zip.csv")
    assert f"searched, as the ledger says: the first {size:,} entries" in exported.stderr
    done = command("verify", "zip.csv")
    assert done.returncode == 0, done.stderr
    assert f"searched  the first {size:,} entries of the log" in done.stdout
    assert json.loads(command("verify", "zip.csv", "--json").stdout)["claimed"]["tree_size"] == size


def test_a_query_is_explained_instead_of_answered(command: Command) -> None:
    done = command("query", "--explain", "actor:u_1", "outcome:failure")
    assert done.returncode == 0
    assert "u_1" in done.stdout


def test_following_says_what_it_waits_for_and_keeps_its_columns(
    ledger: ServedLedger, tmp_path: Path
) -> None:
    environ = {**os.environ, **ledger.variables}
    process = subprocess.Popen(
        [sys.executable, "-m", "ledger", "query", "--follow", "action:seen.wide"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    # Both are there before any event is.
    told = process.stderr.readline()
    assert told.startswith("waiting for new events of action:seen.wide, each once a published head")
    assert process.stdout.readline().split() == [
        *("index", "time", "actor", "action", "outcome", "target", "source"),
    ]
    lines: list[str] = []

    def read() -> None:
        lines.extend(iter(process.stdout.readline, ""))  # type: ignore[union-attr] # it is a pipe

    reading = threading.Thread(target=read)
    reading.start()
    event = {"action": "seen.wide", "outcome": "success", "source": {"ip": "192.0.2.9"}}
    actors = ("x", "a-user-whose-name-is-wider", "y")
    deadline_s = time.monotonic() + 60
    with LedgerClient(ledger.url, ledger.token, policy=ledger.policy) as client:
        for number, actor in enumerate(actors):
            # The first may come before it listens, so it is sent until one was seen.
            while len(lines) <= number and time.monotonic() < deadline_s:
                client.append({**event, "actor": {"id": actor}})
                seen_s = time.monotonic() + 2
                while len(lines) <= number and time.monotonic() < seen_s:
                    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=120)
    reading.join()
    process.stdout.close()
    process.stderr.close()
    places = {line.split()[2]: line.index("seen.wide") for line in lines}
    assert {*places} == {*actors}
    # A column grows for a wider cell, and keeps its width then.
    assert places["x"] < places["a-user-whose-name-is-wider"] == places["y"]


def test_what_comes_in_is_followed_until_it_is_interrupted(
    ledger: ServedLedger, tmp_path: Path
) -> None:
    environ = {
        **os.environ,
        **ledger.variables,
        "PYTHONUNBUFFERED": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "ledger", "query", "--follow", "--json", "action:seen.live"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
        cwd=tmp_path,
    )
    output = process.stdout
    assert output is not None
    lines: list[str] = []
    reading = threading.Thread(target=lambda: lines.append(output.readline()))
    reading.start()
    deadline_s = time.monotonic() + 30
    with LedgerClient(ledger.url, ledger.token, policy=ledger.policy) as client:
        # It may not be listening yet when the first ones come.
        while not lines and time.monotonic() < deadline_s:
            client.append({"actor": {"id": "u_1"}, "action": "seen.live", "outcome": "success"})
            time.sleep(0.1)
    assert json.loads(lines[0])["event"]["action"] == "seen.live"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    reading.join()
    assert process.returncode == 130


def test_an_export_is_a_whole_file(command: Command, tmp_path: Path) -> None:
    done = command("export", "action:login.*", "--format", "csv", "-o", "logins.csv", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["exported"]["rows"] == 90
    assert (tmp_path / "logins.csv").stat().st_size == said["exported"]["bytes_written"]
    assert said["head"]["tree_size"] >= said["exported"]["tree_size"]
    verified = command("verify", "logins.csv")
    assert verified.returncode == 0, verified.stderr
    assert "90 events, each in the log, each meeting the query" in verified.stdout
    altered = (tmp_path / "logins.csv").read_bytes().replace(b",login.", b",logon.", 1)
    (tmp_path / "logins.csv").write_bytes(altered)
    altered_file = command("verify", "logins.csv")
    assert altered_file.returncode == 1
    assert "not verified: row 1 (entry " in altered_file.stderr
    alone = command("export", "action:login.*", "--unverified", "-o", "alone.jsonl")
    assert "no row is proven" in alone.stderr
    assert command("verify", "alone.jsonl").returncode == 2
    mistaken = command("export", "actoin:x")
    assert mistaken.returncode == 2
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "alone.jsonl",
        "logins.csv",
        "logins.csv.proof",
    ]


def test_evidence_is_verified_offline_and_what_was_changed_is_named(
    command: Command, tmp_path: Path
) -> None:
    exported = command("export", "actor:u_2", "--format", "evidence", "--case", "INC-7")
    assert exported.returncode == 0, exported.stderr
    assert "events.zip: 22 events, verified; " in exported.stderr
    assert "of the log records this export" in exported.stderr
    again = command("export", "actor:u_2", "--format", "evidence")
    assert again.returncode == 2
    assert "events.zip exists: use --force" in again.stderr
    assert command("export", "actor:u_2", "--case", "INC-7").returncode == 2
    offline = {"LEDGER_URL": "http://127.0.0.1:1", "LEDGER_TOKEN": ""}
    verified = command("verify", "events.zip", **offline)
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout.startswith("verified")
    proven, _, said_only = verified.stdout.partition("as the file says")
    assert "each event meets actor:u_2" in proven
    assert "case INC-7" in proven
    assert "no proof would show one that was left out" in said_only
    said = json.loads(command("verify", "events.zip", "--json", **offline).stdout)
    assert (said["verified"], said["events"], said["faults"]) == (True, 22, [])
    with zipfile.ZipFile(tmp_path / "events.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    leaf = "events/000000.jsonl"
    files[leaf] = files[leaf].replace(b"u_2", b"u_3")
    with zipfile.ZipFile(tmp_path / "altered.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    altered = command("verify", "altered.zip", **offline)
    assert altered.returncode == 1
    assert f"not verified: {leaf}" in altered.stderr
    none = command("export", "actor:nobody", "--format", "evidence", "--force")
    assert none.returncode == 0
    assert "this proves nothing" in none.stderr
    assert "proves nothing" in command("verify", "events.zip", **offline).stderr
    more = ("export", "actor:u_2", "--format", "evidence", "--force", "--json")
    assert json.loads(command(*more).stdout)["events"] == 22
    other = command("init", "other", "--origin", ORIGIN)
    assert other.returncode == 0
    stranger = command("verify", "events.zip", "--policy", "other/policy", **offline)
    assert stranger.returncode == 1
    (tmp_path / "cut.zip").write_bytes((tmp_path / "events.zip").read_bytes()[:-30])
    assert command("verify", "cut.zip", **offline).returncode == 2


def test_an_index_is_checked_and_made_anew(
    command: Command, ledger: ServedLedger, tmp_path: Path
) -> None:
    checked = command("fsck", ledger.directory)
    assert checked.returncode == 0, checked.stderr
    assert "the index agrees" in checked.stdout
    copy = tmp_path / "copy"
    shutil.copytree(ledger.directory, copy, ignore=shutil.ignore_patterns("*.lock", "index"))
    assert command("reindex", copy).returncode == 0
    again = json.loads(command("fsck", copy, "--json").stdout)
    assert again["index_segments"] == 0
    shutil.rmtree(copy / "index")
    assert json.loads(command("fsck", copy, "--json").stdout)["index_segments"] is None
    # As another Python, which folds words by other Unicode tables, would have built it.
    (copy / "index").mkdir()
    facts = dict.fromkeys(("earliest", "latest", "first_received", "last_received", "root"), "")
    sealed = SealedSegment(SegmentRecord(**facts, terms=0, block_bytes=0), {}, [], [])
    data = encode_segment_file(0, sealed, analysis="3 unicode 3.2.0", entries=65_536)
    (copy / "index" / "00000000.segment").write_bytes(data)
    other = command("fsck", copy, "--json")
    assert other.returncode == 0, other.stderr
    assert json.loads(other.stdout)["index_segments"] is None
    assert "the rules '3 unicode 3.2.0, 65536 entries' built the index" in other.stderr
    assert "it was not checked" in other.stderr


def test_a_query_without_an_event_says_why(command: Command) -> None:
    done = command("query", "actor:U_1 since:2026-11-01")
    assert done.returncode == 0
    assert done.stdout == ""
    assert "no event found, as of size" in done.stderr
    assert "try: actor:u_1" in done.stderr
    counted = json.loads(command("query", "actor:U_1", "--count", "action", "--json").stdout)
    assert counted["hints"][1]["nearest"] == "actor:u_1"
    for words in (("timeline", "U_1"), ("seen", "198.51.100.1")):
        said = command(*words).stderr
        assert "no event meets" in said
        assert "entries of the log were searched" in said


def test_a_form_of_another_language_is_marked_and_exits_with_2(command: Command) -> None:
    done = command("query", "actor = u_1")
    assert done.returncode == 2
    assert "expected: actor:u_1" in done.stderr
    assert "        ^" in done.stderr


def completions(ledger: ServedLedger, *words: str) -> list[str]:
    """What bash is offered for the last of the words of a command line."""
    environment = {
        "_LEDGER_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(("ledger", "query", *words)),
        "COMP_CWORD": str(len(words) + 1),
        **ledger.variables,
    }
    done = subprocess.run(
        [sys.executable, "-c", "from ledger_client.cli.app import main; main()"],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert not done.stderr
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_the_shell_completes_fields_and_values_that_the_ledger_has(ledger: ServedLedger) -> None:
    assert completions(ledger, "outc") == ["outcome:"]
    assert completions(ledger, "action:login.s") == ["action:login.succeeded"]
    # bash splits a word at its colon.
    assert sorted(completions(ledger, "outcome", ":")) == ["denied", "failure", "success"]
    assert completions(ledger, "actor", ":", "u_3") == ["u_3"]
    assert "session" in completions(ledger, "has", ":", "s")
    nowhere = ServedLedger("http://127.0.0.1:1", ledger.token, ledger.directory)
    assert completions(nowhere, "outc") == ["outcome:"]
    assert completions(nowhere, "outcome:f") == []


def test_the_shell_gets_no_command_from_an_event(command: Command, ledger: ServedLedger) -> None:
    hostile = "reg_1;reboot$IFS-f"
    event = {"action": "page.read", "outcome": "success", "actor": {"id": "u_shell"}}
    with LedgerClient(ledger.url, ledger.token, policy=ledger.policy) as client:
        client.append({**event, "context": {hostile: 1, "reg_2": hostile}})
        client.append({**event, "context": {"reg_2": "reg_1/ok"}})
        client.append({**event, "actor": {"id": "pay;reboot"}})
    assert completions(ledger, "context.reg_") == ["context.reg_2:"]
    assert completions(ledger, "has", ":", "context.reg_") == ["context.reg_2"]
    assert completions(ledger, "context.reg_2", ":", "reg_") == ["reg_1/ok"]
    assert "    try: 'actor:pay;reboot'\n" in command("query", "actor:PAY;reboot").stderr


def test_fields_lists_what_can_be_asked_for(command: Command) -> None:
    done = command("fields")
    assert done.returncode == 0
    assert "login.failed (60), login.succeeded (30)" in done.stdout
    assert "events, as the ledger says" in done.stderr
    # The service has logged events of its own.
    assert json.loads(command("fields", "--json").stdout)["counted"] > 91
