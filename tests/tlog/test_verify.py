"""The verifier takes what is true and refuses all else, always with the same kind of error."""

import json
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.prove import plan_consistency, plan_inclusion, plan_range
from ledger_core.tlog.verify import (
    check_consistency,
    check_inclusion,
    check_range,
    check_subtree_consistency,
    check_subtree_inclusion,
)
from tests.tlog.oracle import SIZE_MAX as ORACLE_SIZE_MAX
from tests.tlog.oracle import oracle
from tests.tlog.vector_files import decode_hashes, read_vectors

CHECKS: dict[str, tuple[Callable[..., None], tuple[str, ...]]] = {
    "inclusion": (check_inclusion, ("leaf_hash", "proof", "root_hash")),
    "consistency": (check_consistency, ("old_root", "new_root", "proof")),
    "range": (check_range, ("leaf_hashes", "proof", "root_hash")),
}

ROWS = [(kind, row) for kind in CHECKS for row in read_vectors(kind)]


@pytest.mark.parametrize(
    ("kind", "row"), ROWS, ids=[f"{kind}: {row['name']}" for kind, row in ROWS]
)
def test_each_vector_is_taken_or_refused_for_its_fault(kind: str, row: dict[str, Any]) -> None:
    check, hashes = CHECKS[kind]
    arguments = decode_hashes(row, *hashes)
    del arguments["name"], arguments["error"]
    if row["error"] is None:
        check(**arguments)
        return
    with pytest.raises(VerificationError, match=row["error"]):
        check(**arguments)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("inclusion", 72),
        ("consistency", 70),
        ("subtreeinclusion", 148),
        ("subtreeconsistency", 85),
    ],
)
def test_the_vectors_of_another_implementation_come_out_as_they_say(
    shared_dir: Path, kind: str, count: int
) -> None:
    lines = (shared_dir / "vectors" / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()
    wrong = []
    for row in map(json.loads, lines):
        proof = list(map(b64decode, row["proof"] or ()))
        try:
            if kind == "inclusion":
                check_inclusion(
                    leaf_hash=b64decode(row["leafHash"]),
                    leaf_index=row["leafIdx"],
                    tree_size=row["treeSize"],
                    proof=proof,
                    root_hash=b64decode(row["root"]),
                )
            elif kind == "subtreeinclusion":
                check_subtree_inclusion(
                    leaf_hash=b64decode(row["leafHash"]),
                    leaf_index=row["leafIdx"],
                    start=row["start"],
                    end=row["end"],
                    proof=proof,
                    subtree_root=b64decode(row["root"]),
                )
            elif kind == "subtreeconsistency":
                check_subtree_consistency(
                    start=row["start"],
                    end=row["end"],
                    tree_size=row["size"],
                    proof=proof,
                    subtree_root=b64decode(row["root1"]),
                    root_hash=b64decode(row["root2"]),
                )
            else:
                check_consistency(
                    old_size=row["size1"],
                    new_size=row["size2"],
                    proof=proof,
                    old_root=b64decode(row["root1"]),
                    new_root=b64decode(row["root2"]),
                )
        except VerificationError:
            is_refused = True
        else:
            is_refused = False
        if is_refused != row["wantErr"]:
            wrong.append(row["name"])
    assert (len(lines), wrong) == (count, [])


sizes = st.integers(2, ORACLE_SIZE_MAX)


@given(sizes, st.data())
def test_any_flipped_bit_of_an_inclusion_proof_is_refused(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    good = [oracle().mth(index, index + 1), oracle().root(size), *oracle().inclusion(index, size)]
    leaf_hash, root_hash, *proof = _flip_one(good, data)
    with pytest.raises(VerificationError):
        check_inclusion(
            leaf_hash=leaf_hash,
            leaf_index=index,
            tree_size=size,
            proof=proof,
            root_hash=root_hash,
        )


@given(sizes, st.data())
def test_any_flipped_bit_of_a_consistency_proof_is_refused(size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, size - 1))
    good = [oracle().root(old), oracle().root(size), *oracle().consistency(old, size)]
    old_root, new_root, *proof = _flip_one(good, data)
    with pytest.raises(VerificationError):
        check_consistency(
            old_size=old, new_size=size, proof=proof, old_root=old_root, new_root=new_root
        )


@given(sizes, st.data())
def test_any_flipped_bit_of_a_subtree_proof_is_refused(size: int, data: st.DataObject) -> None:
    level = data.draw(st.integers(0, size.bit_length() - 1))
    start = data.draw(st.integers(0, (size - 1) >> level)) << level
    end = data.draw(st.integers(start + 1, min(start + (1 << level), size)))
    proof = oracle().subtree_consistency(start, end, size)
    subtree_root, root_hash, *flipped = _flip_one(
        [oracle().mth(start, end), oracle().root(size), *proof], data
    )
    with pytest.raises(VerificationError):
        check_subtree_consistency(
            start=start,
            end=end,
            tree_size=size,
            proof=flipped,
            subtree_root=subtree_root,
            root_hash=root_hash,
        )


@given(sizes, st.data())
def test_any_flipped_bit_of_a_range_proof_is_refused(size: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(start + 1, size))
    leaves = oracle().leaf_hashes(start, end)
    good = [oracle().root(size), *leaves, *oracle().range(start, end, size)]
    root_hash, *rest = _flip_one(good, data)
    with pytest.raises(VerificationError):
        check_range(
            leaf_hashes=rest[: len(leaves)],
            start=start,
            tree_size=size,
            proof=rest[len(leaves) :],
            root_hash=root_hash,
        )


@given(sizes, sizes, st.data())
def test_a_proof_holds_at_its_own_index_and_size_only(
    size: int, other_size: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, size - 1))
    other_index = data.draw(st.integers(0, other_size - 1))
    assume((index, size) != (other_index, other_size))
    with pytest.raises(VerificationError):
        check_inclusion(
            leaf_hash=oracle().mth(index, index + 1),
            leaf_index=other_index,
            tree_size=other_size,
            proof=oracle().inclusion(index, size),
            root_hash=oracle().root(other_size),
        )


