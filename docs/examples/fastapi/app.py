"""Roles of users, with an audit trail, in FastAPI.

The header `X-User` names the user of a request: that suits an example, and is no authentication.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import uvicorn
from fastapi import Body, Depends, FastAPI, Header, HTTPException

from ledger.demo.scratch import scratch_ledger
from ledger_client import Recorder, audited, diff, use_recorder
from ledger_client.integrations.asgi import AuditMiddleware, Caller, caller

ROLES = {"ann": "admin", "jo": "member"}


@asynccontextmanager
async def recording(_: FastAPI) -> AsyncIterator[None]:
    use_recorder(
        Recorder(
            os.environ["LEDGER_URL"],
            os.environ["LEDGER_TOKEN"],
            policy=os.environ["LEDGER_POLICY"],
            spool=os.environ["LEDGER_SPOOL"],
            service="fastapi-example",
        )
    )
    yield


app = FastAPI(lifespan=recording)
app.add_middleware(AuditMiddleware, proxies=["10.0.0.0/8"])


def current_user(
    caller: Annotated[Caller, Depends(caller)], x_user: Annotated[str, Header()]
) -> str:
    caller.actor = ("user", x_user)
    return x_user


@app.put("/users/{user}/role")
def put_role(
    user: str, role: Annotated[str, Body(embed=True)], by: Annotated[str, Depends(current_user)]
) -> dict[str, str]:
    change_role(user, role, by)
    return {"role": ROLES[user]}


@audited(
    "user.role_changed",
    target=lambda user: ("user", user),
    changes=lambda result: diff(*result),
)
def change_role(user: str, role: str, by: str) -> tuple[dict[str, str], dict[str, str]]:
    if ROLES.get(by) != "admin":
        raise HTTPException(403)  # recorded as `denied`
    before = {"role": ROLES[user]}
    ROLES[user] = role
    return before, {"role": role}


if __name__ == "__main__":
    with scratch_ledger():  # does nothing where LEDGER_URL is set
        # Whose word counts is said to the middleware, not to uvicorn.
        uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), proxy_headers=False)
