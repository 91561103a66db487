"""The work of `GET /v1/checkpoints`: kept heads, each with its proof, as JSON."""

from msgspec.json import encode as encode_json

from ledger.service.queries.job import QueryJob
from ledger.service.queries.store_proofs import prove_consistency
from ledger_core.api import KeptCheckpoint, KeptCheckpoints
from ledger_core.tlog.checkpoint import SignedCheckpoint


def find_kept_heads(job: QueryJob, published: SignedCheckpoint, *, start: int, limit: int) -> bytes:
    """Work: kept heads from a size on, each with a proof that the published tree begins with it."""
    tree_size = published.head.tree_size
    found = job.store.kept_heads(start=start, most=limit + 1)
    # One that was published since is beyond the head that the proofs lead to.
    within = [head for head in found if head.head.tree_size <= tree_size]
    checkpoints = []
    for head in within[:limit]:
        job.check()
        proof = prove_consistency(job.store, old_size=head.head.tree_size, head=published.head)
        checkpoints.append(KeptCheckpoint(checkpoint=head.note, hashes=proof.hashes))
    following = within[limit].head.tree_size if len(within) > limit else None
    return encode_json(
        KeptCheckpoints(checkpoints=tuple(checkpoints), published=published.note, next=following)
    )
