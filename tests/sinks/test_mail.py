"""SMTP: a mail that a server takes, puts off or refuses."""

import asyncio
import email
import email.policy
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ledger.follow.entries import Entry, read_batch
from ledger.follow.position import FollowerPaths
from ledger.sinks import worker
from ledger.sinks.config import sinks_path
from ledger.sinks.dead_letters import read_letters
from ledger.store.log import LogStore
from ledger_core.tlog.errors import MalformedError
from tests.sinks.sinking import Folder, deliver, running
from tests.waiting import until

ACCEPT = "250 taken"


@contextmanager
def mail_server(
    answer: Callable[[int], str],
    *,
    size_max: int = 1 << 30,
    bye: str = "221 bye",
    refused: bytes = b"nobody@",
) -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives `answer(number)` to the body of each mail; its URL, and what it took.

    `bye`: its answer to QUIT. `refused`: in the recipients that it refuses.
    """
    mails: list[bytes] = []
    tried = 0

    class Handler(socketserver.StreamRequestHandler):
        def say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

        def handle(self) -> None:
            nonlocal tried
            self.say("220 test")
            for line in self.rfile:
                word = line.split()[0].upper()
                size = line.upper().partition(b" SIZE=")[2].split()
                if size and int(size[0]) > size_max:
                    self.say("552 too large")
                    continue
                if word == b"EHLO":
                    self.say("250-test")
                    self.say(f"250 SIZE {size_max}")
                    continue
                if word == b"DATA":
                    self.say("354 go on")
                    body = b"".join(iter(self.rfile.readline, b".\r\n"))
                    reply = answer(tried)
                    tried += 1
                    if reply == ACCEPT:
                        mails.append(body)
                    self.say(reply)
                elif word == b"QUIT":
                    self.say(bye)
                    return
                elif word == b"RCPT" and refused in line:
                    self.say("550 no such mailbox")
                else:
                    self.say("250 test")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"smtp://127.0.0.1:{server.server_address[1]}", mails
        server.shutdown()
        thread.join()


def add(folder: Folder, url: str, **more: Any) -> Any:
    return folder.add(
        "mail",
        type="smtp",
        url=url,
        sender="ledger@example.com",
        to=["ops@example.com", "duty@example.com"],
        query="action:login.failed",
        retry_max_s=0.02,
        **more,
    )


def test_a_mail_says_what_happened(folder: Folder) -> None:
    folder.append({"action": "login.failed", "actor": {"id": "jö\nx"}}, {})
    with mail_server(lambda _number: ACCEPT) as (url, mails):
        add(folder, url)
        deliver(folder, "mail")
    mail = email.message_from_bytes(mails[0], policy=email.policy.default)
    assert mail["To"] == "ops@example.com, duty@example.com"
    assert mail["Subject"].startswith("[example.com/audit] login.failed by jö")
    assert f'"leaf_hash": "{folder.leaf_hashes()[0]}"' in mail.get_content()
    assert len(mails) == 1


def test_a_mail_that_was_put_off_is_sent_again_and_one_refused_is_a_dead_letter(
    folder: Folder, tmp_path: Path
) -> None:
    folder.append({"action": "login.failed"})
    answers = ["451 later", "554 spam"]
    with mail_server(lambda number: answers[number]) as (url, mails):
        paths = add(folder, url)
        deliver(folder, "mail")
    assert mails == []
    (letter,) = read_letters(paths.dead)
    assert letter.reason == "SMTP 554; the answer: spam"


def test_events_of_several_reads_are_one_mail(folder: Folder) -> None:
    """A log with thousands of events a second and few that the query finds."""
    folder.append(*({"action": "login.failed" if n % 20 == 0 else "a.b"} for n in range(100)))
    with mail_server(lambda _number: ACCEPT) as (url, mails):
        add(folder, url, batch_events=10)
        deliver(folder, "mail")
    assert len(mails) == 1
    assert mails[0].count(b'"leaf_hash"') == 5


def fake_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Have a sink's clock go on by what it waits, without a wait; the waits."""
    waits: list[float] = []

    async def wait(_paths: FollowerPaths, _stop: asyncio.Event, wait_s: float) -> None:
        waits.append(wait_s)
        await asyncio.sleep(0)

    monkeypatch.setattr(worker, "_wait", wait)
    clock = SimpleNamespace(monotonic=lambda: 1_000.0 + sum(waits))
    monkeypatch.setattr(worker, "time", clock)
    return waits


