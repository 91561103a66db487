"""Importing events of ours."""

import json
import uuid
from typing import Any

import pytest

from ledger_client.collect.importers import load_format
from ledger_core.event.model import EventError

ID = "0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50"
EVENT: dict[str, Any] = {
    "time": "2026-11-25T02:03:36.123456Z",
    "action": "a.b",
    "actor": {"id": "u_1"},
    "outcome": "success",
}


def map_json(raw: bytes) -> dict[str, Any]:
    (event,) = load_format("jsonl").map(raw)
    return event


def test_an_id_that_is_there_is_kept() -> None:
    assert map_json(json.dumps({**EVENT, "id": ID}).encode()) == {**EVENT, "id": ID}


def test_an_event_without_an_id_gets_the_same_one_each_time() -> None:
    one = map_json(json.dumps(EVENT).encode())
    other_spelling = json.dumps({**EVENT, "time": "2026-11-25T03:03:36.123456+01:00"}, indent=1)
    assert uuid.UUID(one["id"]).version == 8
    assert map_json(other_spelling.encode()) == one


def test_another_event_gets_another_id() -> None:
    one = map_json(json.dumps(EVENT).encode())
    another = map_json(json.dumps({**EVENT, "reason": ""}).encode())
    assert one["id"] != another["id"]


def test_an_event_without_a_time_keeps_its_id_and_gets_a_time_when_it_is_appended() -> None:
    timeless = {name: value for name, value in EVENT.items() if name != "time"}
    one, again = (map_json(json.dumps(timeless).encode()) for _ in range(2))
    assert one == again
    assert {*one} == {"id", *timeless}


@pytest.mark.parametrize("raw", [b"", b"{}", b"nonsense", b'{"action":"a","action":"a"}', b"\xff"])
def test_a_line_that_is_no_event_is_refused_with_a_reason(raw: bytes) -> None:
    with pytest.raises(EventError):
        map_json(raw)
