"""Secrets that one side masks and the other doesn't know: nothing is held up, and nothing leaks."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ledger_client import Recorder
from tests.files import files_below
from tests.service.check_log import check_log
from tests.service.serving import QUICK, make_ledger, serving

SECRET = "zxq-hunter-2-zxq"


@pytest.mark.parametrize("treatment", ["refuse", "mask"])
def test_a_secret_that_only_the_ledger_sees_holds_nothing_up(
    tmp_path: Path, treatment: str
) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    spool = tmp_path / "spool"
    with serving(directory, tokens, msgspec.structs.replace(QUICK, secrets=treatment)) as served:
        recorder = Recorder(
            served.url,
            tokens["append"],
            spool=spool,
            policy=directory / "policy",
            actor="u_1",
            linger_s=0.01,
            mask=lambda event: event,
        )
        for number in range(20):
            secret = {"password": SECRET} if number in (3, 17) else {}
            recorder.record("a.b", context={"number": number, **secret}, reason=f"no {number}")
        assert recorder.flush(30)
        assert recorder.close(30)
        log = check_log(served.url, tokens["admin"], served.policy)
    events = [json.loads(leaf)["event"] for leaf in log.leaves]
    mine = [event for event in events if "recorder" in event]
    notices = [e for e in mine if e["action"] == "ledger.recorder.rejected"]
    told = [e["context"]["rejected"] for e in notices]
    assert {(t["field"], t["recorder"]["seq"]) for t in told} == {
        ("context.password", 4),
        ("context.password", 18),
    }
    assert len(mine) == 20 + 2 - (2 if treatment == "refuse" else 0)
    letters = (spool / "dead-letter.jsonl").read_text()
    assert letters.count('"context.password"') == 2
    for text in (letters, json.dumps(events), *files_of(spool)):
        assert SECRET not in text


def files_of(spool: Path) -> list[Any]:
    return [path.read_text(errors="replace") for path in files_below(spool)]
