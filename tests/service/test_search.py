"""Searching over HTTP: the answers are right, page without a gap, and can be verified."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request

from ledger.demo.data import QUESTIONS, bad_week
from ledger.query.answer import Answer, Row
from ledger.service.app import open_service
from ledger.service.queries.search import find_fields, seen_answer
from ledger_client import LedgerClient
from ledger_core.event.secrets import mask
from ledger_core.search_answers import Facet
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.keys import ED25519_COSIGNATURE
from ledger_core.tlog.proof import check_proof, parse_proof
from tests.service.check_log import check_ledger
from tests.service.serving import QUICK, Ledger, event, make_ledger, serving, serving_new

WAIT_S = 120.0
MONDAY_UNIX_US = 1_763_942_400_000_000  # 2025-11-24T00:00:00Z


def search(ledger: Ledger, q: str = "", *, token: str = "admin", **parameters: Any) -> Any:
    answer = ledger.ask(f"/v1/events?{urlencode({'q': q, **parameters})}", token=token)
    assert answer.status == 200, answer.text
    return answer.json()


def indices(answer: Any) -> list[int]:
    return [each["index"] for each in answer["events"]]


def page_through(ledger: Ledger, q: str, **parameters: Any) -> list[int]:
    """All indices, over as many pages as it takes."""
    found: list[int] = []
    cursor: dict[str, str] = {}
    while True:
        answer = search(ledger, q, **parameters, **cursor)
        found += indices(answer)
        if "cursor" not in answer:
            return found
        cursor = {"cursor": answer["cursor"]}


def append_all(ledger: Ledger, events: list[dict[str, Any]]) -> None:
    for start in range(0, len(events), 1000):
        assert ledger.append(*events[start : start + 1000], batch=True).status == 200


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A company's bad week, served."""
    with serving_new(tmp_path_factory.mktemp("story")) as ledger:
        # A client masks before it sends; the service refuses what was not.
        append_all(ledger, [mask(e) for e in bad_week(start_unix_us=MONDAY_UNIX_US, seed=7)])
        yield ledger
        check_ledger(ledger)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.query)
def test_each_question_of_the_story_has_its_answer(story: Ledger, question: Any) -> None:
    answer = search(story, question.query, limit=1000)
    assert answer["total"] == len(answer["events"]) == question.finds
    assert answer["total_exact"]
    assert answer["complete"]
    assert "cursor" not in answer


def test_an_answer_has_the_events_as_they_are_stored_and_says_how_it_was_found(
    story: Ledger,
) -> None:
    answer = search(story, "action:payout_account.created target:pa_9907")
    (found,) = answer["events"]
    alone = story.ask(f"/v1/events/{found['index']}").json()
    assert found == alone
    assert answer["took_ms"] > 0
    assert answer["query"] == "action:payout_account.created target:pa_9907"
    assert answer["tree_size"] > found["index"]


def test_each_event_comes_with_its_proof_when_asked(story: Ledger) -> None:
    answer = search(story, "source:198.51.100.77", proof=1, limit=20)
    assert len(answer["events"]) == 20
    checkpoints = set()
    for found in answer["events"]:
        proof = parse_proof(found["proof"])
        assert proof.leaf_index == found["index"]
        check_proof(proof, leaf_hash=leaf_hash(found["leaf"].encode()), policy=story.policy)
        checkpoints.add(proof.checkpoint)
    assert len(checkpoints) == 1


def test_the_consistency_with_a_known_size_comes_along(story: Ledger) -> None:
    answer = search(story, "action:login.failed", proof=1, limit=1, from_size=3)
    assert answer["consistency"]["from"] == 3
    refused = story.ask("/v1/events?q=&from_size=3")
    assert (refused.status, refused.slug) == (400, "bad-parameter")


def test_newest_and_oldest_are_the_same_the_other_way_round(story: Ledger) -> None:
    newest = page_through(story, "action:login.*", limit=37)
    oldest = page_through(story, "action:login.*", limit=41, order="oldest")
    assert newest == oldest[::-1]
    assert oldest == sorted(set(oldest))
    assert len(oldest) == search(story, "action:login.*", limit=0)["total"]


