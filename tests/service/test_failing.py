"""When a part of the service fails: who is told, and what goes on."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ledger.log.publisher import Publisher
from ledger.service.data_dir import DirectoryPaths
from ledger.service.outbox import Outbox
from ledger.store.tokens import AccessStore, TokenRecord
from ledger_core.tlog.errors import VerificationError
from tests.service.check_log import check_log
from tests.service.serving import Answer, event, make_ledger, serving

WAIT_S = 20.0


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A ledger that nobody serves yet."""
    directory = tmp_path / "ledger"
    return directory, make_ledger(directory)


def wait_for(ask: Callable[[], Answer], status: int) -> Answer:
    """Ask until the status is this."""
    deadline_s = time.monotonic() + WAIT_S
    while (answer := ask()).status != status:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    return answer


def test_events_are_taken_and_proved_no_more_when_signing_has_stopped(
    made: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, tokens = made

    def fork(*_: object) -> None:
        raise VerificationError("a fork, as far as this test goes")

    with serving(directory, tokens) as ledger:
        size = check_log(ledger.url, tokens["admin"], ledger.policy).size
        with monkeypatch.context() as patched:
            patched.setattr(Publisher, "_check_extends", fork)
            assert ledger.append(event()).status == 200
            ready = wait_for(lambda: ledger.ask("/readyz", token=None), 503)
        assert ready.slug == "not-ready"
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
        assert check_log(ledger.url, tokens["admin"], ledger.policy).size == size + 2


def test_a_head_that_is_late_is_waited_for_and_then_not(
    made: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, tokens = made

    async def never(*_: object, **__: object) -> None:
        return None

    with serving(directory, tokens) as ledger:
        check_log(ledger.url, tokens["admin"], ledger.policy)
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
        check_log(ledger.url, tokens["admin"], ledger.policy)


def test_an_event_that_the_log_refuses_stays_in_the_outbox(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    access = AccessStore.open(DirectoryPaths(directory).access)
    record = TokenRecord(name="odd", scopes=("read",), created="2026-11-25T02:03:36.123456Z")
    access.add("wl_odd", record, event=b'{"action":"not an event"}')
    access.close()
    with serving(directory, {**tokens, "odd": "wl_odd"}) as ledger:
        assert ledger.ask("/v1/events/0", token="odd").status == 200
        assert check_log(ledger.url, tokens["admin"], ledger.policy).size == len(tokens)
        assert ledger.ask("/readyz").status == 200
    access = AccessStore.open(DirectoryPaths(directory).access)
    assert [row for _, row in access.outbox()] == [b'{"action":"not an event"}']
    access.close()


def test_a_task_that_dies_is_logged_without_its_words_and_seen_in_readyz(
    made: tuple[Path, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    directory, tokens = made

    async def broken(_: Outbox) -> None:
        raise RuntimeError("-".join(("words", "of", "an", "event")))

    with serving(directory, tokens) as ledger:
        monkeypatch.setattr(Outbox, "drain", broken)
        answer = wait_for(lambda: ledger.ask("/readyz"), 503)
        assert answer.json()["reasons"] == ["the task outbox has ended"]
        assert ledger.append(event()).status == 200
    said = capfd.readouterr().out
    assert "RuntimeError" in said
    assert "words-of-an-event" not in said
