"""Genuine rows that answer another question are refused, whatever the server changes.

A table changes each member of each answer to another plausible value. What the client can't check
yet is listed in docs/security-model.md, and only that.
"""

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ledger_client.cli.query import awaited, tree_and_head
from ledger_client.errors import RejectedError
from ledger_client.messages import Plan, Request, Response
from ledger_client.plans.export import ExportVerifier
from ledger_client.plans.heads import Heads
from ledger_client.plans.question import Question, ask_around, ask_query, ask_timeline
from ledger_client.plans.read import prove_inclusion, read_event
from ledger_client.plans.search import plan_page, plan_seen, search_query
from ledger_client.plans.stream import EventStream
from ledger_client.retry import Environment, RetryPolicy
from ledger_core import asking, search_answers
from ledger_core.asking import AskCount
from ledger_core.event.canonical import encode_event, format_leaf
from ledger_core.event.times import format_time
from ledger_core.query.parser import parse_query
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.proof import format_proof
from ledger_core.tlog.text import format_base64
from ledger_core.tlog.trust import TrustedLog
from tests.client.hosts import ENTRIES_SINCE_UNIX_US, READER, Host, event_id
from tests.client.trees import SmallLog
from tests.conftest import TESTS_DIR

DAY_US = 86_400 * 10**6
Change = Callable[[dict[str, Any]], None]


def leaf_of(number: int, **fields: Any) -> bytes:
    """The leaf of one of many events: three actors, two actions, two addresses, two days."""
    event = {
        "id": event_id(number),
        "time": format_time(ENTRIES_SINCE_UNIX_US + (number % 2) * DAY_US),
        "actor": {"id": f"u_{number % 3}"},
        "action": "page.read" if number % 2 else "page.changed",
        "outcome": "success",
        "source": {"ip": f"192.0.2.{number % 2}"},
        "tenant": "acme" if number % 4 else "other",
        **fields,
    }
    return format_leaf(
        event_json=encode_event(READER.read_object(event).event),
        by="billing-api",
        received_time=format_time(ENTRIES_SINCE_UNIX_US + DAY_US + number * 10**6),
    )


LEAVES = [leaf_of(number) for number in range(30)]
LOG = SmallLog(LEAVES)
SIZE = len(LEAVES)
FOUND = [index for index in range(SIZE) if index % 3 == 1]  # Those of u_1.
QUESTION = ask_query("actor:u_1", now_unix_us=0)


def found_event(index: int, *, because: tuple[str, ...] = ()) -> dict[str, Any]:
    leaf = LEAVES[index]
    parts = msgspec.json.decode(leaf)
    return {
        "index": index,
        "event": parts["event"],
        "received": parts["received"],
        "leaf_hash": format_base64(leaf_hash(leaf)),
        "leaf": leaf.decode(),
        "proof": format_proof(LOG.proof(index, SIZE)),
        "because": because,
    }


def facet(field: str, *counts: tuple[str, int], **changes: Any) -> dict[str, Any]:
    values = [{"value": value, "count": count} for value, count in counts]
    counted = sum(count for _, count in counts)
    honest = {"field": field, "values": values, "others": 0, "exact": True, "counted": counted}
    return {**honest, **changes}


def answer(indices: list[int], **changes: Any) -> dict[str, Any]:
    """A true answer to `QUESTION`, or to another one with its changes."""
    return {
        "query": "actor:u_1",
        "order": "oldest",
        "tree_size": SIZE,
        "total": len(FOUND),
        "total_exact": True,
        "scanned": 0,
        "complete": True,
        "took_ms": 0.5,
        "events": [found_event(index) for index in indices],
        "facets": [
            facet("action", ("page.changed", 5), ("page.read", 5)),
            facet("tenant", ("acme", 7), ("other", 3)),
        ],
        "histogram": {
            "unit": "day",
            "buckets": [{"start": f"2025-11-{day}T00:00:00Z", "count": 5} for day in ("25", "26")],
            "exact": True,
            "counted": 10,
        },
        **changes,
    }


def heads() -> Heads:
    return Heads(TrustedLog(LOG.policy))


