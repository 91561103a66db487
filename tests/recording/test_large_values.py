"""What it costs to record an event does not grow with what the application hands over.

A request body that a stranger sends is often recorded with the request. What no leaf can have
anyway is not read to its end.
"""

import hashlib
import json
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import pytest

from ledger_client.recording.encoding import EventEncoder
from ledger_client.recording.jsonable import LEVELS_MAX, VALUES_MAX, holds_too_many, unique_items
from ledger_core.event.model import LIMITS
from ledger_core.event.secrets import mask
from tests.secrets.events import event_with

INSTANCE = b"0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50"
MADE = {"id": "0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50", "time": "2026-11-25T02:03:36.123456Z"}
MANY = 20 * VALUES_MAX
LEFT_OUT = "context: left out, the event was too large with it"

reads: Counter[str] = Counter()
"""Members that were read of the values below."""


@pytest.fixture(autouse=True)
def _count_from_zero() -> None:
    reads.clear()


def counted(members: Iterator[Any]) -> Iterator[Any]:
    for member in members:
        reads["members"] += 1
        yield member


class LongMapping(Mapping[str, int]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, key: str) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        return counted(map(str, range(MANY)))


class LongSet(AbstractSet[int]):
    def __len__(self) -> int:
        return 2

    def __contains__(self, value: object) -> bool:
        return True

    def __iter__(self) -> Iterator[int]:
        return counted(iter(range(MANY)))


class LongList(list[int]):
    def __iter__(self) -> Iterator[int]:
        return counted(iter(range(MANY)))


class LongDeque(deque[int]):
    def __iter__(self) -> Iterator[int]:
        return counted(iter(range(MANY)))