def test_counting_alone_reads_no_events(story: Ledger) -> None:
    answer = search(
        story,
        "source:203.0.113.0/24",
        limit=0,
        facets="outcome,action,source,actor",
        histogram="hour",
    )
    assert answer["events"] == []
    facets = {facet["field"]: facet for facet in answer["facets"]}
    assert set(facets) == {"outcome", "action", "source", "actor"}
    everything = search(story, "source:203.0.113.0/24", limit=1000)["events"]
    events = [each["event"] for each in everything]
    for name, values in (
        ("outcome", [each["outcome"] for each in events]),
        ("action", [each["action"] for each in events]),
        ("source", [each["source"]["ip"] for each in events]),
        ("actor", [each["actor"]["id"] for each in events]),
    ):
        counted = {each["value"]: each["count"] for each in facets[name]["values"]}
        assert facets[name]["exact"]
        assert all(values.count(value) == count for value, count in counted.items())
        assert len(set(values)) == len(counted) + facets[name]["others"]
    histogram = answer["histogram"]
    assert histogram["unit"] == "hour"
    assert sum(bucket["count"] for bucket in histogram["buckets"]) == answer["total"]
    hours = [each["event"]["time"][:13] for each in everything]
    for bucket in histogram["buckets"]:
        assert hours.count(bucket["start"][:13]) == bucket["count"]


def test_a_query_is_explained_when_asked(story: Ledger) -> None:
    answer = search(story, "actor:u_117 outcome:denied", limit=0, explain=1)
    assert "u_117" in answer["explanation"]


@pytest.mark.parametrize(
    ("q", "position", "nearest"),
    [
        ("actr:u_5", 0, "actor"),
        ("actor:u_1 outcom:failure", 10, "outcome"),
        ("actor:u_1 (action:a.b", None, None),
        ("source:300.1.1.1", None, None),
        ("since:yesterday-ish", None, None),
        ("outcome:falure", None, None),
    ],
)
def test_a_mistake_in_a_query_is_shown_where_it_is(
    story: Ledger, q: str, position: int | None, nearest: str | None
) -> None:
    answer = story.ask(f"/v1/events?q={quote(q)}")
    assert (answer.status, answer.slug) == (422, "query")
    problem = answer.json()
    assert problem["field"] == "q"
    assert 0 <= problem["position"] <= len(q)
    if position is not None:
        assert (problem["position"], problem["nearest"]) == (position, nearest)


def test_parameters_are_held_to_their_forms(story: Ledger) -> None:
    for query in (
        "limit=1001",
        "limit=-1",
        "limit=1&limit=2",
        "order=random",
        "facets=weather",
        "facets=actor,actor",
        "histogram=minute",
        "quarry=1",
    ):
        answer = story.ask(f"/v1/events?{query}")
        assert (answer.status, answer.slug) == (400, "bad-parameter"), query


def test_a_cursor_goes_on_with_its_own_query_alone(story: Ledger) -> None:
    cursor = search(story, "action:login.*", limit=5)["cursor"]
    for q, parameters in (
        ("action:login.failed", {}),
        ("action:login.*", {"order": "oldest"}),
    ):
        target = urlencode({"q": q, "cursor": cursor, **parameters})
        answer = story.ask(f"/v1/events?{target}")
        assert (answer.status, answer.slug) == (422, "cursor")
    for junk in ("x", cursor[:-2], cursor + "A", "A" * 900):
        answer = story.ask(f"/v1/events?{urlencode({'q': 'action:login.*', 'cursor': junk})}")
        assert (answer.status, answer.slug) == (422, "cursor"), junk


def test_searching_needs_a_token_that_may_read(story: Ledger) -> None:
    for target in (
        "/v1/events",
        "/v1/events/stream",
        "/v1/events/1/around",
        "/v1/actors/u_1/timeline",
        "/v1/sources/203.0.113.1/seen",
        "/v1/export",
    ):
        assert story.ask(target, token=None).slug == "token-missing", target
        assert story.ask(target, token="append").slug == "scope-missing", target
        assert story.ask(target, token="wl_nobody").slug == "token-unknown", target


