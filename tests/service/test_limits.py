"""The service at its limits: a full queue, a full disk, a second writer, a broken start."""

import asyncio
import http.client
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import lmdb
import msgspec
import pytest

from ledger.runtime.connections import ConnectionCounts
from ledger.service.app import serve
from ledger.service.data_dir import DirectoryPaths, create_directory
from ledger.store.commit_errors import CommitFailedError
from ledger.store.environment import Environment
from ledger.store.log import LogStore
from ledger.store.writer import LogWriter
from ledger_client.runtime.sender_network import sender_network
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.policy import parse_policy
from tests.service.check_log import check_ledger
from tests.service.serving import (
    JSON,
    ORIGIN,
    QUICK,
    Ledger,
    event,
    make_ledger,
    serving,
    serving_new,
)

TINY_MAP_BYTES = 2 << 20
WAIT_S = 120.0


@pytest.fixture
def held_writer(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Commits wait, as for a slow disk, until the event is set."""
    released = threading.Event()
    released.set()
    commit = LogWriter.commit

    def held(self: LogWriter, *args: object, **kwargs: object) -> object:
        released.wait()
        return commit(self, *args, **kwargs)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(LogWriter, "commit", held)
    yield released
    released.set()


def test_a_full_queue_is_refused_with_nothing_half_done(
    unserved: tuple[Path, dict[str, str]], held_writer: threading.Event
) -> None:
    directory, tokens = unserved
    settings = msgspec.structs.replace(QUICK, waiting_events_max=50)
    batches = [[event() for _ in range(20)] for _ in range(12)]
    with serving(directory, tokens, settings) as ledger, ThreadPoolExecutor(12) as pool:
        before = check_ledger(ledger).size
        held_writer.clear()
        futures = [pool.submit(ledger.append, *batch) for batch in batches]
        next(as_completed(futures))
        held_writer.set()
        pairs = [(batch, future.result()) for batch, future in zip(batches, futures, strict=True)]
        refused = [batch for batch, answer in pairs if answer.status == 503]
        assert 0 < len(refused) < len(batches)
        for batch, answer in pairs:
            if answer.status == 503:
                assert answer.slug == "queue-full"
                assert int(answer.headers["Retry-After"]) >= 1
                assert ledger.ask(f"/v1/events/{batch[0]['id']}").slug == "no-event"
            else:
                assert answer.status == 200
        # What was refused may be sent again, as it is.
        for batch in refused:
            assert ledger.append(*batch).status == 200
        assert check_ledger(ledger).size == before + 240


def test_a_full_map_is_refused_and_what_is_there_stays_readable(
    unserved: tuple[Path, dict[str, str]],
) -> None:
    directory, tokens = unserved
    settings = msgspec.structs.replace(QUICK, map_bytes=TINY_MAP_BYTES)
    with serving(directory, tokens, settings) as ledger:
        kept = [event()]
        assert ledger.append(kept[0]).status == 200
        for count in (100, 10, 1):
            while True:
                batch = [event(context={"random": secrets.token_hex(500)}) for _ in range(count)]
                answer = ledger.append(*batch)
                if answer.status != 200:
                    break
                kept += batch
            assert (answer.status, answer.slug) == (507, "storage-full")
            assert ledger.ask(f"/v1/events/{batch[0]['id']}").slug == "no-event"
        (reason,) = ledger.ask("/readyz").json()["reasons"]
        assert reason.startswith("no event is taken: the map of")
        published = ledger.ask("/v1/log").json()["published_size"]
        for each in kept[:published:17]:
            assert ledger.ask(f"/v1/events/{each['id']}").json()["event"] == each
        assert ledger.ask(f"/v1/proofs/inclusion?index=0&size={published}").status == 200
    with serving(directory, tokens) as ledger:
        assert ledger.append(*batch).status == 200
        log = check_ledger(ledger)
        assert log.size == len(kept) + len(batch) + len(tokens)


def _failing(_writer: LogWriter, *_: object, **__: object) -> None:
    raise lmdb.DiskError("an injected EIO")


def test_after_a_commit_that_was_undone_the_next_one_succeeds(
    unserved: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, tokens = unserved
    with serving(directory, tokens) as ledger:
        before = check_ledger(ledger)
        sent = event()
        with monkeypatch.context() as patched:
            patched.setattr(LogWriter, "_place", _failing)
            answer = ledger.append(sent)
            assert (answer.status, answer.slug) == (503, "unavailable")
            assert "EIO" not in answer.text
        assert ledger.append(sent).status == 200
        after = check_ledger(ledger)
        assert (after.size, after.leaves[: before.size]) == (before.size + 1, before.leaves)


@pytest.mark.anyio
async def test_after_a_commit_with_an_unknown_outcome_the_service_ends(
    unserved: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, tokens = unserved
    policy = parse_policy(DirectoryPaths(directory).policy.read_bytes())
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(
        serve(directory, QUICK, stop=asyncio.Event(), on_ready=address.set_result)
    )
    ledger = Ledger(await address, directory, tokens, policy)
    sent = event()
    with monkeypatch.context() as patched:
        patched.setattr(LogWriter, "_place", _failing)
        patched.setattr(Environment, "_undone", lambda *_: None)
        answer = await asyncio.to_thread(ledger.append, sent)
    assert (answer.status, answer.slug) == (503, "writing-stopped")
    with pytest.raises(CommitFailedError, match="an injected EIO"):
        await running
    with serving(directory, tokens) as again:
        assert again.append(sent).status == 200
        check_ledger(again)


def test_a_second_writer_is_refused(unserved: tuple[Path, dict[str, str]]) -> None:
    directory, tokens = unserved
    with serving(directory, tokens) as ledger:
        with pytest.raises(UnavailableError, match="one writer"), serving(directory, tokens):
            pass
        assert ledger.append(event()).status == 200


def test_an_address_that_is_taken_is_said(
    unserved: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    directory, tokens = unserved
    other = tmp_path / "other"
    make_ledger(other)
    with serving(directory, tokens) as ledger:
        taken = msgspec.structs.replace(QUICK, listen=ledger.url.removeprefix("http://"))
        with (
            pytest.raises(UnavailableError, match="cannot listen on 127"),
            serving(other, {}, taken),
        ):
            pass


def test_a_key_that_others_may_read_is_refused(unserved: tuple[Path, dict[str, str]]) -> None:
    directory, tokens = unserved
    key = DirectoryPaths(directory).key
    key.chmod(0o640)
    with pytest.raises(UnavailableError, match="0640, want 0600"), serving(directory, tokens):
        pass


def test_a_key_or_a_policy_of_another_log_is_refused(
    unserved: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    directory, tokens = unserved
    paths = DirectoryPaths(directory)
    stranger = create_directory(tmp_path / "other", origin="example.org/other", seed=bytes(32))
    impostor = create_directory(tmp_path / "same", origin=ORIGIN, seed=bytes(32))
    key, policy = paths.key.read_text(), paths.policy.read_text()
    paths.key.write_text(stranger.key.read_text())
    with pytest.raises(MalformedError, match=r"example\.org/other"), serving(directory, tokens):
        pass
    paths.key.write_text(key)
    paths.policy.write_text(impostor.policy.read_text())
    with pytest.raises(VerificationError), serving(directory, tokens):
        pass
    paths.policy.unlink()
    with pytest.raises(UnavailableError, match="no policy"), serving(directory, tokens):
        pass
    paths.policy.write_text(policy)
    with serving(directory, tokens) as ledger:
        assert ledger.append(event()).status == 200


def test_a_ledger_is_never_made_over_another(unserved: tuple[Path, dict[str, str]]) -> None:
    paths = DirectoryPaths(unserved[0])
    before = paths.key.read_bytes()
    with pytest.raises(FileExistsError, match="made in a new folder"):
        create_directory(paths.root, origin="example.com/new", seed=bytes(32))
    assert paths.key.read_bytes() == before
    assert paths.key.stat().st_mode & 0o777 == 0o600
    assert paths.root.stat().st_mode & 0o777 == 0o700
    assert LogStore.open(paths.log).origin() == ORIGIN


def test_an_origin_that_no_signature_can_carry_makes_no_folder(tmp_path: Path) -> None:
    for origin in ("", "two words", "a+b", "a\nb"):
        with pytest.raises(ValueError, match="key name"):
            create_directory(tmp_path / "new", origin=origin, seed=bytes(32))
        assert not (tmp_path / "new").exists()


def test_no_log_line_holds_an_event_or_a_token(
    unserved: tuple[Path, dict[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    directory, tokens = unserved
    marker = "marked-4711"
    with serving(directory, tokens) as ledger:
        ledger.append(event(reason=marker))
        ledger.append(event(reason=marker, colour=marker))
        ledger.append(event(reason=marker), token="wl_marked-4711")
        ledger.ask("/v1/events", method="POST", body=marker.encode(), content_type=JSON)
        ledger.ask(f"/v1/events/{marker}")
        ledger.append(event(), query="?wait=witnessed")
    said = capfd.readouterr()
    assert "checkpoint_published" in said.out
    for secret in (marker, *tokens.values()):
        assert secret not in said.out
        assert secret not in said.err


def test_an_error_of_our_own_tells_nothing_and_is_logged(
    unserved: tuple[Path, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    directory, tokens = unserved
    with serving(directory, tokens) as ledger:
        with monkeypatch.context() as patched:
            patched.setattr(LogStore, "leaf", lambda *_: 1 / 0)
            answer = ledger.ask("/v1/events/0")
        assert (answer.status, answer.slug) == (500, "internal")
        assert answer.json()["detail"] == "an unexpected error"
        assert ledger.ask("/v1/events/0").status == 200
    assert "ZeroDivisionError" in capfd.readouterr().out


def test_requests_in_flight_are_answered_before_the_service_ends(
    unserved: tuple[Path, dict[str, str]], held_writer: threading.Event
) -> None:
    directory, tokens = unserved
    sent = [event() for _ in range(8)]
    with ThreadPoolExecutor(9) as pool:
        with serving(directory, tokens) as ledger:
            check_ledger(ledger)
            held_writer.clear()
            futures = [pool.submit(ledger.append, each, query="?proof=1") for each in sent]
            wait_until_arrived(ledger)
            pool.submit(set_when_closed, ledger, held_writer)
        answers = [future.result() for future in futures]
    assert [answer.status for answer in answers] == [200] * 8
    with serving(directory, tokens) as ledger:
        published = ledger.ask("/v1/log").json()
        assert published["published_size"] == published["tree_size"] == len(tokens) + 8
        for each, answer in zip(sent, answers, strict=True):
            found = ledger.ask(f"/v1/events/{each['id']}").json()
            assert found["index"] == answer.json()["results"][0]["index"]


def wait_until_arrived(ledger: Ledger) -> None:
    """Let requests that were just sent be read."""
    for _ in range(20):
        assert ledger.ask("/healthz").status == 200


def set_when_closed(ledger: Ledger, event: threading.Event) -> None:
    """Set an event as soon as the service takes no more connections."""
    with suppress(OSError):
        while True:
            ledger.ask("/healthz")
    event.set()


def test_a_connection_too_many_is_closed_and_others_are_served(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = msgspec.structs.replace(QUICK, connections_per_address_max=3)
    with serving_new(tmp_path, settings) as ledger:
        parts = urlsplit(ledger.url)
        kept = [http.client.HTTPConnection(parts.netloc, timeout=WAIT_S) for _ in range(3)]
        for connection in kept:
            connection.request("GET", "/healthz")
            assert connection.getresponse().read()
        with socket.create_connection((str(parts.hostname), int(parts.port or 0))) as refused:
            refused.settimeout(WAIT_S)
            assert refused.recv(1) == b""
        for connection in kept:
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
            connection.close()
        deadline_s = time.monotonic() + WAIT_S
        while True:
            # Their places are free when the service has seen that they are closed.
            with suppress(ConnectionError, http.client.HTTPException):
                assert ledger.ask("/healthz").status == 200
                break
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
    assert "connection_refused" in capfd.readouterr().out


def test_connections_are_counted_in_all_and_by_address() -> None:
    counts = ConnectionCounts(most=3, most_per_address=2)
    assert [counts.try_add(address) for address in "aaabb"] == [True, True, False, True, False]
    counts.remove("a")
    assert [counts.try_add(address) for address in "bc"] == [True, False]
    for address in "abb":
        counts.remove(address)
    assert [counts.try_add(address) for address in "cca"] == [True, True, True]


def test_a_host_with_many_ipv6_addresses_counts_as_one() -> None:
    counts = ConnectionCounts(most=9, most_per_address=2)
    added = [counts.try_add(f"2001:db8:1:2:{n:x}::{n:x}") for n in (1, 2, 3)]
    assert added == [True, True, False]
    assert counts.try_add("2001:db8:1:3::1")
    assert counts.try_add("fe80::1%eth0")
    for address in ("2001:db8:1:2::7", "2001:db8:1:2::8", "2001:db8:1:3::2", "fe80::2%eth1"):
        counts.remove(address)
    assert counts.are_none
    assert not counts._by_address
    assert [sender_network(each) for each in ("192.0.2.1", "", "a:b", "::1")] == [
        *("192.0.2.1", "", "a:b"),
        "::/64",
    ]


@pytest.mark.parametrize("has_query_process", [False, True])
def test_an_answer_that_nobody_reads_is_cut(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], *, has_query_process: bool
) -> None:
    settings = msgspec.structs.replace(QUICK, reader_wait_s=0.3, query_process=has_query_process)
    with serving_new(tmp_path, settings) as ledger:
        for _ in range(3):
            events = [event(context={"text": "x" * 40_000}) for _ in range(100)]
            assert ledger.append(*events).status == 200
        parts = urlsplit(ledger.url)
        token = ledger.tokens["admin"]
        with socket.socket() as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.connect((str(parts.hostname), int(parts.port or 0)))
            stalled.sendall(
                b"GET /v1/events?limit=1000 HTTP/1.1\r\nHost: x\r\n"
                b"Authorization: Bearer " + token.encode() + b"\r\n\r\n"
            )
            deadline_s = time.monotonic() + WAIT_S
            said = ""
            while "reader_gone" not in said:
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
                said += capfd.readouterr().out
        assert ledger.ask("/v1/events?limit=1").status == 200
