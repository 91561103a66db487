"""A WSGI application that records while gunicorn --preload loads it, before the workers fork."""

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from ledger_client import Recorder, audit_context, use_recorder

SETTINGS: dict[str, Any] = json.loads(os.environ["SHOP"])

recorder = use_recorder(Recorder(**SETTINGS["recorder"]))
recorder.record("app.loaded")


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Record the path as an actor, and answer with the number of the process."""
    with audit_context(fresh=True, actor=("user", environ["PATH_INFO"].strip("/"))):
        recorder.record("page.read")
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
