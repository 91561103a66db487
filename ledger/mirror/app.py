"""The service of a mirror: that of a ledger, with the entries and heads of a log elsewhere."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ledger.log.sequencer import Sequencer
from ledger.log.witness_client import WitnessStatus
from ledger.mirror.cosigner import ROUTES, Cosigner
from ledger.mirror.data_dir import MirrorPaths, accept_log_keys, read_config
from ledger.mirror.fetching import LogReader
from ledger.mirror.follower import Follower
from ledger.mirror.replica import ForkError, Replica
from ledger.mirror.state import MirrorState
from ledger.service.app import serve as serve_ledger
from ledger.service.http.problems import refuse_write
from ledger.service.live_settings import LiveSettings
from ledger.service.mirrored import Lag, RunningHeads
from ledger.service.routes import ROUTES as LEDGER_ROUTES
from ledger.service.settings import Settings
from ledger.witness.app import open_witness
from ledger_client.runtime.clock import unix_s
from ledger_client.runtime.files import read_limited
from ledger_core.event.times import format_time
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.errors import UnavailableError, VerificationError
from ledger_core.tlog.policy import POLICY_BYTES_MAX, parse_policy


class MirroredLog:
    """The log that a mirror follows, and its heads, as the routes see them."""

    quorum_missing: str | None = None
    failure: VerificationError | None = None

    def __init__(
        self,
        replica: Replica,
        follower: Follower,
        state: MirrorState,
        cosigner: Cosigner,
        url: str,
    ) -> None:
        self.log_url: str = url
        self.cosigner: Final = cosigner
        self.heads: RunningHeads = self
        self._replica: Final = replica
        self._follower: Final = follower
        self._state: Final = state

    @property
    def published(self) -> SignedCheckpoint | None:
        """The latest published head of the log whose entries are held here."""
        return self._replica.published

    @property
    def witnesses(self) -> tuple[WitnessStatus, ...]:
        """None: the log asks them."""
        return ()

    async def newest(self) -> SignedCheckpoint:
        """Raises: UnavailableError."""
        raise UnavailableError("a mirror signs no head of the log")

    async def shown(self, data: bytes, *, by: str) -> bool:  # noqa: ARG002 - as a publisher's
        """Take a checkpoint that somebody has; one that forks the log stops the mirror."""
        try:
            return self._replica.shown(data)
        except ForkError as error:
            # It is no answer of the log, which a true one could follow.
            self._replica.stop(error)
            return False

    async def wait_for(self, tree_size: int, *, timeout_s: float) -> SignedCheckpoint | None:
        """The first published head of at least this size; None when time ran out."""
        is_there = await self._follower.wait_published(tree_size, timeout_s=timeout_s)
        return self.published if is_there else None

    async def publish(self) -> None:
        """Nothing: the log publishes."""

    async def run(self) -> None:
        """Follow the log until cancelled."""
        await self._follower.run()

    def lag(self) -> Lag:
        """How far the mirror is behind."""
        held = self._replica.held.tree_size
        entries = max(0, self._state.status.log_size - held)
        return Lag(entries=entries, seconds=self._state.lag_s(held))

    def refusal(self) -> Exception:
        """The refusal to append."""
        return refuse_write(self.log_url)

    def reasons(self) -> Sequence[str]:
        """Why the mirror follows no more or has nothing yet, or what the log did that is untrue."""
        if (stopped := self._replica.stopped) is not None:
            return (
                f"this mirror follows no more since {stopped.since}: {stopped.reason}; the "
                f"evidence is in {stopped.evidence or 'no folder: it could not be written'}",
            )
        failure = self.cosigner.failure
        is_empty = self.published is None
        return [
            *([f"no head of the log was taken yet: {self._error()}"] if is_empty else []),
            *([] if failure is None else [f"no head is cosigned: {failure}"]),
            *self._untrue(),
        ]

    def _error(self) -> str:
        return self._state.status.error or "it is being asked"

    def _untrue(self) -> list[str]:
        return [
            f"the log's last answer about its {asked} is untrue: {said}; see the folder evidence/"
            for asked, said in self._state.status.untrue.items()
        ]

    def warnings(self) -> Sequence[str]:
        """That the log doesn't answer, or that the mirror is far behind."""
        status = self._state.status
        if not status.failing_since_unix_s:
            return ()
        since = format_time(status.failing_since_unix_s * 1_000_000)
        return (
            f"the log at {self.log_url} has not answered rightly since {since}: {status.error}",
        )


async def serve(
    directory: Path,
    settings: Settings,
    *,
    stop: asyncio.Event,
    on_ready: Callable[[str], None] | None = None,
    live: LiveSettings | None = None,
) -> None:
    """Serve the mirror in a folder until `stop` is set.

    Raises: as `ledger.service.app.serve`; UnavailableError when the folder is no mirror.
    """
    paths = MirrorPaths(directory)
    config = read_config(paths)
    endpoint = config.endpoint()

    policy_bytes = read_limited(paths.ledger.policy, POLICY_BYTES_MAX)
    policy = parse_policy(policy_bytes)
    cosigner = Cosigner()
    async with open_witness(paths.cosigner, now=unix_s, check=cosigner.check) as witness:
        # A log that was promoted from a mirror, or whose key was replaced, has a new key.
        accept_log_keys(witness.store, policy_bytes)

        def make_mirrored(sequencer: Sequencer) -> MirroredLog:
            state = MirrorState(paths.status)
            replica = Replica(sequencer, policy, paths)
            follower = Follower(replica, LogReader(endpoint), state)
            cosigner.attach(sequencer, witness, replica, follower)
            return MirroredLog(replica, follower, state, cosigner, config.log_url)

        await serve_ledger(
            directory,
            settings,
            stop=stop,
            on_ready=on_ready,
            live=live,
            make_mirrored=make_mirrored,
            routes=(*LEDGER_ROUTES, *ROUTES),
        )
