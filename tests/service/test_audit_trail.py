"""Who read what is in the log: reads and refusals are events, counted and appended together."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ledger.service import audit_trail
from ledger.service.app import serve
from ledger.service.auth import Caller
from ledger.service.http.request_body import ParsedBody
from ledger.service.http.usage import READ_SCOPES
from ledger.service.ingest import IngestPipeline
from ledger.service.live_settings import LiveSettings
from ledger.service.masked_query import SCANS_MAX, mask_words
from ledger.service.metrics import Metrics
from ledger.service.quotas import Quotas
from ledger.service.routes import ROUTES
from ledger.service.settings import Settings
from ledger.store.commit_errors import StorageFullError
from ledger.store.tokens import TokenRecord
from ledger_core.event.canonical import parse_leaf
from ledger_core.event.reader import Reader
from ledger_core.event.secrets import mask
from ledger_core.tlog.errors import UnavailableError
from tests.service.check_log import check_ledger
from tests.service.serving import (
    QUICK,
    Answer,
    Ledger,
    event,
    ledger_command,
    make_ledger,
    new_id,
    serving,
    serving_new,
)
from tests.waiting import until, until_async

WAIT_S = 120.0
AUDITED = msgspec.structs.replace(QUICK, audit_reads=1.0, audit_refusals=True)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setattr(audit_trail, "TURN_S", 0.02)
    with serving_new(tmp_path, AUDITED) as ledger:
        yield ledger
        check_ledger(ledger)


def logged(ledger: Ledger, action: str) -> list[dict[str, Any]]:
    """The ledger's own events of an action, read from the leaves of the log.

    Bundles are read to see them, which are reads themselves.
    """
    leaves = [parse_leaf(leaf) for leaf in check_ledger(ledger).leaves]
    return [
        msgspec.json.decode(leaf.event_json)
        for leaf in leaves
        if leaf.event.action == action and leaf.received.by == "ledger"
    ]


def found(ledger: Ledger, action: str, count: int) -> list[dict[str, Any]]:
    """The events of an action as soon as there are so many."""
    until(lambda: len(logged(ledger, action)) >= count, action)
    events = logged(ledger, action)
    assert len(events) == count
    return events


def test_a_search_is_an_event_with_its_query_and_the_number_of_rows(ledger: Ledger) -> None:
    ledger.append(event(actor={"id": "u_77"}), event(actor={"id": "u_78"}), event())
    answer = ledger.ask("/v1/events?q=actor:u_77,u_78", token="read acme")
    assert answer.status == 200
    assert ledger.ask("/v1/events?q=actor:u_77,u_78", token="read").json()["total"] == 2
    of_acme, of_all = found(ledger, "ledger.read.search", 2)
    assert of_all["actor"] == {"type": "ledger.token", "id": "read"}
    assert of_all["source"] == {"ip": "127.0.0.1"}
    assert of_all["context"]["query"] == "actor:u_77,u_78"
    assert of_all["context"]["rows"] == 2
    assert of_all["context"]["bytes"] > 0
    assert of_acme["tenant"] == "acme"
    assert of_acme["context"]["rows"] == 0
    # The question itself is answered by a search.
    assert (
        ledger.ask("/v1/events?q=action:ledger.read.*%20actor:read", token="admin").json()["total"]
        == 1
    )


def test_a_reader_is_charged_for_the_events_about_its_reads(ledger: Ledger) -> None:
    make = ("token", "create", str(ledger.directory), "--scope", "read")
    greedy = ledger_command(*make, "--name", "greedy", "--stored-bytes-per-day", "10000")
    numbers = count()

    def ask() -> Answer:
        return ledger.ask(f"/v1/events?q=actor:u_{next(numbers)}&limit=1", token=greedy)

    until(lambda: ask().status == 429)
    refused = ask()
    assert refused.slug == "rate-exceeded"
    assert "bytes stored a day" in refused.text
    read = logged(ledger, "ledger.read.search")
    assert sum(len(msgspec.json.encode(each)) for each in read) >= 10_000
    # No event is about these: they need no place in the log.
    assert ledger.ask("/v1/queries", token=greedy).status == 200
    assert ledger.ask("/v1/events", token="read").status == 200


def test_secrets_in_queries_are_looked_for_beside_the_loop(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    masking: list[str] = []
    mask = IngestPipeline.mask

    def noted(ingest: IngestPipeline, event: dict[str, Any]) -> dict[str, Any]:
        masking.append(threading.current_thread().name)
        return mask(ingest, event)

    monkeypatch.setattr(IngestPipeline, "mask", noted)
    query = "%20OR%20".join(["actor:4111111111111111"] * 3)
    for number in range(3):
        assert ledger.ask(f"/v1/events?q=actor:u_{number}%20OR%20{query}").status == 200
    found(ledger, "ledger.read.search", 3)
    assert len(masking) > 9
    assert {name.rpartition("_")[0] for name in masking} == {"ledger-append"}


def test_what_is_asked_again_is_counted_and_is_one_event_more_at_the_end(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    with serving(directory, tokens, AUDITED) as ledger:
        ledger.append(event())
        for _ in range(5):
            assert ledger.ask("/v1/events?q=outcome:success", token="read").status == 200
    with serving(directory, tokens) as ledger:
        events = found(ledger, "ledger.read.search", 1)
    assert events[0]["context"]["reads"] == 5
    assert events[0]["context"]["until"] >= events[0]["time"]


@pytest.mark.parametrize("proof", [0, 1])
def test_rows_are_counted_where_searches_run_in_a_process_of_their_own(
    tmp_path: Path, proof: int
) -> None:
    settings = msgspec.structs.replace(AUDITED, query_process=True)
    with serving_new(tmp_path, settings) as ledger:
        ledger.append(*(event() for _ in range(200)))
        target = f"/v1/events?q=action:record.viewed&limit=150&proof={proof}"
        answer = ledger.ask(target, token="read")
        assert len(answer.json()["events"]) == 150
    with serving(ledger.directory, ledger.tokens) as ledger:
        (read,) = found(ledger, "ledger.read.search", 1)
    assert read["context"]["rows"] == 150
    assert read["context"]["bytes"] >= len(answer.body)


def test_a_poll_is_no_event_each_time(ledger: Ledger) -> None:
    ledger.append(event())
    assert ledger.ask("/v1/events?q=outcome:failure", token="read").status == 200
    found(ledger, "ledger.read.search", 1)
    for _ in range(20):
        assert ledger.ask("/v1/events?q=outcome:failure", token="read").status == 200
    assert ledger.ask("/v1/events?q=outcome:denied", token="read").status == 200
    events = found(ledger, "ledger.read.search", 2)
    assert [each["context"]["query"] for each in events] == ["outcome:failure", "outcome:denied"]


def test_single_events_are_named_and_none_is_held_back(ledger: Ledger) -> None:
    ids = [new_id() for _ in range(40)]
    ledger.append(*(event(id=each) for each in ids))
    for each in ids:
        assert ledger.ask(f"/v1/events/{each}", token="read").status == 200
    end_s = time.monotonic() + WAIT_S
    named: list[str] = []
    while len(named) < len(ids):
        assert time.monotonic() < end_s
        leaves = [parse_leaf(leaf).event for leaf in check_ledger(ledger).leaves]
        reads = [each for each in leaves if each.action == "ledger.read.event"]
        named = [target.id for each in reads for target in each.targets or ()]
        time.sleep(0.02)
    assert sorted(named) == sorted(ids)
    assert all(len(each.targets or ()) <= 32 for each in reads)


def test_exports_and_streams_have_an_event_when_they_begin(ledger: Ledger) -> None:
    ledger.append(event(), event())
    exported = ledger.ask("/v1/export?q=action:record.viewed", token="read")
    assert exported.status == 200
    (begun,) = found(ledger, "ledger.read.export.begun", 1)
    assert begun["context"]["query"] == "action:record.viewed"
    (ended,) = found(ledger, "ledger.read.export", 1)
    assert ended["context"]["rows"] == 2
    assert ended["context"]["bytes"] >= len(exported.body)


def test_a_query_that_holds_a_secret_is_masked(ledger: Ledger) -> None:
    answer = ledger.ask("/v1/events?q=%22password:%20hunter2hunter2%22", token="read")
    assert answer.status == 200
    (read,) = found(ledger, "ledger.read.search", 1)
    assert read["context"]["query"] == "masked.password-line"


SECRET_WORDS = {
    "4111111111111111": "masked.card-number",
    "4111 1111 1111 1111": "masked.card-number",
    '"password: hunter2hunter2"': "masked.password-line",
    "(-----BEGIN RSA PRIVATE KEY-----)": "(masked.pem-private-key)",
    '"-----BEGIN RSA PRIVATE KEY-----"': "masked.pem-private-key",
    "https://user:hunter2@example.com/": "masked.url-password",
}


@pytest.mark.parametrize("secret", SECRET_WORDS)
def test_a_secret_in_a_query_does_not_hide_the_rest_of_it(secret: str) -> None:
    query = f"actor:ceo or {secret} or target:{'r' * 20} or actor:cfo"
    masked = mask_words(query, mask)
    assert masked == query.replace(secret, SECRET_WORDS[secret])
    assert mask({"context": {"query": masked}}) == {"context": {"query": masked}}


def test_very_many_secrets_in_a_query_are_masked_in_bounded_work() -> None:
    scans = 0

    def count(event: dict[str, Any]) -> dict[str, Any]:
        nonlocal scans
        scans += 1
        return mask(event)

    masked = mask_words("actor:ceo or " + "4111 1111 1111 1111 or " * 200, count)
    assert masked.startswith("actor:ceo or masked.card-number or masked.card-number or ")
    assert masked.endswith("masked.scan-limit")
    assert "4111" not in masked
    assert scans < SCANS_MAX + 50


def test_blanks_do_not_push_a_question_out_of_the_event_about_it(ledger: Ledger) -> None:
    answer = ledger.ask(f"/v1/events?q={'+' * 3000}action:login", token="read")
    assert answer.status == 200
    (read,) = found(ledger, "ledger.read.search", 1)
    assert read["context"]["query"].endswith("action:login")


def test_a_refusal_is_an_event_and_strangers_do_not_fill_the_log(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_trail, "STRANGERS_MAX", 1)
    for _ in range(10):
        assert ledger.ask("/v1/events", token="append").status == 403
    for target in ("/v1/events", "/v1/export", "/v1/fields"):
        assert ledger.ask(target, token="wl_guessed").status == 401

    def refused_callers() -> set[str]:
        return {each["actor"]["id"] for each in logged(ledger, "ledger.refused")}

    until(lambda: refused_callers() == {"append", "127.0.0.1", "many addresses"})
    refused = logged(ledger, "ledger.refused")
    assert len(refused) <= 4  # One more when a turn ended between the addresses.
    by_token = [each for each in refused if each["actor"]["type"] == "ledger.token"]
    assert len(by_token) == 1
    assert by_token[0]["actor"]["id"] == "append"
    assert by_token[0]["context"]["problem"] == "scope-missing"
    assert by_token[0]["outcome"] == "denied"


def test_a_revoked_token_does_not_fill_the_log_from_very_many_addresses(quick: None) -> None:
    revoked = TokenRecord(name="old", scopes=("query",), created="", revoked="2026")

    async def main() -> None:
        ingest = Appended()
        trail = trail_on(ingest, Metrics())
        for number in range(1_000):
            address = f"2001:db8::{number:x}"
            caller = Caller("revoked old", None, revoked)
            trail.refuse(caller, address, "/v1/events", "token-unknown")
        async with trail.running():
            await until_async(lambda: len(ingest.events) > audit_trail.STRANGERS_MAX)
        assert len(ingest.events) == audit_trail.STRANGERS_MAX + 1
        assert ingest.events[-1]["actor"]["id"] == "revoked old"
        assert sum(each["context"]["requests"] for each in ingest.events) == 1_000

    asyncio.run(main())


def test_reads_are_no_events_unless_it_is_asked_for(tmp_path: Path) -> None:
    with serving_new(tmp_path) as ledger:
        ledger.append(event())
        assert ledger.ask("/v1/events", token="read").status == 200
        assert ledger.ask("/v1/events", token="append").status == 403
        size = check_ledger(ledger).size
    with serving(ledger.directory, ledger.tokens) as ledger:
        assert check_ledger(ledger).size == size


def test_a_start_and_new_settings_are_events(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    live = LiveSettings(AUDITED)
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve_live(*args: Any, **named: Any) -> None:
        loops.append(asyncio.get_running_loop())
        await serve(*args, **named, live=live)

    with serving(directory, tokens, AUDITED, serve_live) as ledger:
        found(ledger, "ledger.service.started", 1)
        others = msgspec.structs.replace(AUDITED, body_wait_s=7.0, query_threads=2)
        loops[0].call_soon_threadsafe(live.replace, others)
        (reloaded,) = found(ledger, "ledger.settings.reloaded", 1)
    assert reloaded["context"]["changed"] == ["body_wait_s"]


def test_every_route_whose_answers_hold_events_is_audited() -> None:
    holds = {each.path for each in ROUTES if each.scope in READ_SCOPES}
    # Proofs and trailers hold no event. Evidence has an event of its own.
    others = {"/v1/proofs/multi", "/v1/export/trailer", "/v1/evidence"}
    others |= {each for each in holds if each.startswith("/v1/queries")}
    assert holds - others <= audit_trail.READ_KINDS.keys()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_list_of_values_is_an_event_with_its_field_and_query(ledger: Ledger, method: str) -> None:
    ledger.append(event(actor={"id": "u_77"}), event(actor={"id": "u_78"}))
    if method == "GET":
        answer = ledger.ask("/v1/values?field=actor&q=outcome:success", token="read")
    else:
        body = msgspec.json.encode({"field": "actor", "query": "outcome:success"})
        answer = ledger.ask(
            "/v1/values", method="POST", body=body, token="read", content_type="application/json"
        )
    assert answer.status == 200
    (read,) = found(ledger, "ledger.read.values", 1)
    assert read["context"]["query"] == "outcome:success"
    assert read["context"]["field"] == "actor"
    assert read["context"]["bytes"] >= len(answer.body)


def test_a_read_of_what_no_event_can_name_is_an_event_all_the_same(ledger: Ledger) -> None:
    long = "a" * 6_000
    assert ledger.ask(f"/v1/actors/{long}/timeline", token="read").status == 200
    (read,) = found(ledger, "ledger.read.timeline", 1)
    assert "targets" not in read


class Appended:
    """An ingest that keeps what is appended to it, and refuses or waits as it is told."""

    def __init__(self) -> None:
        self.reader = Reader(new_id, self.now)
        self.events: list[dict[str, Any]] = []
        self.error: Exception | None = None
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    def now(self) -> int:
        return 1_790_000_000_000_000

    def mask(self, event: dict[str, Any]) -> dict[str, Any]:
        return event

    def check_own(self, event: dict[str, Any]) -> bytes:
        return msgspec.json.encode(event)

    async def run_beside(self, _by: str, work: Callable[[], bytes | None]) -> bytes | None:
        return work()

    async def append(self, body: ParsedBody, **_: object) -> None:
        await self.may_go_on.wait()
        if self.error is not None:
            raise self.error
        self.events += map(msgspec.json.decode, body.raws)

    def queries(self) -> list[str]:
        return [each["context"].get("query", "") for each in self.events]


def trail_on(ingest: Appended, metrics: Metrics) -> audit_trail.AuditTrail:
    trail: Any = audit_trail.AuditTrail
    made: audit_trail.AuditTrail = trail(
        ingest, lambda: AUDITED, metrics, Quotas(AUDITED), is_mirror=False
    )
    return made


def read(trail: audit_trail.AuditTrail, *, query: str = "", ref: str = "") -> None:
    trail.read(
        Caller("address 192.0.2.1", None, None),
        "192.0.2.1",
        "/v1/events/{ref}" if ref else "/v1/events",
        query=query,
        subject=ref,
        field_name="",
        format_="",
        rows=1,
        bytes_=9,
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_trail, "TURN_S", 0.001)


@pytest.mark.usefixtures("quick")
def test_who_reads_single_events_all_the_time_hides_no_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit_trail, "REPEAT_S", 0.4)

    async def main() -> None:
        ingest = Appended()
        trail = trail_on(ingest, Metrics())
        async with trail.running():

            def go_on(wanted: int) -> bool:
                read(trail, ref="7")
                return ingest.queries().count("outcome:failure") >= wanted

            read(trail, ref="7")
            await until_async(lambda: bool(ingest.events))
            for wanted in (1, 2):
                read(trail, query="outcome:failure")
                await until_async(partial(go_on, wanted))

    asyncio.run(main())


@pytest.mark.usefixtures("quick")
def test_what_is_being_appended_at_the_end_is_not_lost() -> None:
    async def main() -> None:
        ingest = Appended()
        trail = trail_on(ingest, Metrics())
        ingest.may_go_on.clear()
        async with trail.running():
            read(trail, query="first")
            await until_async(lambda: not trail._waiting)
            read(trail, query="last")
            asyncio.get_running_loop().call_later(0.01, ingest.may_go_on.set)
        assert ingest.queries() == ["first", "last"]

    asyncio.run(main())


@pytest.mark.usefixtures("quick")
def test_while_nothing_can_be_appended_memory_is_bounded_and_what_is_lost_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit_trail, "REFS_MAX", 50)

    async def main() -> None:
        ingest, metrics = Appended(), Metrics()
        trail = trail_on(ingest, metrics)
        ingest.error = UnavailableError("the log is held")
        async with trail.running():
            for number in range(80):
                read(trail, ref=str(number))
                await asyncio.sleep(0)
            ingest.error = None
        named = [target["id"] for each in ingest.events for target in each["targets"]]
        assert named == [str(number) for number in range(50)]
        assert sum(each["context"].get("reads", 0) for each in ingest.events) == 80
        lost = [each.value for each in metrics.counters() if each.name == "audit_events_lost_total"]
        assert lost == [30]

    asyncio.run(main())


def test_a_full_disk_keeps_no_service_from_its_start_or_from_new_settings() -> None:
    class Full:
        def enqueue(self, event: bytes) -> None:
            raise StorageFullError(f"no room for {len(event)} bytes")

    live, taken = LiveSettings(AUDITED), list[Settings]()
    full: Any = Full()
    audit_trail.log_acts(full, live)
    live.follow(taken.append)
    live.replace(msgspec.structs.replace(AUDITED, body_wait_s=7.0))
    assert [each.body_wait_s for each in taken] == [7.0]
