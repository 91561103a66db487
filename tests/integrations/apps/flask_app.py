"""The shop as a Flask application, on Werkzeug's threaded server."""

import sys

from flask import Flask, Response, g, request
from werkzeug.exceptions import Forbidden

from ledger_client.integrations.flask import LedgerAudit
from tests.integrations.apps import shop

audit = LedgerAudit(actor=lambda: ("user", g.user) if g.get("user") else None)
app = Flask(__name__)
app.config["LEDGER_PROXIES"] = shop.PROXIES
audit.init_app(app)


@app.before_request
def find_user() -> None:
    g.user = request.headers.get(shop.USER_HEADER)


def error() -> Exception | None:
    errors = {"forbidden": Forbidden(), "broken": RuntimeError("broken")}
    return errors.get(request.args.get("error", ""))


@app.post("/refund/<payment>")
def refund(payment: str) -> str:
    return shop.refund(payment, error())


@app.post("/async/refund/<payment>")
async def refund_async(payment: str) -> str:
    return await shop.refund_async(payment, error())


@app.post("/move/<payment>")
def move(payment: str) -> str:
    return shop.move(payment)


@app.post("/async/move/<payment>")
async def move_async(payment: str) -> str:
    return await shop.move_async(payment)


@app.get("/report")
def report() -> Response:
    return Response(shop.report())


@app.get("/feed")
def feed() -> Response:
    return Response(shop.feed())


if __name__ == "__main__":
    shop.make_recorder()
    app.run(port=int(sys.argv[1]))
