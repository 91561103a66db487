"""The orders of an answer: by index, which is the order of receipt, or by the events' own times."""

from typing import Literal, TypeAlias

from ledger_core.query.analyzer import decode_view, unix_us

Order: TypeAlias = Literal["newest", "oldest", "time", "time-newest"]
"""`newest` and `oldest` are by index. `time` begins with the earliest time, `time-newest` with the
latest; events of one time are in the order of their indices, ascending or descending alike."""

Place: TypeAlias = tuple[int, ...]
"""A place in an order; events ascend by it."""


def place_in(order: Order, index: int, leaf: bytes) -> Place:
    """The place of an event in an order. Precondition: for an order of time the leaf was parsed."""
    match order:
        case "oldest":
            return (index,)
        case "newest":
            return (-index,)
        case "time":
            return (unix_us(decode_view(leaf).event.time), index)
    return (-unix_us(decode_view(leaf).event.time), -index)
