"""The middleware keeps the rules of Flask and WSGI."""

import http.client
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from wsgiref.simple_server import make_server

import pytest
from flask import Flask, Response, g, request
from werkzeug.test import EnvironBuilder

from ledger_client import extend_audit_context, with_audit_context
from ledger_client.integrations.flask import LedgerAudit
from ledger_client.recording.arguments import resolve_actor
from ledger_client.recording.context import current_scope


@pytest.fixture
def bare_server() -> Iterator[str]:
    """The address of an application under `wsgiref`, which tells who the client is."""
    app = Flask("shop")
    app.config["LEDGER_PROXIES"] = ["127.0.0.1"]
    LedgerAudit(app)
    app.get("/")(lambda: str(current_scope()["source"]["ip"]))
    with make_server("127.0.0.1", 0, app) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_header_with_underscores_is_not_believed_under_a_bare_server(bare_server: str) -> None:
    for headers in (
        {"X_Forwarded_For": "203.0.113.66"},
        {"X-Forwarded-For": "203.0.113.9", "X_Forwarded_For": "203.0.113.66"},
    ):
        connection = http.client.HTTPConnection(bare_server, timeout=20)
        connection.request("GET", "/", headers=headers)
        assert connection.getresponse().read() == b"127.0.0.1"
        connection.close()


def test_the_same_application_twice_is_a_mistake() -> None:
    app = Flask("shop")
    audit = LedgerAudit(app)
    with pytest.raises(ValueError, match="has the extension already"):
        audit.init_app(app)
    LedgerAudit().init_app(Flask("another"))


def test_a_wrong_setting_stops_the_start() -> None:
    app = Flask("shop")
    app.config["LEDGER_PROXIES"] = ["everybody"]
    with pytest.raises(ValueError, match="everybody"):
        LedgerAudit(app)


def test_a_body_that_nobody_reads_is_closed() -> None:
    app = Flask("shop")
    LedgerAudit(app)
    closed = []

    @app.get("/")
    def page() -> Response:
        response = Response(iter([b"never read"]))
        response.call_on_close(lambda: closed.append(current_scope()["source"]["user_agent"]))
        return response

    environ = EnvironBuilder(headers=[("User-Agent", "nobody")]).get_environ()
    body: Any = app(environ, lambda *_: lambda _: None)
    body.close()
    assert closed == ["nobody"]


def test_nothing_is_left_said_after_a_request() -> None:
    app = Flask("shop")
    LedgerAudit(app, actor=lambda: ("user", g.user))

    @app.get("/")
    def page() -> Response:
        g.user = "u_1"
        return Response(str(current_scope()["actor"]) for _ in range(2))

    with app.test_client() as client:
        for part in client.get("/").iter_encoded():
            assert part == b"('user', 'u_1')"
            assert not current_scope()
    assert not current_scope()


def test_what_is_dispatched_without_a_server_needs_no_context() -> None:
    app = Flask("shop")
    LedgerAudit(app, actor=lambda: ("user", "u_1"))

    @app.get("/")
    def page() -> Response:
        return Response(iter([b"1"]))

    with app.test_request_context("/"):
        assert app.full_dispatch_request().status_code == 200


def test_the_user_is_known_in_a_pool_and_when_the_response_is_closed() -> None:
    app = Flask("shop")
    LedgerAudit(app, actor=lambda: ("user", g.user))
    found: list[Any] = []
    may_go_on = threading.Event()

    def note() -> None:
        found.append(resolve_actor(current_scope()["actor"]))

    def note_late() -> None:
        may_go_on.wait(60)
        note()

    @app.before_request
    def log_in() -> None:
        g.user = request.headers["X-User"]

    with with_audit_context(ThreadPoolExecutor(2)) as pool:

        @app.get("/")
        def serve() -> Response:
            pool.submit(note).result()
            pool.submit(note_late)
            response = Response("served")
            response.call_on_close(note)
            return response

        app.get("/other")(lambda: "other")
        with app.test_client() as client:
            client.get("/", headers={"X-User": "u_1"}).close()
            client.get("/other", headers={"X-User": "u_2"}).close()
        may_go_on.set()
    assert found == [{"type": "user", "id": "u_1"}] * 3


def test_an_actor_that_the_application_has_set_holds_until_the_end_of_the_request() -> None:
    app = Flask("shop")
    found: list[Any] = []

    def note(*_: object) -> None:
        found.append(resolve_actor(current_scope()["actor"]))

    app.teardown_request(note)
    LedgerAudit(app, actor=lambda: None)

    @app.get("/")
    def serve() -> Response:
        extend_audit_context(actor=("service", "ci"))
        response = Response(iter(["served"]) if "stream" in request.args else "served")
        response.call_on_close(note)
        return response

    for path in ("/", "/?stream=1"):
        app.test_client().get(path).close()
    assert found == [{"type": "service", "id": "ci"}] * 4
