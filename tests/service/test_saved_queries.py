"""Saved queries: names for texts, kept in the log, each tenant's apart."""

import io
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlencode
from zipfile import ZipFile

import pytest

from ledger.service import allowed_events
from ledger.service.ingest import IngestPipeline
from ledger.service.query_text import read_query
from ledger_core.query.ast import Is
from ledger_core.query.parser import QUERY_CHARS_MAX
from ledger_core.query.saved import PART_BYTES_MAX, save_events
from ledger_core.query.scanner import QueryError
from tests.service.serving import JSON, Ledger, event, serving_new


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    with serving_new(tmp_path_factory.mktemp("saved")) as ledger:
        events = [
            event(actor={"id": f"u_{number}"}, tenant="acme" if number % 2 else None)
            for number in range(10)
        ]
        assert ledger.append(*events).status == 200
        yield ledger


def save(ledger: Ledger, name: str, query: str, *, token: str = "read") -> Any:
    body = json.dumps({"name": name, "query": query}).encode()
    return ledger.ask("/v1/queries", method="POST", body=body, token=token, content_type=JSON)


def get(ledger: Ledger, path: str, *, token: str = "read", **parameters: str) -> Any:
    return ledger.ask(f"{path}?{urlencode(parameters)}", token=token)


def names(ledger: Ledger, token: str = "read") -> list[str]:
    answer = get(ledger, "/v1/queries", token=token)
    assert answer.status == 200, answer.text
    return [each["name"] for each in answer.json()["queries"]]


def found(ledger: Ledger, q: str, token: str = "read") -> Any:
    answer = get(ledger, "/v1/events", token=token, q=q)
    assert answer.status == 200, answer.text
    return answer.json()


def test_a_name_stands_for_the_text_that_was_saved_last(ledger: Ledger) -> None:
    assert save(ledger, "some", "actor:u_2,u_4").json()["query"] == "actor:u_2 OR actor:u_4"
    answer = found(ledger, "@some outcome:success")
    assert answer["query"] == "(actor:u_2 OR actor:u_4) outcome:success"
    assert answer["total"] == 2
    assert found(ledger, "NOT @some action:record.viewed")["total"] == 8
    assert found(ledger, "(@some OR actor:u_6)")["total"] == 3
    assert save(ledger, "some", "actor:u_8").status == 200
    assert found(ledger, "@some")["query"] == "actor:u_8"
    # A name within a saved query is expanded when it is saved.
    assert save(ledger, "more", "@some OR actor:u_2").json()["query"] == "actor:u_8 OR actor:u_2"
    assert get(ledger, "/v1/queries/more").json()["query"] == "actor:u_8 OR actor:u_2"
    assert {"more", "some"} <= set(names(ledger))


def test_saving_and_deleting_are_events_that_say_who_and_what(ledger: Ledger) -> None:
    saved = save(ledger, "watched", "actor:u_2 since:-24h").json()
    logged = get(ledger, f"/v1/events/{saved['index']}").json()["event"]
    assert logged["action"] == "ledger.query.saved"
    assert logged["actor"] == {"type": "ledger.token", "id": "read"}
    assert logged["targets"] == [{"type": "ledger.query", "id": "watched"}]
    assert logged["context"]["query"] == saved["query"] == "actor:u_2 time:-1440m.."
    deleted = ledger.ask("/v1/queries/watched", method="DELETE", token="read").json()
    logged = get(ledger, f"/v1/events/{deleted['index']}").json()["event"]
    assert (logged["action"], logged["outcome"]) == ("ledger.query.deleted", "success")
    assert "watched" not in names(ledger)
    for answer in (
        get(ledger, "/v1/queries/watched"),
        ledger.ask("/v1/queries/watched", method="DELETE", token="read"),
    ):
        assert answer.status == 404
        assert answer.json()["type"].endswith("#no-query")
    refused = get(ledger, "/v1/events", q="outcome:success @watched")
    assert refused.status == 422
    assert (refused.json()["position"], refused.json()["length"]) == (16, 8)
    assert "no query is saved as watched" in refused.json()["detail"]


