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

from ledger_client.integrations.proxies import NOWHERE, Endpoint, parse_peer
from ledger_client.integrations.request_info import RequestReader, RequestSettings, actor_of
from ledger_client.recording.arguments import Principal
from ledger_client.recording.context import audit_context

Actor = Callable[[web.Request], Principal | None]


def audit_middleware(
    *, actor: Actor | None = None, **settings: Unpack[RequestSettings]
) -> Middleware:
    """Say who, from where and in which request, for what is recorded in a handler.

    `actor` is asked when something is recorded, so that an inner middleware may find the user.
    Without it nothing is said of who.

    Raises: ValueError for what is no network.
    """
    reader = RequestReader(**settings)

    @web.middleware
    async def audit(request: web.Request, handler: Handler) -> web.StreamResponse:
        said = reader.read(_peer(request), lambda name: request.headers.getall(name, []))
        if actor is not None:
            said["actor"] = actor_of(lambda: actor(request))
        with audit_context(**said):
            return await handler(request)

    return audit


def _peer(request: web.Request) -> Endpoint:
    name = request.get_extra_info("peername")
    # A text for a Unix socket; of IPv6 it has four members.
    return (isinstance(name, tuple) and parse_peer(*name[:2])) or NOWHERE
