"""Tokens, scopes and tenants decide which requests are allowed."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import structlog.testing

from ledger.service.admission import SMALL_BYTES
from ledger.service.token_admin import make_token
from ledger.store.log import LogStore
from ledger_core.event.canonical import parse_leaf
from tests.service.check_log import check_ledger
from tests.service.serving import (
    QUICK,
    TOKENS,
    Ledger,
    event,
    ledger_command,
    make_ledger,
    new_id,
    serving,
    serving_new,
)
from tests.service.test_http import connected, head, receive, slug

WAIT_S = 120.0

TENANTS = ("acme", "globex", None)

PUBLIC = (
    "/checkpoint",
    "/tile/0/000.p/1",
    "/v1/proofs/inclusion?index=0",
    "/v1/proofs/consistency?from=1",
    "/v1/log",
    "/v1/problems",
    "/v1/openapi.json",
    "/healthz",
    "/readyz",
)

MISSING, UNKNOWN, SCOPE, TENANT = "token-missing", "token-unknown", "scope-missing", "wrong-tenant"
STATUS = {MISSING: 401, UNKNOWN: 401, SCOPE: 403, TENANT: 403}

MATRIX = (
    # token         append an event of:        read an event of:          read a
    #               acme     globex   nobody   acme     globex   nobody   bundle
    (None,          MISSING, MISSING, MISSING, MISSING, MISSING, MISSING, MISSING),
    ("wl_guessed",  UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),
    ("admin",       200,     200,     200,     200,     200,     200,     200),
    ("append",      200,     200,     200,     SCOPE,   SCOPE,   SCOPE,   SCOPE),
    ("read",        SCOPE,   SCOPE,   SCOPE,   200,     200,     200,     200),
    ("admin acme",  200,     TENANT,  TENANT,  200,     TENANT,  TENANT,  TENANT),
    ("append acme", 200,     TENANT,  TENANT,  SCOPE,   SCOPE,   SCOPE,   SCOPE),
    ("read acme",   SCOPE,   SCOPE,   SCOPE,   200,     TENANT,  TENANT,  TENANT),
)  # fmt: skip


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ledger, list[int]]]:
    """A ledger with an event of each tenant, and their indices."""
    with serving_new(tmp_path_factory.mktemp("tenants")) as ledger:
        events = [event(tenant=tenant) for tenant in TENANTS]
        answer = ledger.append(*events, query="?wait=witnessed")
        yield ledger, [result["index"] for result in answer.json()["results"]]
        check_ledger(ledger)


@pytest.mark.parametrize("row", MATRIX, ids=lambda row: str(row[0]))
def test_a_token_may_do_what_its_scopes_and_tenant_say(
    tenants: tuple[Ledger, list[int]], row: tuple[str | None, *tuple[str | int, ...]]
) -> None:
    ledger, indices = tenants
    token, *expected = row
    got: list[str | int] = []
    for tenant in TENANTS:
        answer = ledger.append(event(tenant=tenant), token=token)
        if answer.status == 422:
            problem = answer.json()["results"][0]["error"]
            assert problem["status"] == 403
            assert problem["field"] == "tenant"
            got.append(problem["type"].partition("#")[2])
        else:
            got.append(answer.status if answer.status == 200 else answer.slug)
    for target in (*(f"/v1/events/{index}" for index in indices), "/tile/entries/000.p/1"):
        answer = ledger.ask(target, token=token)
        if answer.status != 200:
            assert answer.status == STATUS[answer.slug]
            assert (answer.headers["WWW-Authenticate"] is not None) == (answer.status == 401)
        got.append(answer.status if answer.status == 200 else answer.slug)
    assert got == expected


@pytest.mark.parametrize("token", [None, "wl_guessed", "append"])
@pytest.mark.parametrize("target", PUBLIC)
def test_what_proves_the_log_is_for_everybody(
    tenants: tuple[Ledger, list[int]], target: str, token: str | None
) -> None:
    ledger, _ = tenants
    assert ledger.ask(target, token=token).status == 200


def test_a_tenant_fails_alone_in_a_batch(tenants: tuple[Ledger, list[int]]) -> None:
    ledger, _ = tenants
    events = [event(tenant=tenant) for tenant in TENANTS]
    answer = ledger.append(*events, token="append acme")
    assert answer.status == 207
    assert ["error" in result for result in answer.json()["results"]] == [False, True, True]


def test_a_refused_token_leaves_a_log_line(tenants: tuple[Ledger, list[int]]) -> None:
    ledger, _ = tenants
    with structlog.testing.capture_logs() as lines:
        ledger.ask("/v1/events", token="wl_made-up")
        ledger.ask("/v1/events", token="append")
    refused = [line for line in lines if line["event"] == "request_refused"]
    assert [(line["problem"], line["by"]) for line in refused] == [
        ("token-unknown", "address 127.0.0.1"),
        ("scope-missing", "append"),
    ]
    assert "wl_made-up" not in str(lines)


def test_an_id_of_another_tenant_is_not_taken_and_not_told_of(
    tenants: tuple[Ledger, list[int]],
) -> None:
    ledger, _ = tenants
    theirs = event(tenant="globex", reason="a secret of theirs")
    ledger.append(theirs)
    ref = f"/v1/events/{theirs['id']}"
    unknown = ledger.ask(f"/v1/events/{new_id()}", token="read acme")
    assert ledger.ask(ref, token="read acme").body == unknown.body
    own = {**theirs, "tenant": "acme", "reason": "ours"}
    answer = ledger.append(own, token="append acme")
    assert answer.status == 200
    assert "secret" not in answer.text
    (first,) = answer.json()["results"]
    (again,) = ledger.append(own, token="append acme").json()["results"]
    assert again == {**first, "duplicate": True}
    assert ledger.ask(ref, token="read acme").json()["event"] == own
    assert ledger.ask(ref).json()["event"] == theirs
    found = ledger.ask("/v1/events?q=ours", token="read acme").json()["events"]
    assert [each["index"] for each in found] == [first["index"]]
    assert "fault" not in ledger_command("fsck", str(ledger.directory))


def test_an_id_of_another_tenant_costs_as_many_reads_as_a_free_one(
    tenants: tuple[Ledger, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, _ = tenants
    theirs = event(tenant="globex")
    ledger.append(theirs)
    read: list[int] = []
    leaf = LogStore.leaf

    def count(self: LogStore, index: int) -> bytes | None:
        read.append(index)
        return leaf(self, index)

    monkeypatch.setattr(LogStore, "leaf", count)
    costs = []
    for id_ in (theirs["id"], new_id()):
        read.clear()
        assert ledger.ask(f"/v1/events/{id_}", token="read acme").slug == "no-event"
        costs.append(len(read))
    assert costs == [2, 2]


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic dTpw", "wl_x", "Bearer wl_x wl_y", "Bearer é"]
)
def test_a_strange_authorization_is_no_token(
    tenants: tuple[Ledger, list[int]], header: str
) -> None:
    ledger, _ = tenants
    answer = ledger.ask("/v1/events/0", token=None, authorization=header)
    assert (answer.status, answer.slug) == (401, "token-unknown")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert "wl_x" not in answer.text


def test_the_scheme_of_a_token_is_read_in_any_case(tenants: tuple[Ledger, list[int]]) -> None:
    ledger, _ = tenants
    token = ledger.tokens["read"]
    assert ledger.ask("/v1/events/0", token=None, authorization=f"bEARER {token}").status == 200


def test_a_refused_append_does_not_even_read_the_body(tenants: tuple[Ledger, list[int]]) -> None:
    ledger, _ = tenants
    answer = ledger.ask("/v1/events", method="POST", body=b"not json", token=None)
    assert answer.slug == "token-missing"


def test_entries_can_be_public(tmp_path: Path) -> None:
    with serving_new(tmp_path, msgspec.structs.replace(QUICK, public_entries=True)) as ledger:
        assert ledger.append(event(), token=None).slug == "token-missing"
        index = ledger.append(event(tenant="acme"), query="?wait=witnessed").json()["results"][0][
            "index"
        ]
        assert ledger.ask(f"/v1/events/{index}", token=None).status == 200
        assert ledger.ask(f"/v1/events/{index}", token="append acme").status == 200
        bundle = ledger.ask(f"/tile/entries/000.p/{index + 1}", token=None)
        assert bundle.headers["Cache-Control"] == "public, max-age=60"


@pytest.mark.parametrize(
    "action",
    [
        "ledger.private.erased",
        "ledger.token.created",
        "ledger.x",
        "ledger.recorderx.y",
        # Whoever asks for action:ledger.alarm.fired finds these too.
        "Ledger.alarm.fired",
        "LEDGER.recorder.dropped",
    ],
)
def test_no_token_logs_an_action_of_the_service(shared_ledger: Ledger, action: str) -> None:
    answer = shared_ledger.append(event(action=action), event())
    refused, logged = answer.json()["results"]
    assert refused["error"]["type"] == "/v1/problems#reserved-action"
    assert refused["error"]["field"] == "action"
    assert logged["duplicate"] is False


@pytest.mark.parametrize(
    "action", ["ledger.recorder.dropped", "ledger.syslog.datagrams_lost", "ledgers.closed"]
)
def test_clients_report_their_own_losses(shared_ledger: Ledger, action: str) -> None:
    assert shared_ledger.append(event(action=action)).status == 200


@pytest.mark.parametrize(
    "name",
    [
        *("", "x" * 257, "a\nb", "a\x1b[2Jb", " a", "ledger", "LEDGER"),
        *("ｌedger", "lеdger", "ledger\u3164", "led\u034fger"),
        *("cert:billing", "oidc:corp:jo", "ｏｉｄｃ:corp:jo", "OIDC:corp:jo", "cеrt:billing"),
        *("billing\u3164", "bil\u034fling", "billing\u2800", "Revoked billing"),
        *(
            "address 203.0.113.9",
            "revoked billing",
            "expired billing",
            "elsewhere billing",
            "4111111111111111",
        ),
    ],
)
def test_a_token_has_a_printable_name_that_is_not_the_services(tmp_path: Path, name: str) -> None:
    make_ledger(tmp_path / "ledger")
    with pytest.raises(ValueError, match="name"):
        make_token(tmp_path / "ledger", name=name, scopes=("read",), tenant=None)


@pytest.mark.parametrize("tenant", ["", " t", "t\n", "t\0", "\u202et", "t" * 257])
def test_a_tokens_tenant_is_one_that_an_event_can_have(tmp_path: Path, tenant: str) -> None:
    make_ledger(tmp_path / "ledger")
    with pytest.raises(ValueError, match="a tenant"):
        make_token(tmp_path / "ledger", name="a", scopes=("read",), tenant=tenant)


def test_a_new_token_works_at_once_and_a_revoked_one_no_more(ledger: Ledger) -> None:
    directory = str(ledger.directory)
    token = ledger_command("token", "create", directory, "--name", "billing", "--scope", "append")
    answer = ledger.append(event(), token=token)
    assert answer.json()["results"][0]["received"]["by"] == "billing"
    ledger_command("token", "revoke", directory, "billing")
    answer = ledger.append(event(), token=token)
    assert (answer.status, answer.slug) == (401, "token-unknown")
    again = ledger_command("token", "create", directory, "--name", "billing", "--scope", "read")
    assert ledger.ask("/v1/events/0", token=again).status == 200


@pytest.mark.parametrize("path", ["/v1/events", "/v1/otlp/v1/logs", "/v1/search", "/v1/values"])
@pytest.mark.parametrize("is_large", [False, True])
def test_a_token_that_is_revoked_while_a_body_comes_may_do_nothing(
    ledger: Ledger, path: str, *, is_large: bool
) -> None:
    directory, padding = str(ledger.directory), " " * (SMALL_BYTES if is_large else 0)
    make = ("token", "create", directory, "--name", "app", "--scope", "append", "--scope", "read")
    token = ledger_command(*make)
    bodies = {
        "/v1/events": json.dumps(event(action="app.late")),
        "/v1/otlp/v1/logs": json.dumps({"resourceLogs": []}),
        "/v1/search": json.dumps({"query": ""}),
        "/v1/values": json.dumps({"query": "", "field": "actor"}),
    }
    body = (bodies[path] + padding).encode()
    lines = (f"Content-Length: {len(body)}", "Expect: 100-continue")
    top = head(ledger, *lines, target=path).replace(ledger.tokens["admin"].encode(), token.encode())
    with connected(ledger) as peer:
        peer.sendall(top)
        assert receive(peer)[0] == 100  # The token was found to be good.
        ledger_command("token", "revoke", directory, "app")
        peer.sendall(body)
        assert slug(receive(peer)) == "token-unknown"
    assert ledger.ask("/v1/events?q=action:app.late").json()["total"] == 0


def test_making_and_revoking_a_token_is_in_the_log_once(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    actions = [("ledger.token.created", name) for name in TOKENS]
    with serving(directory, tokens) as ledger:
        ledger_command("token", "revoke", str(directory), "append")
        actions.append(("ledger.token.revoked", "append"))
        wait_for_actions(ledger, actions)
    ledger_command("token", "revoke", str(directory), "read")
    actions.append(("ledger.token.revoked", "read"))
    for _ in range(2):
        with serving(directory, tokens) as ledger:
            wait_for_actions(ledger, actions)


def wait_for_actions(ledger: Ledger, expected: list[tuple[str, str]]) -> None:
    """Wait until the log holds as many events, and hold it against what they should be."""
    deadline_s = time.monotonic() + WAIT_S
    while True:
        log = check_ledger(ledger)
        if log.size >= len(expected):
            break
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    parsed = [parse_leaf(leaf) for leaf in log.leaves]
    assert {leaf.received.by for leaf in parsed} == {"ledger"}
    found = [(leaf.event.action, leaf.event.targets[0].id) for leaf in parsed if leaf.event.targets]
    assert found == expected
