"""ASGI applications expect websockets to work, and a caller that is known, of a middleware."""

from typing import Any

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.authentication import BaseUser, UnauthenticatedUser
from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from ledger_client.integrations.asgi import AuditMiddleware, caller, user_actor
from ledger_client.integrations.proxies import Endpoint, parse_peer
from ledger_client.recording.context import current_scope
from tests.integrations.test_requests import OpenShop, actor_name


@pytest.mark.anyio
async def test_a_websocket_works_as_before_and_its_events_say_who_and_from_where(
    open_shop: OpenShop, name: str
) -> None:
    shop = open_shop("starlette")
    headers = {"User-Agent": name, "X-User": "u_4"}
    url = f"http://127.0.0.1:{shop.port}/refunds"
    answers = []
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, headers=headers) as websocket,
    ):
        for payment in ("p_1", "p_2"):
            await websocket.send_str(payment)
            answers.append(await websocket.receive_str())
    assert answers == ["p_1", "p_2"]
    events = shop.events(name, 2)
    assert [event["targets"][0]["id"] for event in events] == ["p_1", "p_2"]
    assert {actor_name(event) for event in events} == {"u_4"}
    assert {event["source"]["ip"] for event in events} == {"127.0.0.1"}
    assert len({event["context"]["request_id"] for event in events}) == 1


@pytest.mark.anyio
async def test_what_is_no_request_passes_untouched() -> None:
    passed: list[tuple[Scope, Receive, Send]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append((scope, receive, send))
        assert not current_scope()

    scope = {"type": "lifespan"}
    await AuditMiddleware(app)(scope, receive_nothing, send_nothing)
    assert passed == [(scope, receive_nothing, send_nothing)]
    assert passed[0][0] is scope


@pytest.mark.anyio
async def test_headers_that_can_be_read_once_reach_the_server() -> None:
    sent: list[Message] = []

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        headers = (pair for pair in [(b"location", b"/login"), (b"set-cookie", b"a=b")])
        await send({"type": "http.response.start", "status": 302, "headers": headers})
        await send({"type": "http.response.body"})

    async def keep(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
    await AuditMiddleware(app)(scope, receive_nothing, keep)
    assert sent[0]["headers"] == [(b"location", b"/login"), (b"set-cookie", b"a=b")]


@pytest.mark.parametrize(
    ("port", "known"),
    [(50000, 50000), ("50000", 50000), ("x", None), ("9" * 5000, None), (0, None)],
)
def test_a_port_may_be_a_text(port: Any, known: int | None) -> None:
    assert parse_peer("192.0.2.1", port) == Endpoint("192.0.2.1", known)


@pytest.mark.anyio
@pytest.mark.parametrize("client", [None, ("testclient", 50000), ("", 0), ("/a.sock", None)])
async def test_a_server_that_tells_no_address_is_no_trouble(
    client: tuple[str, int | None] | None,
) -> None:
    said: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        said.append(current_scope()["source"])

    scope = {"type": "http", "headers": [(b"user-agent", b"a")], "client": client}
    await AuditMiddleware(app)(scope, receive_nothing, send_nothing)
    assert said == [{"user_agent": "a"}]


def test_a_caller_without_the_middleware_is_a_mistake() -> None:
    with pytest.raises(RuntimeError, match="AuditMiddleware is not among the middleware"):
        caller(HTTPConnection({"type": "http", "headers": [], "app": Starlette()}))


def test_a_user_without_an_identity_is_known_by_the_name_shown() -> None:
    class Shown(BaseUser):
        is_authenticated = True
        display_name = "jo"

    def actor(user: BaseUser | None) -> object:
        scope: Scope = {"type": "http", "headers": []}
        return user_actor(HTTPConnection(scope if user is None else {**scope, "user": user}))

    assert actor(Shown()) == {"type": "user", "id": "jo"}
    assert actor(UnauthenticatedUser()) is None
    assert actor(None) is None


async def receive_nothing() -> Message:
    raise AssertionError


async def send_nothing(_: Message) -> None:
    raise AssertionError
