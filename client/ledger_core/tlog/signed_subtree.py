"""Signed subtrees: a witness or a mirror signs a part of a tree that it has cosigned.

Somebody who has a checkpoint with a cosignature sends it with the root of a subtree, and the proof
that the tree of the checkpoint has that subtree:

    subtree 8 13                                      the leaves [8, 13)
    mbsQCg+dEIMGlpqeGgk94JutQwKKS2Lo5IuDhKmDjiU=      the root hash of the subtree
    CD82D2LDm0phY0+xKbHyZfq3Hw21lVkuV7Zis5EFg0k=      a subtree consistency proof: 63 hashes at most
    h/ghL5nyaXTIBAklqDnisM+SFdbA3izoGZ5oRYMZzc0=
                                                      an empty line, the first one
    example.com/behind-the-sofa                       a checkpoint, cosigned by the key asked
    14
    /CcKVZM9n65aH7jLaIZuUB4/MSlEFQ4+ldwUC21rDHM=

    — witness.example/w1 LijDAFSpKvDUj+ZtaJ4lUVcnvnooXd…

The signer keeps no state for this: its own cosignature says that it has seen the tree. The answer
is decided in this order, and the first that holds is given:

    400   the bytes are not this format, or [start, end) is no subtree of the checkpoint's tree
    404   no log of this origin is known
    403   no key that signs subtrees has cosigned the checkpoint, or a cosignature is bad
    422   the proof does not hold
    200   a signature line of each such key that cosigned the checkpoint

Source: c2sp.org/tlog-witness, "sign-subtree".
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ledger_core.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.cosignature import CosignatureSigner, Subtree
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import Hash, check_hashes
from ledger_core.tlog.keys import MLDSA44_COSIGNATURE
from ledger_core.tlog.note import Signature, verify_note
from ledger_core.tlog.text import format_base64, from_wire, parse_hash, parse_size
from ledger_core.tlog.tree import is_subtree
from ledger_core.tlog.verify import check_subtree_consistency
from ledger_core.tlog.witness import PROOF_HASHES_MAX, Refused, split_request

_SUBTREE = "subtree "


@dataclass(frozen=True, slots=True)
class SignSubtree:
    """A request: sign the subtree [start, end) of a checkpoint's tree. Nothing is verified yet."""

    start: int
    end: int
    root_hash: Hash
    proof: tuple[Hash, ...]
    signed: SignedCheckpoint

    def __post_init__(self) -> None:
        """Raises: ValueError for values that no request can have."""
        check_hashes((self.root_hash,), 1)
        check_hashes(self.proof, PROOF_HASHES_MAX)
        if not is_subtree(self.start, self.end):
            raise ValueError(f"[{self.start}, {self.end}) is not a subtree")
        if self.end > self.signed.head.tree_size:
            raise ValueError(
                f"a tree of size {self.signed.head.tree_size} has no subtree "
                f"[{self.start}, {self.end})"
            )

    @property
    def subtree(self) -> Subtree:
        """The subtree to sign."""
        return Subtree(self.signed.checkpoint.origin, self.start, self.end, self.root_hash)


def parse_sign_subtree(body: bytes) -> SignSubtree:
    """Parse the body of a request. `format_sign_subtree` gives the same bytes back.

    Raises: MalformedError.
    """
    (ends, *hashes), note = split_request(body)
    start, space, end = ends.removeprefix(_SUBTREE).partition(" ")
    if not ends.startswith(_SUBTREE) or not space:
        raise MalformedError(f"the first line of a request is `{_SUBTREE}<start> <end>`")
    if not hashes:
        raise MalformedError("a request has the root hash of the subtree in its second line")
    with from_wire():
        return SignSubtree(
            parse_size(start),
            parse_size(end),
            parse_hash(hashes[0]),
            tuple(map(parse_hash, hashes[1 : PROOF_HASHES_MAX + 2])),  # One too many is refused.
            parse_signed_checkpoint(note),
        )


def format_sign_subtree(request: SignSubtree) -> bytes:
    """The body of a request."""
    hashes = "".join(f"{format_base64(each)}\n" for each in (request.root_hash, *request.proof))
    return f"{_SUBTREE}{request.start} {request.end}\n{hashes}\n{request.signed.note}".encode()


def sign_subtree(
    request: SignSubtree, signers: Sequence[CosignatureSigner], *, is_known: bool
) -> tuple[Signature, ...] | Refused:
    """Decide a request. `signers`: the keys of this service; `is_known`: it knows the log.

    Cost: two hashes for each of the proof, and a verification and a signature a key.
    """
    if not is_known:
        return Refused(404, "no log of this origin is known here")
    note = request.signed.as_note()
    able = [each for each in signers if each.verifier.key.algorithm == MLDSA44_COSIGNATURE]
    try:
        cosigned = {
            (each.name, each.key_id) for each in verify_note(note, [each.verifier for each in able])
        }
    except VerificationError as error:
        return Refused(403, f"no key here that signs subtrees has cosigned this: {error}")
    checkpoint = request.signed.checkpoint
    try:
        check_subtree_consistency(
            start=request.start,
            end=request.end,
            tree_size=checkpoint.tree_size,
            proof=request.proof,
            subtree_root=request.root_hash,
            root_hash=checkpoint.root_hash,
        )
    except VerificationError as error:
        return Refused(422, str(error))
    return tuple(
        each.sign_subtree(request.subtree)
        for each in able
        if (each.verifier.name, each.verifier.key_id) in cosigned
    )
