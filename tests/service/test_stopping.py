"""A request whose body is still on its way when the service stops."""

import json
import socket
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from tests.service.serving import event, serving_new


def is_listening(address: tuple[str, int]) -> bool:
    with suppress(OSError), socket.create_connection(address, timeout=60):
        return True
    return False


def test_a_stop_waits_for_the_rest_of_a_body_and_answers(tmp_path: Path) -> None:
    answers: list[bytes] = []
    body = json.dumps(event()).encode()
    with serving_new(tmp_path) as ledger:
        url = urlsplit(ledger.url)
        address = str(url.hostname), int(url.port or 0)
        held = socket.create_connection(address, timeout=60)
        head = (
            f"POST /v1/events HTTP/1.1\r\nHost: {url.netloc}\r\nExpect: 100-continue\r\n"
            f"Authorization: Bearer {ledger.tokens['append']}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        held.sendall(head.encode())
        assert b" 100 " in held.recv(1000)

        def finish() -> None:
            while is_listening(address):
                pass
            held.sendall(body)
            answers.append(held.recv(1000))

        finishing = threading.Thread(target=finish)
        finishing.start()
    finishing.join()
    held.close()
    (answer,) = answers
    assert answer.startswith(b"HTTP/1.1 200 ")
