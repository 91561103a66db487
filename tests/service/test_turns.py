"""Large requests yield by bytes and cost, and the tokens take turns.

Work is counted, or measured in processor time of the loop's own thread, in ratios.
"""

import asyncio
import gc
import json
import random
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from ledger.log.publisher import Publisher
from ledger.service import open_parts
from ledger.service.app import open_service
from ledger.service.append_thread import AppendThread
from ledger.service.context import ServiceContext
from ledger.service.http.problems import ProblemError
from ledger.service.http.request_body import WINDOW_BYTES, ParsedBody, split_body
from ledger.service.ingest import PRIVATE_EVENTS
from ledger.service.private_fields import PrivateFields, StoredEvents
from ledger.service.queries.handover import HELD_BYTES_MIN
from ledger.service.queries.store_proofs import prove_inclusion
from ledger.service.routes import events
from ledger.service.work_pieces import YIELD_BYTES, YIELD_EVENTS
from ledger_core.api import Result
from ledger_core.event.canonical import parse_leaf
from ledger_core.event.reader import Reader, ReadEvent
from ledger_core.event.secrets import SecretRules
from ledger_core.tlog.hashing import leaf_hash
from tests.secrets.test_work import KINDS
from tests.service.serving import JSON, NDJSON, QUICK, Ledger, event, new_id, serving_new
from tests.waiting import until

Served = tuple[Path, dict[str, str]]

GREEDY = 6
"""Requests of one token at the same time."""


@asynccontextmanager
async def _counting() -> AsyncIterator[list[int]]:
    """Counts the turns that others get on the loop."""
    turns = [0]

    async def take_turns() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(take_turns())
    try:
        yield turns
    finally:
        task.cancel()


async def _append(context: ServiceContext, events: list[bytes], by: str = "append") -> int:
    body = ParsedBody(events, context.ingest.reader.read, is_batch=True)
    outcomes = await context.ingest.append(body, by=by, tenant=None)
    return sum(isinstance(outcome, Result) for outcome in outcomes)


@pytest.mark.anyio
async def test_a_request_yields_by_the_bytes_of_its_events(unserved: Served) -> None:
    slow = [json.dumps(event(reason="\u20ac" * 4000)).encode() for _ in range(100)]
    async with open_service(unserved[0], QUICK) as context, _counting() as turns:
        before = turns[0]
        assert await _append(context, slow) == len(slow)
        assert turns[0] - before >= sum(map(len, slow)) // YIELD_BYTES


@pytest.mark.anyio
async def test_duplicates_yield_while_they_are_read_and_answered(unserved: Served) -> None:
    events = [json.dumps(event()).encode() for _ in range(2000)]
    async with open_service(unserved[0], QUICK) as context:
        await _append(context, events)
        async with _counting() as turns:
            before = turns[0]
            assert await _append(context, events) == len(events)
            assert turns[0] - before >= 2 * len(events) // YIELD_EVENTS


@asynccontextmanager
async def _hashing() -> AsyncIterator[list[int]]:
    """Counts the leaves that are hashed on the loop's thread between two turns of others, each."""
    steps = [0]

    def count(frame: FrameType, kind: str, _argument: object) -> None:
        steps[-1] += kind == "call" and frame.f_code is leaf_hash.__code__

    async def take_turns() -> None:
        while True:
            await asyncio.sleep(0)
            steps.append(0)

    task = asyncio.create_task(take_turns())
    sys.setprofile(count)
    try:
        yield steps
    finally:
        sys.setprofile(None)
        task.cancel()


@pytest.mark.anyio
async def test_no_step_of_the_loop_hashes_more_leaves_than_it_may_read(unserved: Served) -> None:
    """New events are stamped on the writer's thread; duplicates and taken ids yield by bytes."""
    fields = [event(reason="a" * 3000) for _ in range(300)]
    others = [{**each, "reason": "b" * 3000} for each in fields]
    async with open_service(unserved[0], QUICK) as context, _hashing() as steps:
        events, taken = ([json.dumps(each).encode() for each in some] for some in (fields, others))
        assert await _append(context, events) == len(events)
        assert max(steps) == 0
        assert await _append(context, events) == len(events)
        assert 0 < max(steps) <= YIELD_BYTES // 3000 + 1
        steps[:] = [0]
        assert await _append(context, taken) == 0
        assert max(steps) <= YIELD_BYTES // 3000 + 1
        assert context.sequencer.head.tree_size >= 2 * len(events)  # Each conflict is logged.


