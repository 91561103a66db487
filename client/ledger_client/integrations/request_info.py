"""A request as the arguments of `audit_context`.

source.ip, source.port   the connection; behind configured proxies, what they report: see `proxies`
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

from ledger_client.event_values import new_event_id
from ledger_client.integrations.proxies import NOWHERE, X_FORWARDED_FOR, Endpoint, Proxies
from ledger_client.integrations.views import LOGIN_PATHS, login_check
from ledger_client.recording.arguments import Principal
from ledger_client.recording.context import ANONYMOUS_TYPE, AuditContext, restored
from ledger_client.runtime.trace_context import parse_trace_id

T = TypeVar("T")

ANONYMOUS: Final = {"type": ANONYMOUS_TYPE, "id": "anonymous"}
"""The actor of a request whose user has not logged in."""

UNKNOWN: Final = {"id": "unknown"}
"""The actor of a request whose user could not be found out, because of an exception."""

# Printable ASCII without blanks and commas, which separate values that a server has joined.
_is_request_id = re.compile(r"[!-+\--~]{1,128}").fullmatch
_log = logging.getLogger("ledger_client.integrations")


class RequestSettings(TypedDict, total=False):
    """The settings of each integration: the proxies before the application, its login pages.

    `drops_underscores`: the proxies pass on no header name with an underscore; see `proxies`.
    """

    proxies: Iterable[str]
    forwarded_header: str
    request_id_header: str
    login_paths: Iterable[str]
    drops_underscores: bool


class RequestReader:
    """Reads requests, trusting these proxies.

    Raises: ValueError for a proxy that is no network.
    """

    def __init__(self, **settings: Unpack[RequestSettings]) -> None:
        self._proxies: Final = Proxies(
            settings.get("proxies", ()), header=settings.get("forwarded_header", X_FORWARDED_FOR)
        )
        self._request_id_header: Final = settings.get("request_id_header", "x-request-id").lower()
        self.drops_underscores: Final = settings.get("drops_underscores", False)
        self.is_login: Final = login_check(settings.get("login_paths", LOGIN_PATHS))

    def read(self, peer: Endpoint | None, header: Callable[[str], Sequence[str]]) -> dict[str, Any]:
        """Read the arguments of `audit_context` from a request; None is a peer without address.

        `header` gives the values of a header by its name in lower case, in their order.
        """
        peer = peer or NOWHERE
        values = header(self._proxies.header) if self._proxies.is_proxy(peer) else ()
        client = self._proxies.client(peer, values)
        source = {
            "ip": client.endpoint.ip,
            "port": client.endpoint.port,
            "user_agent": " ".join(header("user-agent")) or None,
        }
        return {
            "source": {name: value for name, value in source.items() if value is not None},
            "request_id": self._request_id(peer, header),
            "trace_id": parse_trace_id(header("traceparent")),
            "context": client.hidden_by and {"hidden_by": client.hidden_by},
        }

    def _request_id(self, peer: Endpoint, header: Callable[[str], Sequence[str]]) -> str:
        if self._proxies.is_proxy(peer):
            values = header(self._request_id_header)
            if len(values) == 1 and _is_request_id(values[0]):
                return values[0]
        return new_event_id()


class actor_of:  # noqa: N801 - called as a function
    """Wraps a function that finds the user of a request, so that it never raises."""

    __slots__ = ("quietly",)

    def __init__(self, find: Callable[[], Principal | None]) -> None:
        self.quietly: Final = find
        """The function itself, for who asks before anybody need be known."""

    def __call__(self) -> Principal:
        """Who it is; somebody for each request."""
        try:
            found = self.quietly()
        except Exception as error:  # noqa: BLE001 - the application's code, and recording must not fail
            _log.error("actor_not_found error=%s", type(error).__name__)
            return UNKNOWN
        return ANONYMOUS if found is None else found


class IterateInContext(Generic[T]):
    """Iterates with the audit context active during each `next()`, and not between them.

    A streamed body is made after the middleware has returned. This is no generator, because `close`
    of a generator that never began does nothing, and `close` of the body must be called.
    """

    def __init__(self, scope: AuditContext, items: Iterable[T]) -> None:
        self._scope: Final = scope
        self._items: Final = items
        self._iterator: Final = iter(items)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        with restored(self._scope):
            return next(self._iterator)

    def close(self) -> None:
        """Close the body, if it can be closed."""
        close = getattr(self._items, "close", None)
        if close is not None:
            with restored(self._scope):
                close()


class AsyncIterateInContext(Generic[T]):
    """As `IterateInContext`, for an asynchronous body."""

    def __init__(self, scope: AuditContext, items: AsyncIterable[T]) -> None:
        self._scope: Final = scope
        self._iterator: Final = aiter(items)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        with restored(self._scope):
            return await anext(self._iterator)
