"""Requests to an object store, by the package obstore; each error is one of ours.

No message holds the body of an answer: stores repeat parts of a request there.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from ledger.object_storage.place import REGION_DEFAULT, Place
from ledger_client.runtime.files import TEXT_BYTES_MAX, read_limited
from ledger_client.runtime.process_end import note_foreign_threads
from ledger_core.tlog.errors import MalformedError, UnavailableError

try:
    import boto3
    import obstore
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.exceptions import (
        AlreadyExistsError,
        BaseError,
        PermissionDeniedError,
        PreconditionError,
        UnauthenticatedError,
    )
    from obstore.store import HTTPStore, LocalStore, S3Store
except ModuleNotFoundError:
    raise UnavailableError(
        "an archive needs obstore and boto3: pip install 'witnessed-ledger[archive]'"
    ) from None

# Each request has threads of obstore call Python: for credentials, and with its result.
note_foreign_threads()

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import ClientConfig, RetryConfig, S3Config

T = TypeVar("T")

LISTED_AT_ONCE: Final = 1000
LISTED_MAX: Final = 1 << 18
"""Objects of one folder: those of four versions of the index of 4 billion entries."""

READ_BYTES: Final = 1 << 20
CONNECT_TIMEOUT_S: Final = 5.0
TIMEOUTS_MAX: Final = 10
"""Times `timeout_s` for an object, or the next part of a list, with all that is tried again."""

SMALL_BYTES_MAX: Final = 256 << 10
"""A larger object may take longer than `timeout_s` to send: a segment's Parquet is some MB, which
at 20 KB/s takes minutes."""

_find_status = re.compile(r"\b[45]\d\d [A-Z][A-Za-z ]{2,40}").search
_find_code = re.compile(r"<Code>(\w{1,64})</Code>").search
_KNOWN_REASONS: Final = {
    "onnection refused": "the connection is refused",
    "timed out": "it does not answer in time",
    "timeout": "it does not answer in time",
    "dns error": "its name can't be resolved",
    "certificate": "its certificate is not trusted: see ca_file",
}


class Found(NamedTuple):
    """An object: its bytes, and the tag that changes with them."""

    data: bytes
    tag: str | None


class Listed(NamedTuple):
    """The name of an object, and its length in bytes."""

    name: str
    length: int


class Bucket:
    """The objects of one archive. `requests` counts them by kind: put, get, list.

    All methods raise UnavailableError.
    """

    def __init__(self, place: Place) -> None:
        """Raises: MalformedError, UnavailableError without credentials."""
        place.check()
        self.place: Final = place
        self.requests: Final[Counter[str]] = Counter()
        timeout = timedelta(seconds=place.timeout_s)
        longest = TIMEOUTS_MAX * timeout
        self._store: Final = _open(place, {"timeout": timeout})
        # An answer is waited for while bytes of it come. Of a body that is sent nothing is known.
        self._reading: Final = _open(place, {"timeout": longest, "read_timeout": timeout})
        self._sending: Final = _open(place, {"timeout": longest})

    async def get(self, name: str, *, bytes_max: int) -> Found | None:
        """Read an object; None when there is none. Raises: MalformedError for a larger one."""
        self.requests["get"] += 1
        with self._errors(name):
            async with asyncio.timeout(TIMEOUTS_MAX * self.place.timeout_s):
                try:
                    result = await obstore.get_async(self._reading, name)
                except FileNotFoundError:
                    return None
                size = result.meta["size"]
                if size > bytes_max:
                    raise MalformedError(
                        f"{name} has {size:,} bytes, at most {bytes_max:,} are right"
                    )
                return Found(await _read(result, name, bytes_max), result.meta["e_tag"])

    async def get_range(self, name: str, *, start: int, length: int) -> bytes | None:
        """The bytes of an object from `start` on, fewer at its end; None when there is none.

        Raises: MalformedError for more of them.
        """
        self.requests["get"] += 1
        with self._errors(name):
            async with asyncio.timeout(TIMEOUTS_MAX * self.place.timeout_s):
                try:
                    result = await obstore.get_async(
                        self._reading, name, options={"range": (start, start + length)}
                    )
                except FileNotFoundError:
                    return None
                return await _read(result, name, length)

    async def create(
        self, name: str, data: bytes, *, headers: dict[str, str] | None = None
    ) -> bool:
        """Write a new object; False, with nothing changed, when there is one."""
        return await self._put(name, data, headers or {}, tag=None)

    async def replace(
        self, name: str, data: bytes, *, tag: str | None, headers: dict[str, str] | None = None
    ) -> bool:
        """Overwrite an object if it still has this tag; False if it has another one."""
        return await self._put(name, data, headers or {}, tag=tag or "")

    async def names(self, folder: str) -> AsyncIterator[str]:
        """The names of all objects below a folder. Raises: MalformedError for too many."""
        async for each in self.lengths(folder):
            yield each.name

    async def lengths(self, folder: str) -> AsyncIterator[Listed]:
        """All objects below a folder.

        Raises: MalformedError for too many, and for a list that goes on and names none.
        """
        listed = 0
        parts = aiter(obstore.list(self._store, folder, chunk_size=LISTED_AT_ONCE))
        with self._errors(folder):
            while some := await self._next_part(parts, folder):
                self.requests["list"] += 1
                listed += len(some)
                if listed > LISTED_MAX:
                    raise MalformedError(f"{folder} has more than {LISTED_MAX:,} objects")
                for each in some:
                    yield Listed(each["path"], each["size"])

    async def _next_part(self, parts: AsyncIterator[Sequence[T]], folder: str) -> Sequence[T]:
        """The next objects of a list; none at its end. The store may give any number of pages."""
        limit_s = TIMEOUTS_MAX * self.place.timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await anext(parts)
        except StopAsyncIteration:
            return ()
        except TimeoutError:
            raise MalformedError(f"{folder}: its list named nothing in {limit_s:g} s") from None

    async def _put(self, name: str, data: bytes, headers: dict[str, str], tag: str | None) -> bool:
        self.requests["put"] += 1
        store = self._store if len(data) <= SMALL_BYTES_MAX else self._sending
        with self._errors(name):
            try:
                await obstore.put_async(
                    store,
                    name,
                    data,
                    attributes=headers,
                    mode="create" if tag is None else {"e_tag": tag},
                    use_multipart=False,
                )
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                return False
        return True

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except (UnauthenticatedError, PermissionDeniedError) as error:
            raise UnavailableError(
                f"{self.place.url}/{name}: the credentials are refused: {_reason(error)}"
            ) from None
        except TimeoutError:
            text = f"{self.place.url}/{name}: it does not answer in time"
            raise UnavailableError(text) from None
        except (BaseError, OSError) as error:
            raise UnavailableError(f"{self.place.url}/{name}: {_reason(error)}") from None


async def _read(result: "GetResult", name: str, bytes_max: int) -> bytes:
    """The bytes of an answer. A server may send more than the length that it gave before.

    Raises: MalformedError for more than `bytes_max`; what the request raises.
    """
    parts: list[bytes] = []
    left = bytes_max
    async for part in result.stream(min_chunk_size=READ_BYTES):
        left -= len(part)
        if left < 0:
            raise MalformedError(f"{name} has more than the {bytes_max:,} bytes that are right")
        parts.append(bytes(part))
    return b"".join(parts)


async def all_at_once(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all at once; after the first error, which this raises, the others are ended."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


def _open(place: Place, timeouts: "ClientConfig") -> S3Store | HTTPStore | LocalStore:
    client: ClientConfig = {
        **timeouts,
        "connect_timeout": timedelta(seconds=min(CONNECT_TIMEOUT_S, place.timeout_s)),
        # The library follows redirects: none leads from https:// to a host that has http:// alone,
        # such as one of this network. `Place.check` says where http:// may be.
        "allow_http": (place.endpoint or place.url).startswith("http:"),
    }
    if place.ca_file:
        client["root_certificate"] = read_limited(Path(place.ca_file), TEXT_BYTES_MAX)
    retry_timeout = timedelta(seconds=place.timeout_s)
    retry: RetryConfig = {"max_retries": 3, "retry_timeout": retry_timeout}
    if place.is_s3:
        return _open_s3(place, client, retry)
    if place.url.startswith("file:"):
        folder = Path(unquote(urlsplit(place.url).path))
        if not folder.is_dir():
            raise UnavailableError(f"there is no folder {folder}")
        return LocalStore(folder)
    return HTTPStore.from_url(place.url, client_options=client, retry_config=retry)


def _open_s3(place: Place, client: "ClientConfig", retry: "RetryConfig") -> S3Store:
    session = boto3.Session()
    config: S3Config = {
        "region": place.region or session.region_name or REGION_DEFAULT,
        # S3 takes no object without a checksum where a default retention locks it.
        "checksum_algorithm": "SHA256",
    }
    if place.endpoint:
        # This one: a variable of the environment, AWS_ENDPOINT_URL_S3, comes before `endpoint`.
        config["aws_endpoint_url_s3"] = place.endpoint
    provider = None
    if place.anonymous:
        config["skip_signature"] = True
    else:
        try:
            provider = Boto3CredentialProvider(session)
        except ValueError:
            raise UnavailableError(
                f"{place.url}: there are no credentials: set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or what else the AWS tools read"
            ) from None
    return S3Store(
        place.bucket,
        prefix=place.prefix or None,
        config=config,
        client_options=client,
        retry_config=retry,
        credential_provider=provider,
    )


def _reason(error: Exception) -> str:
    """The reason of an error, in our own words."""
    text = str(error)
    status, code = _find_status(text), _find_code(text)
    if status is not None or code is not None:
        answers = [status[0].strip()] if status else []
        return f"the store answers {' '.join([*answers, *([code[1]] if code else [])])}"
    for known, reason in _KNOWN_REASONS.items():
        if known in text:
            return reason
    return f"the request failed ({type(error).__name__})"
