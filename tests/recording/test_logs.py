"""Events out of lines that an application logs: logging and structlog."""

import logging
import time
from collections.abc import Iterator
from logging.handlers import MemoryHandler, QueueHandler, QueueListener
from queue import SimpleQueue
from typing import Any

import pytest
import structlog

from ledger_client import AuditHandler, AuditProcessor, Recorder, audit_context
from ledger_client.recording.logging_handlers import AuditContextFilter
from ledger_client.runtime.clock import unix_us
from ledger_core.event.times import format_time
from tests.recording.conftest import OpenRecorder, Running


@pytest.fixture
def recorder(open_recorder: OpenRecorder) -> Recorder:
    return open_recorder()


@pytest.fixture
def log(recorder: Recorder) -> Iterator[logging.Logger]:
    logger = logging.getLogger("shop.audit")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handler = AuditHandler(recorder)
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)
    logger.propagate = True


def recorded(recorder: Recorder, running: Running, name: str) -> list[dict[str, Any]]:
    assert recorder.flush(30)
    return running.recorded(name)


def test_a_line_with_an_action_is_an_event_and_no_other_line(
    log: logging.Logger, recorder: Recorder, running: Running, name: str
) -> None:
    log.info("only a line")
    with audit_context(actor=("user", "u_5"), request_id="r-1"):
        log.info(
            "refunded %d",
            500,
            extra={"action": "payment.refunded", "target": ("payment", "p_1"), "context": {"a": 1}},
        )
        log.error("no", extra={"action": "payment.refunded", "actor": "u_6"})
        log.info("no", extra={"action": "payment.refunded", "outcome": "denied", "reason": "why"})
    first, second, third = recorded(recorder, running, name)
    assert first["reason"] == "refunded 500"
    assert first["targets"] == [{"type": "payment", "id": "p_1"}]
    assert first["actor"]["id"] == "u_5"
    assert first["context"] == {"a": 1, "logger": "shop.audit", "request_id": "r-1"}
    assert (second["outcome"], second["actor"]["id"]) == ("failure", "u_6")
    assert (third["outcome"], third["reason"]) == ("denied", "why")


def test_a_line_with_a_mistake_raises_nothing_and_is_a_dead_letter(
    log: logging.Logger, recorder: Recorder, running: Running, name: str
) -> None:
    log.info("x", extra={"action": "not an action"})
    log.info("x", extra={"action": "a.b", "context": 5})
    log.info("x", extra={"action": 5})
    events = recorded(recorder, running, name)
    assert [event["action"] for event in events] == ["ledger.recorder.rejected"] * 3


def test_a_line_whose_arguments_do_not_fit_is_recorded_with_its_format(
    recorder: Recorder, running: Running, name: str
) -> None:
    line = {
        "name": "shop",
        "levelno": logging.INFO,
        "msg": "refund of %d",
        "args": ("ten",),
        "action": "payment.refunded",
    }
    AuditHandler(recorder).handle(logging.makeLogRecord(line))
    queue: SimpleQueue[Any] = SimpleQueue()
    queue_handler = QueueHandler(queue)
    queue_handler.addFilter(AuditContextFilter())
    queue_handler.handle(logging.makeLogRecord(line))
    AuditHandler(recorder).handle(queue.get(timeout=60))
    events = recorded(recorder, running, name)
    assert len(events) == 2
    for event in events:
        assert (event["action"], event["reason"]) == ("payment.refunded", "refund of %d")


@pytest.mark.parametrize("kind", ["memory", "queue"])
def test_a_line_that_is_handled_later_has_the_actor_and_the_time_of_when_it_was_logged(
    recorder: Recorder, running: Running, name: str, kind: str
) -> None:
    handler = AuditHandler(recorder)
    queue: SimpleQueue[Any] = SimpleQueue()
    listener = QueueListener(queue, handler)
    later = (
        MemoryHandler(100, flushLevel=logging.CRITICAL, target=handler)
        if kind == "memory"
        else QueueHandler(queue)
    )
    later.addFilter(AuditContextFilter())
    log = logging.getLogger("shop.later")
    log.setLevel(logging.INFO)
    log.addHandler(later)
    before_us = unix_us()
    try:
        with audit_context(actor=lambda: ("user", "u_5"), source="203.0.113.9", reason="x"):
            log.info("refunded", extra={"action": "payment.refunded"})
        after_us = unix_us()
        time.sleep(0.1)
        with audit_context(actor=("user", "another"), tenant="another", request_id="r-1"):
            if kind == "memory":
                later.flush()
            else:
                listener.start()
                listener.stop()
    finally:
        log.removeHandler(later)
    (event,) = recorded(recorder, running, name)
    assert event["actor"] == {"type": "user", "id": "u_5"}
    assert event["source"] == {"ip": "203.0.113.9"}
    assert event["context"] == {"logger": "shop.later"}
    assert format_time(before_us - 1_000) <= event["time"] <= format_time(after_us)


def test_a_line_behind_a_queue_has_its_message_without_the_traceback(
    recorder: Recorder, running: Running, name: str
) -> None:
    queue: SimpleQueue[Any] = SimpleQueue()
    listener = QueueListener(queue, AuditHandler(recorder))
    later = QueueHandler(queue)
    later.addFilter(AuditContextFilter())
    log = logging.getLogger("shop.queue")
    log.addHandler(later)
    log.propagate = False
    listener.start()
    try:
        log.error("no %s", "money", exc_info=OSError("x"), extra={"action": "payment.refunded"})
    finally:
        listener.stop()
        log.removeHandler(later)
        log.propagate = True
    (event,) = recorded(recorder, running, name)
    assert (event["outcome"], event["reason"]) == ("failure", "no money")


def test_what_the_recorder_logs_itself_does_not_go_round_in_circles(
    open_recorder: OpenRecorder,
) -> None:
    recorder = open_recorder(on_invalid="dead-letter")
    handler = AuditHandler(recorder)
    own = logging.getLogger("ledger_client.recorder")
    own.addHandler(handler)
    try:
        own.warning("x", extra={"action": "a.b"})
        recorder.record("not an action")
    finally:
        own.removeHandler(handler)
    assert recorder.status.recorded == 1


def test_a_structlog_line_is_recorded_and_handed_on(
    recorder: Recorder, running: Running, name: str
) -> None:
    lines: list[Any] = []

    def keep(_: Any, __: str, line: Any) -> Any:
        lines.append(dict(line))
        raise structlog.DropEvent

    log = structlog.wrap_logger(None, processors=[AuditProcessor(recorder), keep])
    log.info("only a line", amount=1)
    log.bind(request_id="r-1").info(
        "refunded", action="payment.refunded", target=("payment", "p_1"), amount=500
    )
    log.error("no", action="payment.refunded", actor="u_6")
    log.info("x", action="a.b", context=5)
    assert [line["event"] for line in lines] == ["only a line", "refunded", "no", "x"]
    assert lines[1]["amount"] == 500
    first, second, notice = recorded(recorder, running, name)
    assert first["reason"] == "refunded"
    assert first["context"] == {"amount": 500, "request_id": "r-1"}
    assert (second["outcome"], second["actor"]["id"]) == ("failure", "u_6")
    assert notice["action"] == "ledger.recorder.rejected"
