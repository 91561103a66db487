"""Requests over aiohttp. The rules are those of `transport`.

This module and `name_lookup`, which it needs, alone import aiohttp.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from io import BytesIO
from typing import Final

import aiohttp
from yarl import URL

from ledger_client.messages import STREAM_SILENCE_S, Endpoint, Request, Response
from ledger_client.responses import GOOD_STATUSES, check_status, untrusted_certificate
from ledger_client.runtime.name_lookup import make_connector
from ledger_core.tlog.errors import MalformedError, UnavailableError

Send = Callable[[Request], Awaitable[Response]]
Sleep = Callable[[float], Awaitable[None]]

sleep: Final[Sleep] = asyncio.sleep
run_blocking: Final = asyncio.to_thread

_STALE_CONNECTION = (
    aiohttp.ServerDisconnectedError,
    aiohttp.ClientOSError,
    aiohttp.ClientResponseError,  # As for what isn't HTTP: the rest of an earlier answer.
)


class AsyncTransport:
    """Sends requests to one endpoint, within one event loop; `close()` ends it."""

    def __init__(self, endpoint: Endpoint, *, tls: ssl.SSLContext | None = None) -> None:
        """`tls` replaces the default context, which trusts the system's authorities."""
        self._endpoint: Final = endpoint
        if tls is None and endpoint.scheme == "https":
            tls = ssl.create_default_context()
        self._tls: Final = tls
        self._session: aiohttp.ClientSession | None = None  # Made by the first request's loop.
        self._closed = False

    async def send(self, request: Request) -> Response:
        """The answer to one request, whatever its status. Raises: what `Transport.send` does."""
        with self._translating_errors(self._endpoint.timeout_s):
            try:
                return await self._exchange(request)
            except aiohttp.ClientConnectorError:
                raise
            except _STALE_CONNECTION:
                # aiohttp doesn't say whether this was a kept connection; most likely it was.
                return await self._exchange(request)

    async def stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        """The body of a good answer, piece by piece. Bounds and errors: as `Transport.stream`."""
        timeout = aiohttp.ClientTimeout(
            total=None, connect=self._endpoint.timeout_s, sock_read=STREAM_SILENCE_S
        )
        with self._translating_errors(STREAM_SILENCE_S):
            async with self._start(request, timeout=timeout) as answer:
                if answer.status not in GOOD_STATUSES:
                    check_status(request, await _read_response(answer, request))
                async for piece in answer.content.iter_any():
                    yield piece

    @contextmanager
    def _translating_errors(self, wait_s: float) -> Iterator[None]:
        endpoint = self._endpoint
        try:
            yield
        except aiohttp.ClientConnectorCertificateError as error:
            reason = str(error.certificate_error)
            raise untrusted_certificate(endpoint.address, reason) from error
        except TimeoutError as error:
            raise UnavailableError(f"no answer from {endpoint.address} in {wait_s:g} s") from error
        except (aiohttp.ClientResponseError, aiohttp.ClientPayloadError) as error:
            raise UnavailableError(
                f"{endpoint.address} answered with something that is not HTTP, or half of it:"
                f" {type(error).__name__}"
            ) from error
        except aiohttp.ClientError as error:
            raise UnavailableError(f"no connection to {endpoint.address}: {error}") from error

    async def close(self) -> None:
        """Close every connection."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _exchange(self, request: Request) -> Response:
        async with self._start(request) as answer:
            return await _read_response(answer, request)

    def _start(
        self, request: Request, *, timeout: aiohttp.ClientTimeout | None = None
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        endpoint = self._endpoint
        return self._open().request(
            request.method,
            URL(endpoint.address + endpoint.path + request.target, encoded=True),
            # Given as bytes, a body of megabytes would be one write that holds the loop.
            data=None if request.body is None else BytesIO(request.body),
            headers=endpoint.headers(request),
            ssl=True if self._tls is None else self._tls,
            allow_redirects=False,
            timeout=timeout or aiohttp.ClientTimeout(total=endpoint.timeout_s),
        )

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ValueError("the client is closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=make_connector(),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session


async def _read_response(answer: aiohttp.ClientResponse, request: Request) -> Response:
    body = await _read_body(answer, bytes_max=request.answer_bytes_max)
    return Response(status=answer.status, body=body, retry_after=answer.headers.get("Retry-After"))


async def _read_body(answer: aiohttp.ClientResponse, *, bytes_max: int) -> bytes:
    """The whole body. Raises: MalformedError for more than `bytes_max` bytes."""
    parts = []
    bytes_read = 0
    async for part in answer.content.iter_any():
        bytes_read += len(part)
        if bytes_read > bytes_max:
            answer.close()
            raise MalformedError(f"answer too long: got more than {bytes_max} bytes")
        parts.append(part)
    return b"".join(parts)
