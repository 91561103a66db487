"""The text of a multi-proof: ascending indices, and the hashes that prove their leaves.

    witnessed-ledger/multi-proof@v1
    17 20-23 4095                                     indices; 20-23 is 20, 21, 22, 23
    gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=      each maximal subtree without any of the
    B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=      leaves, left to right

It names no tree: whoever checks it knows size and root hash from a signed head. Neighbours that
could be one range are one, so that a set of indices has one text. Each line ends with a newline.
"""

from binascii import a2b_base64, b2a_base64
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import HASH_BYTES, SIZE_MAX, Hash
from ledger_core.tlog.proof import INCLUSION_HASHES_MAX
from ledger_core.tlog.text import decode_text, excerpt, format_base64, parse_hash, parse_size

_HEADER = "witnessed-ledger/multi-proof@v1"


@dataclass(frozen=True, slots=True)
class MultiProof:
    """A claim that the leaves at these ascending indices are in a tree."""

    indices: Sequence[int]
    hashes: tuple[Hash, ...]


def format_multi_proof(proof: MultiProof) -> str:
    """The text of a multi-proof. Precondition: the indices ascend, and there is one at least."""
    runs = (f"{first}-{last}" if last > first else str(first) for first, last in _runs(proof))
    return "\n".join((_HEADER, " ".join(runs), *map(format_base64, proof.hashes), ""))


def parse_multi_proof(data: bytes, *, leaves_max: int) -> MultiProof:
    """Parse a multi-proof; `format_multi_proof` gives the same text. Raises: MalformedError."""
    header, _, rest = decode_text(data).partition("\n")
    if header != _HEADER:
        raise MalformedError(f"want the first line {_HEADER}, got {excerpt(header)}")
    line, newline, hashes = rest.partition("\n")
    if not newline or (hashes and not hashes.endswith("\n")):
        raise MalformedError("the last line of a multi-proof ends with a newline")
    indices = _parse_indices(line, leaves_max)
    if (count := hashes.count("\n")) > len(indices) * INCLUSION_HASHES_MAX:
        raise MalformedError(f"{count} hashes are too many for {len(indices)} leaves")
    return MultiProof(indices, _parse_hashes(hashes))


def _parse_indices(line: str, leaves_max: int) -> list[int]:
    indices: list[int] = []
    end = -1
    for word in line.split(" "):
        first_text, dash, last_text = word.partition("-")
        first = parse_size(first_text)
        last = parse_size(last_text) if dash else first
        if first <= end or last < first or last >= SIZE_MAX or (dash and last == first):
            raise MalformedError(f"indices ascend, and no two ranges touch: {excerpt(word)}")
        if len(indices) + last - first >= leaves_max:
            raise MalformedError(f"a multi-proof here is of {leaves_max} leaves at most")
        indices.extend(range(first, last + 1))
        end = last + 1
    return indices


def _parse_hashes(text: str) -> tuple[Hash, ...]:
    """As `parse_hash` of each line, at a sixth of its cost: a sparse proof has several an event."""
    lines = text.split("\n")[:-1]
    with suppress(ValueError):
        hashes = tuple(map(a2b_base64, lines))
        again = b"".join(map(b2a_base64, hashes)).decode()
        if again == text and {HASH_BYTES}.issuperset(map(len, hashes)):
            return hashes
    return tuple(map(parse_hash, lines))


def _runs(proof: MultiProof) -> Iterator[tuple[int, int]]:
    first = last = proof.indices[0]
    for index in proof.indices[1:]:
        if index != last + 1:
            yield first, last
            first = index
        last = index
    yield first, last
