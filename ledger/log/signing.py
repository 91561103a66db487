"""Signs heads with the keys of the log, in this process or in another one.

A key in memory signs at once. A key that another process holds (`ledger.runtime.ssh_agent`) is
asked on a thread: an agent that hangs keeps no request waiting but those that need a signature, and
these not for long. After an error it is left alone for a wait that doubles with each further one;
whoever needs a signature meanwhile gets the error at once.

All keys of the log sign each head: during a rotation no verifier can then tell which key is late.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import structlog

from ledger.store.log import DamagedTreeError, LogStore
from ledger_client.runtime.backoff import exponential_s
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.errors import UnavailableError, VerificationError
from ledger_core.tlog.keys import SignerKey
from ledger_core.tlog.note import Signature, Signer
from ledger_core.tlog.tree import TreeHead
from ledger_core.tlog.verify import check_consistency

WAIT_MAX_S: Final = 60.0
"""The longest wait before an agent that failed is asked again."""

LogSigner = Signer | CosignatureSigner
"""A key of the log: Ed25519, or ML-DSA-44, which states a time."""

_log = structlog.get_logger("ledger.log.publisher")


class SignerUnavailableError(UnavailableError):
    """A key that another process holds did not sign."""


class HeadSigner:
    """The keys of a log. Used on one event loop, one call of `sign` at a time."""

    def __init__(
        self, signers: Sequence[LogSigner], *, unix_s: Callable[[], int], wait_base_s: float
    ) -> None:
        """`wait_base_s`: the wait after the first error of an agent."""
        self.signers: Final = tuple(signers)
        self._unix_s: Final = unix_s
        self._wait_base_s: Final = wait_base_s
        self._is_remote: Final = not all(isinstance(s.key, SignerKey) for s in signers)
        self._asked: asyncio.Task[tuple[Signature, ...]] | None = None
        self._failures = 0
        self._ask_after_s = 0.0
        self._error = ""

    async def sign(self, text: str) -> tuple[Signature, ...]:
        """The signatures of a checkpoint's text. Raises: SignerUnavailableError."""
        if not self._is_remote:
            return self._sign(text)
        if self._asked is not None:  # One whose caller went away.
            await asyncio.wait({self._asked})
        if time.monotonic() < self._ask_after_s:
            raise SignerUnavailableError(self._error)
        self._asked = asyncio.create_task(asyncio.to_thread(self._sign, text))
        self._asked.add_done_callback(self._note)
        try:
            return await asyncio.shield(self._asked)
        except UnavailableError as error:
            raise SignerUnavailableError(str(error)) from error

    def has_signed(self, signatures: Sequence[Signature]) -> bool:
        """Whether a signature of each key is among these."""
        return have_signed(self.signers, signatures)

    def _sign(self, text: str) -> tuple[Signature, ...]:
        time_unix_s = self._unix_s()
        return tuple(
            signer.sign(text)
            if isinstance(signer, Signer)
            else signer.sign(text, time_unix_s=time_unix_s)
            for signer in self.signers
        )

    def _note(self, task: asyncio.Task[tuple[Signature, ...]]) -> None:
        """Remember how a request to the agents went."""
        self._asked = None
        error = None if task.cancelled() else task.exception()
        if error is None:
            if self._failures:
                _log.info("signer_signs_again")
            self._failures, self._error = 0, ""
            return
        self._failures += 1
        wait_s = exponential_s(self._failures, base_s=self._wait_base_s, limit_s=WAIT_MAX_S)
        self._ask_after_s = time.monotonic() + wait_s
        if str(error) != self._error:
            _log.error("signer_failed", reason=str(error), retry_s=round(wait_s, 1))
        self._error = str(error)


def have_signed(signers: Iterable[LogSigner], signatures: Iterable[Signature]) -> bool:
    """Whether a signature of each key is among some; none of them is verified."""
    signed = {(each.name, each.key_id) for each in signatures}
    return all((each.verifier.name, each.verifier.key_id) in signed for each in signers)


def check_growth(store: LogStore, before: SignedCheckpoint, head: TreeHead) -> None:
    """Check that a head extends one that was signed, by a proof that the verifier checks.

    Raises: VerificationError.
    """
    old = before.head
    if head.tree_size < old.tree_size:
        raise VerificationError(
            f"a head of size {old.tree_size} was signed, the log now has {head.tree_size}",
            evidence={"signed": before.note.encode()},
        )
    try:
        proof = store.prove_consistency(old.tree_size, head)
    except DamagedTreeError as error:
        raise VerificationError(str(error)) from error
    check_consistency(
        old_size=old.tree_size,
        new_size=head.tree_size,
        proof=proof,
        old_root=old.root_hash,
        new_root=head.root_hash,
    )
