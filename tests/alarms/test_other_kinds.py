"""Alarms of gaps, of silence by group, and of missing witnesses."""

from typing import Any

import msgspec
import pytest

from ledger.alarms import gaps as gaps_module
from ledger.alarms.config import parse_alarms
from ledger.alarms.evaluator import Evaluator, Memory
from ledger.alarms.firing import Firing, describe
from ledger.alarms.groups import GROUPS_MAX
from ledger_core.tlog.cosignature import TIME_MAX
from tests.alarms.test_evaluator import START_US, by, fired, leaf, numbered

GAP = '[gap]\nkind = "gap"\nwindow_s = 100\nrepeat_s = 0\n'
A, B = "instance_a", "instance_b"


def dropped(instance: str, seq: int, *ranges: list[int], of: str = "", count: int = 0) -> Any:
    lost = sum(last - first + 1 for first, last in ranges)
    said = {"instance": of or instance, "count": count or lost, "numbers": list(ranges)}
    return numbered(instance, seq, action="ledger.recorder.dropped", context={"dropped": said})


def missing(events: list[tuple[float, dict[str, Any]]]) -> list[tuple[str, Any]]:
    last_s = events[-1][0]
    firings = fired(GAP, [*events, (last_s + 101.0, by("jo")), (last_s + 300.0, by("jo"))])
    return [(firing.group, firing.missing) for firing in firings]


def test_numbers_that_never_come_fire_once() -> None:
    events = [(0.0, numbered(A, 1)), (1.0, numbered(A, 2)), (2.0, numbered(A, 6))]
    assert missing(events) == [(f"app {A}", ((3, 5),))]
    (firing,) = fired(GAP, [*events, (102.0, by("jo")), (103.0, by("jo"))])
    assert (firing.count, firing.indices, firing.time_us) == (3, (2,), START_US + 102_000_000)
    alarm = parse_alarms(GAP, "x")["gap"]
    assert describe(firing, alarm) == f"gap: alarm of kind gap (recorder app {A})"


@pytest.mark.parametrize(
    "events",
    [
        [(0.0, numbered(A, 1)), (1.0, numbered(A, 2)), (2.0, numbered(B, 1))],
        # Late, but in time.
        [(0.0, numbered(A, 1)), (1.0, numbered(A, 3)), (90.0, numbered(A, 2))],
        # The recorder says what it lost, at once or later.
        [(0.0, numbered(A, 1)), (1.0, dropped(A, 4, [2, 3]))],
        [(0.0, numbered(A, 1)), (1.0, numbered(A, 4)), (2.0, dropped(A, 5, [2, 3]))],
        # Its successor on the same spool does.
        [(0.0, numbered(A, 1)), (1.0, numbered(A, 4)), (2.0, dropped(B, 1, [2, 3], of=A))],
        [
            (0.0, numbered(A, 1)),
            (
                1.0,
                numbered(
                    A,
                    3,
                    action="ledger.recorder.rejected",
                    context={"rejected": {"recorder": {"instance": A, "seq": 2}}},
                ),
            ),
        ],
    ],
)
def test_numbers_that_come_or_are_explained_fire_nothing(events: Any) -> None:
    assert missing(events) == []


@pytest.mark.parametrize(
    ("report", "left"),
    [
        (dropped(A, 5, [2, 2]), ((3, 3),)),
        (dropped(A, 5, [2, 3], count=1), ((2, 3),)),  # Its count is another one.
        (dropped(B, 1, [2, 3], of="other"), ((2, 3),)),
        (by("jo", action="ledger.recorder.dropped", context={"dropped": {}}), ((2, 3),)),
    ],
)
def test_a_report_explains_no_more_than_it_can(report: Any, left: Any) -> None:
    events = [(0.0, numbered(A, 1)), (1.0, numbered(A, 4)), (2.0, report)]
    assert missing(events) == [(f"app {A}", left)]


def test_a_recorder_begins_with_its_first_number_but_at_the_start_of_a_log_with_1() -> None:
    alarms = parse_alarms(GAP, "x")
    for is_whole, wanted in ((False, []), (True, [((1, 6),)])):
        evaluator = Evaluator(alarms, now_us=START_US, is_whole=is_whole)
        evaluator.feed(0, leaf(numbered(A, 7), 0.0))
        firings = evaluator.tick(START_US + 100_000_000)
        assert [firing.missing for firing in firings] == wanted


def test_a_restart_knows_the_next_number_and_the_gaps_that_wait() -> None:
    alarms = parse_alarms(GAP, "x")
    before = Evaluator(alarms, now_us=START_US)
    for index, event in enumerate([numbered(A, 5), numbered(B, 5), numbered(B, 7)]):
        before.feed(index, leaf(event, index))
    written = msgspec.json.encode(before.memory())
    memory = msgspec.json.decode(written, type=Memory)
    after = Evaluator(alarms, now_us=START_US, memory=memory)
    after.feed(3, leaf(numbered(A, 8), 50.0))
    firings = after.tick(START_US + 150_000_000)
    assert [(firing.group, firing.missing) for firing in firings] == [
        (f"app {B}", ((6, 6),)),
        (f"app {A}", ((6, 7),)),
    ]
    assert after.memory().gaps["gap"].open == ()


