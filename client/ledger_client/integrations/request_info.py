"""What a request says of itself, as the words of `audit_context`.

source.ip, source.port   who connected; behind configured proxies what they say: see `proxies`
source.user_agent        as it was sent
context.request_id       `X-Request-ID` from a configured proxy, else a fresh UUID: a stranger
                         could give his request the id of another one
context.trace_id         of `traceparent`, whoever sent it: a trace crosses such borders
context.hidden_by        the proxy that named no address, where one did
"""

import logging
import re
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from typing import Any, Final, Generic, Self, TypedDict, TypeVar, Unpack

from ledger_client.ids import new_event_id
from ledger_client.integrations.proxies import X_FORWARDED_FOR, Endpoint, Proxies
from ledger_client.recording.arguments import Principal
from ledger_client.recording.context import AuditContext, audit_context

T = TypeVar("T")

ANONYMOUS: Final = {"type": "anonymous", "id": "anonymous"}
"""The actor of a request whose user has not logged in."""

UNKNOWN: Final = {"id": "unknown"}
"""The actor where finding out failed."""

# Printable ASCII without blanks and commas, which part two values that a server has joined.
_is_request_id = re.compile(r"[!-+\--~]{1,128}").fullmatch
_match_traceparent = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace_id>[0-9a-f]{32})-(?P<parent_id>[0-9a-f]{16})-[0-9a-f]{2}"
    r"(?P<more>-.*)?"
).fullmatch
_log = logging.getLogger("ledger_client.integrations")


class RequestSettings(TypedDict, total=False):
    """What each integration may be told of the way to the application."""

    proxies: Iterable[str]
    forwarded_header: str
    request_id_header: str


class RequestReader:
    """Reads requests, believing these proxies.

    Raises: ValueError for what is no network.
    """

    def __init__(self, **settings: Unpack[RequestSettings]) -> None:
        self._proxies: Final = Proxies(
            settings.get("proxies", ()), header=settings.get("forwarded_header", X_FORWARDED_FOR)
        )
        self._request_id_header: Final = settings.get("request_id_header", "x-request-id").lower()

    def read(self, peer: Endpoint, header: Callable[[str], Sequence[str]]) -> dict[str, Any]:
        """The words of `audit_context` for a request.

        `header` gives the values of a header by its name in lower case, in their order.
        """
        client = self._proxies.client(peer, header(self._proxies.header))
        source: dict[str, Any] = {}
        if client.endpoint.ip is not None:
            source["ip"] = client.endpoint.ip
        if client.endpoint.port is not None:
            source["port"] = client.endpoint.port
        user_agent = " ".join(header("user-agent"))
        if user_agent:
            source["user_agent"] = user_agent
        said: dict[str, Any] = {
            "source": source,
            "request_id": self._request_id(peer, header),
            "trace_id": parse_trace_id(header("traceparent")),
        }
        if client.hidden_by is not None:
            said["context"] = {"hidden_by": client.hidden_by}
        return said

    def _request_id(self, peer: Endpoint, header: Callable[[str], Sequence[str]]) -> str:
        if self._proxies.is_proxy(peer):
            values = header(self._request_id_header)
            if len(values) == 1 and _is_request_id(values[0]):
                return values[0]
        return new_event_id()


def parse_trace_id(values: Sequence[str]) -> str | None:
    """The trace id in the values of `traceparent`; None when it holds none.

    Source: W3C Trace Context §3.2: version ff and ids of zeros are none, later versions may go on.
    """
    match = _match_traceparent(values[0].strip()) if len(values) == 1 else None
    if match is None or match["version"] == "ff":
        return None
    if match["version"] == "00" and match["more"] is not None:
        return None
    if not (match["trace_id"].strip("0") and match["parent_id"].strip("0")):
        return None
    return match["trace_id"]


def actor_of(find: Callable[[], Principal | None]) -> Callable[[], Principal]:
    """The actor of a request, to be asked when something is recorded; asking never raises."""

    def ask() -> Principal:
        try:
            actor = find()
        except Exception as error:  # noqa: BLE001 - the application's code, and recording must not fail
            _log.error("actor_not_found error=%s", type(error).__name__)
            return UNKNOWN
        return ANONYMOUS if actor is None else actor

    return ask


class IterateInContext(Generic[T]):
    """Iterates with this said around each step, and not around what the caller does in between.

    A streamed body is made after the middleware has returned. No generator: the `close` of one that
    was never begun does nothing, and that of the body must be called.
    """

    def __init__(self, scope: AuditContext, items: Iterable[T]) -> None:
        self._scope: Final = scope
        self._items: Final = items
        self._iterator: Final = iter(items)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        with audit_context(**self._scope):
            return next(self._iterator)

    def close(self) -> None:
        """Close what is iterated over, if it can be closed."""
        close = getattr(self._items, "close", None)
        if close is not None:
            with audit_context(**self._scope):
                close()


class AsyncIterateInContext(Generic[T]):
    """As `IterateInContext`, for an asynchronous body."""

    def __init__(self, scope: AuditContext, items: AsyncIterable[T]) -> None:
        self._scope: Final = scope
        self._iterator: Final = aiter(items)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        with audit_context(**self._scope):
            return await anext(self._iterator)
