"""Proofs as answers carry them: read from the store, against a signed head."""

from ledger.service.http.problems import ProblemError
from ledger.store.log import LogStore
from ledger_core.api import Consistency
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.proof import Proof, RangeProof, format_proof, format_range_proof
from ledger_core.tlog.prove import plan_consistency, plan_inclusion, plan_range
from ledger_core.tlog.text import format_base64


def prove_inclusion(store: LogStore, *, leaf_index: int, head: SignedCheckpoint) -> str:
    """A tlog-proof that a leaf is in the tree of a head.

    Precondition: leaf_index < the head's size <= the durable size. Cost: 2·log2(size) point reads.
    """
    plan = plan_inclusion(leaf_index=leaf_index, tree_size=head.head.tree_size)
    return format_proof(
        Proof(leaf_index=leaf_index, hashes=store.prove(plan), checkpoint=head.note)
    )


def prove_range(store: LogStore, *, start: int, end: int, head: SignedCheckpoint) -> str:
    """A range proof that the leaves [start, end) are in the tree of a head.

    Precondition: start < end <= the head's size <= the durable size.
    """
    plan = plan_range(start=start, end=end, tree_size=head.head.tree_size)
    return format_range_proof(
        RangeProof(start=start, end=end, hashes=store.prove(plan), checkpoint=head.note)
    )


def prove_consistency(store: LogStore, *, old_size: int, new_size: int) -> Consistency:
    """That the tree of one size begins with that of another.

    Precondition: old_size <= new_size <= the durable size.
    """
    plan = plan_consistency(old_size=old_size, new_size=new_size)
    hashes = tuple(map(format_base64, store.prove(plan)))
    return Consistency(from_=old_size, to=new_size, hashes=hashes)


def check_within(name: str, number: int, *, tree_size: int) -> None:
    """Refuse a size in a parameter that is larger than the tree. Raises: ProblemError."""
    if number > tree_size:
        raise past_the_end(name, number, tree_size=tree_size)


def past_the_end(name: str, number: int, *, tree_size: int) -> ProblemError:
    """A parameter names what the tree doesn't have."""
    return ProblemError(
        "past-the-end",
        f"got {number}, the tree has size {tree_size}",
        field=name,
        limit=tree_size,
        got=number,
    )
