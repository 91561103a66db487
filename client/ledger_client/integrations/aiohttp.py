"""aiohttp: a middleware for `aiohttp.web` applications.

    app = web.Application(
        middlewares=[audit_middleware(actor=lambda request: request.get("user"))]
    )

Put it first, so that it is the outermost. The status of the response decides the outcome of an
audited handler, and a refusal by an inner middleware is recorded as its call.
"""

from collections.abc import Callable
from typing import Unpack

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from ledger_client.integrations.proxies import Endpoint, parse_peer
from ledger_client.integrations.request_info import RequestReader, RequestSettings, actor_of
from ledger_client.integrations.views import chosen_view
from ledger_client.recording.arguments import Principal
from ledger_client.recording.context import audit_context
from ledger_client.recording.view_request import ViewRequest, view_request

Actor = Callable[[web.Request], Principal | None]


def audit_middleware(
    *, actor: Actor | None = None, **settings: Unpack[RequestSettings]
) -> Middleware:
    """Set the audit context of each request.

    `actor` is called when something is recorded, so that an inner middleware may find the user.
    Without `actor`, events have no actor from the request.

    Raises: ValueError for a proxy that is no network.
    """
    reader = RequestReader(**settings)

    @web.middleware
    async def audit(request: web.Request, handler: Handler) -> web.StreamResponse:
        arguments = reader.read(_peer(request), lambda name: request.headers.getall(name, []))
        if actor is not None:
            arguments["actor"] = actor_of(lambda: actor(request))
        info = request.match_info
        view = ViewRequest(
            lambda: chosen_view(info.handler, request.method, {"request": request, **info}),
            reader.is_login,
        )
        with audit_context(fresh=True, **arguments), view_request(view):
            try:
                response = await handler(request)
            except web.HTTPException as raised:  # This is a response too.
                view.respond(raised.status, raised.headers.get("Location"))
                raise
            view.respond(response.status, response.headers.get("Location"))
            return response

    return audit


def _peer(request: web.Request) -> Endpoint | None:
    name = request.get_extra_info("peername")
    # A text for a Unix socket; a tuple of four for IPv6.
    return parse_peer(*name[:2]) if isinstance(name, tuple) else None
