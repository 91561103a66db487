"""The heads of a log that a client accepts, as a state machine without I/O.

The rules, in the order in which they are applied:

1. A head must meet the policy: a log key that the user configured, and the quorum of witnesses.
   Nothing else of a note, and no part of a proof, is used before.
2. The first head is accepted on that alone: it is the anchor. All others must be of its tree.
3. A head of a size that is known must have the root that is known.
4. A larger head needs a consistency proof from the latest accepted head, and becomes the latest.
5. A smaller head (published heads lag those that are signed for a commit, and threads overtake
   each other) needs a proof from itself to an accepted head. The latest stays where it is.
6. A leaf is in the log when its proof leads to the root of an accepted head.

A head that breaks rule 3, 4 or 5 shows a fork or a rewritten log. The error carries both signed
notes and the proof: two heads that the log's key signed and that can't belong to one tree convince
anybody who has the policy.

Weak: a log can show any tree to a client that has accepted no head yet. This is why the state file
matters, and why a policy with witnesses is stronger than one without.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.hashing import Hash
from ledger_core.tlog.policy import Policy, VerifiedHead
from ledger_core.tlog.proof import Proof, RangeProof, check_leaf, check_leaves
from ledger_core.tlog.text import decode_text, format_base64
from ledger_core.tlog.verify import check_consistency

HEADS_KEPT_MAX = 64
"""Accepted heads kept for rules 3 and 5; one that was forgotten is proven again."""

NOTES_KEPT_MAX = 8
"""Notes whose signatures are not verified again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsistencyProof:
    """The hashes that lead from the root at one size to the root at another."""

    old_size: int
    new_size: int
    hashes: tuple[Hash, ...]

    def format(self) -> str:
        """One base64 hash a line, as witnesses take it. Source: c2sp.org/tlog-witness."""
        return "".join(f"{format_base64(node)}\n" for node in self.hashes)


