"""What the client sends has nothing that the ledger takes for a secret: no event is refused for it.

A stranger chooses a user agent, a name or a key. If the end of one made the ledger refuse the
event, he could keep what he does out of the log.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest

from ledger.service.otlp import map_record
from ledger_client.collect.syslog.events import Peer, map_frame
from ledger_client.collect.syslog.framing import Frame
from ledger_client.recording.encoding import EventEncoder
from ledger_core.event.model import LIMITS
from ledger_core.event.secrets import find, mask
from tests.secrets.events import event_with

INSTANCE = b"0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50"
MADE = {"id": "0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50", "time": "2026-11-25T02:03:36.123456Z"}
CARD = "4111111111111111"

ENDS = {
    "digits of which the first sixteen are a card's": (CARD, "2222"),
    "a longer word of which a part is a token": ("npm" + "_" + "a" * 36, "bbbb"),
    "an address of mail behind the name of a password": ("password: someone@host", ".example.com"),
}
FIELDS: dict[str, tuple[int, Callable[[str], dict[str, Any]]]] = {
    "user_agent": (LIMITS["user_agent"].most, lambda text: {"source": {"user_agent": text}}),
    "reason": (LIMITS["reason"].most, lambda text: {"reason": text}),
    "name": (LIMITS["name"].most, lambda text: {"targets": [{"id": "1", "name": text}]}),
    "context": (1024, lambda text: {"context": {"form": text, "much": ["q " * 1000] * 40}}),
    "key": (LIMITS["context_key"].most, lambda text: {"context": {text: 1}}),
}


def ending_at(most: int, end: str, rest: str) -> str:
    """A text that is no secret, and that has `end` before what is cut off."""
    text = ("y " * most)[: most - 2 - len(end)] + " " + end
    assert len(text) == most - 1
    return text + rest + " z" * most


def recorded(event: dict[str, Any]) -> bytes:
    return EventEncoder(mask, {}).encode({**event_with(**MADE), **event}).numbered(INSTANCE, 1)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("kind", ENDS)
def test_a_text_that_is_cut_does_not_become_a_secret(kind: str, field: str) -> None:
    most, make = FIELDS[field]
    text = ending_at(most, *ENDS[kind])
    assert find(event_with(reason=text)) == (), "it is no secret as a whole"
    event_json = recorded(make(text))
    assert find(event_json) == ()
    altered = json.loads(event_json)["context"]["altered"]
    assert any("looked like a secret" in note for note in altered) or field == "key"


@pytest.mark.parametrize("kind", ENDS)
def test_nor_does_one_of_a_record_of_otlp_or_of_a_syslog_message(kind: str) -> None:
    agent = ending_at(LIMITS["user_agent"].most, *ENDS[kind])
    attribute = {"key": "user_agent.original", "value": {"stringValue": agent}}
    record = {"eventName": "a.b", "timeUnixNano": "1", "attributes": [attribute]}
    source = map_record(record, resource={}, scope={}, digest=bytes(32))["source"]
    assert find(event_with(source=source)) == ()
    text = ending_at(LIMITS["reason"].most, *ENDS[kind])
    frame = Frame(f"<13>1 2026-11-25T02:03:36Z host app - - - {text}".encode())
    mapped = map_frame(
        frame, peer=Peer(ip="192.0.2.1", port=1), received_unix_us=1_790_000_000_000_000
    )
    assert find(event_with(reason=mapped["reason"])) == ()


def test_a_secret_that_was_there_before_the_cut_is_left_to_whoever_masks() -> None:
    text = f"{CARD} " + "y " * LIMITS["reason"].most
    event_json = EventEncoder(lambda event: event, {}).encode(
        {**event_with(**MADE), "reason": text}
    )
    assert CARD in event_json.numbered(INSTANCE, 1).decode()


@pytest.mark.parametrize("value", [float(CARD), -float(CARD), [float(CARD)], {"x": float(CARD)}])
def test_a_number_is_masked_that_is_logged_as_an_integer(value: Any) -> None:
    event_json = recorded({"context": {"paid": value}})
    assert find(event_json) == ()
    assert CARD not in event_json.decode()


@pytest.mark.parametrize(
    "value", [4111111111111111.5, 1.5, 1e300, float("inf"), float("nan"), True]
)
def test_other_numbers_stay(value: float) -> None:
    kept = mask({"context": {"paid": value}})["context"]["paid"]
    assert kept is value


def test_a_huge_integer_stays() -> None:
    huge = 10**5000
    assert mask({"context": {"paid": huge}})["context"]["paid"] is huge
