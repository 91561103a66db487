"""`ledger import`: other people's events in, each verified; bad lines set aside with reasons."""

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ledger_client import LedgerClient
from ledger_client.cli import rejected_file
from ledger_client.cli.import_ import BATCH_BYTES, _batches, _note_of, import_file
from ledger_client.cli.rejected_file import RejectedFile
from ledger_client.collect.importers import Record, load_format
from ledger_core.event.canonical import parse_leaf
from ledger_core.event.secrets import mask
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.policy import parse_policy
from ledger_core.tlog.proof import check_proof
from tests.cli.conftest import Command
from tests.served import ServedLedger

DOCS = Path(__file__).parents[2] / "docs" / "importers.md"
GOOD = {
    "time": "2026-11-25T02:03:36Z",
    "actor": {"id": "u_1"},
    "action": "user.login",
    "outcome": "success",
}


@pytest.mark.shared
def test_439_real_cloudtrail_events_are_imported_once_and_each_verifies_from_its_own_proof(
    command: Command, ledger: ServedLedger, shared_dir: Path, tmp_path: Path
) -> None:
    source = shared_dir / "samples" / "aws_cloudtrail.jsonl"
    file = tmp_path / "trail.jsonl"
    file.write_bytes(source.read_bytes())
    lines = file.read_bytes().splitlines()
    assert len(lines) == 439
    importing = ("import", "--format", "cloudtrail", "--undated", "keep", file, "--json")
    first = json.loads(command(*importing).stdout)[0]
    assert (first["appended"], first["duplicates"], first["rejected"]) == (439, 0, 0)
    again = json.loads(command(*importing).stdout)[0]
    assert (again["appended"], again["duplicates"], again["rejected"]) == (0, 439, 0)

    policy = parse_policy(ledger.policy.read_bytes())
    originals = []
    with LedgerClient(ledger.url, ledger.token, policy=policy) as client:
        for index in range(client.append(GOOD).index):
            entry = client.event(index)
            assert entry.proof is not None
            check_proof(entry.proof, leaf_hash=leaf_hash(entry.leaf), policy=policy)
            context = parse_leaf(entry.leaf).event.context or {}
            if "original" in context:
                originals.append(context["original"])
            elif "original_text" in context:
                originals.append(json.loads(context["original_text"]))
    assert originals == [mask({"context": json.loads(line)})["context"] for line in lines]


