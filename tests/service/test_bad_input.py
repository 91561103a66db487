"""Bad input: each row a request, and the problem document that it must get.

A single event that is refused is answered with status 422 and the problem in `results`; a body of
which not even the events can be told apart gets the problem itself.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, get_args

import msgpack
import pytest

from ledger.service.http.problems import PROBLEMS
from ledger_core.event.diagnostics import check_json
from ledger_core.event.model import EventError, Rule
from tests.service.check_log import check_ledger
from tests.service.serving import (
    JSON,
    MSGPACK,
    NDJSON,
    TOKENS,
    Ledger,
    event,
    serving_new,
)

NESTED_100: Any = 1
for _ in range(100):
    NESTED_100 = [NESTED_100]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A request and the problem that it gets. None: the document has no such member."""

    name: str
    slug: str
    field: str | None = None
    limit: int | None = None
    got: int | None = None
    target: str = "/v1/events"
    body: bytes | None = None
    content_type: str = JSON
    accept: str = "application/json"
    in_results: bool = False


def row(name: str, target: str, slug: str, field: str | None = None, **expected: Any) -> Row:
    """A GET that is refused."""
    return Row(name=name, target=target, slug=slug, field=field, **expected)


def body(name: str, data: bytes | str, slug: str, field: str | None = None, **rest: Any) -> Row:
    """A body that is refused as a whole."""
    raw = data if isinstance(data, bytes) else data.encode()
    return Row(name=name, body=raw, slug=slug, field=field, **rest)


def bad(name: str, value: Any, slug: str, field: str | None = None, **rest: Any) -> Row:
    """One event that is refused; a string is its JSON as it stands."""
    text = value if isinstance(value, str | bytes) else json.dumps(value)
    return body(name, text, slug, field, in_results=True, **rest)


def packed(value: Any) -> bytes:
    """A value as MessagePack."""
    return bytes(msgpack.packb(value))


REPEATED = '{"action":"a.b","action":"a.c","actor":{"id":"u"},"outcome":"success"}'
REPEATED_DEEP = (
    '{"action":"a","actor":{"id":"u"},"outcome":"success","context":{"x":{"k":1,"k":1}}}'
)
NAN = '{"action":"a","actor":{"id":"u"},"outcome":"success","context":{"n":NaN}}'
SURROGATE = '{"action":"a","actor":{"id":"u"},"outcome":"success","reason":"\\ud800"}'
INTEGER = "context.n"
INTEGER_MAX = 2**53 - 1
SIZE = len(TOKENS)
"""Of the tree that the rows are tried on: it holds the making of its tokens."""

LEAF_MAX = 65_535
PACKED_BYTES = len(packed(event(reason=""))) + 4
"""Of an event around a reason whose length takes five bytes instead of one."""

EVENTS_MAX = 10_000

