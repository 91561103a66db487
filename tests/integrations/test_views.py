"""The response decides the outcome of an audited view, in each framework."""

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Annotated, Any

import flask
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.typedefs import Handler
from fastapi import Depends, FastAPI, HTTPException
from fastapi.exceptions import ResponseValidationError
from flask.views import MethodView
from starlette.applications import Starlette
from starlette.authentication import AuthenticationBackend, requires
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Message
from starlette.websockets import WebSocket
from werkzeug.local import LocalProxy

from ledger_client import Recorder, audited, use_recorder
from ledger_client.integrations.aiohttp import audit_middleware
from ledger_client.integrations.asgi import AuditMiddleware
from ledger_client.integrations.flask import LedgerAudit
from ledger_client.recording import recorder as recorder_module
from ledger_client.recording.view_request import ViewRequest, view_request
from tests.integrations.test_requests import OpenShop
from tests.recording.conftest import OpenRecorder, Running

Outcomes = Callable[[], list[tuple[str, str, int | None]]]

order = audited(
    "order.sent",
    target=lambda order: ("order", order),
    changes=lambda: [{"path": "/state", "after": "sent"}],
)


@pytest.fixture
def recorder(open_recorder: OpenRecorder) -> Iterator[Recorder]:
    yield use_recorder(open_recorder())
    recorder_module._recorders.clear()


@pytest.fixture
def outcomes(recorder: Recorder, running: Running, name: str) -> Outcomes:
    """The target, the outcome and the status of each event, in their order."""

    def flushed() -> list[tuple[str, str, int | None]]:
        assert recorder.flush(30)
        return [summary(event) for event in running.recorded(name)]

    return flushed


def summary(event: dict[str, Any]) -> tuple[str, str, int | None]:
    status = event.get("context", {}).get("http_status")
    return event["targets"][0]["id"], event["outcome"], status


class Nobody(AuthenticationBackend):
    """Knows no user."""

    async def authenticate(self, conn: HTTPConnection) -> None:
        return None


async def ask(app: ASGIApp, path: str, query: bytes = b"", kind: str = "http") -> None:
    """Send one request to the application, and let it end."""
    received = [{"type": "http.request"}, {"type": "websocket.connect"}]

    async def receive() -> Message:
        return received[kind == "websocket"]

    async def send(_: Message) -> None:
        """The status is in the event."""

    scope = {"type": kind, "path": path, "query_string": query, "headers": [], "method": "GET"}
    with suppress(RuntimeError, ResponseValidationError):
        await app({**scope, "server": ("shop", 80), "scheme": kind}, receive, send)


DJANGO = [
    ("status/o_1?status=200", None, 200, "success"),
    ("status/o_1?status=401", None, 401, "denied"),
    ("status/o_1?status=403", None, 403, "denied"),
    ("status/o_1?status=409", None, 409, "failure"),
    ("status/o_1?status=503", None, 503, "failure"),
    ("status_async/o_1?status=403", None, 403, "denied"),
    ("status_async/o_1?status=201", None, 201, "success"),
    ("missing/o_1", None, 404, "failure"),
    ("to_login/o_1", None, 302, "denied"),
    ("to_order/o_1", None, 302, "success"),
    ("guarded/o_1", None, 302, "denied"),
    ("guarded/o_1", "u_1", 200, "success"),
    ("not_committed/o_1", "u_1", 500, "failure"),
    ("class/o_1", None, 302, "denied"),
    ("class/o_1", "u_1", 200, "success"),
    ("drf/o_1", None, 403, "denied"),
    ("drf/o_1?status=200", "u_1", 200, "success"),
    ("drf/o_1?status=422", "u_1", 422, "failure"),
    ("drf_set/o_1", None, 403, "denied"),
    ("drf_set/o_1", "u_1", 200, "success"),
    ("drf_function/o_1", None, 403, "denied"),
    ("drf_function/o_1", "u_1", 200, "success"),
]


@pytest.mark.parametrize("key", ["django wsgi", "django asgi"])
def test_the_response_decides_the_outcome_of_a_view_of_django(
    open_shop: OpenShop, name: str, key: str
) -> None:
    shop = open_shop(key)
    for path, user, status, _ in DJANGO:
        assert shop.ask("GET", f"/views/{path}", agent=name, user=user).status == status, path
    events = shop.events(name, len(DJANGO))
    for (path, user, status, outcome), event in zip(DJANGO, events, strict=True):
        expected = ("o_1", outcome, None if outcome == "success" else status)
        assert summary(event) == expected, path
        assert event["actor"].get("name") == user, path
        # What was not a success changed nothing.
        assert ("changes" in event) == (outcome == "success"), path