def shared() -> Any:
    """A list of a few thousand members that stands in others 128 times."""
    value: Any = CountedList(["a"] * (MANY // 128))
    for _ in range(LEVELS_MAX - 2):
        value = [value, value]
    return value


class CountedList(list[str]):
    def __iter__(self) -> Iterator[str]:
        return counted(super().__iter__())


def encoded(mask_: Callable[[dict[str, Any]], dict[str, Any]] = mask, **fields: Any) -> Any:
    event = EventEncoder(mask_, {}).encode({**event_with(**MADE), **fields})
    return json.loads(event.numbered(INSTANCE, 1))


@pytest.mark.parametrize(
    "make", [LongMapping, LongSet, lambda: LongList([1]), lambda: LongDeque([1]), shared]
)
@pytest.mark.parametrize("place", ["context", "before"])
def test_a_value_with_more_members_than_a_leaf_is_not_read_to_its_end(
    make: Callable[[], Any], place: str
) -> None:
    fields: dict[str, Any] = {
        "context": {"context": {"body": make(), "request_id": "r-1"}},
        "before": {"changes": [{"path": "/a", "before": make()}], "context": {"request_id": "r-1"}},
    }
    event = encoded(**fields[place])
    assert 0 < reads["members"] <= 2 * VALUES_MAX
    assert event["context"]["request_id"] == "r-1"
    assert LEFT_OUT in event["context"]["altered"]
    assert "changes" not in event


def test_nor_is_it_handed_to_the_mask_or_put_into_a_dead_letter() -> None:
    asked: list[dict[str, Any]] = []

    def remember(event: dict[str, Any]) -> dict[str, Any]:
        asked.append(event)
        return event

    encoded(remember, context={"body": [1] * MANY})
    letter = EventEncoder(remember, {}).letter({**event_with(), "context": {"body": [1] * MANY}})
    assert len(asked) >= 2
    assert all(len(json.dumps(each)) < 1000 for each in [*asked, letter])


def test_the_first_targets_changes_and_keys_are_kept_of_very_many() -> None:
    event = encoded(
        targets=[{"id": str(number)} for number in range(MANY)],
        changes=[{"path": f"/{number}", "after": 1} for number in range(MANY)],
        context={f"k{number}": number for number in range(MANY)},
    )
    assert [len(event[name]) for name in ("targets", "changes")] == [32, 256]
    assert event["context"]["k0"] == 0
    assert len(event["context"]) == LIMITS["context_keys"].most
    assert {note.partition(":")[0] for note in event["context"]["altered"]} == {
        "targets", "changes", "context",
    }  # fmt: skip


def test_as_many_keys_as_an_event_may_have_stay_without_a_note() -> None:
    context = {f"k{number}": number for number in range(LIMITS["context_keys"].most)}
    assert encoded(context=context)["context"] == context


def test_what_a_leaf_can_have_is_not_too_many() -> None:
    assert not holds_too_many(([1] * VALUES_MAX, 1))
    assert holds_too_many(([1] * (VALUES_MAX + 1), 1))
    deep: Any = [1] * (VALUES_MAX + 1)
    for _ in range(LEVELS_MAX):
        deep = [deep]
    assert holds_too_many((deep, LEVELS_MAX + 1))
    assert not holds_too_many((deep, LEVELS_MAX)), "it is not shown"
    inside: list[Any] = []
    inside.append(inside)
    assert not holds_too_many((inside, LEVELS_MAX))


HUGE = "4111 1111 1111 1111 " * 50_000
"""The mask would read it for seconds."""


@pytest.mark.parametrize(
    "fields",
    [
        {"context": {"body": HUGE, "request_id": "r-1"}},
        {"context": {"body": {HUGE: 1}}},
        {"context": {"body": [HUGE[:100]] * (VALUES_MAX - 1), "request_id": "r-1"}},
        {"context": {"\0": HUGE}},
        {"changes": [{"path": "/a", "before": (HUGE,), "after": {"a": HUGE}}]},
        {"targets": [{"id": HUGE, "name": HUGE, "type": HUGE}]},
        {"reason": HUGE},
        {"source": {"user_agent": HUGE}},
    ],
)
@pytest.mark.parametrize("is_own_mask", [True, False])
def test_the_mask_reads_no_more_characters_than_some_leaves_have(
    fields: dict[str, Any], is_own_mask: bool
) -> None:
    chars: list[int] = []

    def remember(event: dict[str, Any]) -> dict[str, Any]:
        chars.append(len(json.dumps(event)))
        return event

    is_clean = None if is_own_mask else (lambda _: False)
    encoder = EventEncoder(remember, {}, is_clean=is_clean)
    event = json.loads(encoder.encode({**event_with(**MADE), **fields}).numbered(INSTANCE, 1))
    encoder.letter({**event_with(**MADE), **fields})
    assert chars
    assert max(chars) < len(HUGE) / 2
    assert event["action"] == event_with()["action"]
    assert any("left out" in note or "its hash" in note for note in event["context"]["altered"])
    if "request_id" in fields.get("context", {}):
        assert event["context"]["request_id"] == "r-1"
    if "targets" in fields:
        digest = hashlib.sha256(HUGE.encode()).hexdigest()
        assert event["targets"][0] == {
            "id": f"sha256:{digest}",
            "name": "…",
            "type": f"sha256:{digest}",
        }


def test_the_first_of_a_long_text_is_kept() -> None:
    event = encoded(context={"body": "a b " * 30_000})
    assert event["context"]["body"].startswith("a b a b ")
    assert len(event["context"]["body"]) == 1024


def steps_to_name(count: int) -> int:
    """How many steps it takes to name so many keys that are shown alike."""
    steps = 0

    def trace(*_: Any) -> Any:
        nonlocal steps
        steps += 1
        return trace

    keys = {number.to_bytes(4): number for number in range(count)}
    sys.settrace(trace)
    try:
        items = unique_items(keys)
    finally:
        sys.settrace(None)
    names = [name for name, _ in items]
    assert names[:3] == ['{"bytes":4}', '{"bytes":4} (bytes)', '{"bytes":4} (bytes) 2']
    assert len(set(names)) == count
    return steps


def test_keys_that_are_shown_alike_are_named_in_steps_as_many_as_they_are() -> None:
    """`parse_qs` makes such keys of a body, and each was tried against all names before it."""
    assert steps_to_name(800) < 3 * steps_to_name(400)


def test_a_mapping_that_another_thread_changes_meanwhile_is_recorded() -> None:
    """`record` raised what the reading raised, and so did the application's request."""
    shared: dict[str, Any] = {}

    class Changing(type):
        """Stands for the other thread: it works when the class of a value is looked up."""

        def __hash__(cls) -> int:
            shared[f"k{len(shared)}"] = 1
            return id(cls)

    class Value(metaclass=Changing):
        pass

    shared["a"] = Value()
    assert encoded(context={"form": shared})["action"] == event_with()["action"]
    assert len(shared) > 1