def run(plan: Plan[Any], *answers: dict[str, Any] | bytes) -> Any:
    """Answer the searches of a plan with these, and all else from the log."""
    host, left = Host(LOG), list(answers)

    def lie(request: Request, response: Response) -> Response:
        if request.target == "/checkpoint" or not left:
            return response
        body = left.pop(0)
        return Response(status=200, body=body if isinstance(body, bytes) else encode(body))

    host.lie = lie
    return host.run(plan)


encode = msgspec.json.encode


def ask(question: Question = QUESTION, *, limit: int = 100, counts: bool = True) -> Plan[Any]:
    parameters: dict[str, str | int | None] = {"order": "oldest", "limit": limit}
    if counts:
        parameters |= {"facets": "tenant,action", "histogram": "day"}
    return plan_page("/v1/events", parameters, question=question, heads=heads())


def setting(name: str, value: Any) -> Change:
    """A change of one member, named by its path."""

    def change(document: Any) -> None:
        *path, last = (int(step) if step.isdigit() else step for step in name.split("."))
        for step in path:
            document = document[step]
        document[last] = value

    return change


def test_a_true_answer_is_accepted() -> None:
    page, _ = run(ask(), answer(FOUND))
    assert [entry.index for entry in page.entries] == FOUND
    assert page.head.checkpoint.tree_size == page.tree_size == SIZE
    more = answer(FOUND[:4], cursor="more")
    assert run(ask(limit=4), more)[0].cursor == "more"
    none = answer([], total=0, query="actor:u_9", facets=[], histogram=None)
    empty, _ = run(ask(ask_query("actor:u_9", now_unix_us=0), counts=False), none)
    assert empty.head.checkpoint.tree_size == SIZE


OTHER = found_event(2)  # A genuine event of another actor, with its proof.

# By the member of a `SearchAnswer`: other plausible values, and what the error names.
PAGE_LIES: list[tuple[str, Change, str]] = [
    ("query", setting("query", "actor:u_2"), "query of an answer"),
    ("query", setting("query", ""), "query of an answer"),
    ("order", setting("order", "newest"), "order"),
    ("tree_size", setting("tree_size", 28), "past the tree"),
    ("total", setting("total", 11), "the total is 11|facet action"),
    ("total", setting("total", 9), "more than the total of 9"),
    ("total_exact", setting("total_exact", False), "exact"),
    (
        "complete",
        lambda page: page.update(events=page["events"][:4], cursor="more"),
        "a full page has 4 events, want 100",
    ),
    ("cursor", setting("cursor", "more"), "a full page has 10 events"),
    ("events", setting("events", []), "the total is 10, but 0 events"),
    ("events", lambda page: page["events"].pop(), "the total is 10, but 9 events"),
    ("events", lambda page: page["events"].pop(3), "the total is 10, but 9 events"),
    ("events", lambda page: page["events"].insert(1, OTHER), "does not meet the query"),
    ("events", setting("events.0", found_event(2)), "does not meet the query"),
    ("events", lambda page: page["events"].append(page["events"][-1]), "stands twice"),
    ("events", lambda page: page["events"].reverse(), "order"),
    ("facets", setting("facets", []), "facets of a page"),
    ("facets", lambda page: page["facets"].append(facet("actor", ("u_1", 10))), "facets"),
    ("histogram", lambda page: page.pop("histogram"), "histogram of a page"),
    ("counts", lambda page: page.update(counts=[COUNTED]), "counts of a page: got 1, want 0"),
]

OF_ANOTHER_LOG = SmallLog([*LEAVES[:-1], leaf_of(99)])

