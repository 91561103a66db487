"""Private values through the recorder: they reach the ledger, and then the spool forgets them."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ledger.service.token_admin import make_token
from ledger_client import LedgerClient, private
from ledger_client.recording.dead_letters import FILE_NAME
from ledger_core.event.commitments import is_commitment
from ledger_core.event.model import EventError
from tests.files import files_below
from tests.recording.conftest import OpenRecorder, Running
from tests.waiting import until

NAME = "Zoë Unmistakable-Quillfeather"
SUBJECT = "p_7"
AWAY = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def opener(running: Running) -> str:
    return make_token(running.directory, name="opener", scopes=("read", "private"), tenant=None)


def said(**context: Any) -> dict[str, Any]:
    return {
        "target": ("patient", SUBJECT, private(NAME, SUBJECT)),
        "context": {"answers": [1, private({"name": NAME}, SUBJECT)], **context},
    }


def holds_name(folder: Path) -> bool:
    for path in files_below(folder):
        with suppress(FileNotFoundError):  # Sent and removed meanwhile.
            if NAME.encode() in path.read_bytes():
                return True
    return False


def values_of(running: Running, opener: str, event_id: str) -> dict[str, Any]:
    with LedgerClient(running.url, opener, policy=running.policy) as client:
        return dict(client.event(event_id).private)


@pytest.mark.parametrize("fsync", ["each", "none"])
def test_what_was_recorded_can_be_read_by_its_scope_and_is_gone_from_the_spool(
    running: Running,
    open_recorder: OpenRecorder,
    tmp_path: Path,
    opener: str,
    fsync: str,
    name: str,
) -> None:
    recorder = open_recorder(fsync=fsync)
    recorder.record("a.before")
    event_id = recorder.record("patient.read", **said())
    assert event_id is not None
    recorder.record("a.after")
    assert recorder.flush()
    until(lambda: not holds_name(tmp_path))
    # The recorder lives, and goes on with its next number in another file.
    recorder.record("a.later")
    assert recorder.flush()
    logged = running.recorded(name)
    assert [event["recorder"]["seq"] for event in logged] == [1, 2, 3, 4]
    assert is_commitment(logged[1]["targets"][0]["name"])
    assert is_commitment(logged[1]["context"]["answers"][1])
    assert values_of(running, opener, event_id) == {
        "/targets/0/name": NAME,
        "/context/answers/1": {"name": NAME},
    }


def test_it_waits_for_the_ledger_in_the_spool_alone(
    running: Running,
    open_recorder: OpenRecorder,
    tmp_path: Path,
    opener: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    away = open_recorder(AWAY)
    event_id = away.record("patient.read", **said())
    assert event_id is not None
    assert not away.flush(0.3)
    away.close(0.0)
    assert holds_name(tmp_path / "spool")
    assert NAME not in caplog.text
    assert open_recorder().flush()
    until(lambda: not holds_name(tmp_path))
    assert len(values_of(running, opener, event_id)) == 2


def test_a_dead_letter_has_the_commitment_alone(
    running: Running, open_recorder: OpenRecorder, tmp_path: Path, name: str
) -> None:
    recorder = open_recorder(mask=lambda event: event)
    recorder.record("patient.read", **said(password="hunter2-and-more"))
    assert recorder.flush()
    until(lambda: any("rejected" in event["action"] for event in running.recorded(name)))
    until(lambda: not holds_name(tmp_path))
    (letter,) = map(json.loads, (tmp_path / "spool" / FILE_NAME).read_text().splitlines())
    assert is_commitment(letter["event"]["targets"][0]["name"])


def test_a_value_where_none_may_be_private_is_a_mistake(open_recorder: OpenRecorder) -> None:
    with pytest.raises(EventError):
        open_recorder().record("a.b", tenant=private(NAME, SUBJECT))


def test_an_event_that_is_cut_to_fit_keeps_the_values_that_are_left(
    running: Running, open_recorder: OpenRecorder, opener: str
) -> None:
    recorder = open_recorder()
    first, last = ({"id": f"r_{n}", "name": private(f"{NAME} {n}", SUBJECT)} for n in range(2))
    many = tuple({"id": f"t_{number}"} for number in range(500))
    event_id = recorder.record("a.b", targets=(first, *many, last))
    assert event_id is not None
    assert recorder.flush()
    assert values_of(running, opener, event_id) == {"/targets/0/name": f"{NAME} 0"}


def test_the_largest_values_fit_a_frame(
    running: Running, open_recorder: OpenRecorder, opener: str
) -> None:
    recorder = open_recorder()
    values = {f"k{number}": private("x" * 16_000, SUBJECT) for number in range(32)}
    event_id = recorder.record("a.b", context=values)
    assert event_id is not None
    assert recorder.flush()
    assert len(values_of(running, opener, event_id)) == 32
