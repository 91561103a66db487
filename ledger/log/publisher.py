"""Signing tree heads, round_ cosignatures, publishing.

A head is signed when three things hold: it is durable, it is not smaller than the last one signed,
and a consistency proof from that one to it, read from the store and checked by the verifier, leads
to its root. A head that fails is never signed, nor is any after it: the store is corrupt or forked,
and the publisher stops until the process ends. It also stops when a witness knows another history
than the store.

A head is published when the policy is met. All witnesses are asked at once; the quorum decides, and
cosignatures that come later are added to the published checkpoint. Without a quorum the checkpoint
before stays published, and appending goes on.

A published checkpoint is durable in the store before anybody is shown it: after a crash, the log
knows every head that it has published. Heads that are signed in between, for an acknowledgement,
are not recorded: their entries were durable before they were signed, and a log only ever appends.
Under a policy with a quorum there are none, since no verifier would accept them.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

from ledger.log.sequencer import Sequencer
from ledger.log.witness_client import (
    TIMEOUT_S,
    WitnessPeer,
    WitnessStatus,
    make_peers,
    make_session,
)
from ledger.store.log import LogStore
from ledger_client.runtime.clock import unix_s as system_unix_s
from ledger_client.runtime.files import create_file, sync_directory
from ledger_core.tlog.checkpoint import Checkpoint, SignedCheckpoint, format_checkpoint
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.errors import UnavailableError, VerificationError
from ledger_core.tlog.hashing import Hash
from ledger_core.tlog.note import Signature, Signer
from ledger_core.tlog.policy import Policy
from ledger_core.tlog.prove import plan_consistency
from ledger_core.tlog.tree import TreeHead
from ledger_core.tlog.verify import check_consistency

INTERVAL_S: Final = 1.0
HEARTBEAT_S: Final = 180.0
"""How old a published checkpoint with cosignatures may become before they are renewed."""

LogSigner = Signer | CosignatureSigner
"""A key of the log: Ed25519, or ML-DSA-44, which states a time."""

_log = structlog.get_logger("ledger.log.publisher")


class Publisher:
    """Signs for one log. All of it runs on the event loop, which owns its fields."""

    def __init__(
        self,
        *,
        origin: str,
        signers: Sequence[LogSigner],
        policy: Policy,
        store: LogStore,
        sequencer: Sequencer,
        evidence: Path,
        interval_s: float = INTERVAL_S,
        heartbeat_s: float = HEARTBEAT_S,
        witness_timeout_s: float = TIMEOUT_S,
        unix_s: Callable[[], int] = system_unix_s,
    ) -> None:
        """`signers`: the log's keys. `evidence`: the folder for what proves another history."""
        self._origin = origin
        self._signers = signers
        self._policy = policy
        self._store = store
        self._sequencer = sequencer
        self._evidence = evidence
        self._interval_s = interval_s
        self._heartbeat_s = heartbeat_s
        self._witness_timeout_s = witness_timeout_s
        self._unix_s = unix_s
        self._published = store.published()
        self._published_at_s = 0.0
        self._signed: SignedCheckpoint | None = None
        self._peers: tuple[WitnessPeer, ...] = ()
        self._asking: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self._quorum_missing: str | None = None
        self._failure: VerificationError | None = None

    @property
    def published(self) -> SignedCheckpoint | None:
        """The latest published checkpoint; None until the first has been made."""
        return self._published

    @property
    def failure(self) -> VerificationError | None:
        """Why nothing is signed any more, or None."""
        return self._failure

    @property
    def quorum_missing(self) -> str | None:
        """What the newest head lacks to be published, or None."""
        return self._quorum_missing

    @property
    def witnesses(self) -> tuple[WitnessStatus, ...]:
        """The result of the last request to each witness that has a URL."""
        return tuple(peer.status for peer in self._peers)

    def sign(self) -> SignedCheckpoint:
        """The newest durable head with the log's own signatures and the cosignatures it has so far.

        Raises: VerificationError when it does not extend what was signed before.
        Cost: one signature and at most 2·log2(n) point reads for a new head, else nothing.
        """
        signed = self._sign_head()
        if self._published is not None and self._published.head == signed.head:
            return self._published
        return signed

    async def run(self) -> None:
        """Publish new heads, at most one an interval, until cancelled or stopped by a failure."""
        async with make_session() as session:
            self._peers = make_peers(
                self._policy.witnesses,
                session=session,
                prove=self._prove,
                now_unix_s=self._unix_s,
                timeout_s=self._witness_timeout_s,
            )
            try:
                while self._failure is None:
                    try:
                        await self.publish()
                    except VerificationError as error:
                        self._stop(error)
                        return
                    except UnavailableError as error:
                        _log.error("publish_failed", reason=str(error))
                    await asyncio.sleep(self._interval_s)
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
        signed = self._sign_head()
        if self._is_current(signed.head):
            return
        round_ = _CosignatureRound(signed)
        tasks = [
            asyncio.create_task(self._ask(peer, round_)) for peer in self._peers if not peer.is_busy
        ]
        self._asking.update(tasks)
        await self._try_publish(round_)
        pending: set[asyncio.Task[None]] = set(tasks)
        while pending and not round_.is_published and self._failure is None:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if self._failure is not None:
            raise self._failure
        if not round_.is_published and round_.missing != self._quorum_missing:
            self._quorum_missing = round_.missing
            _log.warning("quorum_missing", reason=round_.missing)

    async def wait_for(self, tree_size: int, *, timeout_s: float) -> SignedCheckpoint | None:
        """The first published checkpoint of at least this size; None when time ran out."""

        def covering() -> SignedCheckpoint | None:
            published = self._published
            return published if published and published.head.tree_size >= tree_size else None

        try:
            async with asyncio.timeout(timeout_s), self._changed:
                return await self._changed.wait_for(covering)
        except TimeoutError:
            return None

    def _sign_head(self) -> SignedCheckpoint:
        if self._failure is not None:
            raise self._failure
        head = self._sequencer.head
        if self._signed is not None and self._signed.head == head:
            return self._signed
        before = self._signed if self._signed is not None else self._published
        if before is not None:
            try:
                self._check_extends(before, head)
            except VerificationError as error:
                self._stop(error)
                raise
        checkpoint = Checkpoint(self._origin, head.tree_size, head.root_hash)
        self._signed = _sign(checkpoint, self._signers, time_unix_s=self._unix_s())
        return self._signed

    def _check_extends(self, before: SignedCheckpoint, head: TreeHead) -> None:
        old = before.head
        if head.tree_size < old.tree_size:
            raise VerificationError(
                f"a head of size {old.tree_size} was signed, the log now has {head.tree_size}",
                evidence={"signed": before.note.encode()},
            )
        check_consistency(
            old_size=old.tree_size,
            new_size=head.tree_size,
            proof=self._prove(old.tree_size, head.tree_size),
            old_root=old.root_hash,
            new_root=head.root_hash,
        )

    def _prove(self, old_size: int, new_size: int) -> tuple[Hash, ...]:
        return self._store.prove(plan_consistency(old_size=old_size, new_size=new_size))

    def _is_current(self, head: TreeHead) -> bool:
        """Whether a head is published, and its cosignatures are not to be renewed yet."""
        if self._published is None or self._published.head != head:
            return False
        age_s = time.monotonic() - self._published_at_s
        return not self._peers or age_s < self._heartbeat_s

    async def _ask(self, peer: WitnessPeer, round_: "_CosignatureRound") -> None:
        """One witness's part: its cosignatures join what was gathered, or its error is noted."""
        task = asyncio.current_task()
        try:
            signatures = await peer.ask(round_.signed, durable_size=self._sequencer.head.tree_size)
        except VerificationError as error:
            self._stop(error)
        except UnavailableError as error:
            _log.warning("witness_failed", reason=str(error))
        else:
            round_.add(signatures)
            try:
                await self._try_publish(round_)
            except UnavailableError as error:
                _log.error("publish_failed", reason=str(error))
        finally:
            if task is not None:
                self._asking.discard(task)

    async def _try_publish(self, round_: "_CosignatureRound") -> None:
        """Publish the head of a round, unless a newer one is published or the policy isn't met."""
        checkpoint = round_.checkpoint
        if self._is_superseded(checkpoint.head):
            return
        try:
            verified = self._policy.check(checkpoint.note)
        except VerificationError as error:
            round_.missing = str(error)
            return
        # Durable before it is shown: a log that forgot a published head could sign another.
        await self._sequencer.publish(tree_size=checkpoint.head.tree_size, note=checkpoint.note)
        # A newer head may have been published meanwhile.
        if self._is_superseded(checkpoint.head):
            return
        round_.is_published = True
        self._quorum_missing = None
        self._published = checkpoint
        self._published_at_s = time.monotonic()
        _log.info(
            "checkpoint_published",
            tree_size=checkpoint.head.tree_size,
            witnesses=len(verified.cosignatures),
        )
        async with self._changed:
            self._changed.notify_all()

    def _is_superseded(self, head: TreeHead) -> bool:
        return self._published is not None and self._published.head.tree_size > head.tree_size

    def _stop(self, error: VerificationError) -> None:
        """Stop signing for good, and save the evidence."""
        if self._failure is not None:
            return
        self._failure = error
        folder = _save_evidence(self._evidence, error, time_unix_s=self._unix_s())
        _log.critical("publisher_stopped", reason=str(error), evidence=str(folder))


