"""Applications that answer with the audit context of their request, for any server.

Each request with the header `X-Tenant` extends its context, as a login does; what a later request
on the same connection sees of that has leaked.
"""

import json

from aiohttp import web
from flask import Flask, request
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from ledger_client import capture_scope, extend_audit_context
from ledger_client.integrations.aiohttp import audit_middleware
from ledger_client.integrations.asgi import AuditMiddleware
from ledger_client.integrations.flask import LedgerAudit

PROXIES = ["127.0.0.1"]
"""Each request comes from a proxy, which says in X-Forwarded-For from where."""


def scope_of(tenant: str | None) -> dict[str, object]:
    if tenant is not None:
        extend_audit_context(tenant=tenant, actor=("user", tenant), reason="a reason")
    return capture_scope()


async def answer(request: Request) -> JSONResponse:
    await request.body()
    return JSONResponse(scope_of(request.headers.get("x-tenant")))


async def talk(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_json(scope_of(websocket.headers.get("x-tenant")))
    await websocket.close()


asgi = AuditMiddleware(
    Starlette(routes=[Route("/", answer, methods=["GET", "POST"]), WebSocketRoute("/talk", talk)]),
    proxies=PROXIES,
)

wsgi = Flask(__name__)
wsgi.config["LEDGER_PROXIES"] = PROXIES
LedgerAudit(wsgi)


@wsgi.route("/", methods=["GET", "POST"])
def answer_flask() -> str:
    request.get_data()
    return json.dumps(scope_of(request.headers.get("X-Tenant")))


async def answer_aiohttp(request: web.Request) -> web.Response:
    await request.read()
    return web.json_response(scope_of(request.headers.get("X-Tenant")))


def make_aiohttp(_: list[str]) -> web.Application:
    app = web.Application(middlewares=[audit_middleware(proxies=PROXIES)])
    app.router.add_route("*", "/", answer_aiohttp)
    return app
