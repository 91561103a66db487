"""Something between the recorder and a good ledger: it hands requests on, or answers itself."""

import socket
from collections.abc import Callable
from typing import Final

from tests.client.peer import Script, Talk

RESET: Final = 0
"""The status by which an answer is a reset of the connection."""


def relay(url: str, answer: Callable[[bytes], tuple[int, bytes] | None]) -> Script:
    """Hand each request on to `url` for which `answer` gives no status and body of its own."""
    host, _, port = url.removeprefix("http://").partition(":")

    def script(talk: Talk) -> None:
        with socket.create_connection((host, int(port))) as upstream:
            while True:
                request = talk.read_request()
                own = answer(request)
                if own is not None and own[0] == RESET:
                    talk.reset()
                    return
                if own is not None:
                    talk.answer(*own)
                    continue
                upstream.sendall(request)
                talk.say(_read_answer(upstream))

    return script


def _read_answer(upstream: socket.socket) -> bytes:
    answer = b""
    while True:
        answer += upstream.recv(1 << 16)
        head, end, body = answer.partition(b"\r\n\r\n")
        if end:
            length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
            if len(body) >= int(length):
                return answer