EVENT_LIES: list[tuple[str, Change, str]] = [
    (
        "proof",
        setting("events.0.proof", format_proof(OF_ANOTHER_LOG.proof(FOUND[0], SIZE))),
        f"two roots at size {SIZE}",
    ),
    ("index", setting("events.0.index", 0), "index of a proof"),
    ("event", setting("events.0.event.actor.id", "u_2"), "is not what its leaf says"),
    ("received", setting("events.0.received.by", "root"), "received of an event"),
    ("leaf_hash", setting("events.0.leaf_hash", OTHER["leaf_hash"]), "leaf hash of an event"),
    ("leaf", setting("events.0.leaf", LEAVES[4].decode()), "is not in the tree"),
    ("leaf", setting("events.0.leaf", OTHER["leaf"]), "is not in the tree"),
    ("proof", setting("events.0.proof", OTHER["proof"]), "index of a proof"),
    ("proof", lambda page: page["events"][0].pop("proof"), "no proof"),
    ("late_s", setting("events.0.late_s", 7200), "late_s of an event"),
    ("because", setting("events.0.because", ["actor"]), "relations of the event"),
]

FACET_LIES: list[tuple[str, Change, str]] = [
    ("field", setting("facets.0.field", "actor"), "facets of a page"),
    ("field", setting("facets.0.field", "nonsense"), "facets of a page"),
    ("values", setting("facets.0.values.0.value", "page.deleted"), "page.deleted"),
    ("values", setting("facets.0.values.0.count", 6), "11 in all, want 10"),
    ("values", setting("facets.1.values.0.count", 6), "got 6 of 'acme', but the events have 7"),
    ("values", lambda page: page["facets"][1]["values"].pop(), "further values of tenant"),
    ("values", lambda page: page["facets"][1]["values"].reverse(), "do not descend"),
    ("values", setting("facets.1.values.1.value", "acme"), "stands twice"),
    ("others", setting("facets.1.others", 2), "want 10 at most"),
    ("exact", setting("facets.0", facet("action", ("page.read", 4))), "counts 4 of 10"),
    ("counted", setting("facets.0.counted", 9), "counts 9 of 10"),
    ("counted", setting("facets.0.counted", 11), "more than the total"),
]

HISTOGRAM_LIES: list[tuple[str, Change, str]] = [
    ("unit", setting("histogram.unit", "hour"), "histogram of a page"),
    ("buckets", setting("histogram.buckets.0.start", "2025-11-24T00:00:00Z"), "times of the"),
    ("buckets", setting("histogram.buckets.0.count", 6), "sum of the histogram"),
    ("buckets", lambda page: page["histogram"]["buckets"].reverse(), "do not ascend"),
    ("buckets", setting("histogram.buckets.0.start", "2025-11-24T00:00:00"), "do not ascend"),
    ("buckets", setting("histogram.buckets.0.start", "soon"), "do not ascend"),
    ("counted", setting("histogram.counted", 9), "counts 9 of 10"),
    ("exact", setting("histogram.counted", 8), "counts 8 of 10"),
    ("zone", setting("histogram.zone", "Europe/Paris"), "zone of the histogram"),
]

COUNTED: dict[str, Any] = {
    "by": ["action", "tenant"],
    "values": [
        {"values": ["page.read", "acme"], "count": 5, "distinct": 3, "sum": 9.0},
        {"values": ["page.read", "other"], "count": 4, "distinct": 2},
    ],
    "others": 1,
    "exact": True,
    "counted": 10,
}
COUNTED["values"][0] |= {"least": 1.0, "most": 5.0, "average": 3.0}

COUNT_LIES: list[tuple[str, Change, str]] = [
    ("by", setting("counts.0.by", ["action", "actor"]), "they are by action, actor"),
    ("values", lambda page: page["counts"][0]["values"].reverse(), "not in their order"),
    ("others", lambda page: page["counts"][0]["values"].pop(), "got 1 groups and 1 others"),
    ("exact", setting("counts.0.counted", 9), "exact, but of 9 of 10"),
    ("counted", setting("counts.0.counted", 11), "more than the total"),
]
GROUP_LIES: list[tuple[str, Change, str]] = [
    ("values", setting("counts.0.values.1.values", ["page.read", "acme"]), "stands twice"),
    ("values", setting("counts.0.values.1.values", ["page.read"]), "has 1 values"),
    ("count", setting("counts.0.values.0.count", 6), "got 11 events in all, want 10"),
    ("count", setting("counts.0.values.0.count", 11), "and 11 events"),
    ("distinct", setting("counts.0.values.0.distinct", 1), "not in their order"),
    ("distinct", lambda page: page["counts"][0]["values"][1].pop("distinct"), "are missing"),
    ("least", setting("counts.0.values.0.least", 4.0), "is not between"),
    ("most", setting("counts.0.values.0.most", 2.0), "is not between"),
    ("average", setting("counts.0.values.0.average", 9.0), "is not between"),
]


