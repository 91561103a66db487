"""The audit context is stated once, and holds under threads, tasks and both."""

import asyncio
import contextvars
import json
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ledger_client import (
    AsyncRecorder,
    audit_context,
    capture_scope,
    extend_audit_context,
    restored,
)
from ledger_client.recording.context import current_scope
from tests.recording.conftest import OpenRecorder, Running


def test_inner_blocks_add_to_outer_ones_and_what_record_is_told_comes_last(
    open_recorder: OpenRecorder, running: Running, name: str
) -> None:
    recorder = open_recorder(service="admin-web")
    with audit_context(
        actor=("user", "u_1"), source={"ip": "203.0.113.9"}, request_id="r-1", context={"a": 1}
    ):
        recorder.record("outer")
        with audit_context(
            actor=("user", "u_2"), source={"port": 80}, trace_id="t-1", reason="why"
        ):
            recorder.record("inner")
            recorder.record(
                "told", actor="u_3", source="203.0.113.10", request_id="r-2", reason="x"
            )
        recorder.record("outer.again")
    recorder.record("outside")
    assert recorder.flush(30)
    outer, inner, told, again, outside = running.recorded(name)
    assert outer["source"] == again["source"] == {"ip": "203.0.113.9", "service": "admin-web"}
    assert outer["context"] == {"a": 1, "request_id": "r-1"}
    assert inner["actor"] == {"type": "user", "id": "u_2"}
    assert inner["source"] == {"ip": "203.0.113.9", "port": 80, "service": "admin-web"}
    assert inner["context"] == {"a": 1, "request_id": "r-1", "trace_id": "t-1"}
    assert inner["reason"] == "why"
    assert told["actor"] == {"id": "u_3"}
    assert told["source"] == {"ip": "203.0.113.10", "port": 80, "service": "admin-web"}
    assert told["context"]["request_id"] == "r-2"
    assert told["reason"] == "x"
    assert again["actor"] == {"type": "user", "id": "u_1"}
    assert "context" not in outside


@pytest.mark.anyio
async def test_concurrent_requests_do_not_see_one_another(
    open_recorder: OpenRecorder, running: Running, name: str
) -> None:
    recorder = open_recorder()
    together = threading.Barrier(8)

    def in_a_thread(number: int) -> None:
        with audit_context(actor=("user", f"thread-{number}"), request_id=f"thread-{number}"):
            together.wait()
            for _ in range(20):
                recorder.record("a.b")

    async def in_a_task(number: int) -> None:
        with audit_context(actor=("user", f"task-{number}"), request_id=f"task-{number}"):
            for turn in range(10):
                await asyncio.sleep(0)
                if turn % 2:
                    await asyncio.to_thread(recorder.record, "a.b")
                else:
                    recorder.record("a.b")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(in_a_thread, range(8)))
    await asyncio.gather(*(in_a_task(number) for number in range(20)))
    assert recorder.flush(30)
    events = running.recorded(name)
    assert len(events) == 8 * 20 + 20 * 10
    for event in events:
        assert event["actor"]["id"] == event["context"]["request_id"]
    assert len({event["actor"]["id"] for event in events}) == 28


def test_a_new_thread_begins_with_nothing_unless_the_context_is_handed_on() -> None:
    seen: list[Any] = []
    with audit_context(actor="u_1"):
        context = contextvars.copy_context()
        for target in (lambda: seen.append(current_scope()), lambda: context.run(see)):

            def see() -> None:
                seen.append(current_scope())

            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    assert seen == [{}, {"actor": "u_1"}]


def test_more_may_be_said_while_a_block_is_open() -> None:
    with audit_context(request_id="r-1"):
        extend_audit_context(actor=("user", "u_1"))
        assert current_scope() == {"context": {"request_id": "r-1"}, "actor": ("user", "u_1")}
    assert current_scope() == {}
    with pytest.raises(RuntimeError, match="no audit_context is open"):
        extend_audit_context(actor="u_1")


def test_a_fresh_block_begins_with_nothing_and_ends_with_what_was_around_it() -> None:
    with audit_context(actor="u_1", tenant="t_1", source={"ip": "203.0.113.9"}, trace_id="t"):
        outer = current_scope()
        with audit_context(fresh=True, source={"port": 80}):
            assert current_scope() == {"source": {"port": 80}}
            with audit_context(request_id="r-1"):
                assert current_scope() == {
                    "source": {"port": 80},
                    "context": {"request_id": "r-1"},
                }
        assert current_scope() == outer
        with audit_context(fresh=True):
            assert current_scope() == {}


