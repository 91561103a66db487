"""`ledger doctor --client`: what is wrong, and what to do."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ledger.service.token_admin import make_token
from tests.client.peer import Peer, Talk
from tests.recording.conftest import OpenRecorder, Running

DOWN = "http://127.0.0.1:1"


def doctor(*arguments: str, **environment: object) -> tuple[int, dict[str, list[tuple[str, str]]]]:
    """Exit code, and the verdicts and texts of each check."""
    done = subprocess.run(
        [sys.executable, "-m", "ledger", "doctor", "--client", "--json", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], **{k: str(v) for k, v in environment.items()}},
    )
    assert done.returncode in (0, 1), done.stderr
    findings: dict[str, Any] = {}
    for each in json.loads(done.stdout):
        findings.setdefault(each["check"], []).append((each["verdict"], each["text"]))
    return done.returncode, findings


def settings(running: Running, **changed: object) -> dict[str, object]:
    return {
        "LEDGER_URL": running.url,
        "LEDGER_TOKEN": running.token,
        "LEDGER_POLICY": running.policy,
        **changed,
    }


def test_all_is_well(running: Running, tmp_path: Path) -> None:
    code, found = doctor(**settings(running, LEDGER_SPOOL=tmp_path / "spool"))
    assert code == 0, found
    assert {check: verdicts[-1][0] for check, verdicts in found.items()} == dict.fromkeys(
        ("address", "clock", "token", "policy", "spool"), "ok"
    )
    assert found["token"] == [("ok", "is valid and may append")]
    assert found["spool"][0][1].endswith("will be made")


def test_a_file_of_a_spool_that_no_recorder_has_made_is_named_or_passed_over(
    running: Running, tmp_path: Path
) -> None:
    folder = tmp_path / "spool" / "0190d9a0-0000-7000-8000-000000000001"
    folder.mkdir(parents=True, mode=0o700)
    (tmp_path / "spool").chmod(0o700)
    (folder / "copy of 1.segment").touch()
    asked = settings(running, LEDGER_SPOOL=tmp_path / "spool")
    assert doctor(**asked)[1]["spool"] == [("ok", "nothing waits")]
    huge = folder / "1.segment"
    huge.touch()
    os.truncate(huge, 1 << 42)  # Sparse: it takes no room on the disk.
    code, found = doctor(**asked)
    assert (code, found["spool"][0][0]) == (1, "failed")
    assert f"{huge} has more than" in found["spool"][0][1]


def test_what_waits_in_a_spool_is_counted_and_nothing_is_changed(
    running: Running,
    open_recorder: OpenRecorder,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = open_recorder(url=DOWN)
    for _ in range(12):
        recorder.record("a.b")
    assert not recorder.close(0.3)
    assert f"kept_in={tmp_path / 'spool'} waiting=" in caplog.text
    assert ": will retry" in caplog.text
    assert "again with the same id" not in caplog.text
    spool = tmp_path / "spool"
    before = sorted((str(path), path.stat().st_mtime_ns) for path in spool.rglob("*"))
    (spool / "dead-letter.jsonl").touch()
    spool.chmod(0o755)
    code, found = doctor(**settings(running, LEDGER_SPOOL=spool))
    assert code == 0
    (waiting, mode, letters) = found["spool"]
    assert waiting == ("ok", f"12 waiting in {spool}; the recorder will retry")
    assert mode[1] == f"others can open it: chmod 700 {spool}"
    assert "dead-letter.jsonl" in letters[1]
    (spool / "dead-letter.jsonl").unlink()
    assert sorted((str(path), path.stat().st_mtime_ns) for path in spool.rglob("*")) == before


def test_each_fault_says_what_to_do(running: Running, tmp_path: Path) -> None:
    reader = make_token(running.directory, name="reader", scopes=("read",), tenant=None)
    code, found = doctor(**settings(running, LEDGER_TOKEN=reader, LEDGER_SPOOL=running.policy))
    assert code == 1
    assert found["token"][0][1].startswith("may not append: make one by")
    assert "change the owner" in found["spool"][0][1]
    code, found = doctor(**settings(running, LEDGER_TOKEN="wl_x"))
    assert (code, found["token"][0][0]) == (1, "failed")
    assert "is unknown" in found["token"][0][1]
    code, found = doctor(LEDGER_URL=running.url)
    assert [found[check][0][0] for check in ("token", "policy")] == ["failed", "failed"]
    assert "LEDGER_TOKEN_FILE" in found["token"][0][1]
    assert "LEDGER_POLICY" in found["policy"][0][1]
    other = tmp_path / "policy"
    other.write_text("no policy")
    code, found = doctor(**settings(running, LEDGER_POLICY=other, LEDGER_URL=DOWN))
    assert code == 1
    assert "Connection refused; check LEDGER_URL" in found["address"][0][1]
    assert "copy DIR/policy of the ledger again" in found["policy"][0][1]
    code, found = doctor(**settings(running, LEDGER_URL="ftp://example.com"))
    assert found["address"][0][1].endswith("correct LEDGER_URL")


def test_a_clock_that_is_wrong_is_said(running: Running) -> None:
    def yesterday(talk: Talk) -> None:
        talk.read_request()
        talk.answer(200, b"{}", "Date: Thu, 26 Nov 2020 10:00:00 GMT", "Connection: close")

    with Peer(yesterday, yesterday, yesterday, yesterday) as peer:
        code, found = doctor(**settings(running, LEDGER_URL=peer.url))
    assert code == 1  # It is no ledger.
    (verdict, text) = found["clock"][0]
    assert verdict == "warning"
    assert "ahead of the ledger's" in text