def test_bad_lines_are_set_aside_with_their_reasons_and_the_rest_goes_in(
    command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "events.jsonl"
    bad = [b"not json", json.dumps({**GOOD, "outcome": "good"}).encode(), b'{"a":1,"a":2}']
    file.write_bytes(b"\n".join([json.dumps(GOOD).encode(), *bad, b""]))
    done = command("import", "--format", "jsonl", file)
    assert done.returncode == 3
    assert "1 appended and verified, 0 were there already, 3 rejected" in done.stdout
    rejected = [
        json.loads(line)
        for line in (tmp_path / "events.jsonl.rejected.jsonl").read_bytes().splitlines()
    ]
    assert [line["line"] for line in rejected] == [2, 3, 4]
    assert [line["record"].encode() for line in rejected] == bad
    assert all(line["reason"] for line in rejected)
    assert rejected[1]["field"] == "outcome"
    # Mended, the file goes in whole, and the old list of rejected lines is gone.
    file.write_bytes(json.dumps(GOOD).encode() + b"\n")
    assert command("import", "--format", "jsonl", file).returncode == 0
    assert not (tmp_path / "events.jsonl.rejected.jsonl").exists()


def test_an_event_without_a_time_gets_that_of_the_import_which_is_noted_and_goes_in_once(
    command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "events.jsonl"
    timeless = {**GOOD, "reason": "no time"}
    del timeless["time"]
    file.write_bytes(json.dumps(timeless).encode())
    first = json.loads(command("import", "--format", "jsonl", file, "--json").stdout)[0]
    assert (first["appended"], first["rejected"]) == (1, 0)
    assert first["notes"] == {
        "time: it has none, the time at which the file was last changed is used": 1
    }
    again = json.loads(command("import", "--format", "jsonl", file, "--json").stdout)[0]
    assert (again["appended"], again["duplicates"], again["rejected"]) == (0, 1, 0)


def test_an_import_ends_with_a_table_of_notes_and_refuses_records_without_a_time(
    command: Command, tmp_path: Path
) -> None:
    records = [{"eventType": "user.session.start", "uuid": str(n)} for n in range(2)]
    dated = {"eventType": "user.session.end", "published": "2026-11-24T10:00:00Z", "uuid": "3"}
    (tmp_path / "o.json").write_text(json.dumps([*records, dated]))
    done = command("import", "--format", "okta", "o.json")
    assert done.returncode == 3
    assert "1 appended and verified" in done.stdout
    assert "2  refused, time: the record has none that can be read" in done.stderr
    assert "1  actor: the record names none" in done.stderr
    for options in (("--dry-run",), ()):
        kept = command("import", "--format", "okta", "--undated", "keep", *options, "o.json")
        assert kept.returncode == 0
        assert "2  time: the record has none that can be read, 1970-01-01 stands" in kept.stderr


@pytest.mark.parametrize(
    ("note", "counted"),
    [
        ("reason: cut, it has 5000 characters", "reason: cut, it has N characters"),
        ("targets[12].id: replaced by its hash", "targets[N].id: replaced by its hash"),
        ("targets: the first 32 of 480", "targets: the first 32 of N"),
        ("time: a leap second, second 59 stands for it", None),
    ],
)
def test_notes_that_differ_by_a_count_or_a_place_are_counted_together(
    note: str, counted: str | None
) -> None:
    assert _note_of(note) == (counted or note)


def test_the_earlier_stages_of_a_request_are_counted_and_make_no_event(
    command: Command, tmp_path: Path
) -> None:
    def record(stage: str, audit_id: str) -> str:
        return json.dumps(
            {
                "kind": "Event",
                "stage": stage,
                "auditID": audit_id,
                "verb": "get",
                "user": {"username": "jo"},
                "requestReceivedTimestamp": "2026-11-25T02:03:36.000000Z",
            }
        )

    (tmp_path / "1.log").write_text(
        "\n".join(
            [
                record("RequestReceived", "a"),
                record("ResponseComplete", "a"),
                record("RequestReceived", "b"),
            ]
        )
    )
    (tmp_path / "2.log").write_text(
        "\n".join([record("ResponseComplete", "b"), record("RequestReceived", "c")])
    )
    files = ("--format", "kubernetes", "1.log", "2.log")
    rehearsed = command("import", "--dry-run", *files)
    assert "1.log: 2 records make 1 events, 0 would be rejected" in rehearsed.stderr
    assert "2.log: 3 records make 2 events, 0 would be rejected" in rehearsed.stderr
    for appended in (1, 0):
        reports = json.loads(command("import", *files, "--json").stdout)
        assert [each["appended"] for each in reports] == [appended, 2 * appended]
        assert [each["earlier_stages"] for each in reports] == [1, 1]
        assert reports[1]["notes"]["stage: no later record of the request was found"] == 1
    told = command("import", *files)
    assert "1 record made no event: a later stage of the request did" in told.stderr


def test_gzip_is_read_and_what_stands_before_damage_is_kept(
    command: Command, tmp_path: Path
) -> None:
    lines = [json.dumps({**GOOD, "reason": f"gzip {n}"}).encode() for n in range(3000)]
    whole = gzip.compress(b"\n".join(lines))
    (tmp_path / "whole.gz").write_bytes(whole)
    assert command("import", "--format", "jsonl", tmp_path / "whole.gz").returncode == 0
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    cut = command("import", "--format", "jsonl", tmp_path / "cut.gz")
    assert cut.returncode == 2
    assert "damaged gzip data" in cut.stderr


def test_the_example_of_the_documentation_makes_the_event_that_stands_there(tmp_path: Path) -> None:
    blocks = re.findall(r"```(?:json|toml)\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    record, mapping, shown, *_ = blocks
    (tmp_path / "doors.jsonl").write_text(record, encoding="utf-8")
    (tmp_path / "doors.toml").write_text(mapping, encoding="utf-8")
    arguments = ("import", "--mapping", "doors.toml", "--dry-run", "doors.jsonl")
    # As the documentation says, with neither a ledger nor a token nor a policy.
    done = subprocess.run(
        [sys.executable, "-m", "ledger", *arguments],
        capture_output=True,
        text=True,
        env={},
        cwd=tmp_path,
        timeout=60,
        check=True,
    )
    assert done.stdout == shown
    assert "1 records make 1 events, 0 would be rejected" in done.stderr
    assert "1  battery" in done.stderr


def test_a_dry_run_says_what_would_be_rejected_and_appends_nothing(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "okta.json").write_text(
        '[{"eventType": "user.session.start", "published": "2026-11-24T10:00:00Z"}, {"a": 1}]'
    )
    done = command("import", "--format", "okta", "--dry-run", "--json", "okta.json")
    assert done.returncode == 3
    one, two = map(json.loads, done.stdout.splitlines())
    assert one["event"]["action"] == "user.session.start"
    assert "action: the record has none" in two["rejected"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["okta.json"]
    assert json.loads(command("import", "--format", "okta", "okta.json", "--json").stdout)[0][
        "appended"
    ]


def test_standard_input_is_read_and_what_it_cannot_give_is_set_aside(
    command: Command, tmp_path: Path
) -> None:
    lines = json.dumps({**GOOD, "reason": "standard input"}) + "\nnonsense\n"
    done = command("import", "--format", "jsonl", "-", stdin=lines)
    assert done.returncode == 3
    assert "-: 1 appended and verified, 0 were there already, 1 rejected" in done.stdout
    rejected = json.loads((tmp_path / "stdin.rejected.jsonl").read_bytes())
    assert (rejected["line"], rejected["record"]) == (2, "nonsense")
    again = command("import", "--format", "jsonl", "-", stdin=lines)
    assert "0 appended and verified, 1 were there already" in again.stdout


def test_either_a_format_or_a_mapping_is_required_and_a_ledger_unless_it_is_a_dry_run(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "none.toml").write_text("name = 7")
    for options, message in (
        ((), "Use either --format or --mapping"),
        (("--format", "okta", "--mapping", "none.toml"), "Use either --format or --mapping"),
        (("--mapping", "none.toml"), "none.toml: name: "),
    ):
        done = command("import", *options, "none.toml")
        assert done.returncode == 2
        assert message in done.stderr
    done = command("import", "--format", "okta", "none.toml", LEDGER_POLICY="")
    assert done.returncode == 2
    assert "Missing option '--policy' (env var: 'LEDGER_POLICY')" in done.stderr


SAMPLES = {
    "azure": ("azure_activity", 212),
    "gcp": ("gcp_audit", 134),
    "github": ("github", 166),
    "gsuite": ("gsuite_activityevent", 105),
    "kubernetes": ("kubernetes", 236),
    "okta": ("okta", 63),
    "teleport": ("gravitational_teleport", 21),
}


@pytest.mark.shared
@pytest.mark.parametrize("format_", SAMPLES)
def test_real_events_of_seven_more_products_go_in_once(
    command: Command, shared_dir: Path, tmp_path: Path, format_: str
) -> None:
    name, events = SAMPLES[format_]
    file = tmp_path / f"{name}.jsonl"
    file.write_bytes((shared_dir / "samples" / f"{name}.jsonl").read_bytes())
    importing = ("import", "--format", format_, "--undated", "keep", file, "--json")
    first = json.loads(command(*importing).stdout)[0]
    assert first["appended"] + first["duplicates"] == events
    again = json.loads(command(*importing).stdout)[0]
    assert (again["appended"], again["duplicates"]) == (0, events)
    assert first["rejected"] == again["rejected"] == (26 if format_ == "okta" else 0)


@pytest.mark.parametrize("name", ["password", "note"])
def test_a_rejected_record_may_hold_half_of_a_pair(tmp_path: Path, name: str) -> None:
    raw = b'{"%b":"hunter2","cut":"\\ud83d","\\udc00":1}' % name.encode()
    with RejectedFile(tmp_path / "events.jsonl") as rejected:
        rejected.write(Record(raw=raw, line=7, file_offset=0), "no time", None)
    (line,) = (tmp_path / "events.jsonl.rejected.jsonl").read_bytes().splitlines()
    kept = json.loads(line)
    assert (kept["line"], kept["reason"]) == (7, "no time")
    assert json.loads(kept["record"])["cut"] == "\ud83d"


def test_a_small_file_of_many_refused_records_fills_no_disk(
    ledger: ServedLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 KB of gzip hold 50 million of `0`, each of which is refused with a reason."""
    monkeypatch.setattr(rejected_file, "BYTES_MIN", 1 << 18)
    good = {**GOOD, "id": "0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f99"}
    plain = json.dumps(good).encode() + b"\n0" * 50_000
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(plain))
    (tmp_path / "plain").write_bytes(plain)
    policy = parse_policy(ledger.policy.read_bytes())
    with LedgerClient(ledger.url, ledger.token, policy=policy) as client:
        with pytest.raises(MalformedError, match=r"is it of this format\?"):
            import_file(client, tmp_path / "bomb.gz", load_format("jsonl"), quiet=True)
        # What stands before is in the log. A file that is as large as what it fills goes on.
        report = import_file(client, tmp_path / "plain", load_format("jsonl"), quiet=True)
    assert (report.appended, report.duplicates, report.rejected) == (0, 1, 50_000)
    assert (tmp_path / "bomb.gz.rejected.jsonl").stat().st_size < 1 << 20


def test_a_batch_of_large_records_is_a_small_one() -> None:
    raw = bytes(BATCH_BYTES // 4 + 1)
    records = [Record(raw=raw, line=1, file_offset=0)] * 10
    assert [len(batch) for batch in _batches(iter(records))] == [4, 4, 2]