@pytest.mark.parametrize("actor", [("user", "u_1"), {"type": "user", "id": "u_1"}, ["user", "u_1"]])
def test_a_captured_scope_is_restored_after_a_trip_through_json(actor: Any) -> None:
    with audit_context(actor=lambda: actor, source="203.0.113.9", request_id="r-1", tenant="t_1"):
        captured = json.loads(json.dumps(capture_scope()))
    with audit_context(actor="another", reason="another job"):
        with restored(captured):
            assert current_scope() == {
                "actor": {"type": "user", "id": "u_1"},
                "source": {"ip": "203.0.113.9"},
                "context": {"request_id": "r-1"},
                "tenant": "t_1",
            }
            assert capture_scope() == captured
        assert current_scope() == {"actor": "another", "reason": "another job"}
    assert capture_scope() == {}


def test_an_unknown_argument_of_a_context_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="unexpected arguments of an audit context: actr"):
        restored({"actr": "u_1"}).__enter__()


def test_a_block_may_be_left_in_another_context_than_it_was_entered_in() -> None:
    block = audit_context(actor="u_1")
    contextvars.copy_context().run(block.__enter__)
    block.__exit__(None, None, None)
    assert current_scope() == {}


@pytest.mark.anyio
@pytest.mark.parametrize("fsync", ["each", "interval"])
async def test_the_asynchronous_recorder_has_the_same_words_and_the_context_of_its_task(
    open_recorder: OpenRecorder, running: Running, name: str, fsync: str
) -> None:
    async with AsyncRecorder(open_recorder(fsync=fsync)) as recorder:
        with audit_context(actor=("user", "u_7"), request_id="r-7"):
            await asyncio.gather(
                *(recorder.record("a.b", target=("n", number)) for number in range(50))
            )
        assert await recorder.flush(30)
        assert recorder.status.sent == 50
    events = running.recorded(name)
    assert {event["targets"][0]["id"] for event in events} == {str(n) for n in range(50)}
    assert {event["actor"]["id"] for event in events} == {"u_7"}


@pytest.mark.anyio
async def test_an_event_loop_is_not_held_up_by_a_full_spool(open_recorder: OpenRecorder) -> None:
    inner = open_recorder(
        url="http://127.0.0.1:1", on_full="block", block_s=0.5, spool_bytes_max=1 << 18
    )
    recorder = AsyncRecorder(inner)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    kept = 0
    while await recorder.record("a.b", reason="x" * 4000) is not None:
        kept += 1
    ticking.cancel()
    assert kept > 30
    # While one event waited for room, half a second long, the loop went round.
    assert ticks > 5


def who() -> Any:
    return current_scope().get("actor")


def steps(*actors: str) -> Generator[Any, None, None]:
    for actor in actors:
        with audit_context(actor=actor):
            yield who()


def test_a_generator_that_is_dropped_brings_no_ended_block_back() -> None:
    with audit_context(actor="ann"):
        dropped = steps("inner")
        assert next(dropped) == "inner"
    assert who() is None
    dropped.close()  # As the garbage collector does, at any time.
    assert who() is None
    with audit_context(actor="ann"):
        dropped = steps("inner")
        next(dropped)
    with audit_context(actor="bea"):
        dropped.close()
        assert who() == "bea"
    assert who() is None


@pytest.mark.parametrize("fresh", [False, True])
def test_a_generator_that_is_closed_in_a_later_block_does_not_end_that(*, fresh: bool) -> None:
    with audit_context(actor="ann"):
        dropped, another = steps("inner"), steps("another")
        next(dropped)
        next(another)
        with audit_context(fresh=fresh, actor="bea"):
            dropped.close()
            another.close()
            assert who() == "bea"
            with audit_context(actor="cy"):
                assert who() == "cy"
            assert who() == "bea"
        assert who() == "ann"
    assert who() is None


def test_a_generator_that_is_finished_leaves_what_was_around_it() -> None:
    with audit_context(actor="ann"):
        assert [*steps("x", "y")] == ["x", "y"]
        assert who() == "ann"
    left = steps("x", "y")
    with audit_context(actor="ann"):
        next(left)
        next(left)
    assert who() is None