@pytest.mark.parametrize(
    ("change", "named"),
    [lie[1:] for lie in PAGE_LIES + EVENT_LIES + FACET_LIES + HISTOGRAM_LIES],
)
def test_each_change_of_a_page_is_named_with_the_answer_as_evidence(
    change: Change, named: str
) -> None:
    page = answer(FOUND)
    change(page)
    with pytest.raises((VerificationError, MalformedError), match=named) as caught:
        run(ask(), page)
    if isinstance(caught.value, VerificationError):
        assert caught.value.evidence["answer.json"] == encode(page)
        assert caught.value.evidence["request.txt"].startswith(b"/v1/events?")


def test_rows_that_are_proven_in_a_smaller_tree_say_so() -> None:
    """Each of them is genuine; the answer's claim of a larger tree stands beside the head."""
    page = answer(FOUND)
    page["events"][0]["proof"] = format_proof(LOG.proof(FOUND[0], SIZE - 1))
    read, _ = run(ask(), page)
    sizes = [entry.head.checkpoint.tree_size for entry in read.entries]
    assert sizes == [SIZE - 1] + [SIZE] * (len(FOUND) - 1)
    for found, index in zip(page["events"], FOUND, strict=True):
        found["proof"] = format_proof(LOG.proof(index, SIZE - 1))
    read, _ = run(ask(), page)
    assert (read.tree_size, read.head.checkpoint.tree_size) == (SIZE, SIZE - 1)


def test_a_row_of_another_tenant_is_no_answer_to_a_query_for_a_tenant() -> None:
    """Without the tenant in the query it can't be told: docs/security-model.md names it."""
    question = ask_query("tenant:acme actor:u_1", now_unix_us=0)
    theirs = [index for index in FOUND if b'"tenant":"acme"' in LEAVES[index]]
    plain: dict[str, Any] = {"query": "tenant:acme actor:u_1", "facets": [], "histogram": None}
    page, _ = run(ask(question, counts=False), answer(theirs, total=len(theirs), **plain))
    assert [entry.index for entry in page.entries] == theirs
    with pytest.raises(VerificationError, match="does not meet the query"):
        run(ask(question, counts=False), answer(FOUND, **plain))
    text = (Path(TESTS_DIR).parent / "docs/security-model.md").read_text()
    assert "| which tenant a bound token sees |" in text


# Members that a change can't be seen in. docs/security-model.md gives the reasons.
UNCHECKED = {
    search_answers.SearchAnswer: {
        "scanned",
        "took_ms",
        "explanation",
        "consistency",
        "unpublished",
        "quorum_missing",
        "unreadable",
        "hints",
        "minimum_index",
    },
    search_answers.Hint: {"kind", "text", "nearest", "count"},
    search_answers.FoundEvent: {"private", "consistency"},
    search_answers.Facet: set[str](),
    search_answers.Histogram: set[str](),
    asking.CountAnswer: set[str](),
    asking.CountedValue: {"sum"},
}


@pytest.mark.parametrize(
    ("kind", "lies"),
    [
        (search_answers.SearchAnswer, PAGE_LIES),
        (search_answers.FoundEvent, EVENT_LIES),
        (search_answers.Facet, FACET_LIES),
        (search_answers.Histogram, HISTOGRAM_LIES),
        (asking.CountAnswer, COUNT_LIES),
        (asking.CountedValue, GROUP_LIES),
    ],
)
def test_the_tables_have_every_member_of_the_answers(
    kind: type[msgspec.Struct], lies: list[tuple[str, Change, str]]
) -> None:
    assert {name for name, _, _ in lies} | UNCHECKED[kind] == set(kind.__struct_encode_fields__)