def test_a_token_that_may_only_append_changes_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "actor:u_2 OR actor:u_4"
    (forged,) = save_events("feed", "actor:nobody", {"actor": {"id": "read"}})
    forged |= {"action": "Ledger.Query.Saved", "time": "2026-11-25T10:00:00Z"}
    with serving_new(tmp_path) as ledger:
        assert save(ledger, "feed", text).status == 200
        (refused,) = ledger.append(event(**forged)).json()["results"]
        assert refused["error"]["type"] == "/v1/problems#reserved-action"
        # An earlier version took it into the log.
        monkeypatch.setattr(allowed_events, "RESERVED_PREFIX", "none")
        assert ledger.append(event(**forged)).status == 200
        assert found(ledger, "action:ledger.query.saved")["total"] == 2
        assert found(ledger, "@feed")["query"] == text
        assert names(ledger) == ["feed"]
        assert get(ledger, "/v1/queries/feed").json()["query"] == text


def test_a_tenant_has_names_of_its_own(ledger: Ledger) -> None:
    assert save(ledger, "mine", "actor:u_1", token="read acme").json()["tenant"] == "acme"
    assert save(ledger, "mine", "actor:u_2").status == 200
    assert found(ledger, "@mine", "read acme")["query"] == "actor:u_1"
    assert found(ledger, "@mine")["query"] == "actor:u_2"
    assert save(ledger, "other", "actor:u_2").status == 200
    assert get(ledger, "/v1/queries/other", token="read acme").status == 404
    assert "other" not in names(ledger, "read acme")
    assert get(ledger, "/v1/events", token="read acme", q="@other").status == 422
    # The text of an unbound token's query is expanded within the tenant that asks.
    assert save(ledger, "all", "action:record.viewed", token="read acme").status == 200
    assert found(ledger, "@all", "read acme")["total"] == 5


def test_a_token_that_may_not_read_saves_nothing(ledger: Ledger) -> None:
    assert save(ledger, "x", "actor:u_1", token="append").status == 403
    assert get(ledger, "/v1/queries", token="append").status == 403
    forged = event(
        action="ledger.query.saved",
        targets=[{"type": "ledger.query", "id": "some"}],
        context={"query": "actor:u_0", "part": 1, "parts": 1},
    )
    assert ledger.append(forged).status == 422


def test_a_name_or_a_text_that_cannot_be_saved_is_refused(ledger: Ledger) -> None:
    for name in ("", "Big", "a b", "-a", "a" * 65):
        assert save(ledger, name, "actor:u_1").status == 400
    assert save(ledger, "bad", "actr:u_1").json()["type"].endswith("#query")
    assert save(ledger, "bad", "  ").status == 422
    secret = save(ledger, "bad", 'actor:"ghp_16C7e42F292c6912E7710c838347Ae178B4a"')
    assert secret.status == 422, secret.text
    assert "bad" not in names(ledger)
    # What searched for words before is refused with the right form.
    refused = get(ledger, "/v1/events", q="@Acme")
    assert refused.status == 422
    assert '"@Acme"' in refused.json()["expected"]
    assert found(ledger, '"@acme"')["query"] == '"@acme"'


def test_what_could_not_be_read_again_is_not_saved(ledger: Ledger) -> None:
    def nested(inner: str) -> str:
        for number in range(12):
            inner = f"(actor:a{number} AND (actor:b{number} OR {inner}))"
        return inner

    assert save(ledger, "deep", nested("action:record.viewed")).status == 200
    assert save(ledger, "deeper", nested("@deep")).status == 422
    assert "deeper" not in names(ledger)


def test_what_a_name_stands_for_is_read_in_the_query_process_alone() -> None:
    assert read_query("@feed OR actor:u_1") == "@feed OR actor:u_1"
    assert read_query("actor:u_1") == Is("actor", "u_1")
    with pytest.raises(QueryError, match="at most 4096"):
        read_query("@feed " + "a" * QUERY_CHARS_MAX)


