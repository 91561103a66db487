"""The shop as an aiohttp application; an inner middleware finds the user."""

import sys

from aiohttp import web
from aiohttp.typedefs import Handler

from ledger_client.integrations.aiohttp import audit_middleware
from tests.integrations.apps import shop

USER = web.RequestKey("user", str)


@web.middleware
async def find_user(request: web.Request, handler: Handler) -> web.StreamResponse:
    user = request.headers.get(shop.USER_HEADER)
    if user is not None:
        request[USER] = user
    return await handler(request)


def error(request: web.Request) -> Exception | None:
    errors = {"forbidden": web.HTTPForbidden(), "broken": RuntimeError("broken")}
    return errors.get(request.query.get("error", ""))


async def refund(request: web.Request) -> web.Response:
    payment = request.match_info["payment"]
    return web.Response(text=await shop.refund_async(payment, error(request)))


async def move(request: web.Request) -> web.Response:
    return web.Response(text=await shop.move_async(request.match_info["payment"]))


async def report(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    async for part in shop.report_async():
        await response.write(part)
    return response


app = web.Application(
    middlewares=[
        audit_middleware(
            actor=lambda request: ("user", request[USER]) if USER in request else None,
            proxies=shop.PROXIES,
        ),
        find_user,
    ]
)
app.add_routes(
    [
        web.post("/async/refund/{payment}", refund),
        web.post("/async/move/{payment}", move),
        web.get("/async/report", report),
    ]
)

if __name__ == "__main__":
    shop.make_recorder()
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
