"""Both clients ask: what they give is verified, pages by itself, and no lie passes."""

import asyncio
import hashlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ledger.demo.child_service import Service, make_ledger
from ledger_client import AsyncLedgerClient, Entry, LedgerClient, RejectedError, RetryPolicy
from ledger_client.messages import Plan, Request, Response
from ledger_client.plans.export import ExportVerifier
from ledger_client.plans.export_proof import Format
from ledger_client.plans.heads import Heads
from ledger_client.plans.question import ask_query
from ledger_client.plans.search import (
    EMPTY_PAGES_MAX,
    STALLED_PAGES_MAX,
    plan_page,
    search_query,
)
from ledger_client.plans.stream import EventStream, LineSplitter
from ledger_client.results import Exported
from ledger_client.retry import Environment
from ledger_core.evidence.verifier import check_evidence
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.policy import parse_policy
from ledger_core.tlog.proof import format_proof
from ledger_core.tlog.text import format_base64
from ledger_core.tlog.trust import TrustedLog
from tests.client.hosts import Host, entries
from tests.client.hosts import entry as leaf_of
from tests.client.trees import SmallLog
from tests.served import FLAGS
from tests.served import ServedLedger as Running

COUNT = 250


def event(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "actor": {"id": f"u_{number % 5}"},
        "action": "page.read" if number % 2 else "page.changed",
        "outcome": "success",
        "source": {"ip": f"192.0.2.{number % 7}"},
        **fields,
    }


@pytest.fixture(scope="module")
def asked(running: Running) -> Running:
    """The shared ledger, with events to ask for."""
    with LedgerClient(running.url, running.token, policy=running.policy) as client:
        client.append_many([event(number, tenant="asked") for number in range(COUNT)])
    return running


class Blocking:
    """The questions of either client, answered in lists."""

    def __init__(self, client: Any, runner: asyncio.Runner | None) -> None:
        self._client = client
        self._runner = runner

    def many(self, name: str, *arguments: Any, take: int | None = None, **options: Any) -> Any:
        found = getattr(self._client, name)(*arguments, **options)
        if self._runner is None:
            return list(itertools.islice(found, take))

        async def read() -> list[Entry]:
            some: list[Entry] = []
            async for entry in found:
                some.append(entry)
                if len(some) == take:
                    await found.aclose()
                    break
            return some

        return self._runner.run(read())

    def one(self, name: str, *arguments: Any, **options: Any) -> Any:
        result = getattr(self._client, name)(*arguments, **options)
        return result if self._runner is None else self._runner.run(result)


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, asked: Running) -> Iterator[Blocking]:
    if request.param == "sync":
        with LedgerClient(asked.url, asked.token, policy=asked.policy) as client:
            yield Blocking(client, None)
        return
    with asyncio.Runner() as runner:
        asynchronous = AsyncLedgerClient(asked.url, asked.token, policy=asked.policy)
        yield Blocking(asynchronous, runner)
        runner.run(asynchronous.close())


def test_a_query_pages_by_itself_and_each_entry_is_verified(ask: Blocking) -> None:
    found = ask.many("query", "tenant:asked")
    assert len(found) == COUNT
    assert all(entry.head is not None and entry.proof is not None for entry in found)
    indices = [entry.index for entry in found]
    assert indices == sorted(set(indices), reverse=True)
    oldest = ask.many("query", "tenant:asked", order="oldest", verify=False)
    assert [entry.index for entry in oldest] == indices[::-1]
    assert all(entry.head is None for entry in oldest)


def test_a_limit_ends_a_query(ask: Blocking) -> None:
    assert len(ask.many("query", "tenant:asked", limit=130)) == 130
    assert ask.many("query", "tenant:asked", limit=0) == []
    with pytest.raises(ValueError, match="limit"):
        ask.many("query", "tenant:asked", limit=-1)


