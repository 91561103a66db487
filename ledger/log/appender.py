"""The interface by which the service appends events, in the sequencer's process and in others.

`Sequencer` implements it in its own process, `ledger.workers` across a socket. The same tests run
on both.
"""

from typing import Protocol

from ledger.log.append_request import Appended, AppendRequest
from ledger.log.hold import HoldRecord
from ledger.store.commit_errors import CommitFailedError
from ledger_core.tlog.tree import TreeHead


class Appender(Protocol):
    """Orders events and makes them durable. Used on one event loop.

    `failure` is why nothing is accepted until a new process has read the log again.
    """

    @property
    def head(self) -> TreeHead:
        """The durable head: no smaller than any that was acknowledged, by any process."""
        ...

    @property
    def failure(self) -> CommitFailedError | None: ...

    @property
    def held(self) -> HoldRecord | None:
        """Why the log takes no events until a person decides, if it doesn't."""
        ...

    async def append_events(self, request: AppendRequest) -> Appended:
        """Stamp events with the time of receipt and make them durable, in the order of the calls.

        The new ones get consecutive indices. A cancelled caller does not take its events back.
        Raises: QueueFullError, StalledError, CommitUndoneError (nothing stored); CommitFailedError
        (outcome unknown until the log is opened again; the id makes a repetition safe); HeldError.
        """
        ...

    async def probe(self) -> None:
        """After a write that failed, show whether writes succeed. Raises: as `append_events`."""
        ...

    async def wait_past(self, tree_size: int) -> TreeHead:
        """The durable head, as soon as it is larger than this size."""
        ...
