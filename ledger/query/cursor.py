"""Cursors: the position of the next page, as text that the client sends back.

    base64url of   u8 version ‖ u8 order ‖ u64 tree size ‖ u64 position ‖ u64 time ‖ u64 now
                   ‖ u64 passed ‖ u64 total
                   ‖ the first 16 bytes of the SHA-256 of these, the tenant and the query

A cursor is pinned to a tree size: later pages leave out entries that were appended in between, also
those with an earlier time of their own, so no entry comes twice and none is missed. `now` is the
time of the first page, so `-24h` means the same on every page. `total` is the number of matches, if
a page has counted them, so that later pages need not count again; its highest bit marks a lower
bound. `passed` is the number of matches on the pages so far. The server stores nothing, and cursors
survive its restart.

The hash ties a cursor to its query; it is neither a secret nor a permission. A forged cursor gives
another page, or a false total, of a query that its sender may ask anyway: the tenant applies to
every page.
"""

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass, replace
from typing import Final, Literal, Self, TypeAlias, get_args

from ledger_core.query.ast import UNIX_US_END
from ledger_core.query.order import Order
from ledger_core.tlog.errors import MalformedError

IndexOrder: TypeAlias = Literal["newest", "oldest"]
"""By index, that is by receipt."""

ORDERS: Final[tuple[Order, ...]] = get_args(Order)

_VERSION = 2
_HEAD = struct.Struct(">BBQQQQQQ")
_TAG_BYTES = 16
_U63_END = 1 << 63
_NOT_COUNTED = (1 << 64) - 1
_LOWER_BOUND = 1 << 63


class CursorError(MalformedError):
    """The text is no cursor, or the cursor of another query."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page begins: entries below it if the newest come first, else those from it on.

    Positions compare by index or, in an order of time, by time and then by index.
    """

    index: int
    time_us: int = 0


def first_position(order: Order, tree_size: int) -> Position:
    """The position of the first page."""
    if order in ("newest", "time-newest"):
        return Position(tree_size, UNIX_US_END)
    return Position(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """The next page of a query."""

    order: Order
    tree_size: int
    position: Position
    now_unix_us: int
    passed: int = 0
    """Matches on the pages before."""
    total: int | None = None
    """The number of matches; None if no page has counted them."""
    is_total_exact: bool = True
    """Whether the total is no lower bound."""

    def format(self, *, query: str, tenant: str | None) -> str:
        """The cursor as text, for this query and tenant."""
        head = _HEAD.pack(
            _VERSION,
            ORDERS.index(self.order),
            self.tree_size,
            self.position.index,
            self.position.time_us,
            self.now_unix_us,
            self.passed,
            _NOT_COUNTED
            if self.total is None
            else self.total | (0 if self.is_total_exact else _LOWER_BOUND),
        )
        return base64.urlsafe_b64encode(head + _tag(head, query, tenant)).decode().rstrip("=")

    def check(self, order: Order, durable: int) -> None:
        """Check that it is of an order and of a log this long. Raises: CursorError."""
        if self.order != order:
            raise CursorError(f"this cursor is of a query with the order {self.order}")
        if self.tree_size > durable:
            raise CursorError("this cursor is of a log that was longer than this one")

    def behind(self, position: Position | int | None, passed: int) -> "Cursor | None":
        """The cursor of the page behind this one, on which `passed` matches are; None if none is.

        `position` is where that page begins; an integer is an index.
        """
        passed += self.passed
        is_last = self.total is not None and self.is_total_exact and passed >= self.total
        if position is None or is_last:
            return None
        place = Position(position) if isinstance(position, int) else position
        return replace(self, position=place, passed=passed)

    @classmethod
    def parse(cls, text: str, *, query: str, tenant: str | None) -> Self:
        """Read a cursor of this query and tenant. Raises: CursorError."""
        try:
            data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            head, tag = data[: _HEAD.size], data[_HEAD.size :]
            version, order, tree_size, index, time_us, now, passed, total = _HEAD.unpack(head)
        except (binascii.Error, struct.error, ValueError):
            raise CursorError("not a cursor of this version: ask for the first page") from None
        if version != _VERSION or order >= len(ORDERS) or len(tag) != _TAG_BYTES:
            raise CursorError("not a cursor of this version: ask for the first page")
        if tag != _tag(head, query, tenant):
            raise CursorError("this cursor belongs to another query, order or tenant")
        counted = None if total == _NOT_COUNTED else total & ~_LOWER_BOUND
        sizes = (index, passed, counted or 0)
        if tree_size >= _U63_END or max(sizes) > tree_size or max(time_us, now) >= _U63_END:
            raise CursorError("not a cursor")
        cursor = cls(
            order=ORDERS[order],
            tree_size=tree_size,
            position=Position(index, time_us),
            now_unix_us=now,
            passed=passed,
            total=counted,
            is_total_exact=counted is None or total < _LOWER_BOUND,
        )
        if cursor.format(query=query, tenant=tenant) != text:
            raise CursorError("not a cursor")
        return cursor


def first_cursor(order: Order, tree_size: int, now_unix_us: int) -> Cursor:
    """The cursor of the first page."""
    return Cursor(
        order=order,
        tree_size=tree_size,
        position=first_position(order, tree_size),
        now_unix_us=now_unix_us,
    )


def _tag(head: bytes, query: str, tenant: str | None) -> bytes:
    # The first byte separates no tenant from every tenant's name; a name holds no NUL.
    scope = b"\0" if tenant is None else b"\1" + tenant.encode()
    return hashlib.sha256(b"\0".join((head, scope, query.encode()))).digest()[:_TAG_BYTES]