def test_what_is_not_checkable_is_documented() -> None:
    text = (Path(TESTS_DIR).parent / "docs/security-model.md").read_text()
    for names in UNCHECKED.values():
        for name in names:
            assert f"`{name}`" in text


PAGES_LIES: list[tuple[Change, str]] = [
    (setting("tree_size", SIZE - 1), "tree size of a page"),
    (setting("total", 11), "total of a page"),
    (setting("events", [found_event(index) for index in FOUND[5:9]]), "but 9 events were found"),
    (setting("events", [found_event(index) for index in FOUND[3:]]), "one stands twice"),
    (setting("query", "actor:u_2"), "query of an answer"),
]


@pytest.mark.parametrize(("change", "named"), PAGES_LIES)
def test_a_page_is_held_against_the_page_before(change: Change, named: str) -> None:
    plain: dict[str, Any] = {"facets": [], "histogram": None}
    first, second = answer(FOUND[:5], cursor="a", **plain), answer(FOUND[5:], **plain)
    for lie in (None, change):
        search = search_query(QUESTION, order="oldest", limit=None, heads=heads(), page_events=5)
        assert len(run(search.next_page(), first).entries) == 5
        if lie is None:
            assert len(run(search.next_page(), second).entries) == 5
            assert not search.is_open
            continue
        lie(second)
        with pytest.raises((VerificationError, MalformedError), match=named):
            run(search.next_page(), second)


def test_a_total_that_is_not_exact_is_a_fault_of_a_complete_first_page_alone() -> None:
    plain: dict[str, Any] = {"facets": [], "histogram": None, "total": 0, "total_exact": False}
    search = search_query(QUESTION, order="oldest", limit=None, heads=heads())
    bounded = answer([], **plain, complete=False, cursor="a")
    assert run(search.next_page(), bounded).entries == ()
    assert run(search.next_page(), answer([], **plain)).entries == ()
    assert not search.is_open
    assert run(ask(counts=False), answer([], **plain, complete=False))[0].entries == ()
    with pytest.raises(VerificationError, match="the total is not exact"):
        run(ask(counts=False), answer([], **plain))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (setting("histogram.buckets.0.start", "2025-11-24T00:00:00Z"), "leaves out events"),
        (setting("facets.0", facet("action", ("page.read", 10))), "further values of action"),
        (setting("facets.1", facet("tenant", ("other", 10))), "further values of tenant"),
        (
            setting("facets.1", facet("tenant", ("other", 1), others=2, counted=10)),
            "leaves out a more frequent value",
        ),
    ],
)
def test_counts_of_a_page_that_is_not_whole_have_the_events_of_the_page(
    change: Change, named: str
) -> None:
    page = answer(FOUND[:4], cursor="more")
    change(page)
    with pytest.raises(VerificationError, match=named):
        run(ask(limit=4), page)


def test_counts_of_a_sample_are_not_held_against_the_events() -> None:
    sample = {"exact": False, "counted": 2}
    said = answer(FOUND)
    said["facets"] = [
        facet("action", ("page.read", 2), **sample),
        facet("tenant", ("acme", 1), others=1, **sample),
    ]
    said["histogram"]["buckets"] = [{"start": "2025-11-25T00:00:00Z", "count": 2}]
    said["histogram"] |= sample
    page, _ = run(ask(), said)
    assert [each.is_exact for each in page.facets] == [False, False]


NOON_US = 1_764_072_000_000_000


def test_relative_times_are_resolved_by_the_client_once_for_all_pages() -> None:
    question = ask_query("actor:u_1 since:-24h", now_unix_us=NOON_US + 17)
    assert question.text == "actor:u_1 time:2025-11-24T12:00:00.000000Z.."
    assert parse_query(question.text) == question.expression
    true = answer(FOUND[:4], query=question.text, cursor="abc", facets=[], histogram=None)
    page, _ = run(ask(question, limit=4, counts=False), true)
    later = ask_query("actor:u_1 since:-24h", now_unix_us=NOON_US * 2, cursor=page.cursor)
    assert later.text == question.text

    def next_page() -> Plan[Any]:
        return plan_page(
            "/v1/events",
            {"order": "oldest", "limit": 100, "cursor": page.cursor},
            question=later,
            heads=heads(),
        )

    request = next(next_page())
    assert "cursor=abc&" in request.target
    rest = answer(FOUND[4:], query=question.text, facets=[], histogram=None)
    assert len(run(next_page(), rest)[0].entries) == 6
    old = {**rest, "query": "actor:u_1 time:2025-11-20T12:00:00.000000Z.."}
    with pytest.raises(VerificationError, match="query of an answer"):
        run(next_page(), old)


