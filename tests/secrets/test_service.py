"""Secrets on the way in: a real service, a real client, and the words of neither hold a value."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import structlog

from ledger.service.settings import Settings
from ledger_client import LedgerClient, Recorder, RejectedError, VerificationError
from tests.files import files_below
from tests.service.serving import QUICK, event, make_ledger, serving
from tests.service.serving import Ledger as Served

PASSWORD = "zxq-hunter-2-zxq"
TOKEN = "gh" + "p_" + "a1B2" * 9
SECRET_FIELDS: dict[str, Any] = {
    "reason": f"pushed with {TOKEN}",
    "context": {"db": {"password": PASSWORD}, TOKEN: 1},
}


def _settings(treatment: str) -> Settings:
    return Settings(
        listen=QUICK.listen,
        publish_interval_s=QUICK.publish_interval_s,
        outbox_interval_s=QUICK.outbox_interval_s,
        secrets=treatment,
    )


def _assert_unspoken(*texts: object) -> None:
    for text in texts:
        assert PASSWORD not in str(text)
        assert TOKEN not in str(text)


def _open(served: Served, **others: Any) -> LedgerClient:
    return LedgerClient(
        served.url, served.tokens["admin"], policy=served.directory / "policy", **others
    )


@pytest.fixture
def log_lines() -> Any:
    """Collect the lines that the service writes to its log."""
    lines = io.StringIO()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(lines))
    yield lines
    structlog.reset_defaults()


def test_an_event_with_a_secret_is_refused_by_path_and_rule(
    tmp_path: Path, log_lines: io.StringIO
) -> None:
    directory = tmp_path / "ledger"
    with serving(directory, make_ledger(directory)) as served:
        answer = served.append(event(**SECRET_FIELDS))
        assert answer.status == 422
        problem = answer.json()["results"][0]["error"]
        assert problem["type"] == "/v1/problems#secret"
        assert (problem["field"], problem["rule"]) == ("context.db.password", "password")
        assert "2 more" in problem["detail"]
        _assert_unspoken(answer.text)

        mixed = served.append(event(), event(context={"token": PASSWORD}), event())
        assert mixed.status == 207
        assert [result.get("index") for result in mixed.json()["results"]] == [7, None, 8]

        with _open(served, mask=None) as client, pytest.raises(RejectedError) as caught:
            client.append(event(**SECRET_FIELDS))
        assert caught.value.problem.slug == "secret"
        assert caught.value.problem.rule == "password"
        _assert_unspoken(caught.value, repr(caught.value.__dict__))
    assert "secrets_found" in log_lines.getvalue()
    _assert_unspoken(log_lines.getvalue())
    for file in files_below(directory):
        _assert_unspoken(file.read_bytes().decode(errors="replace"))


def test_the_client_masks_before_it_sends_and_verifies_what_it_sent(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    with serving(directory, make_ledger(directory)) as served, _open(served) as client:
        receipt = client.append(event(**SECRET_FIELDS))
        assert receipt.head is not None
        logged = json.loads(receipt.leaf)["event"]
        assert logged["reason"] == "masked.github-token"
        assert logged["context"] == {
            "db": {"password": {"masked": "password"}},
            "masked.github-token.name": 1,
        }
        again = client.append(client.event(receipt.index).event)
        assert again.is_duplicate


def test_a_service_that_masks_says_so_and_the_client_does_not_call_it_verified(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "ledger"
    with serving(directory, make_ledger(directory), _settings("mask")) as served:
        sent = event(**SECRET_FIELDS)
        answer = served.append(sent)
        assert answer.status == 200
        result = answer.json()["results"][0]
        assert result["masked"] == [
            {"path": "context.db.password", "rule": "password"},
            {"path": "context.[key]", "rule": "github-token"},
            {"path": "reason", "rule": "github-token"},
        ]
        read = served.ask(f"/v1/events/{result['index']}")
        assert read.json()["event"]["context"]["db"] == {"password": {"masked": "password"}}
        _assert_unspoken(answer.text, read.text)
        assert served.append(sent).json()["results"][0]["duplicate"]

        unmasked = event(**SECRET_FIELDS)
        with _open(served, mask=None) as client, pytest.raises(VerificationError) as caught:
            client.append(unmasked)
        assert "the ledger masked" in str(caught.value)
        _assert_unspoken(caught.value, caught.value.evidence)
        with _open(served) as client:
            assert client.append(event(**SECRET_FIELDS)).head is not None


def test_a_service_that_does_not_look_takes_everything(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    with serving(directory, make_ledger(directory), _settings("off")) as served:
        assert served.append(event(context={"password": "x1"})).status == 200


def test_the_rules_of_a_ledgers_own_file_hold(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    (directory / "secrets.toml").write_text(
        "off = ['password']\n[[keys]]\nrule = 'door-code'\nendings = ['door code']\n"
    )
    with serving(directory, tokens) as served:
        assert served.append(event(context={"password": "x1"})).status == 200
        answer = served.append(event(context={"frontDoorCode": 1234}))
        assert answer.json()["results"][0]["error"]["rule"] == "door-code"


def test_a_recorder_masks_before_it_writes_to_its_spool(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    with serving(directory, make_ledger(directory)) as served:
        recorder = Recorder(
            served.url,
            served.tokens["admin"],
            spool=tmp_path / "spool",
            policy=directory / "policy",
            fsync="each",
            linger_s=60.0,
        )
        recorder.record("user.login", actor="u_1", outcome="success", **SECRET_FIELDS)
        spooled = [file.read_bytes() for file in files_below(tmp_path / "spool")]
        assert any(b"masked.github-token" in data for data in spooled)
        _assert_unspoken(*(data.decode(errors="replace") for data in spooled))
        recorder.close()
