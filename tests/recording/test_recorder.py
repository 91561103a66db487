"""Recording into a real ledger: what arrives there, and how it was said."""

import json
import logging
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ledger_core.event.model import EventError
from tests.files import files_below
from tests.recording.conftest import OpenRecorder, Running, numbers
from tests.waiting import until


def test_an_event_is_in_the_ledger_when_a_flush_says_so(
    open_recorder: OpenRecorder, running: Running, name: str
) -> None:
    recorder = open_recorder(service="admin-web")
    event_id = recorder.record(
        "user.role_changed",
        actor=("user", "u_9", "Jo"),
        target=("user", 777),
        changes=[{"path": "/role", "before": "member", "after": "admin"}],
        reason="ticket OPS-12",
        source="203.0.113.9",
        request_id="r-1",
        context={"form": "roles"},
    )
    assert recorder.flush(30)
    (event,) = running.recorded(name)
    assert event.pop("id") == event_id
    assert event.pop("time").endswith("Z")
    assert event.pop("recorder") == {"instance": recorder.status.instance, "seq": 1}
    assert event == {
        "action": "user.role_changed",
        "actor": {"type": "user", "id": "u_9", "name": "Jo"},
        "targets": [{"type": "user", "id": "777"}],
        "changes": [{"path": "/role", "before": "member", "after": "admin"}],
        "context": {"form": "roles", "request_id": "r-1"},
        "outcome": "success",
        "reason": "ticket OPS-12",
        "source": {"ip": "203.0.113.9", "service": "admin-web"},
        "tenant": name,
    }


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("u_2", {"id": "u_2"}),
        (2, {"id": "2"}),
        (uuid.UUID(int=2), {"id": str(uuid.UUID(int=2))}),
        (("user", "u_2"), {"type": "user", "id": "u_2"}),
        ({"id": 2, "session": "s_1"}, {"id": "2", "session": "s_1"}),
        (lambda: ("user", 2), {"type": "user", "id": "2"}),
    ],
)
def test_an_actor_may_be_said_in_several_ways(
    open_recorder: OpenRecorder, running: Running, said: Any, kept: dict[str, str]
) -> None:
    recorder = open_recorder()
    event_id = recorder.record("a.b", actor=said)
    assert recorder.flush(30)
    with running.client() as client:
        assert event_id is not None
        leaf = client.event(event_id).leaf
    assert json.loads(leaf)["event"]["actor"] == kept


def test_ids_and_times_may_be_given(
    open_recorder: OpenRecorder, running: Running, name: str
) -> None:
    recorder = open_recorder()
    event_id = str(uuid.uuid4())
    moment = datetime(2026, 11, 25, 2, 3, 36, tzinfo=UTC)
    assert recorder.record("a.b", event_id=event_id, time=moment) == event_id
    assert recorder.flush(30)
    (event,) = running.recorded(name)
    assert (event["id"], event["time"]) == (event_id, "2026-11-25T02:03:36.000000Z")


def test_numbers_run_from_1_without_a_gap_and_each_recorder_has_its_own(
    open_recorder: OpenRecorder, running: Running, name: str
) -> None:
    first, second = open_recorder(), open_recorder()
    for recorder in (first, second, first, first):
        recorder.record("a.b")
    assert first.flush(30)
    assert second.flush(30)
    assert sorted(numbers(running.recorded(name)).values()) == [[1], [1, 2, 3]]


@pytest.mark.parametrize(
    ("said", "field", "rule"),
    [
        ({"outcome": "sucess"}, "outcome", "not-listed"),
        ({"actor": {"type": "user"}}, "actor.id", "missing-field"),
        ({"actor": 1.5}, "actor", "wrong-type"),
        ({"target": ("a", "b", "c", "d")}, "targets[0]", "wrong-type"),
        ({"actor": {"id": "u", "role": "x"}}, "actor.role", "unknown-key"),
        ({"event_id": "7"}, "id", "id"),
        ({"time": datetime(2026, 1, 1)}, "time", "time"),  # noqa: DTZ001 - this is the mistake
        ({"time": 5}, "time", "time"),
        ({"context": 5}, "context", "wrong-type"),
        ({"targets": "u_1"}, "targets", "wrong-type"),
        ({"changes": 5}, "changes", "wrong-type"),
        ({"changes": ["role"]}, "changes", "wrong-type"),
        ({"actor": lambda: 1 / 0}, "actor", "missing-field"),
    ],
)
def test_a_mistake_in_the_event_is_raised_at_the_call_and_uses_up_no_number(
    open_recorder: OpenRecorder,
    running: Running,
    name: str,
    said: dict[str, Any],
    field: str,
    rule: str,
) -> None:
    recorder = open_recorder()
    with pytest.raises(EventError) as caught:
        recorder.record("a.b", **said)
    assert isinstance(caught.value, ValueError)
    assert (caught.value.field, caught.value.rule) == (field, rule)
    recorder.record("a.b")
    assert recorder.flush(30)
    assert [event["recorder"]["seq"] for event in running.recorded(name)] == [1]