@pytest.mark.parametrize("text", ["until:-30000d", "time:..-30000d", "time:-40000d..-30000d"])
def test_a_range_that_ends_before_1970_finds_nothing(text: str) -> None:
    question = ask_query(text, now_unix_us=NOON_US)
    assert parse_query(question.text) == question.expression
    assert not any(question.matches(index, leaf) for index, leaf in enumerate(LEAVES))
    assert not question.matches(0, leaf_of(0, time="1970-01-01T00:00:00Z"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("time:-90s..-1m", "ends before it begins"),
        ("time:2026-12-27..-1h", "ends before it begins"),
        ("since:-1h " * 200, "at most 4096 characters"),
    ],
)
def test_a_query_that_has_no_text_once_it_is_resolved_is_refused_with_the_reason(
    text: str, why: str
) -> None:
    with pytest.raises(RejectedError, match=f"relative times resolved.*{why}") as caught:
        ask_query(text, now_unix_us=NOON_US + 45 * 10**6)
    assert caught.value.problem.slug == "query"
    assert caught.value.problem.position is None


def test_a_query_that_only_the_ledger_can_read_is_not_called_verified() -> None:
    question = ask_query("shoe:42", now_unix_us=0)
    assert question.text == "shoe:42"
    with pytest.raises(VerificationError, match="can't read the query"):
        run(ask(question, counts=False), answer([], total=0, facets=[], histogram=None))


def test_words_in_newer_characters_are_left_to_the_ledger() -> None:
    newer, older = "\U0001fae0 paid", "Straße paid"
    for reason, is_refused in ((newer, False), (older, True)):
        leaf = leaf_of(1, reason=reason)
        words = ask_query('reason:"not there"', now_unix_us=0)
        actor = ask_query("actor:u_9", now_unix_us=0)
        for question, expected in ((words, is_refused), (actor, True)):
            if expected:
                with pytest.raises(VerificationError, match="does not meet"):
                    question.check_event(1, leaf)
            else:
                question.check_event(1, leaf)


@pytest.mark.parametrize(
    ("question", "index", "because"),
    [
        (ask_timeline("u_1"), 4, ("actor",)),
        (ask_around(LEAVES[1], minutes=60), 3, ("source",)),
        (ask_around(LEAVES[1], minutes=60), 7, ("actor", "source")),
    ],
)
def test_pivots_are_held_against_their_relations(
    question: Question, index: int, because: tuple[str, ...]
) -> None:
    question.check_event(index, LEAVES[index], because=because)
    for wrong in ((), ("target",), (*because, "session")):
        with pytest.raises(VerificationError, match="relations of the event"):
            question.check_event(index, LEAVES[index], because=wrong)
    with pytest.raises(VerificationError, match="does not meet"):
        question.check_event(2, LEAVES[2], because=because)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (setting("counts", []), "got 0, want 1"),
        (setting("counts.0.others", 0), None),
        (setting("histogram.zone", "UTC"), "zone of the histogram"),
        (setting("histogram.buckets.0.start", "2025-11-27T00:00:00+01:00"), "do not ascend"),
        *(lie[1:] for lie in COUNT_LIES + GROUP_LIES),
    ],
)
def test_each_change_of_counted_groups_is_named(change: Change, named: str | None) -> None:
    buckets = [{"start": f"2025-11-{day}T00:00:00+01:00", "count": 5} for day in ("25", "26")]
    page = answer(
        [],
        facets=[],
        counts=[COUNTED],
        histogram={
            "unit": "day",
            "buckets": buckets,
            "exact": True,
            "counted": 10,
            "zone": "Europe/Berlin",
        },
    )
    page = msgspec.json.decode(encode(page))
    asked = [AskCount(by=("action", "tenant"), distinct="target", top=2)]
    plan = partial(
        plan_page,
        "/v1/events",
        {"q": "actor:u_1", "order": "oldest", "limit": 0, "histogram": "day"},
        question=QUESTION,
        counts=asked,
        zone="Europe/Berlin",
    )
    assert run(plan(heads=heads()), page)[0].counts[0].others == 1
    change(page)
    if named is None:
        run(plan(heads=heads()), page)
        return
    with pytest.raises(VerificationError, match=named):
        run(plan(heads=heads()), page)