def test_what_an_alarm_of_gaps_keeps_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaps_module, "OPEN_MAX", 3)
    firings = fired(GAP, [(0.0, numbered(A, number * 2 + 1)) for number in range(6)])
    assert [firing.missing for firing in firings] == [((2, 2),), ((4, 4),)]
    evaluator = Evaluator(parse_alarms(GAP, "x"), now_us=START_US)
    for number in range(GROUPS_MAX + 10):
        evaluator.feed(number, leaf(numbered(f"r_{number}", 1), 0.0, number))
    assert len(evaluator.memory().gaps["gap"].recorders) == GROUPS_MAX


SILENT = '[silent]\nquery = "action:record.*"\nby = "service"\nsilence_s = 100\nrepeat_s = 0\n'


def of(service: str) -> dict[str, Any]:
    return {"action": "record.viewed", "outcome": "success", "source": {"service": service}}


def test_silence_is_that_of_each_group_that_came_before() -> None:
    evaluator = Evaluator(parse_alarms(SILENT, "x"), now_us=START_US)
    assert evaluator.tick(START_US) == []
    evaluator.feed(0, leaf(of("shop"), 0.0))
    evaluator.feed(1, leaf(of("bank"), 30.0))
    firings = evaluator.feed(2, leaf(of("bank"), 110.0))
    assert [(each.group, each.time_us - START_US) for each in firings] == [("shop", 100_000_000)]
    assert evaluator.tick(START_US + 200_000_000) == []
    # Each is silent once, until it has come again.
    assert [each.group for each in evaluator.tick(START_US + 210_000_000)] == ["bank"]
    assert evaluator.tick(START_US + 900_000_000) == []
    evaluator.feed(3, leaf(of("shop"), 900.0))
    assert [each.group for each in evaluator.tick(START_US + 1_000_000_000)] == ["shop"]


def test_silence_of_the_whole_log_is_told_once_whatever_its_repeat_time_is() -> None:
    text = '[silent]\nquery = "received.by:app"\nsilence_s = 100\nrepeat_s = 0\n'
    evaluator = Evaluator(parse_alarms(text, "x"), now_us=START_US)
    assert evaluator.tick(START_US) == []
    assert len(evaluator.tick(START_US + 100_000_000)) == 1
    assert evaluator.tick(START_US + 100_200_000) == []
    evaluator.feed(0, leaf({}, 200.0))
    assert len(evaluator.tick(START_US + 300_000_000)) == 1


WITNESS = '[witness]\nkind = "witness"\nwindow_s = 100\nrepeat_s = 0\n'


def groups(firings: list[Firing]) -> list[str]:
    return [firing.group for firing in firings]


def test_a_witness_that_cosigns_no_more_is_missed_once() -> None:
    alarms = parse_alarms(WITNESS, "x")
    evaluator = Evaluator(alarms, now_us=START_US, witnesses=["w1", "w2"])
    now_us = START_US + 160_000_000
    evaluator.saw_head({"w1": START_US + 50_000_000, "unknown": START_US}, now_us=now_us)
    assert groups(evaluator.tick(START_US + 100_000_000)) == ["w2"]
    # The same head again says nothing new of w1; a restart forgets nothing.
    evaluator.saw_head({"w1": START_US + 50_000_000}, now_us=now_us)
    after = Evaluator(alarms, now_us=START_US, memory=evaluator.memory(), witnesses=["w1", "w3"])
    assert groups(after.tick(START_US + 149_000_000)) == ["w3"]
    assert groups(after.tick(START_US + 150_000_000)) == ["w1"]
    after.saw_head({"w1": now_us}, now_us=now_us)
    assert after.tick(START_US + 259_000_000) == []
    assert groups(after.tick(START_US + 260_000_000)) == ["w1"]


def test_a_witness_whose_clock_is_ahead_is_missed_all_the_same() -> None:
    alarms = parse_alarms(WITNESS, "x")
    # `memory.json` of an earlier version may have such a time.
    kept = Memory(witnesses={"witness": {"w2": START_US + 10**15}})
    evaluator = Evaluator(alarms, now_us=START_US, memory=kept, witnesses=["w1", "w2", "w3"])
    seen = {"w1": TIME_MAX * 1_000_000, "w3": START_US + 110_000_000}
    evaluator.saw_head(seen, now_us=START_US + 10_000_000)
    assert evaluator.tick(START_US + 10_000_000) == []
    assert groups(evaluator.tick(START_US + 100_000_000)) == ["w1"]
    # A clock that is ahead by less than the window counts, but not as a time to come.
    assert groups(evaluator.tick(START_US + 110_000_000)) == ["w2", "w3"]


def test_a_clock_that_was_ahead_and_is_set_back_puts_no_witness_off() -> None:
    evaluator = Evaluator(parse_alarms(WITNESS, "x"), now_us=START_US, witnesses=["w1"])
    ahead_us = START_US + 10**15
    evaluator.saw_head({"w1": ahead_us}, now_us=ahead_us)
    assert evaluator.tick(START_US) == []
    assert groups(evaluator.tick(START_US + 100_000_000)) == ["w1"]