def test_without_any_actor_an_event_is_a_mistake(open_recorder: OpenRecorder) -> None:
    recorder = open_recorder(actor=None)
    with pytest.raises(EventError, match="actor: is required"):
        recorder.record("a.b")


def test_a_mistake_may_be_a_dead_letter_instead_and_the_log_hears_of_it(
    open_recorder: OpenRecorder,
    running: Running,
    name: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = open_recorder(on_invalid="dead-letter")
    with caplog.at_level(logging.WARNING):
        assert recorder.record("not an action", context={"amount": Decimal("1.50")}) is None
    assert recorder.flush(30)
    (letter,) = dead_letters(tmp_path)
    assert letter["event"]["action"] == "not an action"
    assert letter["event"]["context"] == {"amount": "1.50"}
    assert (letter["rejected"]["rule"], letter["rejected"]["by"]) == ("action", "recorder")
    (event,) = running.recorded(name)
    assert event["action"] == "ledger.recorder.rejected"
    assert event["context"]["rejected"]["rule"] == "action"
    assert event["context"]["rejected"]["in_dead_letter_file"] is True
    assert "event_invalid rule=action field=action" in caplog.text


def test_what_a_request_brings_along_never_keeps_an_event_out(
    open_recorder: OpenRecorder, running: Running, name: str
) -> None:
    recorder = open_recorder()
    recorder.record(
        "login.failed",
        actor=("user", "u" * 300),
        source={"ip": "not an address", "user_agent": "M" * 2000, "port": 80},
        reason="r\0" * 3000,
        targets=[("file", str(i)) for i in range(40)],
        context={"when": datetime(2026, 1, 1, tzinfo=UTC), "n": 2**60, "deep": nested(12)},
        changes=[{"path": "/raw", "before": b"secret bytes", "after": float("inf")}],
        outcome="failure",
    )
    recorder.record("doc.saved", changes=[{"path": "/text", "after": "x" * 100_000}])
    many = [{"path": f"/{i}", "after": "x" * 1000} for i in range(200)]
    recorder.record("doc.saved", changes=many, request_id="r-1")
    behind = {"type": "user", "id": ""}
    empty = {"type": "", "id": "", "session": "", "on_behalf_of": behind}
    recorder.record("doc.read", actor=empty, target=("doc", ""), source={"service": ""})
    assert recorder.flush(30)
    login, shrunk, bare, nameless = running.recorded(name)
    assert nameless["actor"] == {"id": "unknown", "on_behalf_of": {"type": "user", "id": "unknown"}}
    assert nameless["targets"] == [{"type": "doc", "id": "unknown"}]
    assert "actor.session: left out, it is empty" in nameless["context"]["altered"]
    assert login["actor"]["id"].startswith("sha256:")
    assert login["source"] == {"user_agent": "M" * 1023 + "…", "port": 80}
    assert len(login["reason"]) == 4096
    assert len(login["targets"]) == 32
    assert login["context"]["n"] == str(2**60)
    assert login["context"]["when"] == "2026-01-01T00:00:00+00:00"
    assert login["changes"] == [{"path": "/raw", "before": {"bytes": 12}, "after": "inf"}]
    altered = "\n".join(login["context"]["altered"])
    for field in ("actor.id", "source.ip", "source.user_agent", "reason", "targets"):
        assert f"{field}: " in altered
    assert shrunk["changes"][0]["after"] == "x" * 1023 + "…"
    assert "changes" not in bare
    assert bare["context"]["request_id"] == "r-1"
    assert "changes: left out" in bare["context"]["altered"][0]


def test_a_mask_sees_every_event_before_it_is_written(
    open_recorder: OpenRecorder, running: Running, name: str, tmp_path: Path
) -> None:
    def mask(event: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps(event).replace("hunter2", "masked")
        masked: dict[str, Any] = json.loads(text)
        return masked

    recorder = open_recorder(mask=mask, on_invalid="dead-letter")
    recorder.record("a.b", context={"password": "hunter2"})
    recorder.record("a.b", context={"password": "hunter2", "amount": Decimal(1)})
    recorder.record("a.b", context={"password": "x" * 4090 + "hunter2", "a": "y" * 70_000})
    recorder.record("a.b", outcome="hunter2")  # type: ignore[arg-type] # The mistake.
    assert b"hunter2" not in spooled_bytes(tmp_path)
    assert recorder.flush(30)
    assert b"hunter2" not in spooled_bytes(tmp_path)
    events = running.recorded(name)
    assert len(events) == 4
    assert "hunter2" not in json.dumps(events)


def test_a_mask_that_fails_lets_nothing_past_it(
    open_recorder: OpenRecorder,
    running: Running,
    name: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def mask(event: dict[str, Any]) -> dict[str, Any]:
        raise KeyError(event["context"]["password"])

    recorder = open_recorder(mask=mask)
    recorder.record("user.deleted", context={"password": "hunter2"})
    assert b"hunter2" not in spooled_bytes(tmp_path)
    assert "hunter2" not in caplog.text
    assert recorder.flush(30)
    (event,) = running.recorded(name)
    assert (event["action"], event["actor"]) == ("user.deleted", {"id": "unknown"})


def test_what_the_ledger_refuses_is_a_dead_letter_and_its_number_is_accounted_for(
    open_recorder: OpenRecorder, running: Running, name: str, tmp_path: Path
) -> None:
    recorder = open_recorder()
    event_id = recorder.record("user.deleted", reason="the first")
    assert recorder.flush(30)
    recorder.record("user.deleted", event_id=event_id, reason="another with its id")
    recorder.record("user.deleted", reason="the last")
    assert recorder.flush(30)
    (letter,) = dead_letters(tmp_path)
    assert letter["rejected"]["rule"] == "id-conflict"
    assert letter["rejected"]["by"] == "ledger"
    assert letter["event"]["reason"] == "another with its id"
    until(lambda: len(running.recorded(name)) == 4)
    events = running.recorded(name)
    conflict = next(each for each in events if each["action"] == "ledger.event.conflicted")
    first, last, notice = (each for each in events if each is not conflict)
    assert (first["reason"], last["reason"]) == ("the first", "the last")
    # The ledger keeps what it refused, so that an id that was taken first hides nothing.
    assert conflict["action"] == "ledger.event.conflicted"
    assert conflict["context"]["refused"]["reason"] == "another with its id"
    assert notice["action"] == "ledger.recorder.rejected"
    assert notice["targets"] == [{"type": "event", "id": event_id}]
    told = notice["context"]["rejected"]
    assert told["recorder"] == {"instance": recorder.status.instance, "seq": 2}
    assert "another with its id" not in json.dumps(notice)


def test_a_closed_recorder_leaves_nothing_behind_and_takes_nothing(
    open_recorder: OpenRecorder, tmp_path: Path
) -> None:
    recorder = open_recorder()
    recorder.record("a.b")
    assert recorder.close(30)
    assert [path.name for path in (tmp_path / "spool").iterdir()] == ["state"]
    with pytest.raises(ValueError, match="closed"):
        recorder.record("a.b")
    assert recorder.record_quietly("a.b") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fsync": "always"}, "fsync is one of each, interval, none"),
        ({"on_full": "wait"}, "on_full is one of block, raise, drop"),
        ({"on_invalid": "drop"}, "on_invalid is one of raise, dead-letter"),
        ({"spool_bytes_max": 1000}, "bytes or more"),
        ({"url": "ftp://example.com"}, "http://"),
    ],
)
def test_a_wrong_setting_is_refused_at_the_start(
    open_recorder: OpenRecorder, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        open_recorder(**options)


@pytest.mark.parametrize("fsync", ["each", "interval", "none"])
def test_each_way_of_syncing_delivers(
    open_recorder: OpenRecorder, running: Running, name: str, fsync: str
) -> None:
    recorder = open_recorder(fsync=fsync, fsync_interval_s=0.01, spool_bytes_max=1 << 18)
    for _ in range(300):
        recorder.record("a.b", reason="x" * 1000)
    assert recorder.flush(30)
    assert numbers(running.recorded(name)) == {recorder.status.instance: list(range(1, 301))}


def test_the_token_is_in_no_repr(open_recorder: OpenRecorder, running: Running) -> None:
    recorder = open_recorder()
    assert running.token not in repr(recorder) + repr(recorder.status)


def nested(levels: int) -> Any:
    return {"in": nested(levels - 1)} if levels else 1


def dead_letters(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "spool" / "dead-letter.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def spooled_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in files_below(folder / "spool"))


def test_importing_the_recorder_pulls_in_no_server_part_and_no_network() -> None:
    imports = "from ledger_client import Recorder, audited, audit_context"
    script = f"{imports}\nimport sys\nprint(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    loaded = set(output.split())
    assert "ledger_client.recording.recorder" in loaded
    server = {
        "lmdb",
        "zstandard",
        "uvloop",
        "ledger.store",
        "ledger.service",
        "ledger.log.sequencer",
    }
    assert not loaded & {*server, "aiohttp", "asyncio", "nacl", "ssl", "http.client", "re2"}