ROWS = (
    # The body as a whole.
    body("an empty body", "", "not-json"),
    body("not JSON", "who did what", "not-json"),
    body("JSON cut short", '{"action":"a.b","actor"', "not-json"),
    body("a batch cut short", '{"events":[{"action":"a.b"', "not-json"),
    body("Latin-1", b'{"action":"caf\xe9"}', "not-json"),
    body("a byte order mark", b'\xef\xbb\xbf{"action":"a.b"}', "not-json"),
    body("two documents", '{"events":[]}{"events":[]}', "not-json"),
    body("no content type", "{}", "unsupported-media-type", content_type=""),
    body("a form", "action=a.b", "unsupported-media-type", content_type="text/plain"),
    body(
        "JSON in UTF-16",
        "{}".encode("utf-16"),
        "unsupported-media-type",
        content_type="application/json; charset=utf-16",
    ),
    body("an empty batch", '{"events":[]}', "empty-batch"),
    body("no line", "", "empty-batch", content_type=NDJSON),
    body("blank lines", "\n \n\n", "empty-batch", content_type=NDJSON),
    body("an empty packed batch", packed({"events": []}), "empty-batch", content_type=MSGPACK),
    body("events that are no list", '{"events":{"action":"a"}}', "wrong-type", "events"),
    body("a key beside the events", '{"events":[],"origin":1}', "unknown-key"),
    body("events twice", '{"events":[],"events":[{}]}', "repeated-key", "events"),
    body(
        "10,001 events",
        json.dumps({"events": [0] * (EVENTS_MAX + 1)}),
        "too-many-events",
        limit=EVENTS_MAX,
        got=EVENTS_MAX + 1,
    ),
    body(
        "10,001 lines",
        "{}\n" * (EVENTS_MAX + 1),
        "too-many-events",
        limit=EVENTS_MAX,
        got=EVENTS_MAX + 1,
        content_type=NDJSON,
    ),
    body(
        "10,001 packed events",
        packed({"events": [0] * (EVENTS_MAX + 1)}),
        "too-many-events",
        limit=EVENTS_MAX,
        got=EVENTS_MAX + 1,
        content_type=MSGPACK,
    ),
    body("not MessagePack", b"\xc1", "not-msgpack", content_type=MSGPACK),
    body("MessagePack cut short", packed(event())[:-1], "not-msgpack", content_type=MSGPACK),
    body("MessagePack and more", packed(event()) + b"\0", "not-msgpack", content_type=MSGPACK),
    body("numbers as keys", packed({1: 2, 3: 4}), "not-msgpack", content_type=MSGPACK),
    body("a batch of two million numbers", '{"events":[' + "1," * (1 << 21) + "1,1]}",
        "too-many-events", limit=10_000, got=10_001),
    body("an abyss in a batch", '{"events":[' + "[" * 100_000, "too-deep"),
    # One event.
    body("an empty array", "[]", "empty-batch"),
    bad("an array in an array", "[[]]", "wrong-type"),
    bad("an unknown key", event(colour="red"), "unknown-key", "colour"),
    bad("an unknown key inside", event(actor={"id": "u", "mail": "x"}), "unknown-key",
        "actor.mail"),
    bad("a repeated key", REPEATED, "repeated-key", "action"),
    bad("a repeated key inside", REPEATED_DEEP, "repeated-key", "context.x.k"),
    bad("no action", event(action=None), "missing-field", "action"),
    bad("no actor id", event(actor={"type": "user"}), "missing-field", "actor.id"),
    bad("a number as action", event(action=5), "wrong-type", "action"),
    bad("null for a tenant", json.dumps(event(tenant="t")).replace('"t"', "null"), "wrong-type",
        "tenant"),
    bad("a space in an action", event(action="a b"), "action", "action"),
    bad("an unknown outcome", event(outcome="maybe"), "not-listed", "outcome"),
    bad("an id that is no UUID", event(id="17"), "id", "id"),
    bad("a time without a zone", event(time="2026-11-25T02:03:36"), "time", "time"),
    bad("an impossible date", event(time="2026-02-30T02:03:36Z"), "time", "time"),
    bad("a leap second", event(time="2026-12-31T23:59:60Z"), "time", "time"),
    bad("not an address", event(source={"ip": "203.0.113"}), "address", "source.ip"),
    bad("an address with a port", event(source={"ip": "203.0.113.9:80"}), "address", "source.ip"),
    bad("IPv6 with a port", event(source={"ip": "[::1]:80"}), "address", "source.ip"),
    bad("IPv6 with a zone", event(source={"ip": "fe80::1%eth0"}), "address", "source.ip"),
    bad("NUL", event(reason="a\0b"), "string", "reason"),
    bad("a lone surrogate", SURROGATE, "string", "reason"),
    bad("the integer 2^53", event(context={"n": 2**53}), "number", INTEGER, limit=INTEGER_MAX),
    bad("the integer -2^53", event(context={"n": -(2**53)}), "number", INTEGER, limit=INTEGER_MAX),
    bad("NaN", NAN, "number", INTEGER, limit=INTEGER_MAX),
    bad("an infinite number", NAN.replace("NaN", "1e999"), "number", INTEGER, limit=INTEGER_MAX),
    bad("depth 100", event(context={"n": NESTED_100}), "too-deep", "context.n" + "[0]" * 7,
        limit=8),
    bad("an abyss", '{"context":' + '{"a":' * 50_000, "too-deep", limit=8),
    bad("257 characters", event(tenant="t" * 257), "too-long", "tenant", limit=256, got=257),
    bad("no character", event(tenant=""), "too-short", "tenant", limit=1, got=0),
    bad("33 targets", event(targets=[{"id": "t"}] * 33), "too-many", "targets", limit=32, got=33),
    bad("port 65,536", event(source={"port": 65_536}), "out-of-range", "source.port",
        limit=65_535),
    bad("a packed abyss", packed(event(context={"n": NESTED_100})), "too-deep",
        "context.n" + "[0]" * 7, limit=8, content_type=MSGPACK),
    bad("a packed event of a megabyte", packed(event(reason="x" * 1_000_000)), "leaf-too-large",
        limit=6 * LEAF_MAX, got=1_000_000 + PACKED_BYTES, content_type=MSGPACK),
    bad("a packed repeated key", b"\x82\xa1a\x01\xa1a\x02", "repeated-key", "a",
        content_type=MSGPACK),
    bad("a packed time", packed({"time": msgpack.Timestamp(1)}), "wrong-type", "time",
        content_type=MSGPACK),
    bad("packed NaN", packed(event(context={"n": float("nan")})), "number", INTEGER,
        limit=INTEGER_MAX, content_type=MSGPACK),
    bad("a packed number beyond 2^53", packed(event(context={"n": 2**64 - 1})), "number", INTEGER,
        limit=INTEGER_MAX, content_type=MSGPACK),
    # Parameters.
    row("an index past the end", "/v1/events/999999", "no-event", limit=SIZE, got=999_999),
    row("an id that nobody has", "/v1/events/00000000-0000-7000-8000-000000000000", "no-event"),
    row("neither index nor id", "/v1/events/first", "bad-parameter", "ref"),
    row("event +5", "/v1/events/+5", "bad-parameter", "ref"),
    row("an index to prove, past the end", "/v1/proofs/inclusion?index=999999", "past-the-end",
        "index", limit=SIZE, got=999_999),
    row("an index at the size", "/v1/proofs/inclusion?index=3&size=3", "past-the-end", "index",
        limit=3, got=3),
    row("a size larger than the tree", "/v1/proofs/inclusion?index=0&size=999999",
        "past-the-end", "size", limit=SIZE, got=999_999),
    row("to larger than the tree", "/v1/proofs/consistency?from=1&to=999999", "past-the-end",
        "to", limit=SIZE, got=999_999),
    row("from larger than the tree", "/v1/proofs/consistency?from=999999", "past-the-end",
        "from", limit=SIZE, got=999_999),
    row("from larger than to", "/v1/proofs/consistency?from=3&to=2", "bad-parameter", "from",
        limit=2, got=3),
    row("from_size larger than size", "/v1/proofs/inclusion?index=0&size=2&from_size=3",
        "past-the-end", "from_size", limit=2, got=3),
    row("from_size larger than the tree", "/v1/events/0?proof=1&from_size=999999", "past-the-end",
        "from_size", limit=SIZE, got=999_999),
    row("from_size for text", "/v1/proofs/inclusion?index=0&from_size=1", "bad-parameter",
        "from_size", accept="text/plain"),
    row("from_size without a proof", "/v1/events/0?from_size=1", "bad-parameter", "from_size"),
    row("no index", "/v1/proofs/inclusion?size=1", "bad-parameter", "index"),
    row("index +5", "/v1/proofs/inclusion?index=%2B5", "bad-parameter", "index"),
    row("index ' 5'", "/v1/proofs/inclusion?index=+5", "bad-parameter", "index"),
    row("index 05", "/v1/proofs/inclusion?index=05", "bad-parameter", "index"),
    row("index 1_0", "/v1/proofs/inclusion?index=1_0", "bad-parameter", "index"),
    row("index ٣", "/v1/proofs/inclusion?index=%D9%A3", "bad-parameter", "index"),
    row("index -1", "/v1/proofs/inclusion?index=-1", "bad-parameter", "index"),
    row("index 2^64", "/v1/proofs/inclusion?index=18446744073709551616", "bad-parameter", "index"),
    row("index 2^63", "/v1/proofs/inclusion?index=9223372036854775808", "bad-parameter", "index"),
    row("index empty", "/v1/proofs/inclusion?index=", "bad-parameter", "index"),
    row("size 05", "/v1/proofs/inclusion?index=0&size=05", "bad-parameter", "size"),
    row("from -1", "/v1/proofs/consistency?from=-1&to=2", "bad-parameter", "from"),
    row("to 1_0", "/v1/proofs/consistency?from=1&to=1_0", "bad-parameter", "to"),
    row("a repeated parameter", "/v1/proofs/inclusion?index=0&index=0", "bad-parameter", "index"),
    row("an unknown parameter", "/v1/proofs/inclusion?index=0&width=5", "bad-parameter"),
    row("a parameter where there is none", "/checkpoint?size=1", "bad-parameter"),
    row("proof=yes", "/v1/events/0?proof=yes", "bad-parameter", "proof"),
    row("17 parameters", "/v1/events/0?" + "&".join("proof=1" for _ in range(17)), "bad-parameter",
        limit=16, got=17),
    row("no such path", "/v1/nothing", "not-found"),
    row("a tile of level 64", "/tile/64/000", "no-tile"),
    row("a tile past the tree", "/tile/0/001", "no-tile", limit=0, got=256),
    row("a tile wider than the tree", "/tile/0/000.p/200", "no-tile", limit=SIZE, got=200),
    row("a full tile of a small tree", "/tile/0/000", "no-tile", limit=SIZE, got=256),
    row("an empty tile", "/tile/0/000.p/0", "no-tile"),
    row("a tile with a zero too many", "/tile/00/000.p/1", "no-tile"),
    row("a tile with a group too many", "/tile/0/x000/000.p/1", "no-tile"),
    row("a bundle past the tree", "/tile/entries/001", "no-tile", limit=0, got=256),
)  # fmt: skip


