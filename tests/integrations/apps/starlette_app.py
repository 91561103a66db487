"""The shop as a Starlette application, on uvicorn; its users come from AuthenticationMiddleware."""

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from ledger_client.integrations.asgi import AuditMiddleware
from tests.integrations.apps import shop


class ByHeader(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        user = conn.headers.get(shop.USER_HEADER)
        return (AuthCredentials(), SimpleUser(user)) if user else None


def error(request: Request) -> Exception | None:
    errors = {"forbidden": HTTPException(403), "broken": RuntimeError("broken")}
    return errors.get(request.query_params.get("error", ""))


def refund(request: Request) -> PlainTextResponse:
    return PlainTextResponse(shop.refund(request.path_params["payment"], error(request)))


async def refund_async(request: Request) -> PlainTextResponse:
    payment = request.path_params["payment"]
    return PlainTextResponse(await shop.refund_async(payment, error(request)))


def move(request: Request) -> PlainTextResponse:
    return PlainTextResponse(shop.move(request.path_params["payment"]))


async def move_async(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await shop.move_async(request.path_params["payment"]))


def report(_: Request) -> StreamingResponse:
    return StreamingResponse(shop.report())


def report_async(_: Request) -> StreamingResponse:
    return StreamingResponse(shop.report_async())


async def refund_many(websocket: WebSocket) -> None:
    await websocket.accept()
    async for payment in websocket.iter_text():
        await websocket.send_text(await shop.refund_async(payment))


app = Starlette(
    routes=[
        Route("/refund/{payment}", refund, methods=["POST"]),
        Route("/move/{payment}", move, methods=["POST"]),
        Route("/report", report),
        Mount(
            "/async",
            routes=[
                Route("/refund/{payment}", refund_async, methods=["POST"]),
                Route("/move/{payment}", move_async, methods=["POST"]),
                Route("/report", report_async),
            ],
        ),
        WebSocketRoute("/refunds", refund_many),
    ],
    middleware=[
        Middleware(AuditMiddleware, proxies=shop.PROXIES),
        Middleware(AuthenticationMiddleware, backend=ByHeader()),
    ],
)

if __name__ == "__main__":
    shop.make_recorder()
    # Else uvicorn believes whoever connects from this machine.
    uvicorn.run(app, port=int(sys.argv[1]), proxy_headers=False, log_level="warning")
