"""Roles of users, with an audit trail, in aiohttp.

The header `X-User` names the user of a request: that suits an example, and is no authentication.
"""

import os
from collections.abc import AsyncIterator

from aiohttp import web

from ledger.demo.scratch import scratch_ledger
from ledger_client import Recorder, audited, diff, use_recorder
from ledger_client.integrations.aiohttp import audit_middleware
from ledger_client.recording.arguments import Principal

ROLES = {"ann": "admin", "jo": "member"}


def user_of(request: web.Request) -> str | None:
    return request.headers.get("X-User")


def actor_of(request: web.Request) -> Principal | None:
    user = user_of(request)
    return None if user is None else ("user", user)


async def put_role(request: web.Request) -> web.Response:
    form = await request.post()
    user = request.match_info["user"]
    await change_role(user, str(form["role"]), user_of(request))
    return web.json_response({"role": ROLES[user]})


@audited(
    "user.role_changed",
    target=lambda user: ("user", user),
    changes=lambda result: diff(*result),
)
async def change_role(
    user: str, role: str, by: str | None
) -> tuple[dict[str, str], dict[str, str]]:
    if by is None or ROLES.get(by) != "admin":
        raise web.HTTPForbidden  # recorded as `denied`
    before = {"role": ROLES[user]}
    ROLES[user] = role
    return before, {"role": role}


async def recording(_: web.Application) -> AsyncIterator[None]:
    use_recorder(
        Recorder(
            os.environ["LEDGER_URL"],
            os.environ["LEDGER_TOKEN"],
            policy=os.environ["LEDGER_POLICY"],
            spool=os.environ["LEDGER_SPOOL"],
            service="aiohttp-example",
        )
    )
    yield


app = web.Application(middlewares=[audit_middleware(actor=actor_of, proxies=["10.0.0.0/8"])])
app.router.add_put("/users/{user}/role", put_role)
app.cleanup_ctx.append(recording)

if __name__ == "__main__":
    with scratch_ledger():  # does nothing where LEDGER_URL is set
        web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
