"""Proof files: an index, the hashes and the signed checkpoint in one text.

    c2sp.org/tlog-proof@v1
    extra YWdlLXYxLjIuMQ==                            optional; nobody signed it
    index 73894                                       of the leaf, from 0
    gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=      the inclusion proof, from the leaf's sibling
    B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=      up to the root's child
                                                      an empty line
    example.com/fancylog                              the checkpoint and its signatures, verbatim
    109482
    sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=

    — example.com/fancylog hI2DJw…

Anyone who has the leaf and a policy can check it offline, at any time. The files end in
`.tlog-proof`.

A range proof does the same for the consecutive leaves [start, end), and is a format of our own. It
differs in two lines, and its hashes are those of the maximal subtrees that have none of the leaves,
left to right:

    witnessed-ledger/range-proof@v1
    range 73894 74894

Source: c2sp.org/tlog-proof.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ledger_core.tlog.checkpoint import parse_signed_checkpoint
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import SIZE_MAX, Hash, check_hashes
from ledger_core.tlog.note import NOTE_BYTES_MAX
from ledger_core.tlog.policy import Policy, VerifiedHead
from ledger_core.tlog.text import (
    decode_text,
    excerpt,
    format_base64,
    from_wire,
    parse_base64,
    parse_hash,
    parse_size,
)
from ledger_core.tlog.verify import check_inclusion, check_range

INCLUSION_HASHES_MAX = 63
"""The height of the largest tree."""

RANGE_HASHES_MAX = 2 * INCLUSION_HASHES_MAX

EXTRA_BYTES_MAX = 1 << 20

PROOF_BYTES_MAX = 2 * EXTRA_BYTES_MAX + NOTE_BYTES_MAX
"""More than the parts add up to."""

_HEADER = "c2sp.org/tlog-proof@v1"
_RANGE_HEADER = "witnessed-ledger/range-proof@v1"


@dataclass(frozen=True, slots=True)
class Proof:
    """A claim that a leaf is in a log; `checkpoint` is the whole signed note."""

    leaf_index: int
    hashes: tuple[Hash, ...]
    checkpoint: str
    extra: bytes | None = None

    def __post_init__(self) -> None:
        """Raises: ValueError for values that no proof can have."""
        check_hashes(self.hashes, INCLUSION_HASHES_MAX)
        if not 0 <= self.leaf_index < SIZE_MAX:
            raise ValueError(f"not the index of a leaf: {self.leaf_index}")
        if self.extra is not None and not 1 <= len(self.extra) <= EXTRA_BYTES_MAX:
            raise ValueError(f"extra data has 1 to {EXTRA_BYTES_MAX} bytes, got {len(self.extra)}")


@dataclass(frozen=True, slots=True)
class RangeProof:
    """A claim that the leaves [start, end) are in a log; `checkpoint` is the whole signed note."""

    start: int
    end: int
    hashes: tuple[Hash, ...]
    checkpoint: str

    def __post_init__(self) -> None:
        """Raises: ValueError for values that no range proof can have."""
        check_hashes(self.hashes, RANGE_HASHES_MAX)
        if not 0 <= self.start < self.end <= SIZE_MAX:
            raise ValueError(f"not a range of leaves: [{self.start}, {self.end})")


def parse_proof(data: bytes | str) -> Proof:
    """Parse a proof; `format_proof` gives the same text back. Raises: MalformedError."""
    lines, checkpoint = _split(data, _HEADER)
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = parse_base64(lines.pop(0).removeprefix("extra "))
    (leaf_index,), hashes = _parse_lines(lines, keyword="index", numbers=1)
    with from_wire():
        return Proof(leaf_index, hashes, checkpoint, extra)


def format_proof(proof: Proof) -> str:
    """The text of a proof."""
    lines = [_HEADER]
    if proof.extra is not None:
        lines.append(f"extra {format_base64(proof.extra)}")
    lines.append(f"index {proof.leaf_index}")
    return _join(lines, proof.hashes, proof.checkpoint)


def check_proof(proof: Proof, *, leaf_hash: Hash, policy: Policy) -> VerifiedHead:
    """Check that a leaf is in a log of the policy; returns the head that proves it.

    `extra` is not checked. Cost: `Policy.check`, and one hash a proof hash.
    Raises: VerificationError with the proof as evidence; MalformedError when the checkpoint is not
    a signed checkpoint. Source: c2sp.org/tlog-proof, "Verifying a tlog proof".
    """
    head = policy.check(proof.checkpoint)
    check_leaf(proof, leaf_hash, head)
    return head


def check_leaf(proof: Proof, leaf_hash: Hash, head: VerifiedHead) -> None:
    """Check that a leaf is in the tree of a verified head. Raises: as `check_proof`."""
    with _with_proof(lambda: format_proof(proof)):
        check_inclusion(
            leaf_hash=leaf_hash,
            leaf_index=proof.leaf_index,
            tree_size=head.checkpoint.tree_size,
            proof=proof.hashes,
            root_hash=head.checkpoint.root_hash,
        )


def parse_range_proof(data: bytes | str) -> RangeProof:
    """Parse a range proof; `format_range_proof` gives the same text. Raises: MalformedError."""
    lines, checkpoint = _split(data, _RANGE_HEADER)
    (start, end), hashes = _parse_lines(lines, keyword="range", numbers=2)
    with from_wire():
        return RangeProof(start, end, hashes, checkpoint)


def format_range_proof(proof: RangeProof) -> str:
    """The text of a range proof."""
    lines = [_RANGE_HEADER, f"range {proof.start} {proof.end}"]
    return _join(lines, proof.hashes, proof.checkpoint)


def check_range_proof(
    proof: RangeProof, *, leaf_hashes: Sequence[Hash], policy: Policy
) -> VerifiedHead:
    """Check that leaves are in a log of the policy; returns the head that proves it.

    Cost: `Policy.check`, and one hash a leaf and a proof hash. Raises: VerificationError, with the
    proof as evidence when it is false, and also when it is for another number of leaves;
    MalformedError when the checkpoint is not a signed checkpoint.
    """
    head = policy.check(proof.checkpoint)
    check_leaves(proof, leaf_hashes, head)
    return head


def check_leaves(proof: RangeProof, leaf_hashes: Sequence[Hash], head: VerifiedHead) -> None:
    """Check that leaves are in the tree of a verified head. Raises: as `check_range_proof`."""
    count = proof.end - proof.start
    if len(leaf_hashes) != count:
        raise VerificationError(f"the proof is of {count} leaves, not of {len(leaf_hashes)}")
    with _with_proof(lambda: format_range_proof(proof)):
        check_range(
            leaf_hashes=leaf_hashes,
            start=proof.start,
            tree_size=head.checkpoint.tree_size,
            proof=proof.hashes,
            root_hash=head.checkpoint.root_hash,
        )


@contextmanager
def _with_proof(format_: Callable[[], str]) -> Iterator[None]:
    """Add the text of the proof, as evidence, to a VerificationError of the block."""
    try:
        yield
    except VerificationError as error:
        evidence = {"proof": format_().encode()}
        raise VerificationError(str(error), evidence=evidence) from error


def _split(data: bytes | str, header: str) -> tuple[list[str], str]:
    """The lines between the header and the empty line, and the checkpoint, well-formed."""
    if len(data) > PROOF_BYTES_MAX:
        raise MalformedError(f"a proof has at most {PROOF_BYTES_MAX} bytes, got {len(data)}")
    head, separator, checkpoint = decode_text(data).partition("\n\n")
    first, *lines = head.split("\n")
    if first != header:
        raise MalformedError(f"want the first line {header}, got {excerpt(first)}")
    if not separator:
        raise MalformedError("a proof has an empty line before its checkpoint")
    parse_signed_checkpoint(checkpoint)
    return lines, checkpoint


def _parse_lines(
    lines: Sequence[str], *, keyword: str, numbers: int
) -> tuple[list[int], tuple[Hash, ...]]:
    """The numbers behind a keyword on the first line, and the hashes on the others."""
    words = lines[0].split(" ") if lines else [""]
    if words[0] != keyword or len(words) != 1 + numbers:
        raise MalformedError(f"want a line of {keyword} and {numbers} numbers")
    if len(lines) - 1 > RANGE_HASHES_MAX:
        raise MalformedError(f"a proof has at most {RANGE_HASHES_MAX} hashes, got {len(lines) - 1}")
    return [parse_size(word) for word in words[1:]], tuple(map(parse_hash, lines[1:]))


def _join(lines: Sequence[str], hashes: Sequence[Hash], checkpoint: str) -> str:
    return "\n".join((*lines, *map(format_base64, hashes), "", checkpoint))
