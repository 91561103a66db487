"""A peer that speaks HTTP badly, word for word as a test tells it.

It plays a foreign or hostile server, or a broken proxy: things that no service of ours says.
"""

import socket
import ssl
import threading
from collections.abc import Callable
from typing import Self

ACCEPT_TIMEOUT_S = 20.0
Script = Callable[["Talk"], None]


class Talk:
    """One connection: read a request, say anything."""

    def __init__(self, sock: socket.socket, peer: "Peer") -> None:
        self.sock = sock
        self._peer = peer
        self._buffer = b""

    def read_request(self) -> bytes:
        """One whole request: head and body."""
        while b"\r\n\r\n" not in self._buffer:
            self._receive()
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        while len(rest) < length:
            self._receive()
            rest = self._buffer.partition(b"\r\n\r\n")[2]
        self._buffer = rest[length:]
        request = head + b"\r\n\r\n" + rest[:length]
        self._peer.requests.append(request)
        return request

    def say(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self, status: int, body: bytes, *headers: str) -> None:
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]
        self.say("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def reset(self) -> None:
        """End the connection by RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def wait_until_client_leaves(self) -> None:
        while True:
            try:
                if not self.sock.recv(1 << 16):
                    return
            except OSError:
                return

    def _receive(self) -> None:
        data = self.sock.recv(1 << 16)
        if not data:
            raise ConnectionError("the client left")
        self._buffer += data


class Peer:
    """Plays one script for each connection; the last one again for all that follow."""

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None) -> None:
        self._scripts = scripts
        self._tls = tls
        self.requests: list[bytes] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept)

    @property
    def url(self) -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *exception: object) -> None:
        # Closing a listener does not wake the thread in accept(); shutting it down does.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for sock in self._open:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            sock.settimeout(ACCEPT_TIMEOUT_S)
            self._open.append(sock)
            thread = threading.Thread(target=self._play, args=(script, sock))
            self._threads.append(thread)
            thread.start()

    def _play(self, script: Script, sock: socket.socket) -> None:
        with sock:
            try:
                if self._tls is None:
                    script(Talk(sock, self))
                    return
                with self._tls.wrap_socket(sock, server_side=True) as secured:
                    script(Talk(secured, self))
            except OSError:
                return
