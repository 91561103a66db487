"""What a program that faults are put to has acknowledged."""

import time
from typing import NamedTuple

from ledger_core.tlog.checkpoint import Checkpoint


class Acknowledgement(NamedTuple):
    """What a program said, and when it was read, in Unix seconds."""

    unix_s: float
    result: "Result"


class Appended(NamedTuple):
    """The ledger has an event at an index."""

    event_id: str
    leaf_index: int


class Erased(NamedTuple):
    """The ledger erased the values of a subject."""

    subject: str


class Cosigned(NamedTuple):
    """A witness cosigned the head of a size."""

    size: int


class Recorded(NamedTuple):
    """`record` returned the id of an event."""

    event_id: str


class Pending(NamedTuple):
    """A mirror of logs took the checkpoint of a size."""

    size: int


class Kept(NamedTuple):
    """A mirror of logs said which entry comes next."""

    next_entry: int


class Mirrored(NamedTuple):
    """A mirror of logs cosigned the checkpoint of a size."""

    size: int


class Made(NamedTuple):
    """`ledger init` said that the ledger is made."""


Result = Appended | Checkpoint | Erased | Cosigned | Recorded | Made | Pending | Kept | Mirrored
Acknowledged = list[Acknowledgement]


def acknowledge(acknowledged: Acknowledged, *results: Result) -> None:
    """Note results, at this time."""
    acknowledged += (Acknowledgement(time.time(), each) for each in results)