numbers = st.integers(-2, 20) | st.integers()
hash_lists = st.lists(st.binary(min_size=32, max_size=32) | st.binary(max_size=40), max_size=80)


@given(numbers, numbers, hash_lists, st.binary(max_size=33))
def test_whatever_a_server_sends_ends_in_a_verification_error(
    index: int, size: int, proof: list[bytes], root: bytes
) -> None:
    leaf = oracle().root(3)
    with pytest.raises(VerificationError):
        check_inclusion(
            leaf_hash=leaf, leaf_index=index, tree_size=size, proof=proof, root_hash=root
        )
    with pytest.raises(VerificationError):
        check_consistency(old_size=index, new_size=size, proof=proof, old_root=leaf, new_root=root)
    with pytest.raises(VerificationError):
        check_range(leaf_hashes=proof, start=index, tree_size=size, proof=proof, root_hash=root)


@given(st.integers(1, 2**63 - 1), st.data())
def test_a_proof_has_as_many_hashes_as_the_prover_gives_it_in_the_largest_trees(
    size: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size))
    end = data.draw(st.integers(index + 1, min(size, index + 9)))
    node = oracle().root(2)
    # Of the right length it is refused for its root, which no length before it gets to.
    with pytest.raises(VerificationError, match="gives the root"):
        check_inclusion(
            leaf_hash=node,
            leaf_index=index,
            tree_size=size,
            proof=[node] * len(plan_inclusion(leaf_index=index, tree_size=size).groups),
            root_hash=oracle().root(3),
        )
    with pytest.raises(VerificationError, match=r"gives the root|two trees"):
        check_consistency(
            old_size=old,
            new_size=size,
            proof=[node] * len(plan_consistency(old_size=old, new_size=size).groups),
            old_root=node,
            new_root=oracle().root(3),
        )
    with pytest.raises(VerificationError, match="gives the root"):
        check_range(
            leaf_hashes=[node] * (end - index),
            start=index,
            tree_size=size,
            proof=[node] * len(plan_range(start=index, end=end, tree_size=size).groups),
            root_hash=oracle().root(3),
        )


def _flip_one(hashes: list[bytes], data: st.DataObject) -> list[bytes]:
    """The hashes, with one bit of one of them flipped."""
    place = data.draw(st.integers(0, len(hashes) - 1))
    bit = data.draw(st.integers(0, 255))
    flipped = int.from_bytes(hashes[place]) ^ (1 << bit)
    return [*hashes[:place], flipped.to_bytes(32), *hashes[place + 1 :]]
