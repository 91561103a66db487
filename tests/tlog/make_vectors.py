"""Writes the proofs of vectors/.

Run `python -m tests.tlog.make_vectors` after a change here, and read the diff. The proofs come from
the oracle alone. `vector_files` describes a line.
"""

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from tests.tlog.oracle import oracle

VECTORS_DIR = Path(__file__).parent / "vectors"

Row: TypeAlias = dict[str, Any]
Proof: TypeAlias = list[bytes]

STRAY = bytes(range(32))
"""A hash that is in no tree."""


def main() -> None:
    """Write every file."""
    _write("inclusion", _inclusion())
    _write("consistency", _consistency())
    _write("range", _range())


def _write(kind: str, rows: Iterable[Row]) -> None:
    lines = (json.dumps(row, ensure_ascii=False, default=_base64) for row in rows)
    (VECTORS_DIR / f"{kind}.jsonl").write_text("".join(f"{line}\n" for line in lines))


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def _flip(node: bytes) -> bytes:
    return bytes([node[0] ^ 1]) + node[1:]


def _vary(good: Row, faults: Iterable[tuple[str, str, Row]]) -> Iterator[Row]:
    yield {"name": "as it should be", "error": None, **good}
    for name, error, change in faults:
        yield {"name": name, "error": error, **good, **change}


def _proof_faults(proof: Proof) -> Iterator[tuple[str, str, Row]]:
    """Yield the faults that the hashes of a proof of two or more can have."""
    first, *rest = proof
    *start, last = proof
    yield "no hashes", "proof", {"proof": []}
    yield "the first hash is missing", "too short", {"proof": rest}
    yield "the last hash is missing", "too short", {"proof": start}
    yield "a stray hash before the others", "too long", {"proof": [STRAY, *proof]}
    yield "a stray hash after the others", "too long", {"proof": [*proof, STRAY]}
    yield "the last hash twice", "too long", {"proof": [*proof, last]}
    yield "the hashes in reverse", "gives the root", {"proof": proof[::-1]}
    yield "a flipped bit in the first hash", "gives the root", {"proof": [_flip(first), *rest]}
    yield "a flipped bit in the last hash", "gives the root", {"proof": [*start, _flip(last)]}
    yield "a hash of 31 bytes", "32 bytes", {"proof": [first[:31], *rest]}
    yield "a hash of 33 bytes", "32 bytes", {"proof": [*start, last + b"\0"]}
    yield "an empty hash", "32 bytes", {"proof": [b"", *rest]}


def _inclusion() -> Iterator[Row]:
    tree = oracle()
    for index, size in ((4, 7), (6, 7), (3, 8), (129, 130)):
        proof = tree.inclusion(index, size)
        good = {
            "leaf_hash": tree.mth(index, index + 1),
            "leaf_index": index,
            "tree_size": size,
            "proof": proof,
            "root_hash": tree.root(size),
        }
        yield from _vary(
            good,
            (
                *_proof_faults(proof),
                ("the hash of another leaf", "gives the root", {"leaf_hash": tree.mth(0, 1)}),
                ("the root as a leaf", "gives the root", {"leaf_hash": tree.root(size)}),
                ("a leaf hash of 31 bytes", "32 bytes", {"leaf_hash": STRAY[:31]}),
                ("the index of another leaf", "proof", {"leaf_index": index - 1}),
                ("an index past the end", "not in a tree", {"leaf_index": size}),
                ("a negative index", "not in a tree", {"leaf_index": -1}),
                ("an index of 2^64", "not in a tree", {"leaf_index": 2**64}),
                ("an empty tree", "not in a tree", {"tree_size": 0}),
                ("a negative size", "not in a tree", {"tree_size": -size}),
                ("a size of 2^63", "not in a tree", {"tree_size": 2**63}),
                ("twice the size", "proof", {"tree_size": 2 * size}),
                (
                    "a flipped bit in the root",
                    "gives the root",
                    {"root_hash": _flip(tree.root(size))},
                ),
                ("the root of another size", "gives the root", {"root_hash": tree.root(size - 1)}),
                ("an empty root", "32 bytes", {"root_hash": b""}),
            ),
        )
    alone = {"leaf_index": 0, "tree_size": 1, "proof": []}
    yield from _vary(
        alone | {"leaf_hash": tree.root(1), "root_hash": tree.root(1)},
        (
            ("one leaf, and a hash beside it", "too long", {"proof": [STRAY]}),
            ("one leaf, and another root", "gives the root", {"root_hash": STRAY}),
        ),
    )


