"""The interfaces of the heads that a service publishes, and of a log that it mirrors.

A ledger signs and publishes its own heads (`ledger.log.publisher`). A mirror (`ledger.mirror`) has
the entries and the heads of a log on another host, and takes no events. All routes that read are
the same for both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ledger.log.sequencer import Sequencer
from ledger.log.witness_client import WitnessStatus
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.errors import VerificationError


class Heads(Protocol):
    """The published heads of a service, used on one event loop, in this process or another's.

    `published` is the latest, None before the first. `failure` is why no more are published,
    `quorum_missing` what the newest head lacks to be published.
    """

    @property
    def published(self) -> SignedCheckpoint | None: ...

    @property
    def failure(self) -> VerificationError | None: ...

    @property
    def quorum_missing(self) -> str | None: ...

    @property
    def witnesses(self) -> tuple[WitnessStatus, ...]:
        """The result of the last request to each witness."""
        ...

    async def newest(self) -> SignedCheckpoint:
        """The newest durable head, signed. Raises: as `Publisher.sign`."""
        ...

    async def shown(self, data: bytes, *, by: str) -> bool:
        """Take a checkpoint that somebody has; whether the store has its head.

        Raises: as `Publisher.show`.
        """
        ...

    async def wait_for(self, tree_size: int, *, timeout_s: float) -> SignedCheckpoint | None:
        """The first published head of at least this size; None when time ran out."""
        ...


class RunningHeads(Heads, Protocol):
    """The heads of a service in the process that publishes them."""

    async def publish(self) -> None:
        """Publish the newest durable head. Raises: as `Publisher.publish`."""
        ...

    async def run(self) -> None:
        """Publish new heads until cancelled."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far a mirror is behind the log.

    `entries`: under the largest head that the log has shown, and not held here. `seconds`: since
    the mirror last knew that it held all of them.
    """

    entries: int = 0
    seconds: float = 0.0


class Mirrored(Protocol):
    """The log on another host that a service mirrors."""

    log_url: str
    heads: RunningHeads

    def lag(self) -> Lag:
        """How far the mirror is behind."""
        ...

    def refusal(self) -> Exception:
        """The refusal to append: a problem."""
        ...

    def reasons(self) -> Sequence[str]:
        """Why the mirror doesn't follow the log any more, or what the log did that is untrue."""
        ...

    def warnings(self) -> Sequence[str]:
        """The conditions that will soon prevent it from following."""
        ...


MakeMirrored = Callable[[Sequencer], Mirrored]
"""Makes the mirrored log around the store of a service, when the service starts."""
