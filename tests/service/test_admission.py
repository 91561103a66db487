"""Overload: few large appends are in work, small ones pass them, and who waits long is refused."""

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from ledger.service.admission import SMALL_BYTES, Admission
from ledger.service.http import request_body
from ledger.service.http.problems import ProblemError
from ledger.store.writer import LogWriter
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.keys import ED25519_COSIGNATURE
from tests.service.check_log import check_ledger
from tests.service.serving import (
    JSON,
    QUICK,
    Answer,
    Ledger,
    event,
    make_ledger,
    serving,
    serving_new,
)

LARGE = SMALL_BYTES + 1


@pytest.mark.anyio
async def test_small_appends_pass_and_large_ones_take_turns_by_token() -> None:
    admission = Admission(large_max=2, wait_s=30)
    order: list[str] = []
    release = asyncio.Event()

    async def append(owner: str, size: int = LARGE) -> None:
        async with admission.admit(owner, size):
            order.append(owner)
            if size == LARGE:
                await release.wait()

    tasks = [asyncio.create_task(append(owner)) for owner in ("a", "a", "a", "b", "b")]
    for _ in range(50):
        await asyncio.sleep(0)
    assert order == ["a", "b"]  # A token alone leaves a place to others.
    await append("a", SMALL_BYTES)
    assert order == ["a", "b", "a"]
    release.set()
    await asyncio.gather(*tasks)
    assert sorted(order) == ["a", "a", "a", "a", "b", "b"]


@pytest.mark.anyio
async def test_one_that_waits_too_long_or_is_cancelled_gives_its_place_back() -> None:
    admission = Admission(large_max=1, wait_s=0.01)
    async with admission.admit("a", LARGE):
        with pytest.raises(ProblemError) as caught:
            async with admission.admit("b", LARGE):
                raise AssertionError("there is no place")
        assert caught.value.problem.slug == "too-busy"
        assert caught.value.headers["Retry-After"] == "1"
        async with admission.admit("b", 10):
            pass
    patient = Admission(large_max=1, wait_s=30)
    async with patient.admit("a", LARGE):

        async def wait() -> None:
            async with patient.admit("b", LARGE):
                raise AssertionError("it was cancelled")

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with patient.admit("b", LARGE):
        pass


@pytest.fixture
def held_writer(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Commits with many entries wait, as for a slow disk, until the event is set."""
    released = threading.Event()
    commit = LogWriter.commit

    def held(self: LogWriter, entries: list[object], **kwargs: object) -> object:
        if len(entries) >= 100:
            released.wait()
        return commit(self, entries, **kwargs)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(LogWriter, "commit", held)
    yield released
    released.set()


def test_what_is_refused_was_not_decoded(
    tmp_path: Path, held_writer: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, decoded = request_body.split_body, []
    settings = msgspec.structs.replace(QUICK, large_appends_max=2, append_wait_s=0.05)

    def counted(body: bytes, **kwargs: object) -> object:
        decoded.append(len(body))
        return split(body, **kwargs)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr("ledger.service.routes.events.split_body", counted)
    batch = json.dumps([event(id=None) for _ in range(200)]).encode()

    def post(ledger: Ledger, token: str) -> Answer:
        return ledger.ask("/v1/events", method="POST", body=batch, token=token, content_type=JSON)

    with serving_new(tmp_path, settings) as ledger, ThreadPoolExecutor(10) as pool:
        futures = [pool.submit(post, ledger, "append") for _ in range(6)]
        futures += [pool.submit(post, ledger, "admin") for _ in range(4)]
        while sum(future.done() for future in futures) < 8:
            threading.Event().wait(0.01)
        assert len(decoded) == 2
        held_writer.set()
        answers = [future.result() for future in futures]
        assert sorted(answer.status for answer in answers) == [200] * 2 + [503] * 8
        refused = next(answer for answer in answers if answer.status == 503)
        assert (refused.slug, refused.headers["Retry-After"]) == ("too-busy", "1")
        assert len(decoded) == 2
        check_ledger(ledger)


def test_a_log_that_publishes_seldom_says_when_to_ask_again(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    settings = msgspec.structs.replace(QUICK, publish_interval_s=600, published_wait_s=0.05)
    with serving(directory, tokens, settings) as ledger:
        # The head of the start, which has the events of the tokens, is published at once.
        while ledger.ask("/v1/events/0?proof=1").status != 200:
            pass
        index = ledger.append(event()).json()["results"][0]["index"]
        answer = ledger.ask(f"/v1/events/{index}?proof=1")
        assert (answer.status, answer.slug) == (503, "not-yet-published")
        assert answer.headers["Retry-After"] == "601"
        assert "one is published each 600 s" in answer.json()["detail"]


def test_without_a_quorum_an_append_with_proof_says_where_its_events_are(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    witness = CosignatureSigner.generate(
        "witness.example/w2", algorithm=ED25519_COSIGNATURE, seed=bytes([2]) * 32
    )
    policy = directory / "policy"
    text = policy.read_text()
    assert "quorum none" in text
    policy.write_text(
        text.replace("quorum none", f"witness w2 {witness.verifier} http://127.0.0.1:1/\nquorum w2")
    )
    settings = msgspec.structs.replace(QUICK, witnessed_wait_s=0.1)
    with serving(directory, tokens, settings) as ledger:
        answer = ledger.append(event(), query="?proof=1")
        assert (answer.status, answer.slug) == (503, "not-yet-published")
        (result,) = answer.json()["results"]
        assert result["index"] == len(tokens)
        assert "durably" in answer.json()["detail"]
        assert "Retry-After" in answer.headers
        assert ledger.ask(f"/v1/events/{result['index']}").status == 200
