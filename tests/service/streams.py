"""Reading an answer that has no end, line by line."""

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.service.serving import ANSWER_WAIT_S, Ledger


@contextmanager
def lines_of(
    ledger: Ledger, target: str, *, token: str = "admin", **headers: str
) -> Iterator[Iterator[str]]:
    """The lines of a stream, as they come; it ends when the service ends it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named["Authorization"] = f"Bearer {ledger.tokens[token]}"
    connection = http.client.HTTPConnection(urlsplit(ledger.url).netloc, timeout=ANSWER_WAIT_S)
    try:
        connection.request("GET", target, headers=named)
        response = connection.getresponse()
        assert response.status == 200, response.read()
        yield (line.decode() for line in iter(response.readline, b""))
    finally:
        connection.close()