def _sign(
    checkpoint: Checkpoint, signers: Sequence[LogSigner], *, time_unix_s: int
) -> SignedCheckpoint:
    """A checkpoint with a signature of each key; ML-DSA-44 signatures state the time."""
    text = format_checkpoint(checkpoint)
    signatures = (
        signer.sign(text)
        if isinstance(signer, Signer)
        else signer.sign(text, time_unix_s=time_unix_s)
        for signer in signers
    )
    return SignedCheckpoint(checkpoint, tuple(signatures))


class _CosignatureRound:
    """One round: a signed head, and the cosignatures that came for it so far."""

    def __init__(self, signed: SignedCheckpoint) -> None:
        self.signed = signed
        self.is_published = False
        self.missing: str | None = None
        self._cosignatures: dict[tuple[str, int], Signature] = {}

    def add(self, signatures: Sequence[Signature]) -> None:
        """Add a witness's cosignatures; the latest of each key counts."""
        for signature in signatures:
            self._cosignatures[signature.name, signature.key_id] = signature

    @property
    def checkpoint(self) -> SignedCheckpoint:
        """The head with all signatures so far."""
        signatures = (*self.signed.signatures, *self._cosignatures.values())
        return SignedCheckpoint(self.signed.checkpoint, signatures)


def _save_evidence(folder: Path, error: VerificationError, *, time_unix_s: int) -> Path | None:
    """Write an error's evidence to a new folder; None when there is none or it can't be written."""
    if not error.evidence:
        return None
    place = folder / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time_unix_s))
    draft = folder / f"{place.name}.draft"
    try:
        draft.mkdir(parents=True)
        for name, content in {"reason": f"{error}\n".encode(), **error.evidence}.items():
            create_file(draft / name, content)
        # A reader who finds the folder under its final name finds all of it.
        draft.rename(place)
        sync_directory(folder)
    except OSError as failure:
        _log.error("evidence_not_saved", reason=str(failure))
        return None
    return place
