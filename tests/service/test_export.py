"""Exports: whole, and the same that a search finds."""

import asyncio
import csv
import hashlib
import http.client
import io
import json
import socket
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from ledger.service.queries import export as exporting
from ledger.service.query_pool import QueryClient
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.multi_proof import parse_multi_proof
from ledger_core.tlog.text import parse_hash
from ledger_core.tlog.verify import check_multi
from tests.service.serving import ANSWER_WAIT_S, Answer, Ledger, event, serving_new

QUERIES = ("", "action:a.b", "action:a.* outcome:failure", "action:never.seen")


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    with serving_new(tmp_path_factory.mktemp("export")) as ledger:
        for start in range(0, 2600, 650):
            events = [
                event(
                    action="a.b" if number % 2 else "a.c",
                    outcome="failure" if number % 5 == 0 else "success",
                    actor={"id": f'=cmd|"{number}"'},
                    reason="line\r\nline" if number % 7 == 0 else None,
                )
                for number in range(start, start + 650)
            ]
            assert ledger.append(*events).status == 200
        yield ledger


def export(ledger: Ledger, q: str, format_: str, **parameters: Any) -> Answer:
    answer = ledger.ask(f"/v1/export?{urlencode({'q': q, 'format': format_, **parameters})}")
    assert answer.status == 200, answer.text
    return answer


def found_by(ledger: Ledger, q: str) -> list[Any]:
    found: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        target = urlencode({"q": q, "order": "oldest", "limit": 1000, **cursor})
        page = ledger.ask(f"/v1/events?{target}").json()
        found += page["events"]
        if "cursor" not in page:
            return found
        cursor = {"cursor": page["cursor"]}


@pytest.mark.parametrize("target", ["/v1/export", "/v1/values?field=actor"])
def test_headers_wait_for_no_row(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    has_headers = threading.Event()

    async def look_for_long(*_: object, **__: object) -> AsyncGenerator[bytes, None]:
        yield b""
        await asyncio.to_thread(has_headers.wait, ANSWER_WAIT_S)
        yield b"found\n"

    monkeypatch.setattr(QueryClient, "pieces", look_for_long)
    netloc = urlsplit(ledger.url).netloc
    with closing(http.client.HTTPConnection(netloc, timeout=60)) as connection:
        headers = {"Authorization": f"Bearer {ledger.tokens['admin']}"}
        connection.request("GET", target, headers=headers)
        try:
            answer = connection.getresponse()
        finally:
            has_headers.set()
        assert answer.status == 200
        assert answer.read() == b"found\n"


@pytest.mark.parametrize("q", QUERIES)
def test_json_lines_are_what_a_search_finds_and_the_trailer_fits(ledger: Ledger, q: str) -> None:
    answer = export(ledger, q, "jsonl")
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert answer.headers["Content-Disposition"].endswith('.jsonl"')
    *lines, last = answer.body.splitlines(keepends=True)
    trailer = json.loads(last)["trailer"]
    assert trailer["rows"] == len(lines)
    assert trailer["sha256"] == hashlib.sha256(b"".join(lines)).hexdigest()
    wanted = found_by(ledger, q)
    assert trailer["tree_size"] >= len(wanted)
    for line, want in zip(lines, wanted, strict=True):
        got = json.loads(line)
        assert (got["index"], got["event"]) == (want["index"], want["event"])
        # The leaf's own bytes stand in the line.
        start, end = line.index(b'"event"'), line.rindex(b',"leaf_hash"')
        leaf = b"{" + line[start:end] + b"}"
        assert leaf == want["leaf"].encode()
        assert leaf_hash(leaf) == parse_hash(got["leaf_hash"])


@pytest.mark.parametrize("q", QUERIES)
def test_csv_is_what_a_search_finds_and_no_cell_is_a_formula(ledger: Ledger, q: str) -> None:
    export_id = f"export-{QUERIES.index(q)}-of-this-test"
    assert ledger.ask(f"/v1/export/trailer?id={export_id}").status == 404
    answer = export(ledger, q, "csv", id=export_id)
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    records = list(csv.DictReader(io.StringIO(answer.text, newline=""), strict=True))
    assert ledger.ask(f"/v1/export/trailer?id={export_id}").json() == {
        "rows": len(records),
        "sha256": hashlib.sha256(answer.body).hexdigest(),
        "tree_size": ledger.ask("/v1/log").json()["tree_size"],
    }
    wanted = found_by(ledger, q)
    assert [int(row["index"]) for row in records] == [each["index"] for each in wanted]
    for row, want in zip(records, wanted, strict=True):
        assert row["reason"] == want["event"].get("reason", "")
        assert row["actor_id"].removeprefix("'") == want["event"]["actor"]["id"]
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row.values())
        assert row["time"].endswith("Z")
        assert row["received_time"].endswith("Z")


