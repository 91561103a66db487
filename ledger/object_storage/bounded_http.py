"""HTTP requests to a store that isn't trusted: each answer has a bounded length and time.

No more of an answer is in memory than its reader allows, and some 100 KiB that wait to be read. Of
an error `ERROR_BYTES_MAX` are read, and the connection is closed. Nothing is inflated, no cookie is
kept, and the address of a redirect is checked before it is followed.

Connections stay open until the event loop ends: `asyncio.run` closes what its loop has begun.
"""

import asyncio
import io
import ssl
from collections.abc import AsyncGenerator, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import IO, Final, NamedTuple
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from ledger_client.runtime.name_lookup import make_connector
from ledger_core.tlog.errors import MalformedError, UnavailableError

CONNECT_TIMEOUT_S: Final = 5.0
ERROR_BYTES_MAX: Final = 1 << 16
READ_BYTES: Final = 1 << 16
REDIRECTS_MAX: Final = 5
SERVERS_MAX: Final = 16
"""Servers whose proxy is kept: that of the place, and those to which it redirects."""

CONTENT_STATUSES: Final = frozenset({HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT})
_REDIRECTS: Final = frozenset(
    {
        *(HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.FOUND, HTTPStatus.SEE_OTHER),
        *(HTTPStatus.TEMPORARY_REDIRECT, HTTPStatus.PERMANENT_REDIRECT),
    }
)
_UNLIMITED: Final = 0
"""Whoever asks bounds the requests that run at once."""


class Answer(NamedTuple):
    """The answer to a request: the content of an object, or the beginning of an error's text.

    `data` is empty where the content was written into a file.
    """

    status: int
    headers: Mapping[str, str]
    data: bytes


class BoundedHttp:
    """Requests to one store. Used within one event loop at a time."""

    def __init__(self, *, timeout_s: float, ca_file: str) -> None:
        """`ca_file`: certificates that the server's must be signed by, else those of the system.

        Raises: MalformedError for a file that has none.
        """
        self._timeout_s: Final = timeout_s
        try:
            self._tls: Final = ssl.create_default_context(cafile=ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise MalformedError(f"ca_file: {ca_file}: {error}") from None
        # To look at all of the environment takes longer than to sign a request.
        self._proxy_of: Final = lru_cache(SERVERS_MAX)(_proxy_of)
        self._session: aiohttp.ClientSession | None = None
        self._sessions: AsyncGenerator[aiohttp.ClientSession, None] | None = None

    async def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        bytes_max: int,
        total_s: float,
        into: IO[bytes] | None = None,
        name: str,
        follows: bool = False,
    ) -> Answer:
        """Send a request, and read at most `bytes_max` of its content, or write them into a file.

        `name`: that of the object, for messages. `total_s`: for all of it; two pieces of an answer
        may be `timeout_s` apart, if no body was sent. `follows` redirects, never from https:// to a
        host without TLS.
        Raises: MalformedError for a longer content; UnavailableError for a redirect that is not
        followed and for a file that can't be written; aiohttp.ClientError, TimeoutError, OSError.
        """
        session = await self._open()
        timeout = aiohttp.ClientTimeout(
            total=total_s,
            sock_connect=min(CONNECT_TIMEOUT_S, self._timeout_s),
            # Of a body that is sent nothing is known: buffers on the way may have taken all of it.
            sock_read=self._timeout_s if body is None else total_s,
        )
        for _ in range(REDIRECTS_MAX):
            async with session.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=None if body is None else io.BytesIO(body),
                timeout=timeout,
                allow_redirects=False,
                proxy=self._proxy_of(*urlsplit(url)[:2]),
            ) as response:
                if not follows or response.status not in _REDIRECTS:
                    data = await _read(response, name, bytes_max, into)
                    return Answer(response.status, response.headers, data)
                url = _redirected(url, response.headers.get("Location", ""))
        raise UnavailableError(f"more than {REDIRECTS_MAX} redirects")

    async def _open(self) -> aiohttp.ClientSession:
        """The session of the running loop."""
        if self._sessions is None or self._session is None or self._session.closed:
            self._sessions = self._opened()
            self._session = await anext(self._sessions)
        return self._session

    async def _opened(self) -> AsyncGenerator[aiohttp.ClientSession, None]:
        """One session. The event loop closes it at its end, as it ends all generators."""
        async with aiohttp.ClientSession(
            connector=make_connector(connections_max=_UNLIMITED, tls=self._tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Content-Type",),
            headers={"User-Agent": "witnessed-ledger", "Accept-Encoding": "identity"},
        ) as session:
            yield session


async def _read(
    response: aiohttp.ClientResponse, name: str, bytes_max: int, into: IO[bytes] | None
) -> bytes:
    """The bytes of an answer. A server may send more than the length that it gave before."""
    is_content = response.status in CONTENT_STATUSES
    length = response.content_length or 0
    if is_content and length > bytes_max:
        raise MalformedError(f"{name} has {length:,} bytes, at most {bytes_max:,} are right")
    limit = bytes_max if is_content else ERROR_BYTES_MAX
    pieces: list[bytes] = []
    while piece := await response.content.read(READ_BYTES):
        limit -= len(piece)
        if limit < 0 and is_content:
            raise MalformedError(f"{name} has more than the {bytes_max:,} bytes that are right")
        if into is not None and is_content:
            await asyncio.to_thread(write_piece, into, piece)
        else:
            pieces.append(piece)
        if limit < 0:
            response.close()
            break
    return b"".join(pieces)


def normal_url(url: str) -> str:
    """An address as servers see it, which a signature covers: its host in lower case, and encoded.

    Raises: MalformedError.
    """
    try:
        return str(URL(url)).rstrip("/")
    except ValueError as error:
        raise MalformedError(f"{url!a} is no address: {error}") from None


def write_piece(file: IO[bytes], piece: bytes) -> None:
    """Write a piece of an object. Raises: UnavailableError, for a full disk is not the store's."""
    try:
        file.write(piece)
        file.flush()
    except OSError as error:
        raise UnavailableError(f"a temporary file can't be written: {error.strerror}") from None


def _redirected(url: str, location: str) -> str:
    """The address that a redirect leads to. Raises: UnavailableError."""
    try:
        target = urljoin(url, location)
        scheme, _ = urlsplit(target).scheme, urlsplit(target).port
    except ValueError:
        scheme = ""
    if scheme not in {"https", "http"} or (scheme == "http" and url.startswith("https:")):
        raise UnavailableError("it redirects to an address without TLS, or to none")
    return target


def _proxy_of(scheme: str, server: str) -> str | None:
    """The proxy that the environment names for a server. One without a scheme speaks HTTP."""
    host = urlsplit(f"//{server}").hostname
    if not host or proxy_bypass(host) or proxy_bypass(server):
        return None
    proxy = getproxies().get(scheme)
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"
