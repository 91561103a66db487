"""Containers of the application's own classes may have no end, wherever an event takes a value.

What reads such a container reads a limited part of it. So the application gets its call back.
"""

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import pytest

from ledger_client import audit_context, diff, snapshot
from ledger_client.recording import jsonable as jsonable_module
from ledger_client.recording.context import capture_scope
from ledger_client.recording.memory import MemorySink, RecordedEvents
from ledger_client.recording.options import RecorderOptions
from ledger_client.recording.recorder import Recorder
from ledger_core.event.model import EventError

READS_MAX = 20 * jsonable_module.VALUES_MAX

ITEMS_MAX = 3 * jsonable_module.VALUES_MAX
"""In the place of the limit of `diff`, which takes a while to reach."""


class ReadOnError(BaseException):
    """Something reads without a limit."""


def numbers() -> Iterator[int]:
    for number in count():
        if number > READS_MAX:
            raise ReadOnError
        yield number


class EndlessList(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        return numbers()


class EndlessMapping(Mapping[str, Any]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, key: str) -> Any:
        return 1

    def __iter__(self) -> Iterator[str]:
        return map(str, numbers())


ENDLESS = [EndlessList([1, 2]), EndlessMapping()]


@pytest.fixture(autouse=True)
def _limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonable_module, "ITEMS_MAX", ITEMS_MAX)


@pytest.fixture
def events() -> RecordedEvents:
    return RecordedEvents()


@pytest.fixture
def recorder(events: RecordedEvents) -> Recorder:
    recorder = Recorder.disabled()
    recorder._set_up(MemorySink(events), RecorderOptions(), None, None)
    recorder._is_disabled = False
    return recorder


@pytest.mark.parametrize("value", ENDLESS)
@pytest.mark.parametrize(
    "place",
    [
        "actor", "actor.name", "actor.session", "event_id", "outcome", "reason", "source",
        "source.ip", "target", "target.id", "target.name", "targets[0]", "tenant", "time",
    ],
)  # fmt: skip
def test_where_a_text_belongs_it_is_a_mistake(recorder: Recorder, value: Any, place: str) -> None:
    name, _, member = place.partition(".")
    if name == "targets[0]":
        name, value = "targets", [value]
    fields: Any = {"actor": "u_1", name: {"id": "t_1", member: value} if member else value}
    if name == "source" and member:
        del fields[name]["id"]
    with pytest.raises(EventError):
        recorder.record("a.b", **fields)
    assert recorder.record_quietly("a.b", **fields) is None
    letter = recorder._encoder.letter({"id": "1", "actor": {"id": "u_1"}, name: value})
    assert letter["id"] == "1"
    assert len(str(letter)) < 1_000
    if name != "actor":
        assert letter["actor"] == {"id": "u_1"}, "the dead letter still says who it was"


@pytest.mark.parametrize("value", ENDLESS)
def test_what_was_done_is_recorded_without_it(
    recorder: Recorder, events: RecordedEvents, value: Any
) -> None:
    places: list[Any] = [
        {"context": {"body": value}},
        {"changes": [{"path": "/a", "after": value}]},
        {"request_id": value},
    ]
    for fields in places:
        recorder.record("a.b", actor="u_1", **fields)
        assert events[-1]["actor"] == {"id": "u_1"}
        assert "left out" in events[-1]["context"]["altered"][0]


def test_of_endless_targets_changes_and_keys_the_first_are_recorded(
    recorder: Recorder, events: RecordedEvents
) -> None:
    changes = ({"path": f"/{number}", "after": number} for number in numbers())
    recorder.record(
        "a.b", actor="u_1", targets=EndlessList([1]), changes=changes, context=EndlessMapping()
    )
    event = events[-1]
    assert [target["id"] for target in event["targets"]][:2] == ["0", "1"]
    assert event["changes"][1] == {"path": "/1", "after": 1}
    most = jsonable_module.VALUES_MAX
    assert f"targets: the first 32 of {most} or more are kept" in event["context"]["altered"]
    assert any(note.startswith("context: ") for note in event["context"]["altered"])


@pytest.mark.parametrize("value", ENDLESS)
def test_an_audit_context_goes_on_to_another_process_without_it(value: Any) -> None:
    with audit_context(actor="u_1", context={"body": value, "request_id": "r-1"}):
        captured = capture_scope()
    assert captured["actor"] == {"id": "u_1"}
    assert captured["context"]["request_id"] == "r-1"
    assert "body" not in captured["context"]


@pytest.mark.parametrize("value", ENDLESS)
def test_two_values_too_long_to_compare_are_not_called_the_same(value: Any) -> None:
    kind = {"type": f"{__name__}.{type(value).__name__}"}
    (change,) = diff({"a": value}, {"a": value})
    assert change["before"].items() >= kind.items()
    assert snapshot({"a": value}) == {"a": kind}


def test_what_stands_in_a_value_very_often_is_not_shown_each_time() -> None:
    value: Any = [1]
    for _ in range(7):
        value = [value] * 50
    shown = str(snapshot({"a": value}))
    assert len(shown) < 100 * ITEMS_MAX
    assert diff({"a": value}, {"a": [*value]}) == []
