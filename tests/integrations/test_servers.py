"""No request sees the audit context of another one: each server, over one connection, pipelined."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integrations.conftest import ROOT_DIR, wait_for_port

APPS = "tests.integrations.apps.scope_app"
ASGI, WSGI = f"{APPS}:asgi", f"{APPS}:wsgi"
ADDRESSES = {"u_1": "203.0.113.1", "u_2": "203.0.113.2", None: "127.0.0.1"}
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"

UVICORN = {
    f"uvicorn {loop} {http}": (
        *("uvicorn", ASGI, "--port", "{port}", "--loop", loop, "--http", http),
        *("--no-proxy-headers", "--log-level", "warning"),
    )
    for loop in ("asyncio", "uvloop")
    for http in ("h11", "httptools")
}
SERVERS = {
    **UVICORN,
    "hypercorn": ("hypercorn", ASGI, "--bind", "127.0.0.1:{port}"),
    "daphne": ("daphne", "-b", "127.0.0.1", "-p", "{port}", ASGI),
    "granian": ("granian", ASGI, "--interface", "asgi", "--port", "{port}"),
    "gunicorn uvicorn": (
        *("gunicorn", ASGI, "-b", "127.0.0.1:{port}"),
        *("-k", "uvicorn_worker.UvicornWorker"),
    ),
    "gunicorn sync": ("gunicorn", WSGI, "-b", "127.0.0.1:{port}"),
    "gunicorn threads": ("gunicorn", WSGI, "-b", "127.0.0.1:{port}", "--threads", "2"),
    "aiohttp": ("aiohttp.web", "-H", "127.0.0.1", "-P", "{port}", f"{APPS}:make_aiohttp"),
}
JOINS_NAMES = {
    "granian wsgi": ("granian", WSGI, "--interface", "wsgi", "--port", "{port}"),
    "hypercorn wsgi": ("hypercorn", f"wsgi:{WSGI}", "--bind", "127.0.0.1:{port}"),
}
"""Servers that give an application `X_Forwarded_For` under the name of `X-Forwarded-For`."""
KEEPS_ALIVE = [key for key in SERVERS if key != "gunicorn sync"]
HAS_WEBSOCKETS = ["uvicorn asyncio h11", "hypercorn", "daphne", "granian"]


@contextmanager
def serving(key: str, folder: Path) -> Iterator[int]:
    """Run the application on this server; gives its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [word.replace("{port}", str(port)) for word in (SERVERS | JOINS_NAMES)[key]]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**os.environ, "PYTHONPATH": str(ROOT_DIR)},
            cwd=ROOT_DIR,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for_port(port, process, folder / "output")
        yield port
    finally:
        process.terminate()
        process.wait(30)


def request_of(user: str | None, body: bytes = b"") -> bytes:
    """A request that says who it is and which trace it belongs to, or says neither."""
    lines = ["POST / HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers_of(user).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def headers_of(user: str | None) -> dict[str, str]:
    if user is None:
        return {}
    traceparent = f"00-{TRACE_ID}-b7ad6b7169203331-01"
    return {
        "X-Tenant": user,
        "User-Agent": user,
        "X-Forwarded-For": ADDRESSES[user],
        "traceparent": traceparent,
    }


def read_scopes(sock: socket.socket, count: int) -> list[dict[str, Any]]:
    """The JSON objects that the bodies of so many responses are."""
    with sock.makefile("rb") as stream:
        return [read_scope(stream) for _ in range(count)]


def read_scope(stream: Any) -> dict[str, Any]:
    headers: dict[bytes, bytes] = {}
    assert b" 200 " in stream.readline()
    while line := stream.readline().strip():
        name, _, value = line.partition(b":")
        headers[name.lower()] = value.strip()
    if b"content-length" in headers:
        scope = stream.read(int(headers[b"content-length"]))
    else:
        scope = b""
        while size := int(stream.readline(), 16):
            scope += stream.read(size)
            stream.readline()
        stream.readline()
    found: dict[str, Any] = json.loads(scope)
    return found


def check(scopes: list[dict[str, Any]], users: list[str | None]) -> None:
    for scope, user in zip(scopes, users, strict=True):
        assert scope.get("tenant") == user
        assert scope.get("reason") == (None if user is None else "a reason")
        assert scope["source"].get("user_agent") == user
        assert scope["source"]["ip"] == ADDRESSES[user]
        assert scope["context"].get("trace_id") == (None if user is None else TRACE_ID)
        actor = scope.get("actor", {"id": "anonymous"})
        assert actor["id"] == ("anonymous" if user is None else user)
    assert len({scope["context"]["request_id"] for scope in scopes}) == len(scopes)


@pytest.mark.parametrize("key", KEEPS_ALIVE)
def test_no_request_of_a_connection_sees_the_audit_context_of_another(
    key: str, tmp_path: Path
) -> None:
    users = ["u_1", None, "u_2", None]
    bodies = [b"x" * 70_000, b"", b"x" * 70_000, b"x" * 70_000]
    requests = [request_of(user, body) for user, body in zip(users, bodies, strict=True)]
    with serving(key, tmp_path) as port:
        # Pipelined: all requests before the first response.
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            sock.sendall(b"".join(requests))
            check(read_scopes(sock, len(users)), users)
        # Kept alive: one after the other.
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            scopes = []
            for each in requests:
                sock.sendall(each)
                scopes += read_scopes(sock, 1)
            check(scopes, users)


def test_a_worker_that_serves_one_connection_after_the_other_mixes_none(tmp_path: Path) -> None:
    users = ["u_1", None, "u_2", None]
    scopes = []
    with serving("gunicorn sync", tmp_path) as port:
        for user in users:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
                sock.sendall(request_of(user, b"x" * 70_000))
                scopes += read_scopes(sock, 1)
    check(scopes, users)


@pytest.mark.parametrize("key", [*JOINS_NAMES, "gunicorn sync", "uvicorn asyncio h11"])
def test_a_header_name_with_underscores_decides_nothing(key: str, tmp_path: Path) -> None:
    """As Caddy and Traefik pass it on, behind the header that they write themselves."""
    forged = ["X_Forwarded_For: 203.0.113.66", "X_Request_ID: forged"]
    sent = ["X-Forwarded-For: 203.0.113.9", "X-Request-ID: r-1", *forged]
    scopes = []
    with serving(key, tmp_path) as port:
        for lines in (sent, forged):
            head = "\r\n".join(["GET / HTTP/1.1", "Host: localhost", *lines, "", ""])
            with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
                sock.sendall(head.encode())
                scopes += read_scopes(sock, 1)
    is_told_apart = key not in JOINS_NAMES
    assert [scope["source"]["ip"] for scope in scopes] == [
        "203.0.113.9" if is_told_apart else "127.0.0.1",
        "127.0.0.1",
    ]
    ids = [scope["context"]["request_id"] for scope in scopes]
    assert (ids[0] == "r-1") == is_told_apart
    assert "forged" not in str(ids)


@pytest.mark.anyio
@pytest.mark.parametrize("key", HAS_WEBSOCKETS)
async def test_a_websocket_has_the_audit_context_of_its_own_request(
    key: str, tmp_path: Path
) -> None:
    users = ["u_1", None]
    scopes = []
    with serving(key, tmp_path) as port:
        async with aiohttp.ClientSession(skip_auto_headers=["User-Agent"]) as session:
            for user in users:
                url = f"http://127.0.0.1:{port}/talk"
                async with session.ws_connect(url, headers=headers_of(user)) as websocket:
                    scopes.append(await websocket.receive_json())
    check(scopes, users)
