"""Answers of the small services, a witness and a mirror of logs: short texts, as values."""

import math
from http import HTTPStatus
from typing import Final, NamedTuple

from aiohttp import web

from ledger_core.tlog.errors import UnavailableError

TEXT: Final = "text/plain; charset=utf-8"
HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
    "Server": "witnessed-ledger",
}
"""Headers of every answer."""


class Answer(NamedTuple):
    """A status of HTTP, a body, and its type. `content_policy`: for a page that browsers show."""

    status: int
    body: str
    content_type: str = TEXT
    retry_after_s: int | None = None
    content_policy: str = ""

    def headers(self) -> dict[str, str]:
        """The headers of this answer."""
        headers = {**HEADERS, "Content-Type": self.content_type}
        if self.content_policy:
            headers["Content-Security-Policy"] = self.content_policy
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        return headers

    def response(self) -> web.Response:
        """This answer over HTTP/1.1."""
        return web.Response(status=self.status, body=self.body.encode(), headers=self.headers())


def text_answer(status: int, text: str, *, retry_after_s: int | None = None) -> Answer:
    """An answer of one line. An empty text is an empty body."""
    return Answer(status, f"{text}\n" if text else "", retry_after_s=retry_after_s)


def unavailable_answer(error: UnavailableError) -> Answer:
    """The answer to a request that can't be done now, with the wait that the error names."""
    wait_s = None if error.retry_after_s is None else math.ceil(error.retry_after_s)
    return text_answer(HTTPStatus.SERVICE_UNAVAILABLE, str(error), retry_after_s=wait_s)


def health_answer(failure: Exception | None) -> Answer:
    """The answer of `/healthz`: 200, or 503 with the failure."""
    if failure is not None:
        return text_answer(HTTPStatus.SERVICE_UNAVAILABLE, str(failure))
    return text_answer(HTTPStatus.OK, "ok")
