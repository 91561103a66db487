"""The interface of every kind of sink."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ledger.sinks.record import Record
from ledger_core.tlog.errors import UnavailableError


class RetryError(UnavailableError):
    """No record of a batch counts as sent; try again. `wait_s`: what the receiver asked for.

    A wrong address, token or certificate is one too: it says nothing about the records.
    `is_unanswered`: no answer came in time, or the connection broke: a smaller batch may get
    through a slow one.
    """

    def __init__(
        self, reason: str, *, wait_s: float | None = None, is_unanswered: bool = False
    ) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.is_unanswered = is_unanswered


class BatchRefusedError(Exception):
    """The receiver refused a batch for good, or a part of it that it did not name."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The result of a batch. The receiver has confirmed the records that are not named here.

    `refused`: position in the batch -> why it was refused for good. `again`: the positions to send
    once more, and `reason` why. `warning`: what is wrong though the batch counts as sent; it is
    shown as a failure of the sink until a batch is sent without one.
    """

    refused: Mapping[int, str] = field(default_factory=dict)
    again: Sequence[int] = ()
    reason: str = ""
    warning: str = ""


class Receiver(Protocol):
    """One receiver, used by one task. Records may come twice, and do after a kill."""

    async def send(self, records: Sequence[Record]) -> Sent:
        """Send a batch, and wait for the receiver's confirmation.

        Raises: RetryError, BatchRefusedError.
        """
        ...

    async def close(self) -> None:
        """Close connections and files."""
        ...