class TrustedLog:
    """The heads of one log that a client has accepted. Mutable; its owner serialises the calls."""

    def __init__(self, policy: Policy, *, anchor: str | None = None) -> None:
        """`anchor` is the signed note of a head accepted earlier, as a state file keeps it.

        Raises: ValueError when the policy's logs are none or of several origins: a client follows
        one tree. VerificationError, MalformedError when the anchor is not signed by such a log.
        """
        origins = sorted({log.verifier.name for log in policy.logs})
        if len(origins) != 1:
            raise ValueError(f"the policy must name the logs of one origin, got {origins}")
        self.policy: Final = policy
        self._heads: dict[int, VerifiedHead] = {}  # By size: the latest, and some before it.
        self._latest: VerifiedHead | None = None
        self._checked: dict[str, VerifiedHead] = {}  # By note: the last that met the policy.
        if anchor is not None:
            self._remember(check_anchor(anchor, policy), is_latest=True)

    @property
    def latest(self) -> VerifiedHead | None:
        """The largest accepted head; None before the first."""
        return self._latest

    def check_head(self, note: bytes | str) -> VerifiedHead:
        """A head that meets the policy (rule 1). It is not accepted yet.

        Raises: MalformedError, VerificationError.
        """
        text = decode_text(note)
        # The answers to one commit all carry one note, and the commits in flight are a few.
        head = self._checked.get(text)
        if head is None:
            head = self.policy.check(text)
            self._checked[text] = head
            if len(self._checked) > NOTES_KEPT_MAX:
                del self._checked[next(iter(self._checked))]
        return head

    def needs(self, head: VerifiedHead) -> tuple[int, int] | None:
        """The sizes (old, new) that a proof for `accept` must join now; None when it needs none."""
        latest = self._latest
        size = head.checkpoint.tree_size
        if latest is None or size in self._heads or 0 in (size, latest.checkpoint.tree_size):
            return None
        old_size, new_size = sorted((size, latest.checkpoint.tree_size))
        return old_size, new_size

    def accept(self, head: VerifiedHead, proof: ConsistencyProof | None = None) -> bool:
        """Accept a head by rules 2 to 5; False when `proof` isn't between the sizes needed.

        The sizes change when another head was accepted since `needs` was asked: ask again.
        Precondition: `check_head` returned `head`. Raises: VerificationError for a fork.
        """
        latest = self._latest
        size = head.checkpoint.tree_size
        known = self._heads.get(size)
        if known is not None:
            if known.checkpoint.root_hash != head.checkpoint.root_hash:
                raise fork_error(f"two roots at size {size}", accepted=known, offered=head)
            return True
        if latest is None:
            self._remember(head, is_latest=True)
            return True
        latest_size = latest.checkpoint.tree_size
        if 0 in (size, latest_size):
            # Every tree begins with the empty one, and its root is the format's.
            proof = ConsistencyProof(old_size=0, new_size=max(size, latest_size), hashes=())
        if proof is None:
            return False
        is_newer = size > latest_size
        old, new = (latest, head) if is_newer else (head, self._heads.get(proof.new_size))
        if new is None or new.checkpoint.tree_size <= old.checkpoint.tree_size:
            return False
        if (proof.old_size, proof.new_size) != (old.checkpoint.tree_size, new.checkpoint.tree_size):
            return False
        check_consistent(old, new, proof, offered=head)
        self._remember(head, is_latest=is_newer)
        return True

    def check_proof(self, proof: Proof, *, leaf_hash: Hash) -> VerifiedHead:
        """The accepted head in whose tree the leaf is at `proof.leaf_index` (rule 6).

        Precondition: the head of the proof was accepted. Raises: VerificationError with the proof.
        """
        head = self._accepted(proof.checkpoint)
        check_leaf(proof, leaf_hash, head)
        return head

    def check_range_proof(self, proof: RangeProof, *, leaf_hashes: Sequence[Hash]) -> VerifiedHead:
        """The accepted head in whose tree the leaves are at [proof.start, proof.end) (rule 6).

        Precondition: the head of the proof was accepted. Cost: one hash a leaf.
        Raises: VerificationError with the proof; also for another number of leaves than its range.
        """
        head = self._accepted(proof.checkpoint)
        check_leaves(proof, leaf_hashes, head)
        return head

    def _accepted(self, note: str) -> VerifiedHead:
        head = self.check_head(note)
        known = self._heads.get(head.checkpoint.tree_size)
        if known is None or known.checkpoint.root_hash != head.checkpoint.root_hash:
            raise ValueError(f"the head of size {head.checkpoint.tree_size} was not accepted")
        return head

    def _remember(self, head: VerifiedHead, *, is_latest: bool) -> None:
        self._heads[head.checkpoint.tree_size] = head
        if is_latest or self._latest is None:
            self._latest = head
        if len(self._heads) > HEADS_KEPT_MAX:
            latest_size = self._latest.checkpoint.tree_size
            del self._heads[next(size for size in self._heads if size != latest_size)]


def check_consistent(
    old: VerifiedHead, new: VerifiedHead, proof: ConsistencyProof, *, offered: VerifiedHead
) -> None:
    """Check two heads by a proof; `offered` is the one of the two that isn't accepted yet.

    Raises: VerificationError with both notes and the proof.
    """
    try:
        check_consistency(
            old_size=old.checkpoint.tree_size,
            new_size=new.checkpoint.tree_size,
            proof=proof.hashes,
            old_root=old.checkpoint.root_hash,
            new_root=new.checkpoint.root_hash,
        )
    except VerificationError as error:
        accepted = old if offered is new else new
        raise fork_error(str(error), accepted=accepted, offered=offered, proof=proof) from error


def check_anchor(note: str, policy: Policy) -> VerifiedHead:
    """The head of a note that was accepted earlier: signed by a log of the policy.

    The quorum is not required again: a user who adds a witness to the policy keeps an anchor that
    this witness had not cosigned. The anchor binds later heads and proves no leaf by itself.

    Raises: MalformedError, VerificationError.
    """
    return replace(policy, quorum=None).check(note)


def fork_error(
    reason: str,
    *,
    accepted: VerifiedHead,
    offered: VerifiedHead,
    proof: ConsistencyProof | None = None,
) -> VerificationError:
    """The error for two heads that are not of one tree, with both notes as evidence."""
    evidence = {"accepted.note": accepted.note.encode(), "offered.note": offered.note.encode()}
    if proof is not None:
        evidence["proof.txt"] = proof.format().encode()
    return VerificationError(
        f"the log forked or was rewritten: the head of size {offered.checkpoint.tree_size} is not"
        f" consistent with the accepted head of size {accepted.checkpoint.tree_size}: {reason}",
        evidence=evidence,
    )
