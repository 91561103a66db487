"""Cursors: the position of the next page, as text that the client sends back.

    base64url of   u8 version ‖ u8 order ‖ u64 tree size ‖ u64 position ‖ u64 now
                   ‖ the first 16 bytes of the SHA-256 of these, the tenant and the query

A cursor is pinned to a tree size: later pages leave out entries that were appended in between, so
no entry comes twice and none is missed. `now` is the time of the first page, so `-24h` means the
same on every page. The server stores nothing, and cursors survive its restart.

The hash ties a cursor to its query; it is neither a secret nor a permission. A forged cursor gives
another page of a query that its sender may ask anyway, since the tenant applies to every page.
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
    """The text is no cursor, or the cursor of another query."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The next page of a query: entries below `position` if newest first, else from it on."""

    order: Order
    tree_size: int
    position: int
    now_unix_us: int

    def format(self, *, query: str, tenant: str | None) -> str:
        """The cursor as text, for this query and tenant."""
        head = _HEAD.pack(
            _VERSION, ORDERS.index(self.order), self.tree_size, self.position, self.now_unix_us
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
    # The first byte separates no tenant from every tenant's name; a name holds no NUL.
    scope = b"\0" if tenant is None else b"\1" + tenant.encode()
    return hashlib.sha256(b"\0".join((head, scope, query.encode()))).digest()[:_TAG_BYTES]