SOURCE = "192.0.2.1"
SEEN = {
    "source": SOURCE,
    "tree_size": SIZE,
    "total": 15,
    "total_exact": True,
    "actions": facet("action", ("page.read", 15)),
    "first": found_event(1),
    "last": found_event(29),
}


def ask_seen(seen: dict[str, Any]) -> Any:
    ends = [seen[end] for end in ("first", "last") if seen.get(end)]
    return run(plan_seen(SOURCE, heads=heads()), seen, *ends)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (setting("source", "192.0.2.0"), "source of an answer"),
        (setting("tree_size", 20), "tree of size 20"),
        (setting("total", 16), "counts 15 of 16"),
        (setting("total_exact", False), "is exact"),
        (setting("actions.field", "actor"), "facet of a source"),
        (setting("actions.values.0.count", 14), "got 14 in all"),
        (setting("first", None), "is missing"),
        (setting("first", found_event(2)), "does not meet the query"),
        (setting("last", found_event(28)), "does not meet the query"),
        (setting("last", found_event(1)), "the first event is 1 and the last 1"),
        (setting("first.leaf", LEAVES[3].decode()), "is not in the tree"),
    ],
)
def test_each_change_of_what_was_seen_is_named(change: Change, named: str) -> None:
    seen: dict[str, Any] = msgspec.json.decode(encode(SEEN))
    assert ask_seen(seen).total == 15
    change(seen)
    with pytest.raises(VerificationError, match=named):
        ask_seen({name: value for name, value in seen.items() if value is not None})


def test_a_stream_gives_only_what_was_asked_for() -> None:
    environment = Environment(monotonic_s=lambda: 0.0, unix_s=lambda: 0.0, draw=lambda: 0.5)
    stream = EventStream(
        QUESTION, start=0, heads=heads(), retry=RetryPolicy(), environment=environment
    )
    assert run(stream.read(encode(found_event(1)))).index == 1
    with pytest.raises(VerificationError, match="does not meet the query") as caught:
        run(stream.read(encode(found_event(2))))
    assert caught.value.evidence["line.json"] == encode(found_event(2))
    for name, other in (("leaf_hash", OTHER["leaf_hash"]), ("event", OTHER["event"])):
        with pytest.raises(VerificationError):
            run(stream.read(encode({**found_event(4), name: other})))


def export_line(index: int, leaf: bytes | None = None) -> bytes:
    leaf = LEAVES[index] if leaf is None else leaf
    hash_ = format_base64(leaf_hash(LEAVES[index])).encode()
    return b'{"index":%d,%b,"leaf_hash":"%b"}\n' % (index, leaf[1:-1], hash_)


def export(lines: list[bytes], *, order: Any = "oldest", tree_size: int = SIZE) -> Any:
    verifier = ExportVerifier("jsonl", question=QUESTION, order=order, export_id="not used here")
    data = b"".join(lines)
    trailer = {"rows": len(lines), "sha256": sha256(data).hexdigest(), "tree_size": tree_size}
    data += encode({"trailer": trailer}) + b"\n"
    for start in range(0, len(data), 100):
        run(verifier.feed(data[start : start + 100]))
    exported, _ = run(verifier.finish())
    return exported


