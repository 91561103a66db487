"""Starlette and FastAPI: `AuditMiddleware`, and `caller` as a dependency.

    app.add_middleware(AuditMiddleware, proxies=["10.0.0.0/8"])

The user is the one of Starlette's `AuthenticationMiddleware`, unless `actor` is given. A dependency
that finds the user sets it:

    def current_user(token: Token, caller: Annotated[Caller, Depends(caller)]) -> User:
        user = …
        caller.actor = ("user", user.id)
        return user

Add the middleware last, so that it is the outermost but for Starlette's own for errors: the handler
of `Exception`, or of 500, runs outside of it, and its events say that they have no audit context.
It passes every message on unchanged, those of websockets and of streamed bodies too. The status of
the response decides the outcome of an audited endpoint, and a refusal by a dependency or a
decorator is recorded as its call.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Unpack

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledger_client.integrations.proxies import parse_peer
from ledger_client.integrations.request_info import RequestReader, RequestSettings, actor_of
from ledger_client.integrations.views import chosen_view
from ledger_client.recording.arguments import Principal
from ledger_client.recording.context import audit_context, note_left
from ledger_client.recording.view_request import ChosenView, ViewRequest, view_request

SCOPE_KEY: Final = "ledger_client.caller"
"""The key of the `Caller` in the ASGI scope."""

_SWITCHED: Final = 101
_FORBIDDEN: Final = 403

Actor = Callable[[HTTPConnection], Principal | None]


@dataclass(slots=True)
class Caller:
    """The user of a request, once the application has found out.

    A context variable would not do: what a synchronous dependency sets in its thread is lost.
    """

    actor: Principal | None = None


class AuditMiddleware:
    """Sets the audit context of each request and websocket of an ASGI application."""

    def __init__(
        self, app: ASGIApp, *, actor: Actor | None = None, **settings: Unpack[RequestSettings]
    ) -> None:
        """`actor` is called when something is recorded, unless the `Caller` has an actor.

        Raises: ValueError for a proxy that is no network.
        """
        self._app: Final = app
        self._actor: Final[Actor] = user_actor if actor is None else actor
        self._reader: Final = RequestReader(**settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or serve one websocket."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        caller = Caller()
        scope = {**scope, SCOPE_KEY: caller}
        connection = HTTPConnection(scope)

        def find() -> Principal | None:
            return self._actor(connection) if caller.actor is None else caller.actor

        client = scope.get("client")
        peer = None if client is None else parse_peer(*client)
        arguments = self._reader.read(peer, connection.headers.getlist)
        view = ViewRequest(lambda: _choose(scope), self._reader.is_login)

        async def send_on(message: Message) -> None:
            if not isinstance(message.get("headers", ()), Sequence):
                # They can be read once, and the server has to.
                message = {**message, "headers": [*message["headers"]]}
            _tell_response(view, message)
            await send(message)

        with audit_context(fresh=True, actor=actor_of(find), **arguments), view_request(view):
            try:
                await self._app(scope, receive, send_on)
            except Exception:
                note_left()
                raise
            view.end()


def _choose(scope: Scope) -> ChosenView | None:
    # The router writes the endpoint into the scope that it got.
    arguments = {"request": HTTPConnection(scope), **scope.get("path_params", {})}
    return chosen_view(scope.get("endpoint"), scope.get("method", "GET"), arguments)


def _tell_response(view: ViewRequest, message: Message) -> None:
    """Tell the status, and how a websocket begins."""
    match message["type"]:
        case "http.response.start" | "websocket.http.response.start":
            view.respond(message["status"], Headers(raw=message.get("headers", ())).get("location"))
        case "websocket.accept":
            view.respond(_SWITCHED)
        case "websocket.close":  # It is refused, unless it was accepted before.
            view.respond(_FORBIDDEN)


def caller(connection: HTTPConnection) -> Caller:
    """The `Caller` of this request: a FastAPI dependency, and a function for Starlette.

    Raises: RuntimeError without the middleware.
    """
    found: Caller | None = connection.scope.get(SCOPE_KEY)
    if found is None:
        raise RuntimeError("AuditMiddleware is not among the middleware of this application")
    return found


def user_actor(connection: HTTPConnection) -> Principal | None:
    """The user that Starlette's AuthenticationMiddleware has found."""
    user = connection.scope.get("user")
    if user is None or not user.is_authenticated:
        return None
    try:
        identity: str = user.identity
    except NotImplementedError:
        # Many user classes have a name for display alone.
        identity = user.display_name
    return {"type": "user", "id": identity}
