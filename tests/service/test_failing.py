"""If a part of the service fails, the callers concerned are told and the rest goes on."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ledger.log import group_commit
from ledger.log.group_commit import QueueFullError
from ledger.log.publisher import Publisher
from ledger.log.sequencer import Sequencer
from ledger.service import outbox
from ledger.service.data_dir import DirectoryPaths
from ledger.service.outbox import Outbox
from ledger.service.secret_stores import open_private
from ledger.store.tokens import AccessStore, TokenRecord
from ledger.store.writer import LogWriter
from ledger_core.event.canonical import parse_leaf
from ledger_core.tlog.errors import VerificationError
from tests.service.check_log import check_ledger
from tests.service.serving import QUICK, Answer, event, serving
from tests.waiting import until

WAIT_S = 120.0


def wait_for(ask: Callable[[], Answer], status: int) -> Answer:
    """Ask until the status is this."""
    deadline_s = time.monotonic() + WAIT_S
    while (answer := ask()).status != status:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    return answer


def test_events_are_taken_and_proved_no_more_when_signing_has_stopped(
    unserved: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, tokens = unserved

    def fork(*_: object) -> None:
        raise VerificationError("a fork, as far as this test goes")

    with serving(directory, tokens) as ledger:
        size = check_ledger(ledger).size
        with monkeypatch.context() as patched:
            patched.setattr(Publisher, "check_extends", fork)
            assert ledger.append(event()).status == 200
            # It says so first, and then that the publisher has ended.
            until(lambda: "publisher" in ledger.ask("/readyz", token=None).text)
            ready = ledger.ask("/readyz", token=None)
        assert (ready.status, ready.slug) == (503, "not-ready")
        reasons = ready.json()["reasons"]
        assert any(reason.startswith("no head is signed") for reason in reasons)
        assert any("publisher" in reason for reason in reasons)
        assert "as far as this test goes" not in ready.text
        # What can't be answered as asked is refused before it is kept.
        sent = event()
        answer = ledger.append(sent, query="?proof=1")
        assert (answer.status, answer.slug) == (503, "signing-stopped")
        assert ledger.ask(f"/v1/events/{sent['id']}").slug == "no-event"
        assert ledger.append(sent).status == 200
        assert ledger.ask(f"/v1/events/{sent['id']}").status == 200
        assert ledger.ask(f"/v1/events/{sent['id']}?proof=1").slug == "signing-stopped"
        assert ledger.ask(f"/v1/proofs/inclusion?index={size}").slug == "signing-stopped"
        # What was published before is proved as ever.
        assert ledger.ask(f"/v1/proofs/inclusion?index=0&size={size}").status == 200
        assert ledger.ask("/v1/events/0?proof=1").status == 200
        assert ledger.ask("/checkpoint").status == 200
    with serving(directory, tokens) as ledger:
        assert check_ledger(ledger).size == size + 2


def test_a_head_that_is_late_is_waited_for_and_then_not(
    unserved: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, tokens = unserved

    async def never(*_: object, **__: object) -> None:
        return None

    with serving(directory, tokens) as ledger:
        check_ledger(ledger)
        with monkeypatch.context() as patched:
            patched.setattr(Publisher, "publish", never)
            patched.setattr(Publisher, "wait_for", never)
            index = ledger.append(event()).json()["results"][0]["index"]
            answer = ledger.ask(f"/v1/events/{index}?proof=1")
            assert (answer.status, answer.slug) == (503, "not-yet-published")
            assert int(answer.headers["Retry-After"]) >= 1
            answer = ledger.append(event(), query="?wait=witnessed&proof=1")
            assert answer.json()["witnessed"] is False
            assert answer.json()["results"][0]["proof"]
        check_ledger(ledger)


def test_an_event_that_the_log_refuses_stays_in_the_outbox_and_is_reported_once(
    unserved: tuple[Path, dict[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    directory, tokens = unserved
    access = AccessStore.open(DirectoryPaths(directory).access)
    record = TokenRecord(name="odd", scopes=("read",), created="2026-11-25T02:03:36.123456Z")
    access.add("wl_odd", record, event=b'{"action":"not an event"}')
    access.close()
    with serving(directory, {**tokens, "odd": "wl_odd"}) as ledger:
        assert ledger.ask("/v1/events/0", token="odd").status == 200
        assert check_ledger(ledger).size == len(tokens)
        time.sleep(4 * QUICK.outbox_interval_s)
        assert ledger.ask("/readyz").status == 200
    assert capfd.readouterr().out.count("outbox_event_refused") == 1
    access = AccessStore.open(DirectoryPaths(directory).access)
    assert [row for _, row in access.outbox()] == [b'{"action":"not an event"}']
    access.close()


def test_an_event_of_the_outbox_with_a_secret_is_logged_without_it(
    unserved: tuple[Path, dict[str, str]],
) -> None:
    directory, tokens = unserved
    access = AccessStore.open(DirectoryPaths(directory).access)
    fired = event(action="ledger.alarm.fired", reason='cards: reason:"4111 1111 1111 1111"')
    access.enqueue(json.dumps(fired).encode())
    access.close()
    with serving(directory, tokens) as ledger:
        logged = check_ledger(ledger).leaves[-1]
    assert fired["id"].encode() in logged
    assert b"masked.card-number" in logged
    assert b"4111" not in logged


def test_all_of_the_outbox_is_logged_in_its_order_however_much_it_is(
    unserved: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, tokens = unserved
    monkeypatch.setattr(outbox, "EVENTS_MAX", 4)
    with serving(directory, tokens) as ledger:
        events = [parse_leaf(leaf).event for leaf in check_ledger(ledger).leaves]
        assert [event.targets[0].id for event in events if event.targets] == list(tokens)


def test_a_disk_that_stands_still_is_named_and_refuses_events_until_it_goes_on(
    unserved: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, tokens = unserved
    begun, going_on = threading.Event(), threading.Event()
    commit = LogWriter.commit

    def stand_still(*arguments: Any, **named: Any) -> Any:
        begun.set()
        going_on.wait(WAIT_S)
        return commit(*arguments, **named)

    with serving(directory, tokens) as ledger, ThreadPoolExecutor(1) as threads:
        size = check_ledger(ledger).size
        with monkeypatch.context() as patched:
            patched.setattr(LogWriter, "commit", stand_still)
            first = threads.submit(ledger.append, event())
            assert begun.wait(WAIT_S)
            assert ledger.ask("/readyz", token=None).status == 200
            patched.setattr(group_commit, "STALL_S", -1.0)
            ready = ledger.ask("/readyz", token=None)
            assert (ready.status, ready.slug) == (503, "not-ready")
            assert "does not finish a write" in ready.json()["reasons"][0]
            answer = ledger.append(event())
            assert (answer.status, answer.slug) == (503, "unavailable")
            assert answer.headers["Retry-After"]
            assert ledger.ask("/v1/events?q=action:a.b").status == 200
            going_on.set()
            assert first.result(WAIT_S).status == 200
        wait_for(lambda: ledger.ask("/readyz", token=None), 200)
        assert ledger.append(event()).status == 200
        assert check_ledger(ledger).size == size + 2


def test_an_erasure_that_can_not_be_logged_at_once_is_logged_by_the_outbox(
    unserved: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, tokens = unserved
    found = "/v1/events?q=action:ledger.private.erased"

    async def refuse(*_: object) -> None:
        raise QueueFullError("too much waits, as far as this test goes")

    with serving(directory, tokens) as ledger:
        with monkeypatch.context() as patched:
            patched.setattr(Sequencer, "append_events", refuse)
            answer = ledger.ask(
                "/v1/private/erasures",
                method="POST",
                body=b'{"subject":"u_1","reason":"asked"}',
                content_type="application/json",
            )
            assert (answer.status, answer.slug) == (503, "queue-full")
            assert ledger.ask(found).json()["total"] == 0
        until(lambda: ledger.ask(found).json()["total"] != 0)
        size = check_ledger(ledger).size
        assert size == len(tokens) + 1
    private = open_private(DirectoryPaths(directory), make_key=bytes)
    assert private.unlogged() == []
    private.close()


def test_a_task_that_dies_is_logged_without_its_words_and_seen_in_readyz(
    unserved: tuple[Path, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    directory, tokens = unserved

    async def broken(_: Outbox) -> None:
        raise RuntimeError("-".join(("words", "of", "an", "event")))

    with serving(directory, tokens) as ledger:
        monkeypatch.setattr(Outbox, "append_waiting", broken)
        answer = wait_for(lambda: ledger.ask("/readyz"), 503)
        assert answer.json()["reasons"] == ["the task outbox has ended"]
        assert ledger.append(event()).status == 200
    said = capfd.readouterr().out
    assert "RuntimeError" in said
    assert "words-of-an-event" not in said
