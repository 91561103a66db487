"""The use of a ledger is recorded: log lines, counters, and limits of each token."""

import http.client
import json
import mmap
import re
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import structlog.testing
from click.testing import CliRunner

from ledger.cli.token import command
from ledger.runtime.bucket import Bucket
from ledger.runtime.shared_counts import SharedCounts, memory_bytes
from ledger.service import metrics as metrics_module
from ledger.service import quotas as quotas_module
from ledger.service.http.problems import ProblemError
from ledger.service.http.responses import NDJSON_MEDIA
from ledger.service.metrics import METRICS, Gauge, Metrics, render
from ledger.service.quotas import Quotas
from ledger.service.routes import ROUTES
from ledger.service.settings import Settings
from ledger.service.token_admin import make_token
from ledger.store.tokens import TokenLimits, TokenRecord
from ledger_core.event.commitments import Opening, encode_salt
from tests.service.serving import (
    ANSWER_WAIT_S,
    QUICK,
    Ledger,
    event,
    ledger_command,
    make_ledger,
    serving,
)

MARKER = "marked-4711"


def record(name: str = "app", **limits: int) -> TokenRecord:
    return TokenRecord(name=name, scopes=("append",), created="", limits=TokenLimits(**limits))


def token_command(*arguments: str) -> Any:
    """Run `ledger token …` with --json, and decode what it prints."""
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout) if "--json" in arguments else result.stdout