@pytest.mark.anyio
async def test_a_large_request_keeps_the_order_of_times_with_small_ones_beside_it(
    unserved: Served,
) -> None:
    async with open_service(unserved[0], QUICK) as context:
        large = [json.dumps(event(reason="a" * 3000)).encode() for _ in range(400)]
        first = context.sequencer.head.tree_size
        one = asyncio.create_task(_append(context, large))
        while not one.done():
            await _append(context, [json.dumps(event()).encode()], by="another")
        await one
        leaves = [context.store.leaf(at) for at in range(first, context.sequencer.head.tree_size)]
        entries = [parse_leaf(leaf or b"") for leaf in leaves]
        times = [entry.received.time for entry in entries]
        assert times == sorted(times)
        together = [at for at, each in enumerate(entries) if each.received.by == "append"]
        assert together == list(range(together[0], together[0] + len(large)))
        ids = [str(entries[at].event.id) for at in together]
        assert ids == [json.loads(each)["id"] for each in large]


def _body(kind: str, count: int, **fields: object) -> bytes:
    text = KINDS[kind](8_000)
    context = {"body": text, **fields}
    each = [json.dumps(event(context=context), ensure_ascii=False) for _ in range(count)]
    return f"[{','.join(each)}]".encode()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("masks under nested secret keys", {}),
        ("names in full width", {}),
        ("nested arrays", {"password": "refused, and described in an event"}),
    ],
)
async def test_what_is_slow_to_scan_is_scanned_beside_the_loop(
    unserved: Served, kind: str, fields: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    walks: list[int] = []
    walk = SecretRules.walk

    def noted_walk(rules: SecretRules, value: Any) -> Any:
        walks.append(threading.get_ident())
        return walk(rules, value)

    monkeypatch.setattr(SecretRules, "walk", noted_walk)
    body = _body(kind, 12, **fields)
    async with open_service(unserved[0], QUICK) as context:
        ingest = context.ingest
        parsed = await ingest.split(body, "append", lambda: _split(body), has_lines=False)
        await ingest.append(parsed, by="append", tenant=None)
    assert len(walks) >= 12
    assert threading.get_ident() not in walks


def _split(body: bytes) -> ParsedBody:
    reader = Reader(new_id, lambda: 0)
    return split_body(body, content_type=JSON, events_max=10_000, reader=reader)


@pytest.mark.anyio
async def test_small_appends_of_others_pass_a_large_one_that_is_scanned(unserved: Served) -> None:
    body = _body("masks under nested secret keys", 24)
    async with open_service(unserved[0], QUICK) as context:
        parsed = _split(body)
        large = asyncio.create_task(context.ingest.append(parsed, by="append", tenant=None))
        for password in (None, ""):  # What may be a secret is scanned on the thread as well.
            sent = json.dumps(event(context={"password": password, "text": "x" * 2_000}))
            assert await _append(context, [sent.encode()], by="another") == 1
        assert not large.done()
        assert len(await large) == 24


@pytest.mark.anyio
async def test_tokens_take_turns_at_the_thread() -> None:
    thread, order = AppendThread(), list[str]()
    held = threading.Event()
    first = asyncio.create_task(thread.run("a", held.wait))
    rest = [
        asyncio.create_task(thread.run(owner, partial(order.append, owner)))
        for owner in ("a", "a", "a", "b")
    ]
    await asyncio.sleep(0)
    held.set()
    await asyncio.gather(first, *rest)
    thread.close()
    assert order == ["b", "a", "a", "a"]


def _large(elements: list[bytes]) -> bytes:
    return b"[" + b", ".join(elements) + b" ]"


FILLER = b'{"a":"' + b'[,]{\\"}' * 20_000 + b'\xc3\xa9","b":[1.5,{"c":-2e9}]}'


@pytest.mark.parametrize("bad", [b"x", b'{"a":1 2}', b"[" * 3_000 + b"]" * 3_000, b"1 1"])
def test_the_elements_of_a_large_array_are_those_of_a_small_one(bad: bytes) -> None:
    plain = [FILLER, b"12", b'"a"', b"null"] * (WINDOW_BYTES // len(FILLER) * 3)
    for elements in (plain, [*plain[:9], bad, *plain]):
        parsed = _split(_large(elements))
        assert [bytes(raw).strip() for raw in parsed.raws] == elements


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        (b"[" + b"[]," * WINDOW_BYTES + b"[]]", "too-many-events"),
        (b'["' + b"a" * WINDOW_BYTES + b'"]', "not-json"),
        (b"[" + b" " * 2 * WINDOW_BYTES + b"]", "empty-batch"),
        (b"[1," + b" " * 2 * WINDOW_BYTES + b"1]", "not-json"),
        (b"[1," + b"1" * 2 * WINDOW_BYTES + b"]", "not-json"),
        (b'{"events":[' + b'{"a":' * WINDOW_BYTES + b"]}", "not-json"),
        (b"[" + FILLER * 9 + b"]", "not-json"),
        (b"[1,," + FILLER * 9 + b"]", "not-json"),
        (b"[" + (FILLER + b",") * 9 + b"]", "not-json"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(len(value)),
)
def test_a_large_array_that_does_not_fit_together_is_refused(text: bytes, slug: str) -> None:
    with pytest.raises(ProblemError) as caught:
        _split(text)
    assert caught.value.problem.slug == slug


@pytest.mark.parametrize(
    ("body", "media"),
    [(b"%s", JSON), (b"%sx", NDJSON), (b'{"events":[1]%s', JSON), (b"[1]%sx", JSON)],
    ids=["blanks alone", "a line of blanks", "a batch without end", "blanks behind an array"],
)
def test_blanks_are_passed_once(body: bytes, media: str) -> None:
    reader = Reader(new_id, lambda: 0)

    def least_s(body: bytes, media: str) -> float:
        """The least time of the processor of three."""
        took = []
        for _ in range(3):
            before_s = time.thread_time()
            with suppress(ProblemError):
                split_body(body, content_type=media, events_max=10_000, reader=reader)
            took.append(time.thread_time() - before_s)
        return min(took)

    blanks = b" " * (8 << 20)
    # Blanks within an array are passed by the decoder.
    usual_s = least_s(b"[%s]" % blanks, JSON)
    assert least_s(body % blanks, media) < 4 * usual_s


@pytest.mark.anyio
async def test_events_wait_for_their_commit_without_their_decoded_values(unserved: Served) -> None:
    """`[{},{},…` takes 25 times its length when it is decoded, and a request may have 32 MiB."""
    marked = 15_013
    events = [json.dumps(event(context={"a": [{}] * marked})).encode() for _ in range(20)]
    decoded = [0]
    async with open_service(unserved[0], QUICK) as context:
        size = context.sequencer.head.tree_size
        task = asyncio.create_task(_append(context, events))
        while context.sequencer.head.tree_size == size:
            lists = (each for each in gc.get_objects() if type(each) is list)
            decoded.append(sum(len(each) == marked for each in lists))
            await asyncio.sleep(0.001)
        assert await task == len(events)
    assert 1 <= max(decoded) <= 4  # One that is read, and those of it that are copies.


@pytest.mark.anyio
async def test_private_values_of_one_token_are_stored_between_those_of_another(
    unserved: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    (unserved[0] / "private.toml").write_text(
        '[[fields]]\npath = "/context/name"\nsubject = "/actor/id"\n'
    )
    stored: list[list[str]] = []
    begun, go_on = threading.Event(), threading.Event()
    store_all = PrivateFields.commit_and_store

    def store(private_fields: PrivateFields, reads: Sequence[ReadEvent]) -> StoredEvents:
        stored.append([read.event.action for read in reads])
        begun.set()
        assert go_on.wait(60)
        return store_all(private_fields, reads)

    many, one = (
        [json.dumps(event(action=action, context={"name": "x"})).encode() for _ in range(count)]
        for action, count in (("greedy.many", 5 * PRIVATE_EVENTS), ("other.one", 1))
    )
    async with open_service(unserved[0], QUICK) as context:
        monkeypatch.setattr(PrivateFields, "commit_and_store", store)
        greedy = [asyncio.create_task(_append(context, some, by="greedy")) for some in (many, many)]
        assert await asyncio.to_thread(begun.wait, 60)
        other = asyncio.create_task(_append(context, one, by="other"))
        for _ in range(100):
            await asyncio.sleep(0)
        go_on.set()
        assert await other == 1
        assert await asyncio.gather(*greedy) == [len(many), len(many)]
    assert ["other.one"] in stored[:4]
    assert max(map(len, stored)) == PRIVATE_EVENTS


@pytest.fixture(scope="module")
def large_bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A ledger whose first full bundle has 14 MB."""
    chosen = random.Random(0)
    letters = "".join(chosen.choices("abcdefgh ", k=1 << 19))

    def text(_: int) -> str:
        start = chosen.randrange(len(letters) - 4000)
        return letters[start : start + 4000]

    with serving_new(tmp_path_factory.mktemp("large")) as ledger:
        answer = ledger.ask("/v1/log").json()
        for start in range(answer["tree_size"], 256, 64):
            events = [
                event(context={f"k{place}": text(place) for place in range(14)})
                for _ in range(start, min(start + 64, 256))
            ]
            assert ledger.append(*events, token="append").status == 200
        until(lambda: ledger.ask("/v1/log").json()["published_size"] == 256)
        yield ledger


@pytest.mark.parametrize("target", ["/v1/events/200", "/tile/entries/000"])
def test_others_are_answered_while_a_large_bundle_is_read(
    large_bundle: Ledger, target: str
) -> None:
    with ThreadPoolExecutor(4) as pool:
        reads = [pool.submit(large_bundle.ask, target) for _ in range(8)]
        answered = 0
        while not all(each.done() for each in reads):
            assert large_bundle.ask("/healthz", token=None).status == 200
            answered += 1
    assert {each.result().status for each in reads} == {200}
    # Read on the event loop, each of them would keep all others waiting.
    assert answered > len(reads)


def test_the_head_of_a_large_bundle_says_how_long_it_is(large_bundle: Ledger) -> None:
    for encoding in ("identity", "gzip"):
        head, whole = (
            large_bundle.ask("/tile/entries/000", method=method, accept_encoding=encoding)
            for method in ("HEAD", "GET")
        )
        assert head.body == b""
        assert len(whole.body) > HELD_BYTES_MIN
        assert int(head.headers["Content-Length"]) == len(whole.body)
        assert head.headers["Content-Encoding"] == whole.headers["Content-Encoding"]


class _HeldHeads:
    """Whoever waits for a head waits until `go_on`, too."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.go_on = threading.Event()
        self.waiting = 0
        wait_for = Publisher.wait_for

        async def wait(publisher: Publisher, *asked: Any, **named: Any) -> Any:
            self.waiting += 1
            while not await asyncio.to_thread(self.go_on.wait, 0.01):
                pass
            return await wait_for(publisher, *asked, **named)

        patch.setattr(Publisher, "wait_for", wait)


@pytest.mark.parametrize("count", [1, 40])
def test_requests_that_wait_for_one_head_make_their_proofs_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Each wrote 16 proofs between two turns of others, 200 requests together for half a second."""
    prove, steps = prove_inclusion, [0]

    def count_proof(*asked: Any, **named: Any) -> str:
        if steps[-1] == 0:
            asyncio.get_running_loop().call_soon(steps.append, 0)
        steps[-1] += 1
        return prove(*asked, **named)

    sent = [event() for _ in range(count)]
    with serving_new(tmp_path / "audit") as ledger, ThreadPoolExecutor(GREEDY) as pool:
        assert ledger.append(*sent, token="append").status == 200
        heads = _HeldHeads(monkeypatch)
        monkeypatch.setattr(events, "prove_inclusion", count_proof)
        query = "?proof=1&wait=witnessed"
        asked = [
            pool.submit(ledger.append, *sent, query=query, token="append") for _ in range(GREEDY)
        ]
        until(lambda: heads.waiting >= GREEDY)
        heads.go_on.set()
        answers = [each.result() for each in asked]
    assert {answer.status for answer in answers} == {200}
    assert all(result["proof"] for answer in answers for result in answer.json()["results"])
    assert sum(steps) == GREEDY * count
    assert max(steps) <= min(count, events.PROOFS_AT_ONCE)


def test_the_events_of_a_token_whose_answers_wait_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each keeps an outcome and then a proof in memory: of 256 requests they took gigabytes."""
    monkeypatch.setattr(open_parts, "WAITING_EVENTS_PER_TOKEN_MAX", 10)
    with serving_new(tmp_path / "audit") as ledger, ThreadPoolExecutor(2) as pool:
        heads = _HeldHeads(monkeypatch)
        some = [event() for _ in range(8)]
        first = pool.submit(ledger.append, *some, query="?wait=witnessed", token="append")
        until(lambda: heads.waiting >= 1)
        size = ledger.ask("/v1/log").json()["tree_size"]
        large = [event(reason="a" * 4000) for _ in range(8)]
        for refused in (some, large):
            answer = ledger.append(*refused, query="?proof=1&wait=witnessed", token="append")
            assert (answer.status, answer.slug) == (503, "too-busy")
            assert answer.headers["Retry-After"]
        assert ledger.ask("/v1/log").json()["tree_size"] == size
        # What waits for nothing is taken, and what others send.
        assert ledger.append(*large, token="append").status == 200
        other = pool.submit(ledger.append, *some, query="?wait=witnessed")
        until(lambda: heads.waiting >= 2)
        heads.go_on.set()
        assert [first.result().status, other.result().status] == [200, 200]
        assert ledger.append(*large, query="?proof=1", token="append").status == 200