def test_a_mail_that_is_not_full_waits_after_the_one_before(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = fake_waits(monkeypatch)
    folder.append(*({"action": "login.failed"} for _ in range(33)))
    with mail_server(lambda _number: ACCEPT) as (url, mails):
        add(folder, url, batch_events=10)
        deliver(folder, "mail")
    # Nothing waits for full ones; a pause is only before the last, which has the rest.
    assert [mail.count(b'"leaf_hash"') for mail in mails] == [10, 10, 10, 3]
    assert sum(waits) == worker.MAIL_PAUSE_S
    assert set(waits) == {worker.SPACING_POLL_S}


def read_starts(monkeypatch: pytest.MonkeyPatch, *, damaged: int | None = None) -> list[int]:
    """Where each read of the log that finds entries begins; one that reaches `damaged` raises."""
    starts: list[int] = []

    def read(store: LogStore, start: int, *, entries_max: int, bytes_max: int) -> list[Entry]:
        entries = read_batch(store, start, entries_max=entries_max, bytes_max=bytes_max)
        if entries and entries[-1].index == damaged:
            raise MalformedError("damaged")
        starts.extend([start] if entries else [])
        return entries

    monkeypatch.setattr(worker, "read_batch", read)
    return starts


def test_a_mail_that_waits_has_no_entry_read_again(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, starts = fake_waits(monkeypatch), read_starts(monkeypatch)
    folder.append(*({"action": "login.failed"} for _ in range(10)))
    folder.append(*({"action": "login.failed" if n % 20 == 0 else "a.b"} for n in range(60)))
    with mail_server(lambda _number: ACCEPT) as (url, mails):
        add(folder, url, batch_events=10)
        deliver(folder, "mail")
    assert [mail.count(b'"leaf_hash"') for mail in mails] == [10, 3]
    assert sum(waits) == worker.MAIL_PAUSE_S
    assert [start for start in starts if start != 10] == [0, *range(20, 70, 10)]


def test_a_busy_log_with_few_events_for_a_mail_is_read_without_pauses(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one for each of the last mails, a log with more entries in a pause was never read up."""
    waits = fake_waits(monkeypatch)
    monkeypatch.setattr(worker, "GATHERED_READS_MAX", 2)
    folder.append(*({"action": "login.failed" if n % 20 == 0 else "a.b"} for n in range(100)))
    with mail_server(lambda _number: ACCEPT) as (url, mails):
        add(folder, url, batch_events=10)
        deliver(folder, "mail")
    assert [mail.count(b'"leaf_hash"') for mail in mails] == [1] * 5
    assert waits == []


def test_what_stands_before_a_damaged_entry_is_sent(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_waits(monkeypatch)
    read_starts(monkeypatch, damaged=29)
    folder.append(*({"action": "login.failed" if n == 5 else "a.b"} for n in range(30)))
    with mail_server(lambda _number: ACCEPT) as (url, mails):
        add(folder, url, batch_events=10)
        with running(folder, "mail"):
            until(lambda: folder.report("mail").next_index == 20)
    assert [mail.count(b'"leaf_hash"') for mail in mails] == [1]


def test_mails_that_are_too_large_are_divided(folder: Folder) -> None:
    long = {"action": "login.failed", "reason": "x" * 3000}
    folder.append(long, long, {**long, "reason": "x" * 4000, "context": {"more": "x" * 8000}}, long)
    with mail_server(lambda _number: ACCEPT, size_max=10_000) as (url, mails):
        paths = add(folder, url)
        deliver(folder, "mail")
    assert len(mails) == 2
    (letter,) = read_letters(paths.dead)
    assert (letter.index, letter.reason) == (2, "SMTP 552; the answer: too large")


@pytest.mark.parametrize("bye", ["250 whatever", "421 closing", "500 what", "no SMTP"])
def test_what_a_server_says_at_the_end_does_not_have_its_mail_sent_again(
    folder: Folder, bye: str
) -> None:
    folder.append({"action": "login.failed"})
    with mail_server(lambda _number: ACCEPT, bye=bye) as (url, mails):
        add(folder, url)
        deliver(folder, "mail")
        assert folder.report("mail").state.error == ""
    assert len(mails) == 1


def test_the_end_of_a_connection_hides_no_refusal(folder: Folder) -> None:
    folder.append({"action": "login.failed"})
    with mail_server(lambda _number: "554 spam", bye="421 closing") as (url, _):
        paths = add(folder, url)
        deliver(folder, "mail")
    assert [letter.index for letter in read_letters(paths.dead)] == [0]


def test_a_recipient_that_is_refused_alone_is_shown(folder: Folder) -> None:
    folder.append({"action": "login.failed"})
    with mail_server(lambda _number: ACCEPT, refused=b"duty@") as (url, mails):
        add(folder, url)
        deliver(folder, "mail")
        error = folder.report("mail").state.error
    assert len(mails) == 1
    assert error.startswith("127.0.0.1: 1 of 2 recipients were refused; the answer: duty@example")
    assert "550 no such mailbox" in error
    with mail_server(lambda _number: ACCEPT) as (url, mails):
        folder.append({"action": "login.failed"})
        sinks_path(folder.directory).unlink()
        add(folder, url)
        deliver(folder, "mail")
    assert folder.report("mail").state.error == ""


def test_a_mail_that_comes_twice_has_the_same_number(folder: Folder) -> None:
    folder.append({"action": "login.failed"}, {"action": "login.failed"})
    with mail_server(lambda number: ACCEPT) as (url, mails):
        paths = add(folder, url)
        deliver(folder, "mail")
        paths.position.unlink()
        deliver(folder, "mail")
        folder.append({"action": "login.failed"})
        deliver(folder, "mail")
    numbers = [email.message_from_bytes(mail)["Message-ID"] for mail in mails]
    assert numbers[0] == numbers[1] != numbers[2]
    assert numbers[0].endswith("@example.com>")
    assert all(email.message_from_bytes(mail)["Date"] for mail in mails)
