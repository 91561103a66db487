"""The objects of one archive: reads, conditional writes and lists; each error is one of ours.

No message holds the body of an answer: stores repeat parts of a request there.
"""

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from itertools import count, islice
from pathlib import Path
from typing import IO, Any, Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import aiohttp

from ledger.object_storage.bounded_http import (
    CONTENT_STATUSES,
    ERROR_BYTES_MAX,
    Answer,
    BoundedHttp,
    normal_url,
)
from ledger.object_storage.folder_objects import list_objects, read_object
from ledger.object_storage.place import Place
from ledger.object_storage.s3_requests import (
    LIST_BYTES_MAX,
    Listed,
    ListPage,
    S3Address,
    error_code,
    parse_list,
)
from ledger.runtime.network_errors import explain_network_error
from ledger_client.runtime.backoff import exponential_s, spread
from ledger_core.tlog.errors import MalformedError, UnavailableError

LISTED_MAX: Final = 1 << 18
"""Objects of one folder: those of four versions of the index of 4 billion entries."""

TIMEOUTS_MAX: Final = 10
"""Times `timeout_s` for an object, or the next part of a list, with all that is tried again."""

SMALL_BYTES_MAX: Final = 256 << 10
"""A larger object may take longer than `timeout_s` to send: a segment's Parquet is some MB, which
at 20 KB/s takes minutes."""

TRIES_MAX: Final = 4
RETRY_BASE_S: Final = 0.1
RETRY_MAX_S: Final = 2.0
RETRIED_STATUSES: Final = frozenset({408, 429, 500, 502, 503, 504})
REFUSED_STATUSES: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
EXISTS_STATUSES: Final = frozenset({HTTPStatus.PRECONDITION_FAILED, HTTPStatus.CONFLICT})
"""Conflict: another request writes the object at this moment."""

_is_region: Final = re.compile(r"[a-z0-9-]{1,32}").fullmatch


class Found(NamedTuple):
    """An object: its bytes, and the tag that changes with them."""

    data: bytes
    tag: str | None


