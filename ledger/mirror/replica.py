"""The verified copy of a log, and the rules by which it grows.

1. A head of the log must meet the policy. A head that the log offers for a cosignature needs the
   log's own signature alone: the cosignatures come after it.
2. A head within the copy must have the root of the copy there. A larger one must be proven to
   extend the largest that was accepted (`accepted`), or be the tree that the copy makes with the
   entries before it.
3. Entries are kept in one transaction that ends with the tree of a head, or with the root that
   the head's tiles have at that size (`append_verified`). So what is on the disk is verified.
4. Every entry is a leaf in canonical form, and none was received before the one in front of it. An
   id is there once in a tenant.

A head that breaks rule 2 shows a fork: the copy stays on its branch, keeps both heads in
`evidence/`, and follows no more, also after a restart (`stopped.json`).

The crash window: between entries that a head covers and the head itself. So a head is written to
`head.json` before entries are kept under it, unless it is stored in one transaction with them.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import structlog

from ledger.log.hold import read_own_head
from ledger.log.sequencer import Sequencer
from ledger.mirror.data_dir import MirrorPaths
from ledger.runtime.records import CheckedRecord, read_record, write_record
from ledger.store.log_start import last_received_time
from ledger.store.writer import NewEntry, parsed_entry
from ledger_client.messages import Plan
from ledger_client.plans.heads import fetch_consistency
from ledger_client.runtime.clock import unix_us
from ledger_client.state_file import StateFile
from ledger_core.event.canonical import event_json_of
from ledger_core.event.leaf_batch import parse_leaves
from ledger_core.event.times import format_time
from ledger_core.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.policy import Policy, VerifiedHead
from ledger_core.tlog.text import decode_text
from ledger_core.tlog.tree import TreeHead
from ledger_core.tlog.trust import check_anchor, check_consistent, fork_error

_log = structlog.get_logger("ledger.mirror")


class ForkError(VerificationError):
    """The log signed a head that is not of the tree that is held here."""


class StopRecord(CheckedRecord, frozen=True, omit_defaults=True):
    """The content of `stopped.json`. `since`: as times in events."""

    reason: str
    since: str
    evidence: str


class ReadLeaves(NamedTuple):
    """Leaves that are canonical and in the order of their receipt (rule 4), as entries.

    `end`: the index behind the last one. `received_time`: when that was received, as its text.
    """

    entries: Sequence[NewEntry]
    end: int
    received_time: str


class Replica:
    """The copy of one log. Used on the event loop; one call of `keep` at a time.

    `accepted` is the largest head that was accepted, `stopped` why the copy grows no more.
    """

    def __init__(self, sequencer: Sequencer, policy: Policy, paths: MirrorPaths) -> None:
        """Raises: VerificationError, MalformedError when the folder isn't that of this log."""
        self.policy: Final = policy
        self.published = sequencer.store.published()
        self.stopped = read_stop(paths)
        self._sequencer: Final = sequencer
        self._paths: Final = paths
        self._origin: Final = sequencer.store.origin()
        self._log_keys: Final = [log.verifier for log in policy.logs]
        self._received_time = last_received_time(sequencer.store) or ""
        self._head_file: Final = StateFile(
            paths.head, policy=policy, monotonic_s=time.monotonic, evidence=paths.ledger.evidence
        )
        self.accepted = self._load_accepted()

    @property
    def held(self) -> TreeHead:
        """The durable tree."""
        return self._sequencer.head

    def check_published(self, note: bytes | str) -> VerifiedHead:
        """A head that the log has published (rule 1).

        Raises: VerificationError, MalformedError; UnavailableError for one of the log that lacks
        its quorum: witnesses may not have cosigned it yet.
        """
        try:
            return self.policy.check(note)
        except VerificationError as error:
            with suppress(VerificationError):
                check_anchor(decode_text(note), self.policy)
                raise UnavailableError(f"the published head: {error}") from error
            offered = note.encode() if isinstance(note, str) else note
            evidence = {**self._accepted_evidence(), "offered.note": offered, **error.evidence}
            raise VerificationError(str(error), evidence=evidence) from error

    def check_offered(self, signed: SignedCheckpoint) -> VerifiedHead:
        """A head that the log offers for a cosignature. Raises: VerificationError."""
        return check_anchor(signed.note, self.policy)

    def accept(self, head: VerifiedHead) -> Plan[bool]:
        """Check a head by rule 2; whether it is within the copy.

        Raises: ForkError with both heads; RejectedError, UnavailableError without a proof.
        """
        size = head.checkpoint.tree_size
        if size <= self.held.tree_size:
            self._check_within(head)
            return True
        accepted = self.accepted
        if accepted is None or accepted.checkpoint.tree_size <= self.held.tree_size:
            return False  # The entries up to it will make its root, or not.
        old, new = sorted((accepted, head), key=lambda each: each.checkpoint.tree_size)
        old_size, new_size = old.checkpoint.tree_size, new.checkpoint.tree_size
        if old_size == new_size:
            if old.checkpoint.root_hash != new.checkpoint.root_hash:
                reason = f"two roots at size {size}"
                raise _as_fork(fork_error(reason, accepted=accepted, offered=head))
            return False
        proof = yield from fetch_consistency(old_size, new_size)
        try:
            check_consistent(old, new, proof, offered=head)
        except VerificationError as error:
            raise _as_fork(error) from error
        return False

    def check_start(self, head: VerifiedHead, root_hash: bytes) -> None:
        """Check the root that a head's tree has at the size of the copy. Raises: ForkError."""
        if root_hash != self.held.root_hash:
            raise self._fork(head, f"at size {self.held.tree_size} it has another root")

    def remember(self, head: VerifiedHead) -> None:
        """Make an accepted head durable before entries are kept under it. Raises: OSError."""
        if self.accepted is None or (
            head.checkpoint.tree_size > self.accepted.checkpoint.tree_size
        ):
            self._head_file.save(head.note)
            self.accepted = head

    async def append(
        self,
        leaves: Sequence[bytes],
        *,
        expected: TreeHead,
        published: VerifiedHead | None = None,
    ) -> None:
        """Make the next entries durable, if they make the `expected` tree (rules 3 and 4).

        `published`: a head of that tree, which meets the policy. Raises: as `append_verified`.
        """
        await self.keep(self.read(leaves), expected=expected, published=published)

    def read(self, leaves: Sequence[bytes], *, after: ReadLeaves | None = None) -> ReadLeaves:
        """Check the next leaves by rule 4: those behind the copy, or behind others that were read.

        Raises: VerificationError.
        """
        if after is None:
            after = ReadLeaves((), self.held.tree_size, self._received_time)
        received_time = after.received_time
        entries = []
        parsed_leaves = parse_leaves(leaves)
        for leaf_index, leaf in enumerate(leaves, after.end):
            try:
                parsed = next(parsed_leaves)
            except MalformedError as error:
                raise VerificationError(f"entry {leaf_index} is no leaf: {error}") from error
            time_ = parsed.received.time
            # Both times are canonical text, which sorts as the times do.
            if time_ < received_time:
                raise VerificationError(
                    f"entry {leaf_index} was received at {time_}, and the one before it at "
                    f"{received_time}: the log's clock ran backwards"
                )
            received_time = time_
            entries.append(parsed_entry(leaf, parsed.event, event_json_of(leaf)))
        return ReadLeaves(entries, after.end + len(leaves), received_time)

    async def keep(
        self, read: ReadLeaves, *, expected: TreeHead, published: VerifiedHead | None = None
    ) -> None:
        """As `append`, of the leaves behind the copy that `read` has checked.

        `read` for later leaves may run meanwhile: only this depends on the copy.
        """
        signed = None if published is None else parse_signed_checkpoint(published.note)
        await self._sequencer.append_verified(read.entries, expected=expected, published=signed)
        self._received_time = read.received_time
        if published is not None:
            self._publish(published, signed)

    async def publish(self, head: VerifiedHead) -> None:
        """Store and show a published head within the copy. Raises: ForkError, UnavailableError."""
        self._check_within(head)
        signed = parse_signed_checkpoint(head.note)
        await self._sequencer.publish(tree_size=signed.head.tree_size, note=signed.note)
        self._publish(head, signed)

    def shown(self, data: bytes) -> bool:
        """Whether the copy has a head that somebody shows.

        Raises: MalformedError; VerificationError for no head of the log; ForkError.
        """
        signed = read_own_head(data, self._origin, self._log_keys)
        if signed.head.tree_size > self.held.tree_size:
            return False
        self._check_within(self.check_offered(signed))
        return True

    def stop(self, error: ForkError) -> None:
        """Keep the evidence of a fork, and follow no more."""
        if self.stopped is not None:
            return
        folder = self.save_evidence(error, is_final=True)
        since = format_time(unix_us())
        self.stopped = StopRecord(str(error), since, "" if folder is None else folder)
        try:
            write_record(self._paths.stopped, self.stopped)
        except OSError as failure:
            _log.error("stop_not_written", reason=str(failure))
        _log.critical("mirror_stopped", reason=str(error), evidence=folder)

    def save_evidence(self, error: VerificationError, *, is_final: bool = False) -> str | None:
        """Save the evidence of an error, the last one if it `is_final`; its folder, or None."""
        if not error.evidence:
            return None
        evidence: Mapping[str, bytes] = {
            "verdict.txt": f"{error}\n".encode(),
            **error.evidence,
        }
        try:
            folder = self._head_file.save_evidence(evidence, is_final=is_final)
        except OSError as failure:
            _log.error("evidence_not_saved", reason=str(failure))
            return None
        return None if folder is None else str(folder)

    def older_error(self, head: VerifiedHead) -> VerificationError:
        """The error for a head that is smaller than one that the log showed before."""
        accepted = 0 if self.accepted is None else self.accepted.checkpoint.tree_size
        return VerificationError(
            f"the log shows a head of size {head.checkpoint.tree_size} after one of {accepted}: it "
            "looks like a restored backup, or somebody on the way repeats an old answer",
            evidence={**self._accepted_evidence(), "offered.note": head.note.encode()},
        )

    def _check_within(self, head: VerifiedHead) -> None:
        checkpoint = head.checkpoint
        root = self._sequencer.store.root_at(checkpoint.tree_size)
        if root != checkpoint.root_hash:
            raise self._fork(head, f"two roots at size {checkpoint.tree_size}")

    def _fork(self, head: VerifiedHead, reason: str) -> ForkError:
        if self.accepted is None:
            raise AssertionError("entries are kept under an accepted head alone")
        return _as_fork(fork_error(reason, accepted=self.accepted, offered=head))

    def _publish(self, head: VerifiedHead, signed: SignedCheckpoint | None) -> None:
        if self.published is None or head.checkpoint.tree_size >= self.published.head.tree_size:
            self.published = signed
        if self.accepted is None or (
            head.checkpoint.tree_size > self.accepted.checkpoint.tree_size
        ):
            self.accepted = head  # It is durable in the log already.

    def _load_accepted(self) -> VerifiedHead | None:
        """The largest accepted head, from its file or the log. Raises: VerificationError."""
        notes = [self._head_file.load(), self.published.note if self.published else None]
        heads = [check_anchor(note, self.policy) for note in notes if note is not None]
        for head in heads:
            size = head.checkpoint.tree_size
            if size > self.held.tree_size:
                continue
            if self._sequencer.store.root_at(size) != head.checkpoint.root_hash:
                raise VerificationError(
                    f"{self._paths.root} holds another log than its head of size {size}"
                )
        return max(heads, key=lambda head: head.checkpoint.tree_size, default=None)

    def _accepted_evidence(self) -> dict[str, bytes]:
        return {} if self.accepted is None else {"accepted.note": self.accepted.note.encode()}


def read_stop(paths: MirrorPaths) -> StopRecord | None:
    """Why a mirror follows no more, or None. Raises: MalformedError for a damaged file."""
    return read_record(paths.stopped, StopRecord)


def _as_fork(error: VerificationError) -> ForkError:
    return ForkError(str(error), evidence=error.evidence)
