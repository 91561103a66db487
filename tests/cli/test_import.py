"""`ledger import`: other people's events in, each verified; bad lines set aside with reasons."""

import gzip
import json
from pathlib import Path

import pytest

from ledger.event.canonical import parse_leaf
from ledger.tlog.hashing import leaf_hash
from ledger.tlog.policy import parse_policy
from ledger.tlog.proof import check_proof
from ledger_client import LedgerClient
from tests.cli.conftest import Command, Ledger

GOOD = {
    "time": "2026-11-25T02:03:36Z",
    "actor": {"id": "u_1"},
    "action": "user.login",
    "outcome": "success",
}


@pytest.mark.shared
def test_439_real_cloudtrail_events_are_imported_once_and_each_verifies_from_its_own_proof(
    command: Command, ledger: Ledger, shared_dir: Path, tmp_path: Path
) -> None:
    source = shared_dir / "samples" / "aws_cloudtrail.jsonl"
    file = tmp_path / "trail.jsonl"
    file.write_bytes(source.read_bytes())
    lines = file.read_bytes().splitlines()
    assert len(lines) == 439
    first = json.loads(command("import", "--format", "cloudtrail", file, "--json").stdout)[0]
    assert (first["appended"], first["duplicates"], first["rejected"]) == (439, 0, 0)
    again = json.loads(command("import", "--format", "cloudtrail", file, "--json").stdout)[0]
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
    assert originals == [json.loads(line) for line in lines]


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


def test_an_event_without_a_time_is_not_given_one_by_an_import(
    command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(json.dumps({k: v for k, v in GOOD.items() if k != "time"}).encode())
    done = command("import", "--format", "jsonl", file)
    assert done.returncode == 3
    rejected = json.loads((tmp_path / "events.jsonl.rejected.jsonl").read_bytes())
    assert rejected["field"] == "time"


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