@pytest.mark.parametrize("key", ["django wsgi", "django asgi"])
def test_what_the_admin_of_django_refuses_is_an_event(
    open_shop: OpenShop, name: str, key: str
) -> None:
    shop = open_shop(key)
    assert shop.ask("GET", "/admin/", agent=name).status == 302
    assert shop.ask("GET", "/admin/", agent=name, user="u_2").status == 302
    assert shop.ask("GET", "/admin/auth/user/", agent=name, user="staff").status == 403
    log_in_to_admin(shop, "u_3", agent=name)
    *pages, log_in = shop.events(name, 3)
    assert [(e["action"], e["outcome"], e["actor"]["name"]) for e in pages] == [
        ("admin.opened", "denied", "u_2"),
        ("admin.opened", "denied", "staff"),
    ]
    assert [event["targets"] for event in pages] == [
        [{"type": "admin.page", "id": "/admin/"}],
        [{"type": "admin.page", "id": "/admin/auth/user/"}],
    ]
    assert (log_in["action"], log_in["outcome"]) == ("user.login", "denied")
    assert (log_in["targets"][0]["type"], log_in["targets"][0]["name"]) == ("user", "u_3")


def log_in_to_admin(shop: Any, user: str, *, agent: str) -> None:
    """Send the form of the admin's login page, with the right password."""
    page = shop.ask("GET", "/admin/login/", agent="a form")
    token = re.search(rb'name="csrfmiddlewaretoken" value="(\w+)"', page.body)
    assert token is not None
    query = f"csrfmiddlewaretoken={token[1].decode()}&username={user}&password=secret"
    headers = {
        "Cookie": str(page.headers["Set-Cookie"]).partition(";")[0],
        "Content-Type": "application/x-www-form-urlencoded",
    }
    answer = shop.ask("POST", "/admin/login/", agent=agent, headers=headers, body=query.encode())
    assert answer.status == 200


def test_the_response_decides_the_outcome_of_a_view_of_flask(outcomes: Outcomes) -> None:
    app = flask.Flask("shop")
    LedgerAudit(app, actor=lambda: None)

    @app.before_request
    def refuse() -> Any:
        return ("no", 401) if "refuse" in flask.request.args else None

    @app.errorhandler(LookupError)
    def no_such_order(_: LookupError) -> Any:
        return {"error": "no such order"}, 404

    @app.get("/status/<order>/<int:status>")
    @order
    def by_status(order: str, status: int) -> Any:
        return {}, status

    @app.get("/raises/<order>")
    @order
    def raises(order: str) -> Any:
        raise LookupError

    @app.get("/to_login/<order>")
    @order
    async def to_login(order: str) -> Any:
        return flask.redirect("/login?next=/")

    class Orders(MethodView):
        @order
        def get(self, order: str) -> Any:
            flask.abort(403)

    app.add_url_rule("/class/<order>", view_func=Orders.as_view("orders"))
    client = app.test_client()
    for path in ("status/a/200", "status/b/403", "status/c/500", "raises/d", "to_login/e"):
        client.get(f"/{path}")
    client.get("/class/f")
    client.get("/status/g/200?refuse")
    client.post("/status/h/200")  # The wrong method is no call of the view.
    assert outcomes() == [
        ("a", "success", None),
        ("b", "denied", 403),
        ("c", "failure", 500),
        ("d", "failure", 404),
        ("e", "denied", 302),
        ("f", "denied", 403),
        ("g", "denied", 401),
    ]


