"""Delivery: at least once, in order, batches, retries, dead letters, rewinds, another log."""

import json
import socket
import time
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from ledger.alarms.config import AlarmConfig
from ledger.alarms.firing import Firing, firing_event
from ledger.follow.firings import drop_old_firings
from ledger.follow.position import Position
from ledger.runtime.records import read_record, write_record
from ledger.sinks.dead_letters import DISCARD, RESEND, DeadLetters, read_letters, request_action
from ledger.store.tokens import AccessStore
from ledger_core.tlog.errors import MalformedError, UnavailableError
from tests.sinks.sinking import Folder, HttpPeer, Reply, Request, deliver, processes, running
from tests.waiting import until

QUICK = {"type": "http", "retry_max_s": 0.02}


def test_events_arrive_in_order_and_in_batches(folder: Folder) -> None:
    folder.append(count=25)
    with HttpPeer() as peer:
        folder.add("siem", url=peer.url, batch_events=10, **QUICK)
        deliver(folder, "siem")
    assert [len(request.lines()) for request in peer.requests] == [10, 10, 5]
    assert peer.indices() == list(range(25))


def test_a_batch_has_few_bytes_or_one_event(folder: Folder) -> None:
    folder.append(*({"reason": "x" * 700} for _ in range(4)))
    with HttpPeer() as peer:
        folder.add("siem", url=peer.url, batch_bytes=1024, **QUICK)
        deliver(folder, "siem")
    assert [len(request.lines()) for request in peer.requests] == [1, 1, 1, 1]


@pytest.mark.parametrize("status", [500, 502, 503, 429, 401, 403, 404, 301])
def test_what_says_nothing_about_the_events_is_tried_again(folder: Folder, status: int) -> None:
    folder.append(count=3)
    with HttpPeer([Reply(status), Reply(status)]) as peer:
        folder.add("siem", url=peer.url, **QUICK)
        deliver(folder, "siem")
    assert peer.indices() == [0, 1, 2] * 3
    assert folder.report("siem").state.dead == 0


@pytest.mark.parametrize("status", [408, 504])
def test_a_batch_that_does_not_get_through_in_time_is_sent_in_parts(
    folder: Folder, status: int
) -> None:
    """A link too slow for a whole batch: the receiver, or a gateway before it, ends the request."""
    folder.append(count=60)

    def answer(request: Request) -> Reply:
        return Reply(status if len(request.lines()) > 10 else 200)

    with HttpPeer(answer) as peer:
        folder.add("siem", url=peer.url, batch_events=30, **QUICK)
        deliver(folder, "siem")
    taken = [request.lines() for request in peer.requests if len(request.lines()) <= 10]
    assert [line["index"] for lines in taken for line in lines] == list(range(60))
    # It grows again, so that one slow hour does not leave a request for each record.
    assert any(len(request.lines()) > 10 for request in peer.requests[2:])
    assert folder.report("siem").state.dead == 0


def test_retry_after_is_honoured(folder: Folder) -> None:
    folder.append(count=1)
    times: list[float] = []

    def answer(_request: Request) -> Reply:
        times.append(time.monotonic())
        return Reply(429, headers={"Retry-After": "1"}) if len(times) == 1 else Reply()

    with HttpPeer(answer) as peer:
        folder.add("siem", url=peer.url, **QUICK)
        deliver(folder, "siem")
    assert times[1] - times[0] >= 1.0


def test_the_record_that_is_refused_becomes_a_dead_letter(folder: Folder) -> None:
    folder.append(count=20)

    def answer(request: Request) -> Reply:
        refused = {7, 13} & {line["index"] for line in request.lines()}
        return Reply(400, b'{"error":"no such field"}') if refused else Reply()

    with HttpPeer(answer) as peer:
        paths = folder.add("siem", url=peer.url, **QUICK)
        deliver(folder, "siem")
    letters = read_letters(paths.dead)
    assert [letter.index for letter in letters] == [7, 13]
    assert [letter.leaf_hash for letter in letters] == [folder.leaf_hashes()[i] for i in (7, 13)]
    assert "no such field" in letters[0].reason
    accepted = [
        line["index"]
        for request in peer.requests
        for line in request.lines()
        if not {7, 13} & {each["index"] for each in request.lines()}
    ]
    assert accepted == [index for index in range(20) if index not in {7, 13}]
    assert folder.report("siem").state.dead == 2


