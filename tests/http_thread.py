"""An HTTP server on a thread of the test's process."""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class QuietHandler(BaseHTTPRequestHandler):
    """Speaks HTTP/1.1, and prints nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments: object) -> None:
        """Print nothing."""


class _Server(ThreadingHTTPServer):
    """Prints nothing of a peer that has gone."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what else went wrong."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class HttpThread:
    """Serves a handler while a block runs, at `url`. Port 0 is a free one."""

    def __init__(
        self, handler: type[BaseHTTPRequestHandler], *, address: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._server = _Server((address, port), handler)
        self.url = f"http://{address}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def read_body(handler: BaseHTTPRequestHandler) -> bytes:
    """The body of a request. Raises: ConnectionError for one that was cut off, as servers do."""
    length = int(handler.headers.get("Content-Length", 0))
    body = handler.rfile.read(length)
    if len(body) < length:
        handler.close_connection = True
        raise ConnectionAbortedError
    return body