def test_the_newest_may_come_first(ledger: Ledger) -> None:
    lines = export(ledger, "action:a.b", "jsonl", order="newest").body.splitlines()[:-1]
    indices = [json.loads(line)["index"] for line in lines]
    assert indices == sorted(indices, reverse=True)
    assert indices


def test_a_mistake_in_the_query_is_a_problem_and_no_file(ledger: Ledger) -> None:
    answer = ledger.ask("/v1/export?q=actr:u_1")
    assert (answer.status, answer.slug, answer.json()["nearest"]) == (422, "query", "actor")
    assert ledger.ask("/v1/export?format=evidence").slug == "bad-parameter"
    assert ledger.ask("/v1/export?format=xml").slug == "bad-parameter"


def test_head_gives_the_headers_alone(ledger: Ledger) -> None:
    answer = ledger.ask("/v1/export?format=csv", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"


def test_an_export_that_fails_on_the_way_does_not_look_whole(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> bytes:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(exporting, "format_jsonl_trailer", fail)
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        export(ledger, "action:a.b", "jsonl")


def prove(ledger: Ledger, **ask: Any) -> Answer:
    body = json.dumps(ask).encode()
    return ledger.ask("/v1/proofs/multi", method="POST", body=body, content_type="application/json")


def test_many_leaves_are_proven_at_once(ledger: Ledger) -> None:
    head = ledger.policy.check(ledger.ask("/checkpoint", token=None).text)
    size = head.checkpoint.tree_size
    body = export(ledger, "", "jsonl", proof=1).body
    lines = [json.loads(line) for line in body.splitlines()[:-1]]
    some = [*lines[3:40], lines[700], lines[size - 1]]
    indices = [each["index"] for each in some]
    answer = prove(ledger, tree_size=size, indices=indices)
    assert answer.status == 200, answer.text
    proof = parse_multi_proof(answer.body, leaves_max=4096)
    assert list(proof.indices) == indices
    check_multi(
        leaf_hashes=[parse_hash(each["leaf_hash"]) for each in some],
        indices=proof.indices,
        tree_size=size,
        proof=proof.hashes,
        root_hash=head.checkpoint.root_hash,
    )


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"tree_size": 10, "indices": []}, "not-json"),
        ({"tree_size": 10, "indices": [-1]}, "not-json"),
        ({"tree_size": 10, "indices": [3, 3]}, "bad-parameter"),
        ({"tree_size": 10, "indices": [4, 3]}, "bad-parameter"),
        ({"tree_size": 10, "indices": [10]}, "past-the-end"),
        ({"tree_size": 10**9, "indices": [3]}, "past-the-end"),
        ({"tree_size": 2000, "indices": list(range(1500)) * 3}, "not-json"),
    ],
)
def test_leaves_that_can_not_be_proven_at_once_are_refused(
    ledger: Ledger, body: dict[str, Any], problem: str
) -> None:
    assert prove(ledger, **body).slug == problem


def test_the_trailer_of_another_token_is_not_found(ledger: Ledger) -> None:
    export(ledger, "action:a.b", "csv", id="of-one-token-alone")
    assert ledger.ask("/v1/export/trailer?id=of-one-token-alone").status == 200
    other = ledger.ask("/v1/export/trailer?id=of-one-token-alone", token="read")
    assert (other.status, other.slug) == (404, "no-export")
    assert ledger.ask("/v1/export?format=csv&id=short").status == 400


@pytest.mark.parametrize("target", ["/v1/export?q=", "/v1/export?format=csv"])
def test_an_export_over_http_1_0_ends_with_the_connection(ledger: Ledger, target: str) -> None:
    modern = ledger.ask(target)
    assert modern.headers["X-Accel-Buffering"] == "no"
    head = f"GET {target} HTTP/1.0\r\nAuthorization: Bearer {ledger.tokens['admin']}\r\n\r\n"
    url = urlsplit(ledger.url)
    with socket.create_connection((url.hostname, url.port)) as sock:
        sock.sendall(head.encode())
        got = b"".join(iter(lambda: sock.recv(65_536), b""))
    headers, _, body = got.partition(b"\r\n\r\n")
    assert headers.startswith(b"HTTP/1.0 200")
    assert b"chunked" not in headers.lower()
    assert body == modern.body