def test_dead_letters_are_sent_again_or_discarded(folder: Folder) -> None:
    folder.append(count=4)
    refusing = True

    def answer(_request: Request) -> Reply:
        return Reply(400) if refusing else Reply()

    with HttpPeer(answer) as peer:
        paths = folder.add("siem", url=peer.url, **QUICK)
        deliver(folder, "siem")
        assert len(read_letters(paths.dead)) == 4
        with running(folder, "siem"):
            request_action(paths, RESEND)  # Refused again: they stay.
            until(lambda: len(peer.requests) == 11)  # 7 before: all, both halves, and each.
            until(lambda: not (paths.root / "resending.jsonl").exists())
            assert len(read_letters(paths.dead)) == 4
            refusing = False
            peer.requests.clear()
            request_action(paths, RESEND)
            until(lambda: folder.report("siem").state.dead == 0)
            until(lambda: len(peer.requests) == 4)
        assert peer.indices() == [0, 1, 2, 3]
        assert not paths.dead.exists()


def test_letters_that_are_being_sent_again_can_be_discarded_and_joined(folder: Folder) -> None:
    folder.append(count=2)
    paths = folder.add("siem", url="http://127.0.0.1:9", **QUICK)
    dead = DeadLetters(paths)
    for index in range(4):
        dead.add(index, "aa", "refused")
        if index % 2:
            request_action(paths, RESEND)
            letters = dead.begin_resend()
            assert [letter.index for letter in letters] == [*range(index + 1)]
    dead.add(4, "aa", "refused")
    request_action(paths, DISCARD)
    assert dead.begin_resend() == []
    assert len(dead) == 0


def test_a_letter_that_a_receiver_never_takes_holds_up_a_sink_until_it_is_discarded(
    folder: Folder,
) -> None:
    folder.append(count=1)
    status = 400
    with HttpPeer(lambda _request: Reply(status)) as peer:
        paths = folder.add("siem", url=peer.url, **QUICK)
        deliver(folder, "siem")
        status = 500
        with running(folder, "siem"):
            request_action(paths, RESEND)
            until(lambda: folder.report("siem").state.error != "")
            request_action(paths, DISCARD)
            until(lambda: not (paths.root / "resending.jsonl").exists())


def test_dead_letters_are_bounded_and_nothing_is_dropped(folder: Folder) -> None:
    paths = folder.add("siem", url="http://127.0.0.1:9", **QUICK)
    dead = DeadLetters(paths, most=2)
    dead.add(0, "aa", "refused")
    dead.add(0, "aa", "refused")
    dead.add(1, "bb", "refused")
    with pytest.raises(UnavailableError, match="there are 2 dead letters"):
        dead.add(2, "cc", "refused")
    with paths.dead.open("ab") as file:
        file.write(b'{"index":3,"le')  # As a kill leaves it.
    again = DeadLetters(paths, most=2)
    assert len(again) == len(read_letters(paths.dead)) == 2
    request_action(paths, DISCARD)
    assert again.begin_resend() == []
    assert not paths.dead.exists()


def test_a_rewind_takes_a_sink_out_of_its_wait(folder: Folder) -> None:
    folder.append(count=5)
    with HttpPeer(lambda request: Reply(500 if b'"index":2,' in request.body else 200)) as peer:
        paths = folder.add("siem", url=peer.url, batch_events=1, type="http", retry_max_s=60)
        with running(folder, "siem"):
            until(lambda: "HTTP 500" in folder.report("siem").state.error)
            write_record(paths.rewind, Position(next_index=3))
            until(lambda: folder.report("siem").next_index == 5)
    assert peer.indices()[-2:] == [3, 4]
    assert folder.report("siem").state.error == ""