def test_around_an_event_is_what_shares_its_actor_session_source_or_target(story: Ledger) -> None:
    centre = search(story, "source:198.51.100.77 action:customer.exported")["events"][0]
    answer = story.ask(f"/v1/events/{centre['event']['id']}/around?minutes=30&limit=1000").json()
    found = answer["events"]
    assert centre["index"] in indices(answer)
    assert indices(answer) == sorted(indices(answer))
    own = centre["event"]
    for each in found:
        other, because = each["event"], each["because"]
        assert because, "every event says why it is there"
        assert ("actor" in because) == (other["actor"]["id"] == own["actor"]["id"])
        assert ("source" in because) == (other.get("source", {}).get("ip") == own["source"]["ip"])
    around_index = story.ask(f"/v1/events/{centre['index']}/around?minutes=30&limit=1000").json()
    assert indices(around_index) == indices(answer)
    assert len(found) > 3
    wider = story.ask(f"/v1/events/{centre['index']}/around?minutes=600&limit=1000").json()
    assert set(indices(answer)) < set(indices(wider))


def test_around_what_is_not_there_is_a_problem(story: Ledger) -> None:
    assert story.ask("/v1/events/999999/around").slug == "no-event"
    assert story.ask("/v1/events/x/around").slug == "bad-parameter"
    assert story.ask("/v1/events/1/around?minutes=0").slug == "bad-parameter"


def test_a_timeline_has_what_an_actor_did_and_what_was_done_to_it(story: Ledger) -> None:
    answer = story.ask("/v1/actors/u_117/timeline?limit=1000&facets=action").json()
    for each in answer["events"]:
        one, because = each["event"], set(each["because"])
        assert because
        assert ("actor" in because) == (one["actor"]["id"] == "u_117")
        targets = [target["id"] for target in one.get("targets", ())]
        assert ("target" in because) == ("u_117" in targets)
    roles = {role for each in answer["events"] for role in each["because"]}
    assert {"actor", "target"} <= roles
    both = search(story, "actor:u_117 OR target:u_117 OR actor.on_behalf_of:u_117", limit=0)
    assert answer["total"] == both["total"]
    assert answer["facets"][0]["field"] == "action"


def test_an_actor_may_have_any_id(shared_ledger: Ledger) -> None:
    for actor in ("arn:aws:iam::1:user/ann", "a b", 'x"y', "50%", "ü", "a*", "(x)", "AND"):
        assert shared_ledger.append(event(actor={"id": actor})).status == 200
        answer = shared_ledger.ask(f"/v1/actors/{quote(actor, safe='')}/timeline")
        found = answer.json()["events"]
        assert [each["event"]["actor"]["id"] for each in found] == [actor]


def test_a_source_was_first_and_last_seen(story: Ledger) -> None:
    answer = story.ask("/v1/sources/198.51.100.77/seen").json()
    oldest = search(story, "source:198.51.100.77", order="oldest", limit=1)["events"][0]
    newest = search(story, "source:198.51.100.77", limit=1)["events"][0]
    assert (answer["first"], answer["last"]) == (oldest, newest)
    assert answer["total"] == 73
    counted = {each["value"]: each["count"] for each in answer["actions"]["values"]}
    done = search(story, "source:198.51.100.77", limit=100)["events"]
    actions = [each["event"]["action"] for each in done]
    assert all(actions.count(action) == count for action, count in counted.items())
    assert len(counted) + answer["actions"]["others"] == len(set(actions))
    network = story.ask("/v1/sources/203.0.113.0/24/seen").json()
    assert network["total"] == search(story, "source:203.0.113.0/24", limit=0)["total"]
    nobody = story.ask("/v1/sources/2001:db8::dead/seen").json()
    assert (nobody["total"], "first" in nobody) == (0, False)
    assert story.ask("/v1/sources/somewhere/seen").slug == "query"