def _consistency() -> Iterator[Row]:
    tree = oracle()
    for old, new in ((3, 7), (4, 7), (6, 7), (7, 8), (64, 129), (100, 130)):
        proof = tree.consistency(old, new)
        good = {
            "old_size": old,
            "new_size": new,
            "proof": proof,
            "old_root": tree.root(old),
            "new_root": tree.root(new),
        }
        yield from _vary(
            good,
            (
                *(_proof_faults(proof) if len(proof) > 1 else ()),
                (
                    "a flipped bit in the old root",
                    "gives the root",
                    {"old_root": _flip(tree.root(old))},
                ),
                (
                    "a flipped bit in the new root",
                    "gives the root",
                    {"new_root": _flip(tree.root(new))},
                ),
                ("an empty old root", "32 bytes", {"old_root": b""}),
                ("a new root of 33 bytes", "32 bytes", {"new_root": STRAY + b"\0"}),
                ("the old root of another size", "proof", {"old_root": tree.root(old - 1)}),
                ("the new root of another size", "proof", {"new_root": tree.root(new - 1)}),
                ("another old size", "proof", {"old_size": old - 1}),
                ("twice the new size", "proof", {"new_size": 2 * new}),
                ("old and new exchanged", "does not begin", {"old_size": new, "new_size": old}),
                ("a negative old size", "does not begin", {"old_size": -old}),
                ("an old size of 0", "not the root of the empty", {"old_size": 0}),
                ("a new size of 2^63", "does not begin", {"new_size": 2**63}),
                ("a new size of 2^64", "does not begin", {"new_size": 2**64}),
            ),
        )
    seven, empty = tree.root(7), tree.root(0)
    yield from _vary(
        {"old_size": 7, "new_size": 7, "proof": [], "old_root": seven, "new_root": seven},
        (
            ("one size, and a hash beside it", "want an empty", {"proof": [STRAY]}),
            ("one size and two roots", "two trees", {"new_root": STRAY}),
        ),
    )
    yield from _vary(
        {"old_size": 0, "new_size": 7, "proof": [], "old_root": empty, "new_root": seven},
        (
            ("from nothing, and a hash beside it", "want an empty", {"proof": [STRAY]}),
            ("from nothing, with a root", "not the root of the empty", {"old_root": STRAY}),
        ),
    )
    yield from _vary(
        {"old_size": 0, "new_size": 0, "proof": [], "old_root": empty, "new_root": empty},
        (
            ("two roots of nothing", "two trees", {"new_root": STRAY}),
            (
                "nothing twice, with a root",
                "not the root of",
                {"old_root": STRAY, "new_root": STRAY},
            ),
        ),
    )


def _range() -> Iterator[Row]:
    tree = oracle()
    for start, end, size in ((4, 5, 7), (2, 6, 7), (3, 5, 8), (1, 100, 130), (77, 129, 130)):
        leaves, proof = tree.leaf_hashes(start, end), tree.range(start, end, size)
        good = {
            "leaf_hashes": leaves,
            "start": start,
            "tree_size": size,
            "proof": proof,
            "root_hash": tree.root(size),
        }
        yield from _vary(
            good,
            (
                *_proof_faults(proof),
                ("no leaves", "not a range", {"leaf_hashes": []}),
                (
                    "the leaf after as well",
                    "proof",
                    {"leaf_hashes": tree.leaf_hashes(start, end + 1)},
                ),
                (
                    "the leaf before as well",
                    "proof",
                    {"leaf_hashes": tree.leaf_hashes(start - 1, end)},
                ),
                (
                    "a flipped bit in a leaf",
                    "gives the root",
                    {"leaf_hashes": [_flip(leaves[0]), *leaves[1:]]},
                ),
                (
                    "a leaf hash of 31 bytes",
                    "32 bytes",
                    {"leaf_hashes": [*leaves[:-1], leaves[-1][:31]]},
                ),
                ("the leaves elsewhere", "proof", {"start": start - 1}),
                ("a negative start", "not a range", {"start": -start}),
                ("leaves past the end", "not a range", {"start": size}),
                ("a negative size", "not a range", {"tree_size": -size}),
                ("a size of 2^63", "not a range", {"tree_size": 2**63}),
                ("twice the size", "proof", {"tree_size": 2 * size}),
                (
                    "a flipped bit in the root",
                    "gives the root",
                    {"root_hash": _flip(tree.root(size))},
                ),
                ("an empty root", "32 bytes", {"root_hash": b""}),
            ),
        )
    whole = tree.leaf_hashes(0, 7)
    yield from _vary(
        {"leaf_hashes": whole, "start": 0, "tree_size": 7, "proof": [], "root_hash": tree.root(7)},
        (
            ("the whole tree, and a hash beside it", "too long", {"proof": [STRAY]}),
            ("two leaves exchanged", "gives the root", {"leaf_hashes": whole[::-1]}),
            ("one leaf less", "too short", {"leaf_hashes": whole[:-1]}),
        ),
    )


if __name__ == "__main__":
    main()
