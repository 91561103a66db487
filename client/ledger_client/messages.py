"""An HTTP request and its response as values, and the plans that are made of them.

A `Plan` is a protocol without I/O: a generator that yields the next `Request`, is sent the
`Response`, and returns its result. Both clients and the monitor run the same plans, over
sockets or aiohttp, so requests and the checks of their answers are written once.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final, Literal, TypeVar
from urllib.parse import urlsplit

ANSWER_BYTES_MAX = 4 * 1024 * 1024
"""The longest body that is read: one event and its proof, with escapes and many signatures."""

STREAM_SILENCE_S = 60.0
"""The longest pause within a stream: twice the longest heartbeat of the service."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request to the ledger; `target` is path and query below its base address."""

    target: str
    method: Literal["GET", "POST", "DELETE"] = "GET"
    accept: str = "application/json"
    content_type: str | None = None
    body: bytes | None = None
    answer_bytes_max: int = ANSWER_BYTES_MAX
    unless: Callable[[], bool] | None = field(default=None, compare=False)
    """For a question that many threads have at once. A client sends one such request at a time,
    and answers `NOT_SENT` when this is true by then."""

    @property
    def name(self) -> str:
        """Method and path, as messages name the request."""
        return f"{self.method} {self.target.partition('?')[0]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A whole response; its body has at most the request's `answer_bytes_max` bytes."""

    status: int
    body: bytes
    retry_after: str | None = None


NOT_SENT: Final = Response(status=-1, body=b"")
"""The answer to a request whose `unless` was true. No server can send a status below zero."""

Plan = Generator[Request, Response, T]
"""Yields requests, is sent their responses, and returns its result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Address, time-out and token of a ledger. The token is in no repr and no message."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    path: str
    timeout_s: float
    token: str | None = field(repr=False)

    def headers(self, request: Request) -> dict[str, str]:
        """The headers of a request, without Host and Content-Length."""
        headers = {
            "Accept": request.accept,
            # A compressed answer can be small on the wire and huge in memory.
            "Accept-Encoding": "identity",
            "User-Agent": "witnessed-ledger-client",
        }
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        if request.content_type is not None:
            headers["Content-Type"] = request.content_type
        return headers

    @property
    def address(self) -> str:
        """Scheme, host and port, as messages name the peer."""
        return f"{self.scheme}://{self._bracketed_host}:{self.port}"

    @property
    def authority(self) -> str:
        """The header Host: the port is left out where the scheme says it."""
        if self.port == (443 if self.scheme == "https" else 80):
            return self._bracketed_host
        return f"{self._bracketed_host}:{self.port}"

    @property
    def _bracketed_host(self) -> str:
        host = self.host if self.host.isascii() else self.host.encode("idna").decode()
        return f"[{host}]" if ":" in host else host


def parse_endpoint(
    url: str, *, token: str | None, timeout_s: float, insecure: bool = False
) -> Endpoint:
    """The endpoint at an address such as `https://ledger.example.com` or `http://h:8765/audit`.

    Raises: ValueError for an address with another scheme, no host, credentials, a query or a
    fragment; for a token that can't stand in a header; for a token over plain HTTP to another host,
    unless `insecure`; for a time-out that isn't positive.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the ledger's address must begin with http:// or https:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the ledger's address must hold no credentials: pass the token as token=")
    if parts.query or parts.fragment:
        raise ValueError("the ledger's address must have neither query nor fragment")
    if not parts.path.isascii() or not parts.path.isprintable() or " " in parts.path:
        raise ValueError("the path of the ledger's address must be ASCII, percent-encoded")
    if token is not None and not (token and token.isascii() and token.isprintable()):
        raise ValueError("the token must be printable ASCII without line breaks")
    if token is not None and not insecure and parts.scheme == "http":
        check_loopback(parts.hostname, option="insecure=True")
    if not timeout_s > 0:
        raise ValueError(f"the time-out must be positive, got {timeout_s}")
    https = parts.scheme == "https"
    return Endpoint(
        scheme="https" if https else "http",
        host=parts.hostname,
        port=parts.port or (443 if https else 80),
        path=parts.path.rstrip("/"),
        timeout_s=timeout_s,
        token=token,
    )


def check_loopback(host: str, *, option: str) -> None:
    """Refuse to send a token over plain HTTP to another host. Raises: ValueError."""
    try:
        is_loopback = ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost"
    if not is_loopback:
        raise ValueError(
            f"over http:// everybody on the way to {host} can read the token: "
            f"use https://, or {option}"
        )
