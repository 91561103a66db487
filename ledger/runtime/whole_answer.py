"""Answers that are whole before their first byte is written, as nearly all are.

aiohttp prepares, writes and ends an answer in steps, each of which may wait. Head and body of a
`WholeAnswer` are one text instead, in a third of the time. What needs aiohttp's rules, such as an
answer to HEAD or the last one of a connection, is written by aiohttp.
"""

import re
from collections.abc import Hashable, Mapping
from email.utils import formatdate
from functools import lru_cache
from time import time
from typing import Final

from aiohttp import web
from aiohttp.http import HttpVersion11

_METHODS: Final = frozenset({"GET", "POST", "DELETE"})
_EMPTY: Final = frozenset({204, 205, 304})
"""Statuses whose answers have no body."""

_HEADS: Final[dict[Hashable, bytes]] = {}
"""By the kind of an answer. Kinds are made of what stands in code: there are a few dozens."""

_is_safe = re.compile(r"[^\x00-\x1f\x7f]*").fullmatch


class WholeAnswer(web.Response):
    """An answer with all of its body. Its headers may be added to, and not be changed otherwise."""

    def __init__(
        self,
        body: bytes,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        kind: Hashable = None,
    ) -> None:
        """Answers of one `kind` have the same status and headers, so their head is written once."""
        super().__init__(body=body, status=status, headers=headers)
        self._kind = kind
        self._count = len(self.headers)

    def take_bytes(self, request: web.BaseRequest) -> bytes | None:
        """Head and body, after which the connection goes on; None for an answer of aiohttp's.

        The caller writes them: the answer counts as written.
        """
        body = self.body
        if (
            self.prepared
            or self.keep_alive is not None
            or self.compression
            or type(body) is not bytes
            or self.status in _EMPTY
            or request.method not in _METHODS
            or request.version != HttpVersion11
            or not request.keep_alive
        ):
            return None
        self._keep_alive = True
        head = _HEADS.get(self._kind) if len(self.headers) == self._count else None
        if head is None:
            head = _format_head(self.status, self.reason, tuple(self.headers.items()))
            if self._kind is not None and len(self.headers) == self._count:
                _HEADS[self._kind] = head
        date = _format_date(int(time()))
        return b"%bContent-Length: %d\r\nDate: %b\r\n\r\n%b" % (head, len(body), date, body)


# Most answers have one of a few heads.
@lru_cache(maxsize=256)
def _format_head(status: int, reason: str, fields: tuple[tuple[str, str], ...]) -> bytes:
    """The head without length and date. Raises: ValueError for one that would be two."""
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in fields)]
    if not all(map(_is_safe, lines)):
        raise ValueError("a header has a control character")
    return "\r\n".join([*lines, ""]).encode()


@lru_cache(maxsize=2)
def _format_date(unix_s: int) -> bytes:
    return formatdate(unix_s, usegmt=True).encode()
