"""The work of a large append in pieces, between which the event loop serves others.

Costs are counted in bytes of plain events, of which a few milliseconds read `YIELD_BYTES`.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

import msgspec

YIELD_BYTES: Final = 32_768
YIELD_EVENTS: Final = 64
"""Events read, or bytes of them, before other requests get their turn: milliseconds of work."""

QUICK_EVENTS: Final = 512
"""Events between two turns of others in a step that takes a microsecond or two for each."""

OUTCOME_COST: Final = YIELD_BYTES // YIELD_EVENTS
"""The cost of an event's outcome, beside the leaf that is read for it."""

T = TypeVar("T")

SLOW_FORM_FACTOR: Final = 4
"""The cost of a byte in an event with escapes, or with characters beyond ASCII."""


def cost_of(raw: bytes) -> int:
    """The cost of an event, in bytes of plain events."""
    is_plain = raw.isascii() and b"\\" not in raw
    return len(raw) if is_plain else SLOW_FORM_FACTOR * len(raw)


def split_work(raws: Sequence[bytes | msgspec.Raw]) -> Iterator[tuple[list[bytes], int]]:
    """The events in pieces, with the cost of each piece in bytes of plain events.

    A piece has `YIELD_EVENTS` and costs `YIELD_BYTES` at most, or is one event that costs more.
    """
    for start in range(0, len(raws), YIELD_EVENTS):
        piece = [*map(bytes, raws[start : start + YIELD_EVENTS])]
        # One look at all of them: it takes a tenth of a look at each, and most events are plain.
        together = b"".join(piece)
        if len(together) <= YIELD_BYTES and together.isascii() and b"\\" not in together:
            yield piece, len(together)
        else:
            yield from _split_by_cost(piece)


def _split_by_cost(raws: Sequence[bytes]) -> Iterator[tuple[list[bytes], int]]:
    piece: list[bytes] = []
    cost = 0
    for raw in raws:
        own = cost_of(raw)
        if piece and cost + own > YIELD_BYTES:
            yield piece, cost
            piece, cost = [], 0
        piece.append(raw)
        cost += own
    yield piece, cost


def pieces_of(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Items of a quick step in pieces of `QUICK_EVENTS`."""
    return (items[start : start + QUICK_EVENTS] for start in range(0, len(items), QUICK_EVENTS))


class Pacer:
    """Gives others a turn on the loop whenever `YIELD_BYTES` were worked on."""

    __slots__ = ("_cost",)

    def __init__(self) -> None:
        self._cost = 0

    async def after(self, cost: int) -> None:
        """Count work that was done, in bytes of plain events; yield if it was enough."""
        self._cost += cost
        if self._cost >= YIELD_BYTES:
            self._cost = 0
            await asyncio.sleep(0)