def test_what_was_seen_is_exact_only_if_both_ends_were_found(story: Ledger) -> None:
    one = search(story, "source:198.51.100.77", limit=1)["events"][0]
    row = Row(one["index"], one["leaf"].encode())
    facet = Facet(field="action", values=(), others=0, is_exact=True, counted=0)
    last = Answer(
        rows=(row,),
        tree_size=900,
        total=73,
        total_exact=True,
        scanned=0,
        complete=True,
        cursor=None,
        facets=(facet,),
        histogram=None,
    )
    nothing = replace(last, rows=())
    for first, last_, is_exact in (
        (last, last, True),
        (nothing, last, False),
        (last, nothing, False),
        (nothing, replace(nothing, total=0), True),
        (last, replace(last, total_exact=False), False),
    ):
        seen = seen_answer("198.51.100.77", first=first, last=last_)
        assert (seen.total_exact, seen.actions.is_exact) == (is_exact, is_exact)


def test_what_was_acknowledged_is_found_at_once(ledger: Ledger) -> None:
    for number in range(20):
        receipt = ledger.append(event(actor={"id": f"u_{number}"})).json()["results"][0]
        assert indices(search(ledger, f"actor:u_{number}")) == [receipt["index"]]


@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_paging_while_events_arrive_has_nothing_twice_and_misses_nothing(
    ledger: Ledger, order: str
) -> None:
    append_all(ledger, [event(action="a.seen" if n % 3 else "a.other") for n in range(900)])
    stop = threading.Event()

    def arrive() -> None:
        while not stop.is_set():
            append_all(ledger, [event(action="a.seen") for _ in range(50)])

    thread = threading.Thread(target=arrive)
    thread.start()
    try:
        first = search(ledger, "action:a.seen", limit=7, order=order)
        found, cursor = indices(first), first["cursor"]
        while cursor is not None:
            page = search(ledger, "action:a.seen", limit=7, order=order, cursor=cursor)
            assert page["tree_size"] == first["tree_size"]
            assert page["total"] == first["total"]
            found += indices(page)
            cursor = page.get("cursor")
    finally:
        stop.set()
        thread.join()
    everything = [
        each
        for each in page_through(ledger, "action:a.seen", limit=1000, order=order)
        if each < first["tree_size"]
    ]
    assert found == everything
    assert len(found) == first["total"]


def test_a_cursor_outlives_a_restart(tmp_path: Path) -> None:
    tokens = make_ledger(tmp_path / "ledger")
    with serving(tmp_path / "ledger", tokens) as ledger:
        append_all(ledger, [event() for _ in range(30)])
        first = search(ledger, "action:record.viewed", limit=10)
    with serving(tmp_path / "ledger", tokens) as ledger:
        append_all(ledger, [event() for _ in range(30)])
        page = search(ledger, "action:record.viewed", limit=100, cursor=first["cursor"])
        assert page["tree_size"] == first["tree_size"]
        assert len(indices(first) + indices(page)) == 30


