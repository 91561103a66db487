"""A server that lies: it asks the real service, and changes what is said on the way.

It stands for whoever holds the ledger's host: it may change what it stores, what it answers and
what it proves. It does not have the signing key, but in the tests of forks, where real services do.
"""

import http.client
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec


@dataclass
class Message:
    """A request on its way to the service, or the answer on its way back."""

    target: str
    body: bytes
    status: int = 0

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @json.setter
    def json(self, value: Any) -> None:
        self.body = msgspec.json.encode(value)


Lie = Callable[[Message], None]


def no_lie(_message: Message) -> None:
    return


class Liar:
    """Tells `lie_to_service` and `lie_to_client` at once, whoever asks."""

    def __init__(self, url: str) -> None:
        self._peer = urlsplit(url).netloc
        self.lie_to_service: Lie = no_lie
        self.lie_to_client: Lie = no_lie
        self.targets: list[str] = []
        liar = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                liar._answer(self)

            def do_POST(self) -> None:
                liar._answer(self)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length", 0))
        request = Message(handler.path, handler.rfile.read(length))
        self.targets.append(request.target)
        self.lie_to_service(request)
        peer = http.client.HTTPConnection(self._peer, timeout=30)
        headers = {
            name: value
            for name, value in handler.headers.items()
            if name in ("Accept", "Authorization", "Content-Type")
        }
        method = "POST" if length else "GET"
        peer.request(method, request.target, body=request.body or None, headers=headers)
        with peer.getresponse() as response:
            if "/stream?" in request.target and response.status == HTTPStatus.OK:
                with closing(peer):
                    _pass_on(response, handler)
                return
            answer = Message(request.target, response.read(), response.status)
        peer.close()
        self.lie_to_client(answer)
        handler.send_response(answer.status)
        handler.send_header("Content-Length", str(len(answer.body)))
        handler.end_headers()
        handler.wfile.write(answer.body)


def _pass_on(response: http.client.HTTPResponse, handler: BaseHTTPRequestHandler) -> None:
    """Pass a stream on as it comes, until one of both ends it. No lie is told in it."""
    handler.close_connection = True
    with suppress(OSError):
        handler.send_response(response.status)
        handler.send_header("Connection", "close")
        handler.end_headers()
        while piece := response.read1():
            handler.wfile.write(piece)
            handler.wfile.flush()
