"""Each scope against every route: what a token may not do is refused, and no tenant shows another.

The requests come from the OpenAPI document, which the real `ledger serve` answers as one process
and a query process. HTTP_EXAMPLES sets how many of each kind are made; above the number of the
suite they are other ones each time (`make fuzz ARGS=http`).
"""

import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, unquote

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from ledger.demo.child_service import Service
from ledger.service.data_dir import DirectoryPaths
from ledger.service.http.router import Router
from ledger.service.routes import ROUTES
from ledger.service.token_admin import make_token
from ledger.store.tokens import SCOPES, TokenRecord, TokenScope
from ledger_core.tlog.policy import parse_policy
from tests.service.serving import Answer, Ledger, event, make_ledger
from tests.service.test_openapi import SCHEMA, set_token

EXAMPLES_OF_SUITE: Final = 3
EXAMPLES: Final = int(os.environ.get("HTTP_EXAMPLES", EXAMPLES_OF_SUITE))
NO_TOKEN: Final = "none"
CALLERS: Final = (*SCOPES, NO_TOKEN)
NEEDED: Final[Mapping[tuple[str, str], tuple[TokenScope, ...]]] = {
    (route.method, route.path): route.scopes for route in ROUTES
}
ROUTER: Final = Router(ROUTES)
HIDDEN: Final = ("u_umbrella", "s_umbrella", "doc_umbrella", "umbrella_reason", "198.51.100.66")
"""What the events of another tenant hold, and no others."""

BEFORE_SCOPES: Final = frozenset(
    {"bad-parameter", "target-too-long", "header-too-long", "malformed-request"}
)
"""The problems that a request has whoever sends it."""

CHECKS: Final = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A served ledger with events of two tenants, and for one of them a token of each scope."""
    folder = tmp_path_factory.mktemp("scopes")
    directory, lines = folder / "ledger", folder / "lines"
    tokens = make_ledger(directory)
    for scope in SCOPES:
        tokens[scope] = make_token(directory, name=f"acme {scope}", scopes=(scope,), tenant="acme")
    tokens["umbrella"] = make_token(
        directory, name="umbrella", scopes=("append", "read", "export"), tenant="umbrella"
    )
    tokens["all"] = make_token(directory, name="all", scopes=("admin",), tenant=None)
    flags = ("--workers", "0", "--publish-interval-s", "0.05")
    policy = parse_policy(DirectoryPaths(directory).policy.read_bytes())
    with lines.open("w") as stderr:
        with Service(directory, listen="127.0.0.1:0", flags=flags, stderr=stderr) as service:
            ledger = Ledger(service.url, directory, tokens, policy)
            for tenant in ("umbrella", "acme") * 3:
                assert ledger.append(event_of(tenant), token="all").status == 200
            saved = {"name": "doc_umbrella", "query": "actor:u_umbrella"}
            assert ask_json(ledger, "/v1/queries", saved, "umbrella").status in {200, 201}
            assert (
                ledger.append(event_of("acme"), query="?wait=witnessed", token="all").status == 200
            )
            yield ledger
        assert service.exit_code == 0
    said = lines.read_text()
    assert "Traceback" not in said
    assert '"level":"error"' not in said.replace(" ", "")


def event_of(tenant: str) -> dict[str, Any]:
    """An event whose values name its tenant."""
    return event(
        tenant=tenant,
        actor={"id": f"u_{tenant}", "session": f"s_{tenant}"},
        targets=[{"id": f"doc_{tenant}"}],
        source={"ip": "203.0.113.5" if tenant == "acme" else "198.51.100.66"},
        reason=f"{tenant}_reason",
    )


def ask_json(ledger: Ledger, target: str, value: Any, token: str) -> Answer:
    return ledger.ask(
        target,
        method="POST",
        body=json.dumps(value).encode(),
        token=token,
        content_type="application/json",
    )


def text_of(body: bytes) -> str:
    """A body as text, that of a bundle with all of its files."""
    if body[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(body)) as bundle:
            body = b"\n".join(bundle.read(name) for name in bundle.namelist())
    return body.decode(errors="replace")


def may(caller: str, scopes: Sequence[TokenScope]) -> bool:
    """Whether a caller may ask for what needs one of these scopes, or none."""
    if not scopes or caller == NO_TOKEN:
        return not scopes
    record = TokenRecord(name="", scopes=(caller,), created="")  # type: ignore[arg-type]  # of `SCOPES`
    return any(map(record.may, scopes))


def check_refused(caller: str, status: int, slug: str) -> None:
    """Hold the refusal of a caller without the scope against what it must be."""
    refused = (401, "token-missing") if caller == NO_TOKEN else (403, "scope-missing")
    assert (status, slug) == refused, caller


@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES <= EXAMPLES_OF_SUITE,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
def test_each_scope_gets_the_answers_that_the_document_says_and_no_more(
    case: schemathesis.Case[Any], served: Ledger
) -> None:
    scopes = NEEDED[case.method.upper(), case.path]
    for caller in CALLERS:
        set_token(case, None if caller == NO_TOKEN else served.tokens[caller])
        answer = case.call(base_url=served.url)
        case.validate_response(answer, checks=CHECKS)
        text = text_of(answer.content)
        for hidden in HIDDEN:
            assert hidden not in text
        slug = ""
        if answer.headers.get("content-type", [""])[0] == "application/problem+json":
            slug = json.loads(text)["type"].rpartition("#")[2]
        if may(caller, scopes):
            assert slug not in {"token-missing", "token-unknown", "scope-missing"}
        elif slug not in BEFORE_SCOPES:
            check_refused(caller, answer.status_code, slug)


def crafted(ledger: Ledger) -> Iterator[tuple[str, str, Any]]:
    """Method, path and body of requests that name what is another tenant's."""
    found = ledger.ask("/v1/events?q=tenant:umbrella&limit=1", token="all").json()["events"][0]
    everything = quote("tenant:umbrella OR actor:u_umbrella OR NOT tenant:acme")
    for ref in (found["index"], found["event"]["id"]):
        yield "GET", f"/v1/events/{ref}", None
        yield "GET", f"/v1/events/{ref}?proof=1", None
        yield "GET", f"/v1/events/{ref}/around?minutes=60", None
    yield "GET", "/v1/actors/u_umbrella/timeline?facets=actor,target", None
    yield "GET", "/v1/sources/198.51.100.66/seen", None
    yield "GET", f"/v1/events?q={everything}&facets=actor,target,tenant", None
    yield "GET", "/v1/events?q=@doc_umbrella", None
    for field in ("actor", "target", "session", "source", "tenant"):
        yield "GET", f"/v1/values?field={field}", None
    for form in ("jsonl", "csv"):
        yield "GET", f"/v1/export?format={form}&q={everything}", None
    yield "GET", "/v1/queries", None
    yield "GET", "/v1/queries/doc_umbrella", None
    yield "GET", "/v1/fields", None
    yield "GET", "/tile/entries/000", None
    yield "GET", f"/tile/entries/000.p/{found['index'] + 1}", None
    yield "GET", "/v1/export/trailer?id=no-export-has-this", None
    yield "GET", "/metrics", None
    yield "DELETE", "/v1/queries/doc_umbrella", None
    yield "POST", "/v1/search", {"q": "tenant:umbrella"}
    yield "POST", "/v1/values", {"field": "actor", "q": "tenant:umbrella"}
    yield "POST", "/v1/evidence", {"q": "tenant:umbrella"}
    yield "POST", "/v1/proofs/multi", {"indices": [found["index"]]}
    yield "POST", "/v1/private/erasures", {"subject": "u_umbrella", "reason": "a request"}
    yield "POST", "/v1/events", event_of("umbrella")