def metrics_of(ledger: Ledger) -> dict[str, float]:
    answer = ledger.ask("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_a_bucket_may_be_overdrawn_and_fills_evenly() -> None:
    bucket = Bucket(60, 60.0, now_s=0.0)
    assert bucket.wait_s(0.0) == 0
    bucket.spend(100, 0.0)
    assert bucket.wait_s(0.0) == pytest.approx(41)
    assert bucket.wait_s(41.5) == 0
    assert bucket.wait_s(10_000.0) == 0
    bucket.spend(60, 10_000.0)  # It never holds more than its limit.
    assert bucket.wait_s(10_000.0) > 0


def test_processes_have_one_limit_whichever_of_them_knows_the_token() -> None:
    memory = mmap.mmap(-1, memory_bytes(3))
    parts = [SharedCounts(memory, number=each, processes=3, key=bytes(16)) for each in range(3)]

    def bucket(number: int, now_s: float) -> Bucket:
        return Bucket(60, 60.0, now_s, name="requests of a", shared=parts[number])

    first = bucket(0, 1000.0)
    first.spend(100, 1000.0)
    # Processes that the token asks for the first time, and one that was started again.
    for number in (1, 2, 0):
        assert bucket(number, 1000.0).wait_s(1000.0) == pytest.approx(41)
    second = bucket(1, 1010.0)
    second.spend(10, 1010.0)
    for each in (first, second, bucket(2, 1010.0)):
        assert each.wait_s(1010.0) == pytest.approx(41)
        assert each.wait_s(1051.5) == 0
    assert bucket(2, 1200.0).wait_s(1200.0) == 0
    assert Bucket(60, 60.0, 1010.0, name="requests of b", shared=parts[2]).wait_s(1010.0) == 0


def test_each_limit_refuses_with_the_time_until_it_has_room() -> None:
    now_s = 0.0
    quotas = Quotas(Settings(), monotonic_s=lambda: now_s)
    token = record(requests_per_minute=2, bytes_per_minute=600, stored_bytes_per_day=86_400)
    quotas.begin(token, stores=True)
    quotas.begin(token, stores=True)
    with pytest.raises(ProblemError) as caught:
        quotas.begin(token, stores=False)
    assert (caught.value.problem.slug, caught.value.problem.limit) == ("rate-exceeded", 2)
    assert caught.value.headers["Retry-After"] == "30"
    now_s = 30.0
    quotas.use_bytes(token, 900)
    with pytest.raises(ProblemError) as caught:
        quotas.begin(token, stores=False)
    assert caught.value.problem.limit == 600
    now_s = 90.0
    quotas.use_stored(token.name, 86_500)
    quotas.begin(token, stores=False)
    with pytest.raises(ProblemError) as caught:
        quotas.begin(token, stores=True)
    assert caught.value.problem.limit == 86_400
    assert caught.value.headers["Retry-After"] == "101"


def test_a_token_has_its_own_limits_else_those_of_the_settings() -> None:
    quotas = Quotas(Settings(token_requests_per_minute_max=1), monotonic_s=lambda: 0.0)
    quotas.begin(record(), stores=False)
    with pytest.raises(ProblemError):
        quotas.begin(record(), stores=False)
    for _ in range(5):
        quotas.begin(record("more", requests_per_minute=5), stores=False)
        quotas.begin(record("all", requests_per_minute=0), stores=False)
    # A new token of a revoked one's name does not inherit what that one used.
    again = msgspec.structs.replace(record(), created="later")
    quotas.begin(again, stores=False)
    # After a rotation both are in use. Taking turns, neither begins anew.
    for token in (record(), again, record(), again):
        with pytest.raises(ProblemError):
            quotas.begin(token, stores=False)


def test_a_token_beyond_its_limit_gets_429_and_others_are_served(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    tokens["few"] = token_command(
        *("create", str(directory), "--name", "few", "--scope", "append", "--json"),
        *("--scope", "read", "--requests-per-minute", "1"),
    )["token"]
    tokens["small"] = make_token(
        directory,
        name="small",
        scopes=("append", "read"),
        tenant=None,
        limits=TokenLimits(stored_bytes_per_day=100),
    )
    listed = token_command("list", str(directory), "--json")
    limits = {each["name"]: each.get("limits") for each in listed}
    assert limits["few"] == {"requests_per_minute": 1}
    assert "requests_per_minute=1" in token_command("list", str(directory))
    with serving(directory, tokens) as ledger:
        assert ledger.append(event(), token="few").status == 200
        refused = ledger.append(event(), token="few")
        assert (refused.status, refused.slug) == (429, "rate-exceeded")
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert ledger.append(event()).status == 200
        assert ledger.append(event(), token="small").status == 200
        assert ledger.append(event(), token="small").status == 429
        assert ledger.ask("/v1/events/0", token="small").status == 200
        created = ledger.ask("/v1/events?q=action:ledger.token.created+target:few").json()
        assert created["events"][0]["event"]["context"]["limits"] == {"requests_per_minute": 1}


def _with_private_value(sent: dict[str, Any]) -> dict[str, Any]:
    opening = Opening("/context/note", "u_1", encode_salt(bytes(32)), "x" * 8_000)
    changed = sent | {"context": {"note": {"commitment": opening.commitment}}}
    return {"event": changed, "private": [msgspec.to_builtins(opening)]}


def test_what_a_token_causes_to_be_stored_counts_as_its_own(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    limits = TokenLimits(stored_bytes_per_day=4_000)
    names = ("conflicts", "refusals", "values", "fields")
    for name in names:
        tokens[name] = make_token(
            directory, name=name, scopes=("append",), tenant=None, limits=limits
        )
    (directory / "private.toml").write_text(
        "[[fields]]\npath = '/targets/*/name'\nsubject = '/targets/*/id'\n"
    )
    large = "x" * 3_800
    with serving(directory, tokens) as ledger:
        taken = event()
        assert ledger.append(taken).status == 200
        some = {
            "conflicts": [taken | {"reason": large}],
            "refusals": [
                event(actor={"id": f"{n}{'y' * 200}"}, context={"password": "zxq-hunter-2"})
                for n in range(20)
            ],
            "values": [_with_private_value(event())],
            "fields": [event(targets=[{"id": f"p_{n}", "name": "z" * 250} for n in range(8)])],
        }
        first = {name: ledger.append(*some[name], token=name).status for name in names}
        assert first == {"conflicts": 422, "refusals": 422, "values": 200, "fields": 200}
        assert {name: ledger.append(event(), token=name).status for name in names} == dict.fromkeys(
            names, 429
        )


def test_saved_queries_count_as_bytes_that_a_token_stores(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    limits = TokenLimits(stored_bytes_per_day=100)
    tokens["reader"] = make_token(
        directory, name="reader", scopes=("read",), tenant=None, limits=limits
    )
    body = json.dumps({"name": "some", "query": "actor:u_1"}).encode()
    with serving(directory, tokens) as ledger:
        asked = [
            ledger.ask(
                target, method=method, body=body, token="reader", content_type="application/json"
            ).status
            for target, method in (
                ("/v1/queries", "POST"),
                ("/v1/queries", "POST"),
                ("/v1/evidence", "POST"),
                ("/v1/queries/some", "DELETE"),
            )
        ]
        assert asked == [200, 429, 429, 429]
        assert ledger.ask("/v1/queries/some", token="reader").status == 200


def test_principals_without_number_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas_module, "NAMES_MAX", 10)
    monkeypatch.setattr(metrics_module, "ROWS_MAX", 10)
    now_s = 0.0
    quotas = Quotas(Settings(token_requests_per_minute_max=2), monotonic_s=lambda: now_s)
    metrics = Metrics()
    greedy = record("oidc:corp:greedy")
    for number in range(100):
        now_s += 31.0  # Whoever asked once has all of it again.
        metrics.add("token_requests_total", f"oidc:corp:{number}")
        quotas.begin(record(f"oidc:corp:{number}"), stores=False)
        if number > 90:
            for _ in range(2):
                with suppress(ProblemError):
                    quotas.begin(greedy, stores=False)
    assert len(quotas._buckets) <= 20
    with pytest.raises(ProblemError):
        quotas.begin(greedy, stores=False)
    counted = {each.labels: each.value for each in metrics.counters()}
    assert len(counted) == 11
    assert (counted["oidc:corp:0",], counted["(others)",]) == (1, 90)


def test_refusals_and_reads_leave_a_line_without_any_value(ledger: Ledger) -> None:
    ledger.append(event(actor={"id": MARKER}))
    ledger_command("token", "revoke", str(ledger.directory), "read acme")
    with structlog.testing.capture_logs() as lines:
        ledger.ask("/v1/events/0", token="read acme")
        ledger.ask("/v1/events/0", token="wl_guessed")
        ledger.ask(f"/v1/actors/{MARKER}/timeline", token="append")
        ledger.ask(f"/v1/events?q=actor:{MARKER}+since:-1h", token="read")
        ledger.ask(f"/v1/actors/{MARKER}/timeline", token="read")
        ledger.ask(f"/v1/export?q={MARKER}&format=csv", token="read")
    wanted = ("request_refused", "read", "read_begun")
    said: list[Any] = [line for line in lines if line["event"] in wanted]
    assert MARKER not in repr(lines)
    named = [(line["event"], line["by"], line["route"]) for line in said]
    assert named == [
        ("request_refused", "revoked read acme", "/v1/events/{ref}"),
        ("request_refused", "address 127.0.0.1", "/v1/events/{ref}"),
        ("request_refused", "append", "/v1/actors/{actor}/timeline"),
        ("read", "read", "/v1/events"),
        ("read", "read", "/v1/actors/{actor}/timeline"),
        ("read_begun", "read", "/v1/export"),
        ("read", "read", "/v1/export"),
    ]
    assert said[3]["query_fields"] == ("actor", "time")
    assert said[6]["query_fields"] == ("text",)
    assert (said[6]["format"], said[6]["address"]) == ("csv", "127.0.0.1")
    assert said[6]["bytes"] > 100
    assert metrics_of(ledger)['ledger_revoked_token_requests_total{token="read acme"}'] == 1


def test_with_an_access_log_each_request_has_a_line_without_any_value(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    settings = msgspec.structs.replace(QUICK, access_log=True)
    with serving(directory, tokens, settings) as ledger, structlog.testing.capture_logs() as lines:
        ledger.append(event(actor={"id": MARKER}), token="append")
        traced = f"00-{trace}-00f067aa0ba902b7-01"
        ledger.ask(f"/v1/actors/{MARKER}/timeline", token="read", traceparent=traced)
        ledger.ask(f"/v1/{MARKER}", token="read", method="PATCH")
        ledger.ask("/v1/events/0", token="wl_guessed")
    said: list[Any] = [line for line in lines if line["event"] == "request"]
    assert MARKER not in repr(lines)
    named = [(line["by"], line["method"], line["route"], line["status"]) for line in said]
    assert named == [
        ("append", "POST", "/v1/events", 200),
        ("read", "GET", "/v1/actors/{actor}/timeline", 200),
        ("read", "other", "", 404),
        ("address 127.0.0.1", "GET", "/v1/events/{ref}", 401),
    ]
    assert [line["trace"] for line in said] == [None, trace, None, None]
    assert said[0]["received"] > 50
    assert said[1]["sent"] > 100
    assert all(line["ms"] > 0 and line["address"] == "127.0.0.1" for line in said)


def test_metrics_count_requests_events_and_refusals(ledger: Ledger) -> None:
    before = metrics_of(ledger)
    ledger.append(event(), event(), token="append")
    ledger.append(event(context={"password": "zxq-hunter-2"}), token="append")
    ledger.ask("/v1/events/0", token="append")
    ledger.ask("/v1/none", method="PATCH")
    after = metrics_of(ledger)
    grown = {name: after[name] - before.get(name, 0) for name in after}
    for name, value in {
        'requests_total{route="/v1/events",method="POST",status="200"}': 1,
        'requests_total{route="/v1/events",method="POST",status="422"}': 1,
        'requests_total{route="",method="other",status="404"}': 1,
        'token_requests_total{token="append"}': 3,
        'events_logged_total{token="append"}': 2,
        'events_refused_total{problem="secret"}': 1,
        'secrets_found_total{rule="password"}': 1,
        'problems_total{problem="scope-missing"}': 1,
        "tree_size": 3,  # With the report of the refused one.
    }.items():
        assert grown[f"ledger_{name}"] == value, name
    assert grown['ledger_stored_bytes_total{token="append"}'] > 400
    assert grown['ledger_request_bytes_total{token="append"}'] > 400
    assert (after["ledger_ready"], after["ledger_requests_in_flight"]) == (1, 1)


def test_metrics_need_a_token_and_name_each_row_of_the_table(ledger: Ledger) -> None:
    assert ledger.ask("/metrics", token=None).slug == "token-missing"
    assert ledger.ask("/metrics", token="read").slug == "scope-missing"
    assert ledger.ask("/metrics", token="admin acme").slug == "wrong-tenant"
    text = ledger.ask("/metrics").text
    kinds = dict(re.findall(r"(?m)^# TYPE ledger_(\w+) (\w+)$", text))
    assert kinds == {metric.name: metric.kind for metric in METRICS}
    page = Path("docs/metrics.md").read_text()
    for metric in METRICS:
        assert f"`ledger_{metric.name}`" in page
        assert metric.help in page


def test_a_label_is_escaped() -> None:
    metrics = Metrics()
    metrics.add("token_requests_total", 'a"b\\c\nd')
    gauges: dict[str, Gauge] = {
        each.name: {} if each.labels else 0.0 for each in METRICS if each.kind == "gauge"
    }
    assert '{token="a\\"b\\\\c\\nd"} 1\n' in render(metrics.counters(), gauges).decode()


def test_the_settings_limit_every_token(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    settings = msgspec.structs.replace(QUICK, token_bytes_per_minute_max=2_000)
    with serving(directory, make_ledger(directory), settings) as ledger:
        assert ledger.append(*[event() for _ in range(10)], token="append").status == 200
        assert ledger.append(event(), token="append").slug == "rate-exceeded"
        assert ledger.append(event()).status == 200


def test_a_stream_is_charged_while_it_goes_on(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    settings = msgspec.structs.replace(QUICK, token_bytes_per_minute_max=100_000)
    with serving(directory, make_ledger(directory), settings) as ledger:
        events = [event(reason="x" * 1_000) for _ in range(100)]
        assert ledger.append(*events, token="append").status == 200
        parts = urlsplit(ledger.url)
        with closing(http.client.HTTPConnection(parts.netloc, timeout=ANSWER_WAIT_S)) as stream:
            token = {"Authorization": f"Bearer {ledger.tokens['read']}"}
            stream.request("GET", "/v1/events/stream?from=0", headers=token)
            answer = stream.getresponse()
            read = 0
            while read < 100_000:
                read += len(answer.read1(1 << 16))
            # It goes on, and what it has sent is more than the token may use in a minute.
            deadline_s = time.monotonic() + ANSWER_WAIT_S
            while (found := ledger.ask("/v1/fields", token="read")).status == 200:
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
            assert found.slug == "rate-exceeded"
            assert ledger.ask("/v1/fields", token="admin").status == 200


def test_every_answer_of_lines_is_charged_while_it_goes_on() -> None:
    streamed = {each.path for each in ROUTES if each.is_streamed}
    lines = {
        each.path
        for each in ROUTES
        if any(NDJSON_MEDIA in success.contents for success in each.successes)
    }
    assert "/v1/values" in lines
    assert lines <= streamed
