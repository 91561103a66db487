"""Cursors: where the next page begins, as a text that the client hands back.

    base64url of   u8 version ‖ u8 order ‖ u64 tree size ‖ u64 position ‖ u64 now
                   ‖ the first 16 bytes of the SHA-256 of these, the tenant and the query

Pinned to a tree size: what is appended in between is in none of the later pages, so that nothing
comes twice and nothing is missed. `now` is when the first page was asked for, so that `-24h` means
the same on every page. Nothing is kept on the server, and a restart changes nothing.

The hash ties a cursor to its query; it is no secret and no permission. Whoever forges one gets
another page of a query that he may ask anyway, for the tenant is applied anew each time.
"""

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass
from typing import Final, Literal, Self, TypeAlias

from ledger_core.tlog.errors import MalformedError

Order: TypeAlias = Literal["newest", "oldest"]
ORDERS: Final[tuple[Order, ...]] = ("newest", "oldest")

_VERSION = 1
_HEAD = struct.Struct(">BBQQQ")
_TAG_BYTES = 16
_U63_END = 1 << 63


class CursorError(MalformedError):
    """The cursor is none of ours, or that of another query."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The next page of a query: of entries below `position` if newest first, else from it on."""

    order: Order
    tree_size: int
    position: int
    now_unix_us: int

    def format(self, *, query: str, tenant: str | None) -> str:
        """The cursor as text, for this query and tenant."""
        head = _HEAD.pack(
            _VERSION,
            ORDERS.index(self.order),
            self.tree_size,
            self.position,
            self.now_unix_us,
        )
        return base64.urlsafe_b64encode(head + _tag(head, query, tenant)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str, *, query: str, tenant: str | None) -> Self:
        """Read a cursor of this query and tenant. Raises: CursorError."""
        try:
            data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            head, tag = data[: _HEAD.size], data[_HEAD.size :]
            version, order, tree_size, position, now_unix_us = _HEAD.unpack(head)
        except (binascii.Error, struct.error, ValueError):
            raise CursorError("not a cursor") from None
        if version != _VERSION or order >= len(ORDERS) or len(tag) != _TAG_BYTES:
            raise CursorError("not a cursor of this version")
        if tag != _tag(head, query, tenant):
            raise CursorError("this cursor belongs to another query, order or tenant")
        if not position <= tree_size < _U63_END or now_unix_us >= _U63_END:
            raise CursorError("not a cursor")
        cursor = cls(ORDERS[order], tree_size, position, now_unix_us)
        if cursor.format(query=query, tenant=tenant) != text:
            raise CursorError("not a cursor")
        return cursor


def _tag(head: bytes, query: str, tenant: str | None) -> bytes:
    # A tenant holds no NUL, and none is told apart from every tenant's name by the first byte.
    scope = b"\0" if tenant is None else b"\1" + tenant.encode()
    return hashlib.sha256(b"\0".join((head, scope, query.encode()))).digest()[:_TAG_BYTES]
