"""An event that never gets an answer becomes a dead letter, and no event of an outage does."""

import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ledger_client.recording import probe, sender
from ledger_client.recording.dead_letters import DeadLetters
from tests.client.peer import Peer
from tests.files import files_below
from tests.recording.conftest import OpenRecorder, Running
from tests.recording.relay import RESET, relay
from tests.waiting import until

Block = Callable[[bytes], tuple[int, bytes] | None]

COUNT = 40
POISONED = (5, 12)
"""The numbers of two events."""


def refusing(status: int) -> Block:
    return lambda request: (status, b"") if b"poison" in request else None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PATIENCE_S", 0.0)


def letters_of(tmp_path: Path) -> list[dict[str, object]]:
    text = (tmp_path / "spool" / "dead-letter.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("status", [RESET, 500, 504])
@pytest.mark.usefixtures("impatient")
def test_an_event_without_an_answer_does_not_hold_up_the_others_for_ever(
    status: int, open_recorder: OpenRecorder, running: Running, name: str, tmp_path: Path
) -> None:
    with Peer(relay(running.url, refusing(status))) as peer:
        recorder = open_recorder(url=peer.url, timeout_s=5)
        for number in range(1, COUNT + 1):
            recorder.record("a.b", reason="poison" if number in POISONED else "fine")
        assert recorder.flush(120)
        assert recorder.flush(60)
    found = running.recorded(name)
    taken = {each["recorder"]["seq"] for each in found if each["action"] == "a.b"}
    assert taken == {*range(1, COUNT + 1)} - {*POISONED}
    reported = [each["context"]["rejected"] for each in found if each["action"] != "a.b"]
    assert [(each["recorder"]["seq"], each["rule"]) for each in reported] == [
        (number, "no-answer") for number in POISONED
    ]
    for letter, number in zip(letters_of(tmp_path), POISONED, strict=True):
        event = letter["event"]
        assert isinstance(event, dict)
        assert (event["recorder"]["seq"], event["reason"]) == (number, "poison")


def test_it_is_tried_for_a_long_time_while_the_others_go_through(
    open_recorder: OpenRecorder, running: Running, name: str
) -> None:
    with Peer(relay(running.url, refusing(RESET))) as peer:
        recorder = open_recorder(url=peer.url, timeout_s=5)
        for number in range(1, COUNT + 1):
            recorder.record("a.b", reason="poison" if number == 1 else "fine")
        assert not recorder.flush(0)
        # More than `PASSES` of the others, and they were asked for that alone.
        until(lambda: not recorder.flush(0.5) and len(running.recorded(name)) > probe.PASSES)
        assert recorder.status.rejected == 0
    assert 1 not in {event["recorder"]["seq"] for event in running.recorded(name)}


def test_the_long_time_goes_on_in_the_next_process(
    open_recorder: OpenRecorder,
    running: Running,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sender, "DELAY_MAX_S", 0.1)
    with Peer(relay(running.url, refusing(500))) as peer:
        first = open_recorder(url=peer.url, timeout_s=5)
        for number in range(COUNT):
            first.record("a.b", reason="poison" if number == 0 else "fine")
        until(lambda: any(files_below(tmp_path, probe.SUSPECT)))
        first.close(0)
        (suspect,) = files_below(tmp_path, probe.SUSPECT)
        assert suspect.read_text() == "1\n"
        long_ago_s = time.time() - probe.PATIENCE_S
        os.utime(suspect, (long_ago_s, long_ago_s))
        second = open_recorder(url=peer.url, timeout_s=5)
        for _ in range(COUNT):
            second.record("a.b", reason="fine")
        until(lambda: second.status.rejected == 1)
        until(lambda: len(running.recorded(name)) == 2 * COUNT)
    (letter,) = letters_of(tmp_path)
    assert isinstance(letter["event"], dict)
    assert letter["event"]["reason"] == "poison"


@pytest.mark.usefixtures("impatient")
def test_it_is_tried_on_while_no_dead_letter_can_be_kept(
    open_recorder: OpenRecorder, running: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried = []

    def append(*_: object, **__: object) -> bool:
        tried.append(1)
        return False

    with monkeypatch.context() as patched, Peer(relay(running.url, refusing(500))) as peer:
        patched.setattr(DeadLetters, "append", append)
        recorder = open_recorder(url=peer.url, timeout_s=5)
        for number in range(1, COUNT + 1):
            recorder.record("a.b", reason="poison" if number == 1 else "fine")
        until(lambda: not recorder.flush(0.5) and len(tried) > 0)
        assert recorder.status.rejected == 0
        patched.undo()
        for _ in range(COUNT):
            recorder.record("a.b", reason="fine")
        assert recorder.flush(120)
    (letter,) = letters_of(tmp_path)
    assert isinstance(letter["event"], dict)
    assert letter["event"]["reason"] == "poison"


def the_second(request: bytes) -> bool:
    """As where the ledger takes nothing more: the four behind it went through before that."""
    return b'"seq":2}' in request


def long_ones(request: bytes) -> bool:
    """A path that drops long packets, or a proxy that keeps long bodies on a full disk."""
    return len(request) > 2_500


@pytest.mark.parametrize(("fails", "chars", "behind"), [(the_second, 1, 4), (long_ones, 3_000, 40)])
@pytest.mark.usefixtures("impatient")
def test_no_event_is_given_up_where_an_outage_may_let_the_others_pass(
    fails: Callable[[bytes], bool],
    chars: int,
    behind: int,
    open_recorder: OpenRecorder,
    running: Running,
    name: str,
) -> None:
    is_over = False

    def block(request: bytes) -> tuple[int, bytes] | None:
        return (500, b"") if fails(request) and not is_over else None

    with Peer(relay(running.url, block)) as peer:
        recorder = open_recorder(url=peer.url, timeout_s=5)
        recorder.record("a.b")
        assert recorder.flush(60)
        recorder.record("a.b", reason="x" * chars)
        for _ in range(behind):
            recorder.record("a.b")
        before = len(peer.requests)
        until(lambda: not recorder.flush(0.5) and len(peer.requests) > before + 100)
        assert recorder.status.rejected == 0
        is_over = True
        assert recorder.flush(60)
        assert recorder.status.rejected == 0
    assert len(running.recorded(name)) == behind + 2


@pytest.mark.parametrize("status", [403, 500])
@pytest.mark.usefixtures("impatient")
def test_no_event_is_given_up_where_every_other_request_fails(
    status: int, open_recorder: OpenRecorder, running: Running, name: str
) -> None:
    """As behind a balancer, one of whose two servers is broken or has another configuration."""
    turns = itertools.count()

    def block(_: bytes) -> tuple[int, bytes] | None:
        return (status, b"") if next(turns) % 2 else None

    with Peer(relay(running.url, block)) as peer:
        recorder = open_recorder(url=peer.url, timeout_s=5, batch_events_max=1)
        for _ in range(COUNT):
            recorder.record("a.b")
        assert recorder.flush(120)
        assert recorder.status.rejected == 0
    assert len(running.recorded(name)) == COUNT


@pytest.mark.parametrize("servers", range(2, 13))
def test_no_servers_that_take_turns_answer_as_to_an_event_that_is_refused(servers: int) -> None:
    """Some server of those that took the other event gets the event itself too."""
    took, refused = set(), set()
    number = 0
    for attempts in probe.ATTEMPTS:
        took.add(number % servers)
        refused |= {(number + each) % servers for each in range(1, attempts + 1)}
        number += attempts + 1
    assert took & refused
    # Where half of all requests fail by chance; and where nearly all do: `PASSES`.
    assert min(2**number, 3**probe.PASSES) > 10_000_000


def test_the_next_ones_are_found_at_once(
    open_recorder: OpenRecorder,
    running: Running,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Peer(relay(running.url, refusing(RESET))) as peer, monkeypatch.context() as patched:
        patched.setattr(probe, "PATIENCE_S", 0.0)
        recorder = open_recorder(url=peer.url, timeout_s=5)
        for number in range(1, COUNT + 1):
            recorder.record("a.b", reason="poison" if number == 1 else "fine")
        assert recorder.flush(120)
        patched.undo()
        # No turn of a trial ends any more, so it is not by those that they are found.
        patched.setattr(probe, "PASSES", 1 << 30)
        for number in range(1, COUNT + 1):
            recorder.record("a.b", reason="poison" if number in POISONED else "fine")
        assert recorder.flush(120)
        assert recorder.status.rejected == 3
    assert len(letters_of(tmp_path)) == 3
    taken = [each for each in running.recorded(name) if each["action"] == "a.b"]
    assert len(taken) == 2 * COUNT - 3