def scopes_of(method: str, target: str) -> tuple[TokenScope, ...]:
    """The scopes of which the route of a request needs one."""
    return ROUTER.find(method, unquote(target.partition("?")[0])).route.scopes


def test_what_is_another_tenant_s_is_shown_to_no_scope(served: Ledger) -> None:
    for method, target, body in list(crafted(served)):
        data = None if body is None else json.dumps(body).encode()
        for caller in CALLERS:
            answer = served.ask(
                target,
                method=method,
                body=data,
                token=None if caller == NO_TOKEN else caller,
                content_type="application/json",
            )
            assert answer.status < 500, (caller, target, answer.body)
            text = text_of(answer.body)
            for hidden in HIDDEN:
                # An answer may repeat what was asked.
                assert hidden not in text.replace("doc_umbrella", "") or hidden in target, (
                    caller,
                    target,
                    text,
                )
            if not may(caller, scopes_of(method, target)):
                assert answer.slug not in BEFORE_SCOPES, (target, answer.text)
                check_refused(caller, answer.status, answer.slug)
    # The other tenant's token sees all of it, so there was something to hide.
    shown = text_of(served.ask("/v1/export?format=jsonl&q=", token="umbrella").body)
    assert all(hidden in shown for hidden in HIDDEN)
    assert served.ask("/v1/queries/doc_umbrella", token="umbrella").status == 200


@pytest.mark.parametrize("caller", CALLERS)
def test_a_stream_begins_for_those_alone_who_may_ask(served: Ledger, caller: str) -> None:
    if may(caller, ("query",)):
        return
    answer = served.ask("/v1/events/stream", token=None if caller == NO_TOKEN else caller)
    check_refused(caller, answer.status, answer.slug)