def test_each_line_of_an_export_is_held_against_the_question() -> None:
    true = [export_line(index) for index in FOUND]
    assert export(true).rows == len(FOUND)
    assert export(true[::-1], order="newest").rows == len(FOUND)
    for lines, named in (
        ([*true[:3], export_line(11)], "does not meet the query"),
        ([*true, true[-1]], "order of an export"),
        (true[::-1], "order of an export"),
        ([export_line(1, LEAVES[4])], "row 1 .entry 1.: its leaf has another leaf hash"),
    ):
        with pytest.raises(VerificationError, match=named):
            export(lines)
    with pytest.raises(VerificationError, match="a tree of size 28"):
        export(true, tree_size=28)
    with pytest.raises(MalformedError):
        export([b'{"index":1}\n'])


def test_a_single_event_is_held_against_its_leaf() -> None:
    assert run(read_event(4, heads=heads()), found_event(4)).index == 4
    for name, other, named in (
        ("index", 5, "index of a proof"),
        ("event", OTHER["event"], "not what its leaf says"),
        ("received", OTHER["received"], "received of an event"),
        ("leaf_hash", OTHER["leaf_hash"], "leaf hash of an event"),
        ("leaf", OTHER["leaf"], "is not in the tree"),
    ):
        with pytest.raises(VerificationError, match=named) as caught:
            run(read_event(4, heads=heads()), {**found_event(4), name: other})
        assert "answer.json" in caught.value.evidence


def test_an_inclusion_proof_says_the_size_of_its_tree() -> None:
    proof = LOG.proof(4, SIZE)
    true: dict[str, Any] = {
        "index": 4,
        "tree_size": SIZE,
        "leaf_hash": format_base64(leaf_hash(LEAVES[4])),
        "hashes": [format_base64(each) for each in proof.hashes],
        "checkpoint": proof.checkpoint,
    }

    def ask_proof(said: dict[str, Any]) -> Any:
        return run(prove_inclusion(4, tree_size=None, expected=None, heads=heads()), said)

    assert ask_proof(true).head.checkpoint.tree_size == SIZE
    for changed in (
        {"index": 5},
        {"tree_size": SIZE - 1},
        {"leaf_hash": OTHER["leaf_hash"]},
        {"hashes": true["hashes"][:-1]},
        {"checkpoint": LOG.note(SIZE - 1)},
    ):
        with pytest.raises(VerificationError):
            ask_proof({**true, **changed})


def test_the_tree_of_an_answer_stands_beside_the_head_when_they_differ() -> None:
    plain: dict[str, Any] = {"facets": [], "histogram": None}
    true, _ = run(ask(counts=False), answer(FOUND, **plain))
    assert tree_and_head(true) == "proven by the head of size 30"
    none = answer([], **plain, total=0, query="actor:u_9")
    empty, _ = run(ask(ask_query("actor:u_9", now_unix_us=0), counts=False), none)
    assert tree_and_head(empty) == "as of size 30; the head has size 30"
    older = [index for index in FOUND if index < 20]
    said = answer(older, **plain, total=len(older), tree_size=20)
    page, _ = run(ask(counts=False), said)
    assert tree_and_head(page) == "as of size 20; the head has size 30"
    page, _ = run(ask(counts=False), {**said, "unpublished": 3, "quorum_missing": "w2\x1b[2J"})
    text = tree_and_head(page)
    assert awaited(page) in text
    assert "the 3 newest await cosignatures ('w2" in text
    assert text.isprintable()
    unverified = plan_page(
        "/v1/events", {"order": "oldest", "limit": 100}, question=QUESTION, heads=None
    )
    page, _ = run(unverified, answer(FOUND, **plain))
    assert tree_and_head(page) == "as of size 30, NOT VERIFIED"


@pytest.mark.parametrize("digits", ["9" * 17, "9" * 5000, "", "+1", "1~2"])
def test_a_cursor_of_the_ledger_does_not_choose_the_time(digits: str) -> None:
    question = ask_query("since:-1h", now_unix_us=3_600_000_000, cursor=f"next~{digits}")
    assert question.text == "time:1970-01-01T00:00:00.000000Z.."
