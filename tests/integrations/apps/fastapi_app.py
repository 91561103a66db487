"""The shop as a FastAPI application, on uvicorn; its users come from a dependency."""

import sys
from collections.abc import Callable
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.responses import StreamingResponse

from ledger_client.integrations.asgi import AuditMiddleware, Caller, caller
from tests.integrations.apps import shop


# Synchronous, so that FastAPI calls it in a thread: what it sets in a context variable is lost.
def current_user(
    caller: Annotated[Caller, Depends(caller)], x_user: Annotated[str | None, Header()] = None
) -> str | None:
    if x_user is not None:
        caller.actor = ("user", x_user)
    return x_user


Error = Exception | None
app = FastAPI(dependencies=[Depends(current_user)])
app.add_middleware(AuditMiddleware, proxies=shop.PROXIES)
ERRORS: dict[str, Callable[[], Exception]] = {
    "forbidden": lambda: HTTPException(403),
    "broken": lambda: RuntimeError("broken"),
}


def error_of(error: str = "") -> Error:
    return ERRORS[error]() if error else None


WantedError = Annotated[Error, Depends(error_of)]


@app.post("/refund/{payment}")
def refund(payment: str, error: WantedError) -> str:
    return shop.refund(payment, error)


@app.post("/async/refund/{payment}")
async def refund_async(payment: str, error: WantedError) -> str:
    return await shop.refund_async(payment, error)


@app.post("/move/{payment}")
def move(payment: str) -> str:
    return shop.move(payment)


@app.post("/async/move/{payment}")
async def move_async(payment: str) -> str:
    return await shop.move_async(payment)


@app.get("/report")
def report() -> StreamingResponse:
    return StreamingResponse(shop.report())


@app.get("/async/report")
def report_async() -> StreamingResponse:
    return StreamingResponse(shop.report_async())


if __name__ == "__main__":
    shop.make_recorder()
    # Else uvicorn believes whoever connects from this machine.
    uvicorn.run(app, port=int(sys.argv[1]), proxy_headers=False, log_level="warning")