def test_another_log_under_the_same_indices_is_not_sent(folder: Folder, tmp_path: Path) -> None:
    folder.append(count=3)
    with HttpPeer() as peer:
        paths = folder.add("siem", url=peer.url, **QUICK)
        deliver(folder, "siem")
        position = read_record(paths.position, Position)
        assert position is not None
        other = msgspec.structs.replace(position, last_leaf_hash="00" * 32)
        write_record(paths.position, other)
        with running(folder, "siem"):
            until(lambda: "another entry 2" in folder.report("siem").state.error)
            larger = msgspec.structs.replace(position, next_index=99)
            write_record(paths.rewind, larger)
            until(lambda: "not 99" in folder.report("siem").state.error)
        assert peer.indices() == [0, 1, 2]


def test_a_receiver_that_never_answers_stops_no_other_sink(folder: Folder) -> None:
    folder.append(count=3)
    with socket.create_server(("127.0.0.1", 0)) as silent, HttpPeer() as peer:
        port = silent.getsockname()[1]
        folder.add("silent", type="http", url=f"http://127.0.0.1:{port}", timeout_s=600)
        folder.add("siem", url=peer.url, **QUICK)
        with processes(folder, "silent", "siem"):
            folder.append(count=2)
            until(lambda: folder.report("siem").next_index == 5)
        assert folder.report("silent").next_index == 0


def test_the_state_says_since_when_a_sink_fails(folder: Folder) -> None:
    folder.append(count=1)
    folder.add("siem", url="http://127.0.0.1:9", **QUICK)
    with running(folder, "siem"):
        until(lambda: bool(folder.report("siem").state.error))
        state = folder.report("siem").state
        assert state.since_unix_s > 0
        assert "127.0.0.1:9" in state.error


def test_no_secret_is_in_the_state_or_the_position(folder: Folder, tmp_path: Path) -> None:
    secret = "s3cr3t-of-the-receiver"
    (tmp_path / "token").write_text(secret)
    folder.append(count=1)
    with HttpPeer([Reply(403, b"wrong token")]) as peer:
        paths = folder.add("siem", url=peer.url, token_file=str(tmp_path / "token"), **QUICK)
        deliver(folder, "siem")
    assert peer.requests[0].headers["Authorization"] == f"Bearer {secret}"
    for file in [*paths.root.iterdir(), folder.directory / "sinks.toml"]:
        assert secret not in file.read_text()
    json.loads(paths.state.read_text())


def test_a_dead_letter_whose_text_is_no_utf_8_is_named_as_damage(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    path.write_bytes(b'{"index":1,"leaf_hash":"\xff","reason":"","time_unix_s":1}\n')
    with pytest.raises(MalformedError, match=r"dead\.jsonl"):
        read_letters(path)


def test_firings_of_a_mirror_that_come_at_once_are_all_sent(folder: Folder) -> None:
    """One client fires thousands before the sink has read one of another's."""
    (folder.directory / "mirror.toml").touch()
    alarm = AlarmConfig(query="action:login.failed")
    with closing(AccessStore.open(folder.directory / "access")) as access:
        for start in range(0, 3_000, 500):
            numbers = range(start, start + 500)
            firings = [
                Firing(alarm="a", group=f"u_{n}", count=1, indices=(n,), time_us=n) for n in numbers
            ]
            access.enqueue_all([firing_event(each, alarm, origin="o") for each in firings])
            drop_old_firings(access)
    more = {"query": "action:ledger.alarm.fired", "batch_events": 400}
    with HttpPeer() as peer:
        folder.add("pager", type="http", url=peer.url, **more)
        with running(folder, "pager"):
            until(lambda: len(peer.indices()) >= 3_000)
    assert peer.indices() == list(range(3_000))
    assert max(len(request.lines()) for request in peer.requests) == 400
