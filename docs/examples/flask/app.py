"""Roles of users, with an audit trail, in Flask.

The header `X-User` names the user of a request: that suits an example, and is no authentication.
"""

import os

from flask import Flask, abort, g, request

from ledger.demo.scratch import scratch_ledger
from ledger_client import Recorder, audited, diff, use_recorder
from ledger_client.integrations.flask import LedgerAudit

ROLES = {"ann": "admin", "jo": "member"}

app = Flask(__name__)
app.config["LEDGER_PROXIES"] = ["10.0.0.0/8"]
LedgerAudit(app, actor=lambda: ("user", g.user) if g.get("user") else None)


@app.before_request
def find_user() -> None:
    g.user = request.headers.get("X-User")


@app.put("/users/<user>/role")
def put_role(user: str) -> dict[str, str]:
    change_role(user, request.form["role"])
    return {"role": ROLES[user]}


@audited(
    "user.role_changed",
    target=lambda user: ("user", user),
    changes=lambda result: diff(*result),
)
def change_role(user: str, role: str) -> tuple[dict[str, str], dict[str, str]]:
    if ROLES.get(g.user) != "admin":
        abort(403)  # recorded as `denied`
    before = {"role": ROLES[user]}
    ROLES[user] = role
    return before, {"role": role}


if __name__ == "__main__":
    with scratch_ledger():  # does nothing where LEDGER_URL is set
        use_recorder(
            Recorder(
                os.environ["LEDGER_URL"],
                os.environ["LEDGER_TOKEN"],
                policy=os.environ["LEDGER_POLICY"],
                spool=os.environ["LEDGER_SPOOL"],
                service="flask-example",
            )
        )
        app.run(port=int(os.environ.get("PORT", "8000")))