def test_a_page_has_its_numbers(ask: Blocking) -> None:
    page = ask.one("search", "tenant:asked", limit=3, facets=("action", "source"), histogram="day")
    assert (page.total, page.is_total_exact, len(page.entries)) == (COUNT, True, 3)
    facets = {facet.field: dict(facet.counts) for facet in page.facets}
    assert facets["action"] == {"page.read": COUNT // 2, "page.changed": COUNT // 2}
    assert len(facets["source"]) == 7
    assert sum(count for _, count in page.histogram.counts) == COUNT
    rest = ask.one("search", "tenant:asked", limit=3, cursor=page.cursor)
    assert rest.entries[0].index < page.entries[-1].index
    assert ask.one("search", "tenant:asked", limit=0, explain=True).explanation


def test_pivots_say_why_each_entry_is_there(ask: Blocking) -> None:
    centre = ask.many("query", "tenant:asked actor:u_3", limit=1)[0]
    around = ask.many("around", centre.index, minutes=60)
    assert centre.index in [entry.index for entry in around]
    assert all(entry.because and entry.head is not None for entry in around)
    by_id = ask.many("around", centre.event.id, minutes=60, limit=5)
    assert [entry.index for entry in by_id] == [entry.index for entry in around[:5]]
    # Other tests of the session log events about u_3 too.
    timeline = [entry for entry in ask.many("timeline", "u_3") if entry.event.tenant == "asked"]
    assert timeline
    assert {"actor"} == set(itertools.chain(*(entry.because for entry in timeline)))
    seen = ask.one("seen", "192.0.2.3")
    assert seen.first.index < seen.last.index
    assert seen.first.head is not None
    assert sum(count for _, count in seen.actions.counts) == seen.total
    assert ask.one("seen", "2001:db8::1").first is None


def test_a_mistake_in_a_query_says_where(ask: Blocking) -> None:
    with pytest.raises(RejectedError) as caught:
        ask.many("query", "tenant:asked actr:u_1")
    problem = caught.value.problem
    assert (problem.slug, problem.position, problem.nearest) == ("query", 13, "actor")


def test_a_tail_gives_what_comes_in_verified(ask: Blocking, asked: Running) -> None:
    start = ask.one("search", "", limit=0).tree_size

    def arrive() -> None:
        with LedgerClient(asked.url, asked.token, policy=asked.policy) as client:
            for number in range(12):
                client.append(event(number, tenant="tailed"))

    thread = threading.Thread(target=arrive)
    thread.start()
    found = ask.many("tail", "tenant:tailed action:page.read", start=start, take=6)
    thread.join()
    assert all(entry.head is not None for entry in found)
    assert [entry.event.actor.id for entry in found] == [f"u_{n % 5}" for n in (1, 3, 5, 7, 9, 11)]


def test_exports_are_written_whole_or_not_at_all(
    ask: Blocking, asked: Running, tmp_path: Path
) -> None:
    for format_ in ("jsonl", "csv"):
        path = tmp_path / f"events.{format_}"
        exported = ask.one("export", "tenant:asked", path, format=format_)
        assert exported.rows == COUNT
        assert exported.bytes_written == path.stat().st_size
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["event"]["tenant"] for line in lines[:-1]] == ["asked"] * COUNT
    path = tmp_path / "events.zip"
    written = ask.one("evidence", "tenant:asked actor:u_1", path, case="INC-7", reason="a test")
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    evidence = check_evidence(path, parse_policy(asked.policy.read_bytes()))
    assert evidence == written.evidence
    assert (evidence.events, evidence.faults) == (COUNT // 5, ())
    assert evidence.stated is not None
    assert (evidence.stated.case, evidence.stated.reason) == ("INC-7", "a test")
    with pytest.raises(RejectedError):
        ask.one("export", "actr:x", tmp_path / "none.jsonl")
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "events.csv",
        "events.csv.proof",
        "events.jsonl",
        "events.jsonl.proof",
        "events.zip",
    ]


