"""What a running service consists of, and the heads that it proves against."""

from dataclasses import dataclass, field

from ledger.publisher import Publisher
from ledger.sequencer import Sequencer
from ledger.service.appending import Appender
from ledger.service.problems import RETRY_AFTER_S, ProblemError
from ledger.service.settings import Settings
from ledger.service.wire import WitnessAnswer
from ledger.store.access import AccessStore
from ledger.store.log import LogStore, Published


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The parts, made once at the start; every handler gets them as its first argument."""

    origin: str
    verifier_keys: tuple[str, ...]
    witnesses: tuple[WitnessAnswer, ...]
    policy_text: str
    settings: Settings
    store: LogStore
    access: AccessStore
    sequencer: Sequencer
    publisher: Publisher
    appender: Appender
    openapi: bytes
    broken: list[str] = field(default_factory=list)
    """Background tasks that ended though they should not have."""

    @property
    def tree_size(self) -> int:
        """The durable size of the log."""
        return self.sequencer.head.tree_size

    async def published_covering(self, tree_size: int) -> Published:
        """The published head, as soon as it is at least this large.

        Raises: ProblemError when that takes too long, VerificationError when signing has stopped.
        """
        published = self.publisher.published
        if published is None or published.head.tree_size < tree_size:
            if self.publisher.failure is not None:
                raise self.publisher.failure
            published = await self.publisher.wait_for(
                tree_size, timeout_s=self.settings.published_wait_s
            )
        if published is None:
            raise ProblemError(
                "not-yet-published",
                f"no checkpoint of size {tree_size} or more is published yet",
                headers={"Retry-After": str(round(RETRY_AFTER_S))},
            )
        return published