def test_a_name_that_is_not_known_is_refused_before_an_answer_begins(ledger: Ledger) -> None:
    for path in ("/v1/events", "/v1/export", "/v1/events/stream"):
        assert get(ledger, path, q="@nobody").status == 422
    body = json.dumps({"query": "@nobody"}).encode()
    refused = ledger.ask("/v1/evidence", method="POST", body=body, token="read", content_type=JSON)
    assert refused.status == 422


def test_a_name_that_was_saved_often_stands_for_its_last_text(ledger: Ledger) -> None:
    for number in range(120):  # More changes than are read at once.
        assert save(ledger, "often", f"actor:u_{number}").status == 200
    assert found(ledger, "@often")["query"] == "actor:u_119"
    listed = get(ledger, "/v1/queries").json()
    assert [q["start"] for q in listed["queries"] if q["name"] == "often"] == ["actor:u_119"]
    assert "some" in [q["name"] for q in listed["queries"]]


def test_a_long_query_is_saved_in_parts(ledger: Ledger) -> None:
    query = "actor:" + ",".join(f"u_{number:05d}é" for number in range(5000)) + ",u_4"
    saved = save(ledger, "feed", query).json()
    assert saved["first_index"] < saved["index"]
    assert len(saved["query"].encode()) > PART_BYTES_MAX
    assert get(ledger, "/v1/queries/feed").json() == saved
    assert found(ledger, "@feed")["total"] == 1
    listed = get(ledger, "/v1/queries").json()["queries"]
    assert next(each for each in listed if each["name"] == "feed")["start"] == saved["query"][:200]


def test_a_long_query_is_cut_and_checked_beside_the_loop(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    check_own = IngestPipeline.check_own

    def noted(ingest: IngestPipeline, event: Any) -> bytes:
        checked.append(threading.current_thread().name)
        return check_own(ingest, event)

    monkeypatch.setattr(IngestPipeline, "check_own", noted)
    query = "actor:" + ",".join(f"u_{number:05d}" for number in range(20_000))
    saved = save(ledger, "beside", query).json()
    assert len(checked) == saved["index"] + 1 - saved["first_index"] > 2
    assert {name.rpartition("_")[0] for name in checked} == {"ledger-append"}


def test_a_text_is_cut_into_parts_that_fit_without_a_look_at_each_character() -> None:
    for text in ("a" * 200_000, "\x01" * 30_000 + "é" * 60_000, '"\\😀' * 40_000, ""):
        steps: list[int] = []

        def trace(frame: FrameType, *_: object, steps: list[int] = steps) -> Any:
            steps.append(frame.f_lineno)
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            events = save_events("some", text, {"time": "t"})
        finally:
            sys.settrace(before)
        pieces = [event["context"]["query"] for event in events]
        assert "".join(pieces) == text
        sizes = [len(json.dumps(piece, ensure_ascii=False).encode()) - 2 for piece in pieces]
        assert max(sizes) <= PART_BYTES_MAX
        assert min(sizes[:-1], default=PART_BYTES_MAX) > PART_BYTES_MAX * 3 // 4
        assert len(steps) < 100 + len(text) // 50


def test_exports_streams_and_evidence_take_names(ledger: Ledger) -> None:
    assert save(ledger, "two", "actor:u_2,u_4").status == 200
    lines = get(ledger, "/v1/export", q="@two", format="jsonl").text.splitlines()
    actors = [json.loads(line).get("event", {}).get("actor", {}).get("id") for line in lines]
    assert [actor for actor in actors if actor] == ["u_2", "u_4"]
    body = json.dumps({"query": "@two", "case": "7"}).encode()
    answer = ledger.ask("/v1/evidence", method="POST", body=body, token="read", content_type=JSON)
    assert answer.status == 200, answer.text
    bundle = ZipFile(io.BytesIO(answer.body))
    assert bundle.read("query.txt").decode().startswith("actor:u_2 OR actor:u_4")
    assert get(ledger, "/v1/events/stream", q="@none").status == 422