def test_a_tail_goes_on_after_a_restart_without_a_gap(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    token = make_ledger(directory, origin="example.com/audit")
    found: list[Entry] = []
    enough = threading.Event()
    retry = RetryPolicy(attempts_max=1000, delay_base_s=0.05, delay_max_s=0.1)
    with Service(directory, listen="127.0.0.1:0", flags=FLAGS) as service:
        url = service.url
        client = LedgerClient(url, token, policy=directory / "policy", retry=retry)

        def follow() -> None:
            for entry in client.tail("action:page.*", start=0):
                found.append(entry)
                if len(found) == 40:
                    enough.set()
                    return

        thread = threading.Thread(target=follow)
        thread.start()
        with LedgerClient(url, token, policy=directory / "policy") as writer:
            writer.append_many([event(number) for number in range(20)])
        deadline_s = time.monotonic() + 20
        while len(found) < 20 and time.monotonic() < deadline_s:
            time.sleep(0.02)
    listen = url.removeprefix("http://")
    with Service(directory, listen=listen, flags=FLAGS) as service:
        with LedgerClient(service.url, token, policy=directory / "policy") as writer:
            writer.append_many([event(number) for number in range(20)])
        assert enough.wait(20)
        thread.join()
        client.close()
    indices = [entry.index for entry in found]
    assert indices == sorted(set(indices))
    assert len(indices) == 40


# What a lying service can say, without sockets.

LOG = SmallLog(entries(30))
TIMED = SmallLog([leaf_of(number, time=number * 7 % 5) for number in range(30)])


def page_of(indices: list[int], **changes: Any) -> dict[str, Any]:
    return {
        "query": "",
        "order": "newest",
        "tree_size": 30,
        "total": len(indices),
        "total_exact": True,
        "scanned": 0,
        "complete": True,
        "took_ms": 0.1,
        "events": list(map(found_event, indices)),
        **changes,
    }


def found_event(index: int, log: SmallLog = LOG) -> dict[str, Any]:
    leaf = log.leaves[index]
    parts = json.loads(leaf)
    return {
        "index": index,
        "event": parts["event"],
        "received": parts["received"],
        "leaf_hash": format_base64(log.leaf_hashes[index]),
        "leaf": leaf.decode(),
        "proof": format_proof(log.proof(index, 30)),
    }


def run(plan: Plan[Any], *answers: dict[str, Any]) -> Any:
    """Answer a plan's searches with these pages, and the rest from the log."""
    host = Host(LOG)
    left = list(answers)

    def lie(request: Request, response: Response) -> Response:
        if request.target.startswith("/v1/events"):
            return Response(status=200, body=msgspec.json.encode(left.pop(0)))
        return response

    host.lie = lie
    return host.run(plan)


def heads() -> Heads:
    return Heads(TrustedLog(LOG.policy))


EVERYTHING = ask_query("", now_unix_us=0)


def ask_page(*, order: str = "newest", limit: int = 100, verify: bool = True) -> Plan[Any]:
    """The plan for a page of all events."""
    return plan_page(
        "/v1/events",
        {"order": order, "limit": limit},
        question=EVERYTHING,
        heads=heads() if verify else None,
    )


def test_a_true_page_is_accepted() -> None:
    page, _ = run(ask_page(), page_of([29, 3, 0]))
    assert [entry.index for entry in page.entries] == [29, 3, 0]


def swap_leaf(page: dict[str, Any]) -> None:
    page["events"][0]["leaf"] = LOG.leaves[4].decode()


def swap_proof(page: dict[str, Any]) -> None:
    page["events"][0]["proof"] = page["events"][1]["proof"]


def drop_proof(page: dict[str, Any]) -> None:
    del page["events"][0]["proof"]


def alter_leaf(page: dict[str, Any]) -> None:
    page["events"][0]["leaf"] = page["events"][0]["leaf"].replace("u_1", "u_2")


@pytest.mark.parametrize("lie", [swap_leaf, swap_proof, drop_proof, alter_leaf])
def test_an_untrue_event_is_refused(lie: Callable[[dict[str, Any]], None]) -> None:
    page = page_of([29, 3, 0])
    lie(page)
    with pytest.raises(VerificationError) as caught:
        run(ask_page(), page)
    assert "answer.json" in caught.value.evidence


@pytest.mark.parametrize(
    ("asked", "indices", "order"),
    [
        ({"order": "oldest"}, [29, 3], "newest"),
        ({"order": "newest"}, [3, 29], "oldest"),
        ({"limit": 1}, [29, 3], "newest"),
        ({"limit": 0}, [29], "newest"),
    ],
)
def test_a_page_of_another_order_or_beyond_its_limit_is_refused(
    asked: dict[str, Any], indices: list[int], order: str
) -> None:
    with pytest.raises(VerificationError, match=r"order of a page|a page has") as caught:
        run(ask_page(**asked), page_of(indices, order=order))
    assert "answer.json" in caught.value.evidence


@pytest.mark.parametrize("indices", [[3, 29], [3, 3], [29, 3, 3, 0]])
def test_events_out_of_order_or_twice_are_refused(indices: list[int]) -> None:
    with pytest.raises(MalformedError, match="order"):
        run(ask_page(verify=False), page_of(indices))


@pytest.mark.parametrize("order", ["time", "time-newest"])
def test_a_page_by_time_is_held_against_the_times_of_its_events(order: str) -> None:
    # 1 and 6 happened at the same time.
    ascending = sorted([29, 3, 0, 6, 1], key=lambda index: (index * 7 % 5, index))
    true = ascending if order == "time" else ascending[::-1]

    def ask(indices: list[int]) -> list[int]:
        events = [found_event(index, TIMED) for index in indices]
        answer = {**page_of([], order=order), "events": events, "total": len(events)}
        page, _ = run(ask_page(order=order, verify=False), answer)
        return [entry.index for entry in page.entries]

    assert ask(true) == true
    for wrong in (true[::-1], [true[1], true[0], *true[2:]], [*true[:2], true[1]]):
        with pytest.raises(MalformedError, match="order"):
            ask(wrong)


@pytest.mark.parametrize("order", ["time", "time-newest", "newest"])
@pytest.mark.parametrize("leaf", ["", "x", "{}", '{"event":{"time":"soon"}}', "[" * 5000, "\x1b"])
@pytest.mark.parametrize("verify", [True, False])
def test_a_leaf_that_is_none_is_refused_in_each_order(leaf: str, order: str, verify: bool) -> None:
    answer = {**page_of([3], order=order), "total": 1}
    answer["events"][0]["leaf"] = leaf
    with pytest.raises((MalformedError, VerificationError)):
        run(ask_page(order=order, verify=verify), answer)


def test_an_event_past_the_tree_is_refused() -> None:
    with pytest.raises(MalformedError, match="past the tree"):
        run(ask_page(verify=False), page_of([29], tree_size=29))


def test_a_page_that_repeats_the_one_before_is_refused() -> None:
    search = search_query(EVERYTHING, order="newest", limit=None, heads=None)
    run(search.next_page(), page_of([29, 20], cursor="a"))
    with pytest.raises(MalformedError, match="order"):
        run(search.next_page(), page_of([20, 19], cursor="b"))
    search = search_query(EVERYTHING, order="newest", limit=None, heads=None)
    run(search.next_page(), page_of([29], cursor="a"))
    with pytest.raises(MalformedError, match="does not go on"):
        run(search.next_page(), page_of([20], cursor="a"))


def test_a_page_for_which_the_service_had_no_time_is_asked_for_again() -> None:
    search = search_query(EVERYTHING, order="newest", limit=None, heads=None)
    stalled = {**page_of([], cursor="a"), "complete": False}
    run(search.next_page(), page_of([29], cursor="a"))
    for _ in range(STALLED_PAGES_MAX - 1):
        assert run(search.next_page(), stalled).entries == ()
    assert [each.index for each in run(search.next_page(), page_of([20], cursor="b")).entries] == [
        20
    ]
    stalled["cursor"] = "b"
    for _ in range(STALLED_PAGES_MAX - 1):
        run(search.next_page(), stalled)
    with pytest.raises(UnavailableError, match=r"no time .* 5 times in a row: ask again later"):
        run(search.next_page(), stalled)


def test_pages_without_an_event_come_to_an_end() -> None:
    """A service that always names another page holds its client for so many and no longer."""
    search = search_query(EVERYTHING, order="newest", limit=None, heads=None)
    number = 0

    def next_page(indices: list[int]) -> None:
        nonlocal number
        number += 1
        run(search.next_page(), page_of(indices, cursor=f"c{number}"))

    for _ in range(EMPTY_PAGES_MAX - 1):
        next_page([])
    next_page([29])  # From here on they are counted anew.
    for _ in range(EMPTY_PAGES_MAX - 1):
        next_page([])
    with pytest.raises(MalformedError, match="10,000 pages in a row have no event"):
        next_page([])


def test_a_cursor_of_any_length_is_refused() -> None:
    with pytest.raises(MalformedError, match="a cursor has more than 1024 characters"):
        run(ask_page(verify=False), page_of([29], cursor="c" * 1025))


ENVIRONMENT = Environment(monotonic_s=lambda: 0.0, unix_s=lambda: 0.0, draw=lambda: 0.5)


def make_tail(start: int | None = 0, *, verify: bool = True) -> EventStream:
    return EventStream(
        EVERYTHING,
        start=start,
        heads=heads() if verify else None,
        retry=RetryPolicy(attempts_max=3),
        environment=ENVIRONMENT,
    )


def line(index: int, **changes: Any) -> bytes:
    return msgspec.json.encode({**found_event(index), **changes})


def test_a_tail_asks_again_from_where_it_is() -> None:
    tail = make_tail(None)
    assert "from=" not in tail.request().target
    assert run(tail.read(b'{"next":7,"tree_size":7}')) is None
    assert "from=7" in tail.request().target
    assert run(tail.read(line(9))).index == 9
    assert "from=10" in tail.request().target


def test_a_tail_that_goes_back_or_lies_is_refused() -> None:
    tail = make_tail()
    run(tail.read(line(9)))
    with pytest.raises(MalformedError, match="goes back"):
        run(tail.read(line(9)))
    with pytest.raises(MalformedError, match="goes back"):
        run(tail.read(b'{"next":3,"tree_size":30}'))
    with pytest.raises(VerificationError):
        run(tail.read(line(12, leaf=LOG.leaves[13].decode())))
    with pytest.raises(MalformedError):
        run(tail.read(b'{"index":14}'))


def test_a_tail_gives_up_when_the_retries_are_used_up() -> None:
    tail = make_tail()
    failure = UnavailableError("gone")
    for _ in range(2):
        assert tail.pause_s(failure) > 0
    run(tail.read(line(9)))
    for _ in range(2):
        assert tail.pause_s(failure) > 0
    with pytest.raises(UnavailableError, match="gone"):
        tail.pause_s(failure)


def test_lines_come_together_from_any_pieces() -> None:
    data = b'{"a":1}\n{"b":2}\n\n{"c"'
    for size in range(1, len(data) + 1):
        lines = LineSplitter()
        got = [
            each
            for start in range(0, len(data), size)
            for each in lines.feed(data[start : start + size])
        ]
        assert got == [b'{"a":1}', b'{"b":2}', b""]


def export_row(index: int) -> bytes:
    leaf = leaf_of(index)
    hash_ = format_base64(leaf_hash(leaf)).encode()
    return b'{"index":%d,%b,"leaf_hash":"%b"}\n' % (index, leaf[1:-1], hash_)


ROWS = export_row(0) + export_row(1)


def exported_from(*pieces: bytes, format_: Format = "jsonl") -> Exported:
    verifier = ExportVerifier(
        format_, question=ask_query("", now_unix_us=0), export_id="an id of an export"
    )
    for piece in pieces:
        run(verifier.feed(piece))
    exported: Exported = run(verifier.finish())[0]
    return exported


def trailer(rows: bytes, count: int) -> bytes:
    said = {"rows": count, "sha256": hashlib.sha256(rows).hexdigest(), "tree_size": 9}
    return msgspec.json.encode({"trailer": said}) + b"\n"


@pytest.mark.parametrize("size", [1, 5, 10_000])
def test_an_export_is_whole_when_its_trailer_fits(size: int) -> None:
    data = ROWS + trailer(ROWS, 2)
    exported = exported_from(*(data[start : start + size] for start in range(0, len(data), size)))
    assert (exported.rows, exported.tree_size, exported.bytes_written) == (2, 9, len(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        ROWS,
        ROWS + trailer(ROWS, 3),
        ROWS + trailer(ROWS + b" ", 2),
        ROWS + trailer(ROWS, 2)[:-9],
        trailer(ROWS, 2),
    ],
)
def test_an_export_that_is_cut_short_or_altered_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        exported_from(data)