class Bucket:
    """The objects of one archive, within one event loop. `requests` counts put, get and list.

    All methods raise UnavailableError.
    """

    def __init__(self, place: Place) -> None:
        """Raises: MalformedError, UnavailableError without credentials."""
        place.check()
        self.place: Final = place
        self.requests: Final[Counter[str]] = Counter()
        self._s3: Final = S3Address(place) if place.is_s3 else None
        self._folder: Final = _folder_of(place)
        self._http: Final = BoundedHttp(timeout_s=place.timeout_s, ca_file=place.ca_file)
        self._longest_s: Final = TIMEOUTS_MAX * place.timeout_s

    async def get(self, name: str, *, bytes_max: int) -> Found | None:
        """Read an object; None when there is none. Raises: MalformedError for a larger one."""
        return await self._get(name, bytes_max=bytes_max)

    async def get_into(self, file: IO[bytes], name: str, *, bytes_max: int) -> bool:
        """Write an object into an empty file; False when there is none. Raises: as `get`, OSError.

        A piece of it is in memory.
        """
        return await self._get(name, bytes_max=bytes_max, into=file) is not None

    async def get_range(self, name: str, *, start: int, length: int) -> bytes | None:
        """The bytes of an object from `start` on, fewer at its end; None when there is none.

        Raises: MalformedError for more of them.
        """
        found = await self._get(name, start=start, bytes_max=length)
        return None if found is None else found.data

    async def create(
        self, name: str, data: bytes, *, headers: dict[str, str] | None = None
    ) -> bool:
        """Write a new object; False, with nothing changed, when there is one."""
        return await self._put(name, data, {**(headers or {}), "If-None-Match": "*"})

    async def replace(
        self, name: str, data: bytes, *, tag: str | None, headers: dict[str, str] | None = None
    ) -> bool:
        """Overwrite an object if it still has this tag; False if it has another one."""
        return await self._put(name, data, {**(headers or {}), "If-Match": tag or '""'})

    async def names(self, folder: str) -> AsyncIterator[str]:
        """The names of all objects below a folder. Raises: MalformedError for too many."""
        async for each in self.lengths(folder):
            yield each.name

    async def lengths(self, folder: str) -> AsyncIterator[Listed]:
        """All objects below a folder.

        Raises: MalformedError for too many, and for a list that goes on and names none.
        """
        listed, token = 0, ""
        while True:
            page = await self._next_page(folder, token)
            listed += len(page.objects)
            if listed > LISTED_MAX:
                raise MalformedError(f"{folder} has more than {LISTED_MAX:,} objects")
            for each in page.objects:
                yield each
            if not (token := page.token):
                return

    async def _next_page(self, folder: str, token: str) -> ListPage:
        """The next page that names objects, or the last one. The store may give any number."""
        try:
            async with asyncio.timeout(self._longest_s):
                while True:
                    page = await self._page(folder, token)
                    if page.objects or not page.token:
                        return page
                    token = page.token
        except TimeoutError:
            raise MalformedError(
                f"{folder}: its list named nothing in {self._longest_s:g} s"
            ) from None

    async def _page(self, folder: str, token: str) -> ListPage:
        self.requests["list"] += 1
        with self._errors(folder):
            if self._folder is not None:
                return ListPage(await asyncio.to_thread(_list_folder, self._folder, folder), "")
            if self._s3 is None:
                raise UnavailableError(f"{self.place.url}: nothing lists objects over https://")
            answer = await self._ask(
                "GET",
                self._s3.list_url(folder, token),
                {},
                name=folder,
                bytes_max=LIST_BYTES_MAX,
                total_s=self.place.timeout_s,
            )
            self._check(answer, folder)
            try:
                return self._s3.relative(parse_list(answer.data))
            except MalformedError as error:
                raise MalformedError(f"{folder}: {error}") from None

    async def _get(
        self, name: str, *, start: int | None = None, bytes_max: int, into: IO[bytes] | None = None
    ) -> Found | None:
        """An object, or `bytes_max` bytes of it from `start` on."""
        self.requests["get"] += 1
        with self._errors(name):
            if self._folder is not None:
                return await self._get_local(self._folder, name, start, bytes_max, into)
            headers = {} if start is None else {"Range": f"bytes={start}-{start + bytes_max - 1}"}
            answer = await self._ask(
                "GET",
                self._url(name),
                headers,
                name=name,
                bytes_max=bytes_max,
                total_s=self._longest_s,
                into=into,
            )
            if answer.status == HTTPStatus.NOT_FOUND:
                return None
            self._check(answer, name)
            if start is not None and answer.status != HTTPStatus.PARTIAL_CONTENT:
                raise UnavailableError(f"{self.place.url}/{name}: the store sends no ranges")
            return Found(answer.data, answer.headers.get("ETag"))

    async def _get_local(
        self, folder: Path, name: str, start: int | None, bytes_max: int, into: IO[bytes] | None
    ) -> Found | None:
        async with asyncio.timeout(self._longest_s):
            data = await asyncio.to_thread(
                read_object, folder, name, start=start or 0, bytes_max=bytes_max, into=into
            )
        if data is None:
            return None
        if (len(data) if into is None else into.tell()) > bytes_max and start is None:
            raise MalformedError(f"{name} has more than the {bytes_max:,} bytes that are right")
        return Found(data[:bytes_max], None)

    async def _put(self, name: str, data: bytes, headers: dict[str, str]) -> bool:
        self.requests["put"] += 1
        is_small = len(data) <= SMALL_BYTES_MAX
        with self._errors(name):
            answer = await self._ask(
                "PUT",
                self._url(name),
                headers,
                name=name,
                body=data,
                bytes_max=ERROR_BYTES_MAX,
                total_s=self.place.timeout_s if is_small else self._longest_s,
            )
            is_gone = answer.status == HTTPStatus.NOT_FOUND and "If-Match" in headers
            if answer.status in EXISTS_STATUSES or is_gone:
                return False
            self._check(answer, name)
        return True

    async def _ask(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        *,
        name: str,
        body: bytes | None = None,
        bytes_max: int,
        total_s: float,
        into: IO[bytes] | None = None,
    ) -> Answer:
        """Send a request, again after a failure that may pass."""
        end_s = time.monotonic() + self.place.timeout_s
        attempt = 0

        def is_last() -> bool:
            return attempt == TRIES_MAX or time.monotonic() >= end_s

        for attempt in count(1):
            signed = await self._signed(method, url, headers, body)
            try:
                answer = await self._http.ask(
                    method,
                    url,
                    headers=signed,
                    body=body,
                    bytes_max=bytes_max,
                    total_s=total_s,
                    into=into,
                    name=name,
                    follows=self._s3 is None,
                )
                if answer.status not in RETRIED_STATUSES or is_last():
                    return answer
            except (aiohttp.ClientError, OSError):  # Also one that took too long to connect.
                if is_last():
                    raise
            if into is not None:
                into.seek(0)
                into.truncate()
            delay_s = exponential_s(attempt, base_s=RETRY_BASE_S, limit_s=RETRY_MAX_S)
            await asyncio.sleep(spread(delay_s, random.random()))  # noqa: S311 - no secret
        raise AssertionError

    async def _signed(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None
    ) -> dict[str, str]:
        """The headers of a request with its signature, made beside the loop where it takes long."""
        s3 = self._s3
        if s3 is None:
            return headers
        if len(body or b"") <= SMALL_BYTES_MAX and not s3.may_wait:
            return s3.sign(method, url, headers, body)
        return await asyncio.to_thread(s3.sign, method, url, headers, body)

    def _url(self, name: str) -> str:
        if self._s3 is not None:
            return self._s3.object_url(name)
        return f"{normal_url(self.place.url)}/{quote(name)}"

    def _check(self, answer: Answer, name: str) -> None:
        """Raises: UnavailableError for an error of the store, in our own words."""
        if answer.status in CONTENT_STATUSES:
            return
        code = error_code(answer.data)
        words = filter(None, [str(answer.status), _phrase(answer.status), code])
        said = f"the store answers {' '.join(words)}"
        region = answer.headers.get("x-amz-bucket-region", "")
        if code == "RequestTimeTooSkewed":
            said = f"the clock of this host, or that of the store, is wrong: {said}"
        elif self._s3 is not None and _is_region(region) and region != self._s3.region:
            said = f"the bucket is in the region {region}, not in {self._s3.region}: {said}"
        elif answer.status in REFUSED_STATUSES:
            said = f"the credentials are refused: {said}"
        raise UnavailableError(f"{self.place.url}/{name}: {said}")

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            text = f"{self.place.url}/{name}: it does not answer in time"
            raise UnavailableError(text) from None
        except aiohttp.ClientConnectorCertificateError:
            text = f"{self.place.url}/{name}: its certificate is not trusted: see ca_file"
            raise UnavailableError(text) from None
        except aiohttp.ClientHttpProxyError as error:
            text = f"{self.place.url}/{name}: the proxy answers {error.status}"
            raise UnavailableError(text) from None
        except (aiohttp.ClientError, OSError) as error:
            reason = explain_network_error(error)
            if isinstance(error, aiohttp.ClientProxyConnectionError):
                reason = f"the proxy: {reason}"
            raise UnavailableError(f"{self.place.url}/{name}: {reason}") from None


async def all_at_once(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all at once; after the first error, which this raises, the others are ended."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


def _folder_of(place: Place) -> Path | None:
    """The folder of a copy. Raises: UnavailableError when there is none."""
    if not place.url.startswith("file:"):
        return None
    folder = Path(unquote(urlsplit(place.url).path))
    if not folder.is_dir():
        raise UnavailableError(f"there is no folder {folder}")
    return folder


def _list_folder(folder: Path, below: str) -> Sequence[Listed]:
    """The files below a folder, one more than are right at most."""
    return list(islice(list_objects(folder, below), LISTED_MAX + 1))


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
