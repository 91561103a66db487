"""aiohttp: a middleware for `aiohttp.web` applications.

    app = web.Application(
        middlewares=[audit_middleware(actor=lambda request: request.get("user"))]
    )

Put it first, so that it is the outermost.
"""

from collections.abc import Callable
from typing import Unpack

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from ledger_client.integrations.proxies import Endpoint, parse_peer
from ledger_client.integrations.request_info import RequestReader, RequestSettings, actor_of
from ledger_client.recording.arguments import Principal
from ledger_client.recording.context import audit_context

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
        with audit_context(fresh=True, **arguments):
            return await handler(request)

    return audit


def _peer(request: web.Request) -> Endpoint | None:
    name = request.get_extra_info("peername")
    # A text for a Unix socket; a tuple of four for IPv6.
    return parse_peer(*name[:2]) if isinstance(name, tuple) else None