def test_a_bound_that_is_reached_is_said_and_there_is_a_way_on(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(QUICK, query_rows_max=300)
    tokens = make_ledger(tmp_path / "ledger")
    with serving(tmp_path / "ledger", tokens, settings) as ledger:
        long = "x" * 300
        events = [event(reason=f"{long} {number}") for number in range(1500)]
        events[3] = event(reason=f"{long} needle")
        append_all(ledger, events)
        q = f'context.k:"{long}"'
        answer = search(ledger, q)
        assert answer["scanned"] <= 300 + 256
        append_all(ledger, [event(context={"k": f"{long}{number}"}) for number in range(1500)])
        append_all(ledger, [event(context={"k": long})])
        append_all(ledger, [event(context={"k": f"{long}{number}"}) for number in range(1500)])
        pages = 0
        cursor: dict[str, str] = {}
        found: list[int] = []
        while True:
            answer = search(ledger, q, **cursor)
            pages += 1
            found += indices(answer)
            if "cursor" not in answer:
                break
            assert not answer["complete"] or answer["events"]
            cursor = {"cursor": answer["cursor"]}
        assert len(found) == 1
        assert pages > 1


def test_too_many_searches_at_once_are_told_to_come_again(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(QUICK, query_threads=1, query_waiting_max=1)
    tokens = make_ledger(tmp_path / "ledger")
    with serving(tmp_path / "ledger", tokens, settings) as ledger:
        append_all(ledger, [event(reason=f"r {number}") for number in range(3000)])
        answers: list[tuple[int, str | None]] = []

        def ask() -> None:
            answer = ledger.ask("/v1/events?q=NOT%20reason:nothing&limit=1000")
            answers.append((answer.status, answer.headers["Retry-After"]))

        # Whoever watches the service does not wait behind those who search.
        watched: list[int] = []

        def watch() -> None:
            watched.extend(ledger.ask(path).status for path in ("/readyz", "/v1/log") * 10)

        threads = [threading.Thread(target=ask) for _ in range(12)]
        threads.append(threading.Thread(target=watch))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {status for status, _ in answers} <= {200, 503}
        assert all(after == "1" for status, after in answers if status == 503)
        assert any(status == 200 for status, _ in answers)
        assert set(watched) == {200}


@pytest.mark.anyio
async def test_no_thread_reads_the_log_after_the_server_of_queries_is_closed(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "ledger"
    make_ledger(directory)
    before = set(threading.enumerate())
    async with open_service(directory, QUICK) as context:
        client = context.query_pool.client("reader", make_mocked_request("GET", "/"))
        await client.run(find_fields, tenant=None, now_unix_us=0)
        assert any("ledger-query" in each.name for each in set(threading.enumerate()) - before)
    assert not any("ledger-query" in each.name for each in set(threading.enumerate()) - before)


def test_the_log_says_how_far_its_index_is(story: Ledger) -> None:
    index = story.ask("/v1/log").json()["index"]
    assert index["sealed_segments"] <= index["full_segments"]
    assert index["current"]
    assert (story.directory / "index").is_dir()
    assert json.loads(story.ask("/readyz").body)["status"] == "ready"


def test_a_missing_quorum_does_not_take_search_away(unserved: tuple[Path, dict[str, str]]) -> None:
    directory, tokens = unserved
    there = {"source": {"ip": "192.0.2.7"}}
    with serving(directory, tokens) as ledger:
        append_all(ledger, [event(**there), event(**there)])
        old = search(ledger, proof=1)["events"]
    witness = CosignatureSigner.generate(
        "witness.example/w2", algorithm=ED25519_COSIGNATURE, seed=bytes(32)
    )
    policy = directory / "policy"
    lines = policy.read_text().replace(
        "quorum none", f"witness w2 {witness.verifier} http://127.0.0.1:1/\nquorum w2"
    )
    policy.write_text(lines)
    with serving(directory, tokens) as ledger:
        append_all(ledger, [event(**there), event(**there), event(**there)])
        deadline_s = time.monotonic() + WAIT_S
        while (answer := ledger.ask("/v1/events?proof=1")).status != 200:
            assert time.monotonic() < deadline_s
            assert answer.slug == "not-yet-published"
        # Reads and refusals are events too, some time later: ask until none came between.
        while True:
            found, whole = search(ledger, proof=1), search(ledger)
            if found["tree_size"] + found["unpublished"] == whole["tree_size"]:
                break
            assert time.monotonic() < deadline_s
        assert [each["index"] for each in found["events"]] == [each["index"] for each in old]
        assert found["unpublished"] >= 3
        assert "w2" in found["quorum_missing"]
        # The operator learns how the witness failed, not only that it did.
        warnings = json.loads(ledger.ask("/readyz").body)["warnings"]
        assert any("the witness w2: no connection" in each for each in warnings)
        assert all("proof" in each for each in found["events"])
        assert whole["total"] == found["total"] + found["unpublished"]
        assert "unpublished" not in whole
        # Nor what was seen of an address: of an event that nothing proves no client could use it.
        seen = ledger.ask("/v1/sources/192.0.2.7/seen").json()
        assert (seen["total"], seen["tree_size"]) == (2, found["tree_size"])
        assert (seen["unpublished"] >= 3, "w2" in seen["quorum_missing"]) == (True, True)
        assert [seen[end]["index"] for end in ("last", "first")] == [
            each["index"] for each in old if "source" in each["event"]
        ]


def test_the_query_is_decoded_once(tmp_path: Path) -> None:
    actors = ["%41", "A", "a+b", "a b", "a&b=c", "%2541", "50%", "ä%C3"]
    with (
        serving_new(tmp_path) as ledger,
        LedgerClient(ledger.url, ledger.tokens["admin"], policy=ledger.policy) as client,
    ):
        append_all(ledger, [event(actor={"id": actor}) for actor in actors])
        for actor in actors:
            found = search(ledger, f'actor:"{actor}"')
            assert [each["event"]["actor"]["id"] for each in found["events"]] == [actor]
            page = client.search(f'actor:"{actor}"', verify=False)
            assert [each.event.actor.id for each in page.entries] == [actor]
        answer = ledger.ask("/v1/events?q=actor:%2541")
        assert [each["event"]["actor"]["id"] for each in answer.json()["events"]] == ["%41"]
        for bad in ("q=%ff", "q=%C3", "%ff=1"):
            assert ledger.ask(f"/v1/events?{bad}").slug == "bad-parameter"


def test_an_answer_of_nothing_says_why_and_what_was_searched(story: Ledger) -> None:
    answer = search(story, "action:login.faild")
    assert answer["total"] == 0
    last = answer["hints"][-1]
    (near,) = [h for h in answer["hints"] if h.get("nearest") == "action:login.failed"]
    assert near["count"] == search(story, near["nearest"], limit=0)["total"] > 0
    assert last["kind"] == "searched"
    assert f"the {answer['tree_size']:,} entries of the log were searched" in last["text"]
    assert "the published head has size" in last["text"]
    assert "hints" not in search(story, "action:login.failed", limit=0)
    timeline = story.ask("/v1/actors/nobody/timeline", token="admin").json()
    assert {hint["kind"] for hint in timeline["hints"]} == {"value", "searched"}


def post_search(story: Ledger, asked: dict[str, Any]) -> Any:
    body = msgspec.json.encode(asked)
    return story.ask("/v1/search", method="POST", body=body, content_type="application/json")


def test_groups_are_counted_by_a_search_in_a_body(story: Ledger) -> None:
    asked = {
        "query": "source:198.51.100.77",
        "limit": 0,
        "counts": [{"by": ["actor", "action"], "distinct": "target", "top": 3}],
        "histogram": {"unit": "weekday", "zone": "Europe/Berlin"},
    }
    answer = story.ask(
        "/v1/search",
        method="POST",
        body=msgspec.json.encode(asked),
        content_type="application/json",
    ).json()
    assert answer["total"] == 73
    (counted,) = answer["counts"]
    assert (len(counted["values"]), counted["exact"], counted["counted"]) == (3, True, 73)
    assert sum(each["count"] for each in answer["histogram"]["buckets"]) == 73
    assert len(answer["histogram"]["buckets"]) == 7


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"counts": [{"by": ["shoe"]}]}, "can't be counted"),
        ({"counts": [{"by": ["actor"], "new_since": "yesterday"}]}, "not a time"),
        ({"histogram": {"unit": "day", "zone": "Mars/Base"}}, "no time zone"),
        ({"counts": [{"by": []}]}, "not a search"),
        ({"query": "shoe:1"}, "no field shoe"),
        ({"limit": 1001}, "not a search"),
    ],
)
def test_a_search_in_a_body_that_is_wrong_is_refused(
    story: Ledger, change: dict[str, object], named: str
) -> None:
    answer = story.ask(
        "/v1/search",
        method="POST",
        body=msgspec.json.encode(change),
        content_type="application/json",
    )
    assert 400 <= answer.status < 500
    assert named in answer.body.decode()
