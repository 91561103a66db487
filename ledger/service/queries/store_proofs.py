"""Proofs of the log's events and trees, as answers hold them."""

from ledger.service.http.problems import ProblemError
from ledger.service.queries.job import QueryJob
from ledger.store.stored_log import StoredLog
from ledger_core.api import AskMulti, Consistency
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.hashing import Hash
from ledger_core.tlog.multi_proof import MultiProof, format_multi_proof
from ledger_core.tlog.proof import Proof, RangeProof, format_proof, format_range_proof
from ledger_core.tlog.prove import plan_inclusion, plan_multi, plan_range
from ledger_core.tlog.text import format_base64
from ledger_core.tlog.tree import Node, TreeHead, decompose


def prove_multi(job: QueryJob, ask: AskMulti) -> bytes:
    """Work: a multi-proof of some leaves in the tree of a size. Raises: ProblemError."""
    try:
        plan = plan_multi(indices=ask.indices, tree_size=ask.tree_size)
    except ValueError as error:
        raise ProblemError("bad-parameter", str(error), field="indices") from None
    leaves = [Node(0, index) for index in ask.indices]
    hashes = job.store.prove(plan, leaves, job.store.head_at(ask.tree_size))
    return format_multi_proof(MultiProof(ask.indices, hashes)).encode()


def prove_inclusion(store: StoredLog, *, leaf_index: int, head: SignedCheckpoint) -> str:
    """A tlog-proof that a leaf is in the tree of a head.

    Precondition: leaf_index < the head's size <= the durable size.
    Cost: 2·log2(size) point reads. Raises: DamagedTreeError.
    """
    hashes = inclusion_hashes(store, leaf_index, head.head)
    return format_proof(Proof(leaf_index=leaf_index, hashes=hashes, checkpoint=head.note))


def inclusion_hashes(store: StoredLog, leaf_index: int, head: TreeHead) -> tuple[Hash, ...]:
    """The hashes that prove a leaf in a tree. Precondition and cost: as `prove_inclusion`."""
    plan = plan_inclusion(leaf_index=leaf_index, tree_size=head.tree_size)
    return store.prove(plan, (Node(0, leaf_index),), head)


def prove_range(store: StoredLog, *, start: int, end: int, head: SignedCheckpoint) -> str:
    """A range proof that the leaves [start, end) are in the tree of a head.

    Precondition: start < end <= the head's size <= the durable size. Raises: DamagedTreeError.
    """
    plan = plan_range(start=start, end=end, tree_size=head.head.tree_size)
    hashes = store.prove(plan, decompose(start, end), head.head)
    return format_range_proof(RangeProof(start=start, end=end, hashes=hashes, checkpoint=head.note))


def prove_consistency(store: StoredLog, *, old_size: int, head: TreeHead) -> Consistency:
    """A proof that the tree of a head begins with the tree of a size.

    Precondition: old_size <= the head's size <= the durable size. Raises: DamagedTreeError.
    """
    hashes = tuple(map(format_base64, store.prove_consistency(old_size, head)))
    return Consistency(from_=old_size, to=head.tree_size, hashes=hashes)


def prove_growth(
    store: StoredLog, from_size: int | None, head: SignedCheckpoint
) -> Consistency | None:
    """A proof that the tree of a head begins with the one of `from_size`, if that was asked for."""
    if from_size is None:
        return None
    return prove_consistency(store, old_size=from_size, head=head.head)
