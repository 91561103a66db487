"""The publisher signs tree heads, gathers cosignatures and publishes checkpoints.

A head is signed when three things hold: it is durable, it is not smaller than the last one signed,
and a consistency proof from that one to it, read from the store and checked by the verifier, leads
to its root. A head that fails is never signed, nor is any after it: the store is corrupt or forked,
and the publisher stops until the process ends. It also stops when a witness, a client or the marker
shows a head that this log has signed and the store does not have. A claim without such a head stops
nothing. Such a head holds the log, too: it takes no events (`hold.py`).

A head is published when the policy is met. All witnesses are asked at once; the quorum decides, and
cosignatures that come later are added to the published checkpoint. A witness with an interval is
asked for one head in that time; its cosignature is added to the kept checkpoint when newer ones
have followed it. Without a quorum the checkpoint before stays published, and appending goes on.

A published checkpoint is durable in the store before anybody is shown it: after a crash, the log
knows every head that it has published. Heads that are signed in between, for an acknowledgement,
are not recorded: their entries were durable before they were signed, and a log only ever appends.
Under a policy with a quorum there are none, since no verifier would accept them.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from ledger.log.evidence import save_evidence
from ledger.log.hold import is_missing, read_marker, read_own_head, write_marker
from ledger.log.mirror_peer import take_lost
from ledger.log.peers import Peer, open_peers
from ledger.log.sequencer import Sequencer
from ledger.log.signing import HeadSigner, LogSigner, SignerUnavailableError, check_growth
from ledger.log.witness_client import TIMEOUT_S, PeerOptions, WitnessStatus, make_session
from ledger_client.runtime.clock import unix_s as system_unix_s
from ledger_core.event.times import format_time
from ledger_core.tlog.checkpoint import Checkpoint, SignedCheckpoint, format_checkpoint
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.note import Signature
from ledger_core.tlog.policy import Policy
from ledger_core.tlog.tree import TreeHead

INTERVAL_S: Final = 0.5
HEARTBEAT_S: Final = 180.0

_log = structlog.get_logger("ledger.log.publisher")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherOptions:
    """The intervals and the clock of a publisher.

    `heartbeat_s`: how old a published checkpoint with cosignatures may become before they are
    renewed. `witness_intervals_s`: see `PeerOptions`. `marker`: the file outside the environments
    that keeps the head published last. `mirrors`: the folder with the file of mirrors, if any.
    """

    interval_s: float = INTERVAL_S
    heartbeat_s: float = HEARTBEAT_S
    witness_timeout_s: float = TIMEOUT_S
    unix_s: Callable[[], int] = system_unix_s
    marker: Path | None = None
    mirrors: Path | None = None
    witness_intervals_s: Mapping[str, float] = field(default_factory=dict)


class Publisher:
    """Signs for one log. All of it runs on the event loop, which owns its fields.

    `published` is the latest published checkpoint, None until the first has been made. `failure` is
    why nothing is signed any more, `quorum_missing` what the newest head lacks to be published.
    """

    def __init__(
        self,
        sequencer: Sequencer,
        signers: Sequence[LogSigner],
        policy: Policy,
        *,
        evidence: Path,
        options: PublisherOptions,
    ) -> None:
        """`signers`: the log's keys. `evidence`: the folder for what proves another history."""
        self.published = sequencer.store.published()
        self.failure: VerificationError | None = None
        self.quorum_missing: str | None = None
        self._origin = sequencer.store.origin()
        self._sequencer = sequencer
        self._signer = HeadSigner(signers, unix_s=options.unix_s, wait_base_s=options.interval_s)
        self._signing = asyncio.Lock()
        self._policy = policy
        self._evidence = evidence
        self._options = options
        self._published_at_s = 0.0
        self._signed: SignedCheckpoint | None = None
        self._marking = threading.Lock()
        self._marked_size = 0
        self._marker_has_failed = False
        self._peers: tuple[Peer, ...] = ()
        self._asking: set[asyncio.Task[None]] = set()
        self._round: _CosignatureRound | None = None
        self._changed = asyncio.Condition()

    @property
    def witnesses(self) -> tuple[WitnessStatus, ...]:
        return tuple(peer.status for peer in self._peers)

    async def sign(self) -> SignedCheckpoint:
        """The newest durable head with the log's own signatures and the cosignatures it has so far.

        Raises: VerificationError when it does not extend what was signed before; UnavailableError
        when a process that holds a key does not sign.
        Cost: one signature and at most 2·log2(n) point reads for a new head, else nothing.
        """
        signed = await self._sign_head()
        published = self.published
        return published if published and published.head == signed.head else signed

    async def newest(self) -> SignedCheckpoint:
        """As `sign`, for callers whose publisher may be in another process."""
        return await self.sign()

    async def shown(self, data: bytes, *, by: str) -> bool:
        """As `show`, for callers whose publisher may be in another process."""
        return self.show(data, by=by)

    def show(self, data: bytes, *, by: str) -> bool:
        """Take a checkpoint that somebody has; returns whether the store has its head.

        If not, the log signs nothing and takes no events until a person decides.
        Raises: MalformedError; VerificationError when it is no head that this log signed.
        """
        log_keys = [log.verifier for log in self._policy.logs]
        shown = read_own_head(data, self._origin, log_keys)
        if not is_missing(self._sequencer.store, shown):
            return True
        size = self._sequencer.store.head().tree_size
        said = (
            f"{by} has a head of size {shown.head.tree_size} that this log signed and does not "
            f"have: the log here has {size} entries. It looks like a restored backup"
        )
        self._stop(VerificationError(said, evidence={"theirs": data}), by=by)
        return False

    def check_marker(self) -> None:
        """Hold the log if it does not have the head in its marker."""
        path = self._options.marker
        marked = None if path is None else read_marker(path)
        if marked is None:
            return
        try:
            self.show(marked.note.encode(), by=f"the marker {path}")
        except (MalformedError, VerificationError) as error:
            _log.warning("marker_ignored", reason=str(error))

    def check_mirrors(self) -> None:
        """Hold the log if a mirror that it is sent to shows a head that it has lost."""
        directory = self._options.mirrors
        for name, note in () if directory is None else take_lost(directory):
            with contextlib.suppress(MalformedError, VerificationError):
                self.show(note.encode(), by=f"the mirror {name}")

    async def run(self) -> None:
        """Publish new heads, at most one an interval, until cancelled or stopped by a failure."""
        async with make_session(self._options.witness_timeout_s) as session:
            options = self._options
            self._peers = open_peers(
                self._policy,
                session,
                store=self._sequencer.store,
                options=PeerOptions(
                    options.unix_s,
                    options.interval_s,
                    options.witness_intervals_s,
                    options.witness_timeout_s,
                    options.mirrors,
                ),
            )
            try:
                while self.failure is None:
                    try:
                        self.check_mirrors()
                        await self.publish()
                    except VerificationError as error:
                        self._stop(error)
                        return
                    except SignerUnavailableError as error:  # It has been logged.
                        self.quorum_missing = str(error)
                    except UnavailableError as error:
                        _log.error("publish_failed", reason=str(error))
                    await asyncio.sleep(self._options.interval_s)
            finally:
                for task in self._asking:
                    task.cancel()
                await asyncio.gather(*self._asking, return_exceptions=True)
                # The session ends here: a later `publish` asks no witness.
                self._peers = ()

    async def publish(self) -> None:
        """Publish the newest durable head, unless it is published already.

        Returns when it is published, or every witness was asked and the quorum is not met.
        Raises: as `sign` and `Sequencer.publish`; the checkpoint before stays published then.
        """
        signed = await self._sign_head()
        age_s = time.monotonic() - self._published_at_s
        is_published = self.published is not None and self.published.head == signed.head
        is_fresh = is_published and (not self._peers or age_s < self._options.heartbeat_s)
        # A head that a new key of the log has not signed yet is published again.
        if self.published is not None and not self._signer.has_signed(self.published.signatures):
            is_fresh = False
        round_ = self._round
        if round_ is None or round_.signed.head != signed.head or is_published > is_fresh:
            round_ = self._round = _CosignatureRound(signed)
        # A witness that failed is asked again for a published head: a later cosignature is added.
        # One that is asked seldom is asked for the head that is there when its time has come.
        size = signed.head.tree_size
        due = [
            peer
            for peer in self._peers
            if peer.is_due and (not is_fresh or peer.failures or peer.lacks(size))
        ]
        tasks = [asyncio.create_task(self._ask(peer, round_)) for peer in due]
        self._asking.update(tasks)
        for task in tasks:
            task.add_done_callback(self._asking.discard)
        if not is_fresh:
            await self._try_publish(round_)
        pending = set(tasks)
        while pending and not round_.is_published and self.failure is None:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if self.failure is not None:
            raise self.failure
        if not round_.is_published and round_.missing != self.quorum_missing:
            self.quorum_missing = round_.missing
            _log.warning("quorum_missing", reason=round_.missing)

    async def wait_for(self, tree_size: int, *, timeout_s: float) -> SignedCheckpoint | None:
        """The first published checkpoint of at least this size; None when time ran out."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._changed:
                while self.published is None or self.published.head.tree_size < tree_size:
                    await self._changed.wait()
                return self.published
        return None

    async def _sign_head(self) -> SignedCheckpoint:
        # Uncontended it does not wait, and a key in memory does not either.
        async with self._signing:
            if self.failure is not None:
                raise self.failure
            head = self._sequencer.head
            if self._signed is not None and self._signed.head == head:
                return self._signed
            self.check_extends(head)
            checkpoint = Checkpoint(self._origin, head.tree_size, head.root_hash)
            signatures = await self._signer.sign(format_checkpoint(checkpoint))
            if self.failure is not None:  # It came while another process signed.
                raise self.failure
            self._signed = SignedCheckpoint(checkpoint, signatures)
            return self._signed

    def check_extends(self, head: TreeHead) -> None:
        """Check that a head extends what was signed before; else nothing is signed any more.

        Raises: VerificationError.
        """
        before = self._signed or self.published
        if before is not None:
            try:
                check_growth(self._sequencer.store, before, head)
            except VerificationError as error:
                self._stop(error)
                raise

    async def _ask(self, peer: Peer, round_: "_CosignatureRound") -> None:
        before = peer.status.error
        try:
            signatures = await peer.ask(round_.signed)
        except VerificationError as error:
            self._stop(error)
        except UnavailableError as error:
            if str(error) != before:
                _log.warning("witness_failed", reason=str(error))
        else:
            if before is not None:
                _log.info("witness_cosigns_again", witness=peer.status.names[0])
            # The latest of each key counts.
            round_.cosignatures.update(((s.name, s.key_id), s) for s in signatures)
            try:
                await self._try_publish(round_, keeps_late=peer.interval_s > 0)
            except UnavailableError as error:
                _log.error("publish_failed", reason=str(error))

    async def _try_publish(self, round_: "_CosignatureRound", *, keeps_late: bool = False) -> None:
        """Publish the head of a round, unless a newer one is published or the policy isn't met.

        `keeps_late`: cosignatures that came after a newer head are worth a commit.
        """
        checkpoint = SignedCheckpoint(
            round_.signed.checkpoint, (*round_.signed.signatures, *round_.cosignatures.values())
        )
        if self._is_superseded(checkpoint.head):
            if keeps_late and round_.is_published:
                await self._keep_late(checkpoint)
            return
        try:
            verified = self._policy.check(checkpoint.note)
        except VerificationError as error:
            round_.missing = str(error)
            return
        # Durable before it is shown: a log that forgot a published head could sign another.
        await self._sequencer.publish(tree_size=checkpoint.head.tree_size, note=checkpoint.note)
        if (marker := self._options.marker) is not None:
            # A file is renamed, which waits for a commit that syncs the same disk.
            await asyncio.to_thread(self._write_marker, marker, checkpoint)
        # A newer head may have been published meanwhile.
        if self._is_superseded(checkpoint.head):
            return
        round_.is_published = True
        self.quorum_missing = None
        self.published = checkpoint
        self._published_at_s = time.monotonic()
        _log.info(
            "checkpoint_published",
            tree_size=checkpoint.head.tree_size,
            witnesses=len(verified.cosignatures),
        )
        async with self._changed:
            self._changed.notify_all()

    async def _keep_late(self, checkpoint: SignedCheckpoint) -> None:
        """Add cosignatures to a kept head that newer heads have followed."""
        size = checkpoint.head.tree_size
        kept = self._sequencer.store.published(size)
        if kept is None:
            return
        known = {(each.name, each.key_id) for each in kept.signatures}
        late = [each for each in checkpoint.signatures if (each.name, each.key_id) not in known]
        if late:
            whole = SignedCheckpoint(kept.checkpoint, (*kept.signatures, *late))
            await self._sequencer.publish(tree_size=size, note=whole.note)

    def _is_superseded(self, head: TreeHead) -> bool:
        return self.published is not None and self.published.head.tree_size > head.tree_size

    def _write_marker(self, path: Path, checkpoint: SignedCheckpoint) -> None:
        """Write the marker, unless it has a larger head. On a thread that no cancelling ends."""
        with self._marking:
            if checkpoint.head.tree_size < self._marked_size:
                return
            self._marked_size = checkpoint.head.tree_size
            try:
                write_marker(path, checkpoint.note)
            except OSError as error:
                if not self._marker_has_failed:
                    _log.error("marker_not_written", reason=str(error))
                self._marker_has_failed = True
            else:
                self._marker_has_failed = False

    def _stop(self, error: VerificationError, *, by: str = "a witness") -> None:
        """Sign nothing any more, and with a head in the evidence that is missing take no events."""
        shown = error.evidence.get("theirs")
        if shown is not None:
            since = format_time(self._options.unix_s() * 1_000_000)
            self._sequencer.hold.place(str(error), since=since, by=by, note=shown.decode())
        if self.failure is not None:
            return
        self.failure = error
        folder = save_evidence(self._evidence, error, time_unix_s=self._options.unix_s())
        _log.critical("publisher_stopped", reason=str(error), evidence=str(folder))


@dataclass(slots=True)
class _CosignatureRound:
    """One round: a signed head, and the cosignatures that came for it so far, by their keys."""

    signed: SignedCheckpoint
    cosignatures: dict[tuple[str, int], Signature] = field(default_factory=dict)
    is_published: bool = False
    missing: str | None = None
