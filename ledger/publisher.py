"""Signing and publishing tree heads.

A head is signed when three things hold: it is durable, it is not smaller than the last one signed,
and a consistency proof from that one to it, read from the store and checked by the verifier, leads
to its root. A head that fails is never signed, nor is any after it: that is corruption or a fork
of our own, and the publisher stops for good and says so.

A published checkpoint is durable in the store before anybody is shown it, so that after a crash
the log knows every head it stood by. Heads that are signed for an acknowledgement in between need
no record of their own: what they cover was durable before they were signed, and appending is all
that the log ever does.
"""

import asyncio
from typing import Final

import structlog

from ledger.sequencer import Sequencer
from ledger.store.log import Head, LogStore, Published
from ledger.tlog.checkpoint import Checkpoint, format_checkpoint
from ledger.tlog.errors import UnavailableError, VerificationError
from ledger.tlog.note import Note, Signer, format_note
from ledger.tlog.policy import Policy
from ledger.tlog.prove import plan_consistency
from ledger.tlog.verify import check_consistency

INTERVAL_S: Final = 1.0

_log = structlog.get_logger("ledger.publisher")


class Publisher:
    """Signs for one log. All of it runs on the event loop, which owns its fields."""

    def __init__(
        self,
        *,
        origin: str,
        signer: Signer,
        policy: Policy,
        store: LogStore,
        sequencer: Sequencer,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._origin = origin
        self._signer = signer
        self._policy = policy
        self._store = store
        self._sequencer = sequencer
        self._interval_s = interval_s
        self._published = store.published()
        self._signed = self._published
        self._changed = asyncio.Condition()
        self._failure: VerificationError | None = None

    @property
    def published(self) -> Published | None:
        """The latest published checkpoint; None until the first has been made."""
        return self._published

    @property
    def failure(self) -> VerificationError | None:
        """Why nothing is signed any more, or None."""
        return self._failure

    def sign(self) -> Published:
        """The newest durable head, signed. The same head gives the same note.

        Raises: VerificationError when it does not extend what was signed before.
        Cost: one signature and at most 2·log2(n) point reads for a new head, else nothing.
        """
        if self._failure is not None:
            raise self._failure
        head = self._sequencer.head
        if self._signed is not None and self._signed.head == head:
            return self._signed
        if self._signed is not None:
            try:
                self._check_extends(self._signed, head)
            except VerificationError as error:
                self._failure = error
                _log.critical("publisher_stopped", reason=str(error))
                raise
        text = format_checkpoint(Checkpoint(self._origin, head.tree_size, head.root_hash))
        self._signed = Published(head, format_note(Note(text, (self._signer.sign(text),))))
        return self._signed

    async def run(self) -> None:
        """Publish whenever there is something new, once an interval, until cancelled."""
        while True:
            try:
                await self.publish()
            except VerificationError:
                return
            except UnavailableError as error:
                _log.error("publish_failed", reason=str(error))
            await asyncio.sleep(self._interval_s)

    async def publish(self) -> None:
        """Publish the newest durable head, unless it is published already.

        Raises: as `sign` and `Sequencer.publish`; the checkpoint before stays published then.
        """
        signed = self.sign()
        if self._published is not None and self._published.head == signed.head:
            return
        self._policy.check(signed.note)
        # Durable before it is shown: a log that forgot a head it stood by could sign another.
        await self._sequencer.publish(tree_size=signed.head.tree_size, note=signed.note)
        self._published = signed
        _log.info("checkpoint_published", tree_size=signed.head.tree_size)
        async with self._changed:
            self._changed.notify_all()

    async def wait_for(self, tree_size: int, *, timeout_s: float) -> Published | None:
        """The first published checkpoint of at least this size; None when time ran out."""

        def covering() -> Published | None:
            published = self._published
            return published if published and published.head.tree_size >= tree_size else None

        try:
            async with asyncio.timeout(timeout_s), self._changed:
                return await self._changed.wait_for(covering)
        except TimeoutError:
            return None

    def _check_extends(self, signed: Published, head: Head) -> None:
        old = signed.head
        if head.tree_size < old.tree_size:
            raise VerificationError(
                f"a head of size {old.tree_size} was signed, the log now has {head.tree_size}",
                evidence={"signed": signed.note.encode()},
            )
        plan = plan_consistency(old_size=old.tree_size, new_size=head.tree_size)
        check_consistency(
            old_size=old.tree_size,
            new_size=head.tree_size,
            proof=self._store.prove(plan),
            old_root=old.root_hash,
            new_root=head.root_hash,
        )