@pytest.fixture(scope="module")
def small_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A ledger to which nothing is added, since all that the rows ask is refused."""
    with serving_new(tmp_path_factory.mktemp("small")) as ledger:
        assert check_ledger(ledger).size == SIZE
        yield ledger
        assert check_ledger(ledger).size == SIZE


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input_gets_its_problem_document(small_ledger: Ledger, row: Row) -> None:
    headers = {"accept": row.accept}
    if row.body is not None and row.content_type:
        headers["content_type"] = row.content_type
    answer = small_ledger.ask(
        row.target, method="GET" if row.body is None else "POST", body=row.body, **headers
    )
    problem = answer.json()
    assert answer.slug == ("all-refused" if row.in_results else row.slug), answer.body
    if row.in_results:
        assert answer.status == 422
        assert list(problem["results"][0]) == ["error"]
        problem = problem["results"][0]["error"]
    kind = PROBLEMS[row.slug]
    got = {name: problem.get(name) for name in ("type", "title", "status", "field", "limit", "got")}
    assert got == {
        "type": f"/v1/problems#{row.slug}",
        "title": kind.title,
        "status": kind.status,
        "field": row.field,
        "limit": row.limit,
        "got": row.got,
    }
    assert problem["detail"][0].islower() or not problem["detail"][0].isalpha()
    assert answer.headers["Cache-Control"] == "no-store"


def test_every_rule_of_the_model_is_in_the_table_of_problems() -> None:
    assert set(get_args(Rule)) <= set(PROBLEMS)


def test_one_bad_event_in_a_batch_fails_alone(shared_ledger: Ledger) -> None:
    first, last = event(), event()
    answer = shared_ledger.append(first, event(colour="red"), last)
    assert answer.status == 207
    assert answer.headers["Content-Type"] == JSON
    results = answer.json()["results"]
    assert [results[0]["id"], results[2]["id"]] == [first["id"], last["id"]]
    assert results[2]["index"] == results[0]["index"] + 1
    assert results[1] == {
        "error": {
            "type": "/v1/problems#unknown-key",
            "title": "Unknown key",
            "status": 422,
            "detail": "no such key; put what has no field of its own into `context`",
            "field": "colour",
        }
    }


def test_a_bad_line_fails_alone(shared_ledger: Ledger) -> None:
    lines = [json.dumps(event()), '{"action"', "", "5", json.dumps(event()), ""]
    answer = shared_ledger.ask(
        "/v1/events", method="POST", body="\n".join(lines).encode(), content_type=NDJSON
    )
    assert answer.status == 207
    kinds = [r.get("error", {}).get("type", "in") for r in answer.json()["results"]]
    assert kinds == ["in", "/v1/problems#not-json", "/v1/problems#wrong-type", "in"]


def test_a_bad_packed_event_fails_alone(shared_ledger: Ledger) -> None:
    events = [event(), event(colour="red"), event()]
    answer = shared_ledger.ask(
        "/v1/events", method="POST", body=packed({"events": events}), content_type=MSGPACK
    )
    assert answer.status == 207
    assert ["error" in each for each in answer.json()["results"]] == [False, True, False]


def test_a_batch_of_bad_events_says_why_for_each(shared_ledger: Ledger) -> None:
    answer = shared_ledger.append(event(colour="red"), event(action=None), batch=True)
    assert (answer.status, answer.slug) == (422, "all-refused")
    problem = answer.json()
    assert problem["detail"].startswith("2 refused")
    kinds = [each["error"]["type"] for each in problem["results"]]
    assert kinds == ["/v1/problems#unknown-key", "/v1/problems#missing-field"]


def test_a_refusal_repeats_no_value_of_the_event(shared_ledger: Ledger) -> None:
    secret = "hunter2-hunter2"
    for name in ("action", "time", "outcome", "id", "tenant"):
        answer = shared_ledger.append(event(**{name: secret * 60}))
        assert answer.status == 422
        assert secret not in answer.text
    answer = shared_ledger.append(event(source={"ip": secret}))
    assert secret not in answer.text


@pytest.mark.parametrize(
    "text",
    [
        "💥 👩\u200d👩\u200d👧",
        "مرحبا بالعالم",
        "\u202eright to left\u202c",
        "e\u0301 and é",
        "\u2028\u2029",
        "\ufeff",
        "\U0010ffff",
    ],
    ids=ascii,
)
def test_unusual_text_comes_back_exactly(shared_ledger: Ledger, text: str) -> None:
    answer = shared_ledger.append(event(reason=text, context={text: [text]}))
    assert answer.status == 200
    found = shared_ledger.ask(f"/v1/events/{answer.json()['results'][0]['index']}").json()
    assert found["event"]["reason"] == text
    assert found["event"]["context"] == {text: [text]}
    assert json.loads(found["leaf"])["event"] == found["event"]


def test_a_leaf_may_have_65_535_bytes_and_not_one_more(shared_ledger: Ledger) -> None:
    def answer(padding: int) -> Any:
        value = event(context={"a": "x" * padding})
        return shared_ledger.append(value).json()["results"][0], value

    result, _ = answer(1000)
    leaf = shared_ledger.ask(f"/v1/events/{result['index']}").json()["leaf"]
    room = LEAF_MAX - len(leaf.encode()) + 1000
    result, _ = answer(room)
    assert result["index"]
    result, _ = answer(room + 1)
    problem = result["error"]
    assert (problem["type"], problem["status"]) == ("/v1/problems#leaf-too-large", 413)
    assert (problem["limit"], problem["got"]) == (LEAF_MAX, LEAF_MAX + 1)
    assert "field" not in problem


def test_a_refused_event_costs_a_few_steps() -> None:
    check_json(b'{"action":"a.b","actor":{"id":"u_1"},"outcome":"failure"}')
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1

    sys.setprofile(count)
    try:
        with suppress(EventError):
            check_json(b"1")
    finally:
        sys.setprofile(None)
    assert steps < 200