class Remote:
    """A client of another service: whatever it is asked for is a call there."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.called.append(name)
        return Remote()

    def __call__(self, *_: object) -> None:
        """Answer nothing."""


def test_what_the_closure_of_a_method_holds_is_not_its_view(outcomes: Outcomes) -> None:
    app = flask.Flask("shop")
    LedgerAudit(app, actor=lambda: None)
    remote = Remote()
    user: LocalProxy[Any] = LocalProxy(ContextVar("user"))

    @audited("mail.sent", target=("mail", "all"))
    def send() -> None:
        """Is audited, and no view."""

    class Remotes(MethodView):
        def get(self) -> Any:
            return remote.stock if remote is None else ("no", 403)

    class Users(MethodView):
        def get(self) -> Any:
            return str(user) if user is None else ("no", 403)

    class Senders(MethodView):
        def get(self) -> Any:
            return send() if flask.request.args else ("no", 403)

    class Unset(MethodView):
        def get(self) -> Any:
            return late if flask.request.args else ("no", 403)

    for view in (Remotes, Users, Senders, Unset):
        app.add_url_rule(f"/{view.__name__}", view_func=view.as_view(view.__name__))
    app.testing = True  # What a view, or its recording, raises is raised here.
    for view in (Remotes, Users, Senders, Unset):
        assert app.test_client().get(f"/{view.__name__}").status_code == 403
    late = ""
    assert remote.called == []
    assert outcomes() == []


def test_what_fails_at_finding_the_view_keeps_no_answer_from_going_out(
    outcomes: Outcomes, caplog: pytest.LogCaptureFixture
) -> None:
    def choose() -> None:
        raise LookupError

    asked = ViewRequest(choose, lambda _: False)
    with view_request(asked):
        order(lambda order: None)("a")
    asked.respond(403)
    assert outcomes() == [("a", "success", None)]
    assert "audited_function_failed what=view error=LookupError" in caplog.text


def test_a_view_that_requires_its_event_is_refused_without_a_recorder_as_others_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = flask.Flask("shop")
    LedgerAudit(app, actor=lambda: None)

    def refused(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def answer() -> Any:
            return "no", 403

        return answer

    @app.get("/")
    @refused
    @audited("order.sent", require=True)
    def page() -> str:
        return ""

    app.testing = True
    assert app.test_client().get("/").status_code == 403
    assert "event_lost action=order.sent reason=" in caplog.text


def test_flask_login_says_where_the_login_page_is(outcomes: Outcomes) -> None:
    app = flask.Flask("shop")
    LedgerAudit(app, actor=lambda: None)

    class LoginManager:
        login_view = "sign_in"

    app.login_manager = LoginManager()  # type: ignore[attr-defined] # Flask-Login sets it so
    app.add_url_rule("/welcome", "sign_in", lambda: "")

    @app.get("/<order>")
    @order
    def page(order: str) -> Any:
        return flask.redirect(flask.url_for("sign_in", next="/") if order == "a" else "/login")

    for path in ("a", "b"):
        app.test_client().get(f"/{path}")
    assert outcomes() == [("a", "denied", 302), ("b", "success", None)]


@pytest.mark.parametrize(
    ("login_view", "outcome", "logged"),
    [
        ("/sign-in", "denied", False),
        ("https://sso.example.com/sign-in", "success", False),
        ("no_such_view", "success", True),
    ],
)
def test_a_login_view_of_flask_may_be_an_address_and_a_wrong_one_breaks_no_redirect(
    outcomes: Outcomes,
    caplog: pytest.LogCaptureFixture,
    login_view: str,
    outcome: str,
    logged: bool,
) -> None:
    app = flask.Flask("shop")
    LedgerAudit(app, actor=lambda: None)
    app.login_manager = SimpleNamespace(login_view=login_view)  # type: ignore[attr-defined]

    @app.get("/<order>")
    @order
    def page(order: str) -> Any:
        return flask.redirect("/sign-in")

    assert app.test_client().get("/a").status_code == 302
    assert outcomes() == [("a", outcome, 302 if outcome == "denied" else None)]
    assert ("login_page_not_found error=BuildError" in caplog.text) == logged


@pytest.mark.anyio
@pytest.mark.parametrize("location", ["//[", "http://[", "http://a]b/"])
async def test_a_redirect_to_what_is_no_address_is_answered_and_recorded(
    outcomes: Outcomes, location: str
) -> None:
    app = FastAPI()
    app.add_middleware(AuditMiddleware)

    @app.get("/{order}")
    @order
    async def page(order: str, onwards: str) -> Any:
        return RedirectResponse(onwards)

    # An exception would end this too: its 500 would be the answer.
    await ask(app, "/a", f"onwards={location}".encode())
    assert outcomes() == [("a", "success", None)]


@pytest.mark.anyio
async def test_the_response_decides_the_outcome_of_an_endpoint_of_fastapi(
    outcomes: Outcomes,
) -> None:
    def allowed(user: str = "") -> str:
        if user != "ann":
            raise HTTPException(403)
        return user

    app = FastAPI()
    app.add_middleware(AuditMiddleware)

    @app.get("/guarded/{order}")
    @order
    def guarded(order: str, user: Annotated[str, Depends(allowed)], count: int = 0) -> None:
        if count:
            raise HTTPException(409)

    @app.get("/model/{order}", response_model=dict[str, int])
    @order
    async def wrong_answer(order: str) -> Any:
        return {"total": "none"}

    @app.exception_handler(LookupError)
    async def no_such_order(*_: Any) -> Response:
        return JSONResponse({}, status_code=404)

    @app.get("/raises/{order}")
    @order
    async def raises(order: str) -> None:
        raise LookupError

    for path, query in (
        ("/guarded/a", b"user=jo"),
        ("/guarded/b", b"user=ann"),
        ("/guarded/c", b"user=ann&count=1"),
        ("/guarded/d", b"user=ann&count=many"),
        ("/model/e", b""),
        ("/raises/f", b""),
    ):
        await ask(app, path, query)
    assert outcomes() == [
        ("a", "denied", 403),
        ("b", "success", None),
        ("c", "failure", 409),
        ("d", "failure", 422),
        ("e", "failure", None),
        ("f", "failure", 404),
    ]


@pytest.mark.anyio
async def test_the_response_decides_the_outcome_of_an_endpoint_of_starlette(
    outcomes: Outcomes,
) -> None:
    @requires("authenticated", redirect="login")
    @audited("order.sent", target=lambda request: ("order", request.path_params["order"]))
    async def guarded(request: Request) -> Response:
        return Response()

    class Orders(HTTPEndpoint):
        @audited("order.sent", target=lambda request: ("order", request.path_params["order"]))
        def get(self, request: Request) -> Response:
            return Response(status_code=503)

    @audited("order.sent", target=lambda websocket: ("order", websocket.path_params["order"]))
    async def followed(websocket: WebSocket) -> None:
        if websocket.path_params["order"] == "e":
            await websocket.accept()
        if websocket.path_params["order"] != "f":
            await websocket.close()

    app = Starlette(
        routes=[
            Route("/guarded/{order}", guarded),
            Mount("/mounted", routes=[Route("/class/{order}", Orders)]),
            Route("/login", lambda _: RedirectResponse("/"), name="login"),
            WebSocketRoute("/follow/{order}", followed),
        ]
    )
    app.add_middleware(AuthenticationMiddleware, backend=Nobody())
    app.add_middleware(AuditMiddleware)
    await ask(app, "/guarded/a")
    await ask(app, "/mounted/class/b")
    for path in ("/follow/d", "/follow/e", "/follow/f"):
        await ask(app, path, kind="websocket")
    assert outcomes() == [
        ("a", "denied", 303),
        ("b", "failure", 503),
        ("d", "denied", 403),
        ("e", "success", None),
        ("f", "success", None),
    ]


@pytest.mark.anyio
async def test_the_response_decides_the_outcome_of_a_handler_of_aiohttp(
    outcomes: Outcomes,
) -> None:
    @web.middleware
    async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
        if "refuse" in request.query:
            raise web.HTTPForbidden
        return await handler(request)

    order = audited("order.sent", target=lambda request: ("order", request.match_info["order"]))

    @order
    async def by_status(request: web.Request) -> web.Response:
        return web.Response(status=int(request.query["status"]))

    @order
    async def to_login(request: web.Request) -> web.Response:
        raise web.HTTPFound("/login")

    app = web.Application(middlewares=[audit_middleware(), refuse])
    app.add_routes([web.get("/status/{order}", by_status), web.get("/to_login/{order}", to_login)])
    async with TestClient(TestServer(app)) as client:
        for path in (
            "/status/a?status=204",
            "/status/b?status=403",
            "/status/c?status=500",
            "/to_login/d",
            "/status/e?refuse",
        ):
            await client.get(path, allow_redirects=False)
    assert outcomes() == [
        ("a", "success", None),
        ("b", "denied", 403),
        ("c", "failure", 500),
        ("d", "denied", 302),
        ("e", "denied", 403),
    ]
