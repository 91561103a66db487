"""A refusal of a value that is no event names the place, the rule, the limit and the size."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger_core.event.canonical import decode_event, decode_event_object
from ledger_core.event.model import (
    LIMITS,
    Actor,
    Change,
    EventError,
    Numbering,
    Principal,
    Source,
    Target,
)
from tests.event.cases import REFUSED

EVENT: dict[str, Any] = {"action": "a.b", "actor": {"id": "u_1"}, "outcome": "success"}
RAW = b'{"action":"a.b","actor":{"id":"u_1"},"outcome":"success"'
SECRET = "hunter2"
UNEXPLAINED = "not an event"
"""What is said where msgspec refuses and the second reading finds nothing: never."""

LIMITED: list[tuple[str, str, str, Callable[[int], dict[str, Any]]]] = [
    ("action", "action", "too-long", lambda n: {"action": "a" * n}),
    ("id", "actor.id", "too-long", lambda n: {"actor": {"id": "😀" * n}}),
    ("id", "actor.type", "too-long", lambda n: {"actor": {"id": "u", "type": "x" * n}}),
    ("id", "actor.session", "too-long", lambda n: {"actor": {"id": "u", "session": "x" * n}}),
    ("id", "actor.credential", "too-long", lambda n: {"actor": {"id": "u", "credential": "x" * n}}),
    (
        "name",
        "actor.on_behalf_of.name",
        "too-long",
        lambda n: {"actor": {"id": "u", "on_behalf_of": {"id": "v", "name": "é" * n}}},
    ),
    ("id", "targets[1].id", "too-long", lambda n: {"targets": [{"id": "a"}, {"id": "x" * n}]}),
    ("id", "source.service", "too-long", lambda n: {"source": {"service": "x" * n}}),
    ("id", "tenant", "too-long", lambda n: {"tenant": "x" * n}),
    ("name", "changes[0].path", "too-long", lambda n: {"changes": [{"path": "x" * n}]}),
    ("user_agent", "source.user_agent", "too-long", lambda n: {"source": {"user_agent": "x" * n}}),
    ("reason", "reason", "too-long", lambda n: {"reason": "x" * n}),
    ("targets", "targets", "too-many", lambda n: {"targets": [{"id": "a"}] * n}),
    ("changes", "changes", "too-many", lambda n: {"changes": [{"path": "/a"}] * n}),
    ("context_keys", "context", "too-many", lambda n: {"context": {str(i): i for i in range(n)}}),
    (
        "context_key",
        f'context["{"k" * 64}\\u2026"]',
        "too-long",
        lambda n: {"context": {"k" * n: 1}},
    ),
]


@pytest.mark.parametrize("vector", REFUSED, ids=lambda vector: str(vector["fault"]))
def test_each_fault_is_refused_with_its_rule_and_its_place(vector: dict[str, Any]) -> None:
    with pytest.raises(EventError) as caught:
        decode_event(vector["text"].encode())
    error = caught.value
    assert (error.rule, error.field) == (vector["rule"], vector["field"])
    assert (error.limit, error.got) == (vector.get("limit"), vector.get("got"))
    assert str(error).endswith(error.message)
    assert error.message[0].islower()


@pytest.mark.parametrize(("name", "field", "rule", "build"), LIMITED)
def test_a_limit_holds_to_the_last_one_and_the_error_says_it_and_what_it_got(
    name: str, field: str, rule: str, build: Callable[[int], dict[str, Any]]
) -> None:
    most = LIMITS[name].most
    decode_event(json.dumps({**EVENT, **build(most)}).encode())
    for read in (decode_event_object, lambda event: decode_event(json.dumps(event).encode())):
        with pytest.raises(EventError) as caught:
            read({**EVENT, **build(most + 1)})
        error = caught.value
        assert (error.rule, error.field) == (rule, field)
        assert (error.limit, error.got) == (most, most + 1)
        assert str(most) in error.message
        assert str(most + 1) in error.message


def test_an_event_longer_than_a_leaf_is_refused_with_its_length() -> None:
    with pytest.raises(EventError) as caught:
        decode_event(RAW + b',"context":{"a":"' + b"x" * 65_535 + b'"}}')
    assert (caught.value.rule, caught.value.limit) == ("leaf-too-large", 65_535)
    assert caught.value.got is not None
    assert caught.value.got > 65_535


def test_an_input_longer_than_any_event_is_not_even_parsed() -> None:
    white_space = b" " * LIMITS["input"].most
    with pytest.raises(EventError) as caught:
        decode_event(RAW + white_space + b"}")
    assert caught.value.rule == "leaf-too-large"


@pytest.mark.parametrize("raw", [b"\xff", b'\xff"}', b'"reason":"\xed\xa0\x80"}', b'"\xc3":1}'])
def test_bytes_that_are_not_utf8_are_not_json(raw: bytes) -> None:
    with pytest.raises(EventError, match="UTF-8") as caught:
        decode_event(RAW + b"," + raw)
    assert caught.value.rule == "not-json"


@pytest.mark.parametrize("levels", [9, 100, 999, 1_001, 30_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
@pytest.mark.parametrize("field", ["context", "reason"])
def test_no_depth_makes_anything_but_an_event_error(
    levels: int, opening: bytes, closing: bytes, field: str
) -> None:
    bomb = opening * levels + b"1" + closing * levels
    member = b',"context":{"a":' + bomb + b"}" if field == "context" else b',"reason":' + bomb
    with pytest.raises(EventError) as caught:
        decode_event(RAW + member + b"}")
    assert caught.value.rule in ({"too-deep"} if field == "context" else {"too-deep", "wrong-type"})


def test_an_object_that_holds_itself_is_too_deep() -> None:
    context: dict[str, Any] = {}
    context["context"] = context
    with pytest.raises(EventError) as caught:
        decode_event_object({**EVENT, "context": context})
    assert caught.value.rule == "too-deep"


@pytest.mark.parametrize(
    ("member", "field"),
    [
        ({"context": {"a": b"bytes"}}, "context.a"),
        ({"context": {"a": (1, 2)}}, "context.a"),
        ({"context": {"a": {1: 2}}}, "context.a"),
        ({"context": {1: 2}}, "context"),
        ({"context": {"a": object()}}, "context.a"),
        ({"context": {"a": float("nan")}}, "context.a"),
        ({"context": {"a": float("-inf")}}, "context.a"),
        ({"context": {"\ud800": 1}}, 'context["\\ud800"]'),
        ({"reason": "\ud800"}, "reason"),
        ({"reason": "\0"}, "reason"),
        ({"targets": {"a"}}, "targets"),
        ({"actor": Actor(id="u_1")}, "actor"),
        ({"actor": {"id": "u_1", "on_behalf_of": Principal(id="u")}}, "actor.on_behalf_of"),
        ({"source": Source(port=-1)}, "source"),
        ({"targets": [{"id": "a"}, Target(id="")]}, "targets[1]"),
        ({"changes": [Change(path="/a")]}, "changes[0]"),
        ({"recorder": Numbering(instance="i", seq=1)}, "recorder"),
        ({"time": 0}, "time"),
    ],
)
def test_an_object_with_what_json_has_no_form_for_is_refused(
    member: dict[str, Any], field: str
) -> None:
    with pytest.raises(EventError) as caught:
        decode_event_object({**EVENT, **member})
    assert caught.value.field == field


def test_an_event_of_the_model_is_no_decoded_object() -> None:
    event, _ = decode_event_object(EVENT)
    with pytest.raises(EventError, match="expected an object, got a Python Event"):
        decode_event_object(event)  # type: ignore[arg-type]  # This is what is tested.


@pytest.mark.parametrize(
    "vector",
    [v for v in REFUSED if v["rule"] not in ("not-json", "repeated-key")],
    ids=lambda vector: str(vector["fault"]),
)
def test_an_object_is_refused_for_the_same_reason_as_its_json(vector: dict[str, Any]) -> None:
    # Python's own int() refuses five thousand digits.
    value = json.loads(vector["text"], parse_int=lambda digits: int(digits[:20]))
    with pytest.raises(EventError) as caught:
        decode_event_object(value)
    assert (caught.value.rule, caught.value.field) == (vector["rule"], vector["field"])


def _refusal(raw: bytes) -> EventError | None:
    try:
        decode_event(raw)
    except EventError as error:
        return error
    return None


@pytest.mark.parametrize("fault", ["\0", "\ud800", "", " ", "x" * 5_000])
@pytest.mark.parametrize(
    "member",
    [
        {"action": SECRET},
        {"actor": {"id": SECRET}},
        {"actor": SECRET},
        {"outcome": SECRET},
        {"id": SECRET},
        {"time": SECRET},
        {"targets": [{"id": "a", "name": SECRET}]},
        {"source": {"ip": SECRET}},
        {"source": {"port": SECRET}},
        {"reason": SECRET},
        {"context": {"a": [SECRET, 2**53]}},
    ],
    ids=str,
)
def test_no_error_tells_a_value_of_the_event(member: dict[str, Any], fault: str) -> None:
    text = json.dumps({**EVENT, **member}).replace(SECRET, SECRET + json.dumps(fault)[1:-1])
    error = _refusal(text.encode())
    assert SECRET not in f"{error} {error!r} {getattr(error, '__cause__', None)!r}"


@settings(deadline=None)
@given(st.binary(max_size=80), st.booleans())
def test_any_bytes_are_an_event_or_are_refused_with_a_reason(noise: bytes, behind: bool) -> None:
    error = _refusal(RAW + b"," + noise if behind else noise)
    assert error is None or error.message != UNEXPLAINED


@settings(deadline=None)
@given(st.data())
def test_any_change_of_one_byte_gives_an_event_or_is_refused_with_a_reason(
    data: st.DataObject,
) -> None:
    vector = data.draw(st.sampled_from([v for v in REFUSED if 0 < len(v["text"]) < 1_000]))
    raw = bytearray(vector["text"].encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    error = _refusal(bytes(raw))
    assert error is None or error.message != UNEXPLAINED
