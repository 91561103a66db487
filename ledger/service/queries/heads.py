"""The work of `/v1/checkpoints`: kept heads with their proofs, and a head that somebody shows."""

from collections.abc import Sequence

from msgspec.json import encode as encode_json

from ledger.service.queries.job import QueryJob
from ledger.service.queries.store_proofs import prove_consistency
from ledger_core.api import KeptCheckpoint, KeptCheckpoints
from ledger_core.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.cosignature import parse_verifier
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.note import known_keys, verify_note


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


def read_shown_head(
    _job: QueryJob, data: bytes, log_vkeys: Sequence[str], witness_vkeys: Sequence[str]
) -> bytes | str:
    """Work: a checkpoint that one of these logs signed, or why it is none, as text.

    Anybody may show one, of a mebibyte that takes tens of milliseconds. So the process that orders
    events gets those alone that a log signed, with one signature of each key that is known.
    """
    try:
        shown = parse_signed_checkpoint(data)
        verify_note(shown.as_note(), map(parse_verifier, log_vkeys))
    except (MalformedError, VerificationError) as error:
        return str(error)
    known = known_keys(map(parse_verifier, (*log_vkeys, *witness_vkeys)))
    lines = {(line.name, line.key_id): line for line in shown.signatures}
    signatures = tuple(line for key, line in lines.items() if key in known)
    return SignedCheckpoint(shown.checkpoint, signatures).note.encode()
