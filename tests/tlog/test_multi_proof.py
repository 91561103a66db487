"""Multi-proofs: what is proved is verified, what is changed is refused, and a text has one form."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.multi_proof import MultiProof, format_multi_proof, parse_multi_proof
from ledger_core.tlog.prove import plan_multi, plan_range
from ledger_core.tlog.verify import check_multi
from tests.client.trees import SmallLog, numbered
from tests.tlog.oracle import Oracle

SIZE = 130
LOG = SmallLog(numbered(SIZE))
ORACLE = Oracle(LOG.leaves)

sizes = st.integers(1, SIZE)


def prove(indices: list[int], size: int) -> tuple[bytes, ...]:
    return LOG._finish(plan_multi(indices=indices, tree_size=size))


def check(
    indices: list[int], size: int, proof: tuple[bytes, ...], hashes: list[bytes] | None = None
) -> None:
    check_multi(
        leaf_hashes=[LOG.leaf_hashes[at] for at in indices] if hashes is None else hashes,
        indices=indices,
        tree_size=size,
        proof=proof,
        root_hash=ORACLE.mth(0, size),
    )


@given(st.data())
def test_any_leaves_are_proved_and_nothing_else_is(data: st.DataObject) -> None:
    size = data.draw(sizes)
    chosen = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
    indices = sorted(chosen)
    proof = prove(indices, size)
    check(indices, size, proof)
    with pytest.raises(VerificationError):
        check(indices, size, (*proof, bytes(32)))
    with pytest.raises(VerificationError):
        check(indices, size, proof[:-1] if proof else (bytes(32),))
    hashes = [LOG.leaf_hashes[at] for at in indices]
    hashes[data.draw(st.integers(0, len(hashes) - 1))] = bytes(32)
    with pytest.raises(VerificationError):
        check(indices, size, proof, hashes)
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        with pytest.raises(VerificationError):
            check(indices, size, (*proof[:at], bytes(32), *proof[at + 1 :]))
    other = sorted(chosen ^ {data.draw(st.integers(0, size - 1))})
    if other:
        with pytest.raises(VerificationError):
            check(other, size, proof)


@given(st.data())
def test_of_consecutive_leaves_it_is_their_range_proof(data: st.DataObject) -> None:
    size = data.draw(sizes)
    start = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(start + 1, size))
    ranged = plan_range(start=start, end=end, tree_size=size)
    assert prove(list(range(start, end)), size) == LOG._finish(ranged)


@pytest.mark.parametrize("indices", [[], [5, 5], [5, 4], [-1], [130], [4, 130]])
def test_no_set_of_indices_is_refused_by_prover_and_verifier(indices: list[int]) -> None:
    with pytest.raises(ValueError, match="indices"):
        plan_multi(indices=indices, tree_size=SIZE)
    with pytest.raises(VerificationError, match="indices"):
        check(indices, SIZE, (), [bytes(32)] * len(indices))


@given(st.sets(st.integers(0, 60), min_size=1), st.integers(0, 3))
def test_what_is_parsed_formats_back(chosen: set[int], count: int) -> None:
    proof = MultiProof(sorted(chosen), tuple(bytes([n]) * 32 for n in range(count)))
    text = format_multi_proof(proof)
    assert parse_multi_proof(text.encode(), leaves_max=61) == proof
    words = text.split("\n")[1].split(" ")
    ends = [[int(each) for each in word.split("-")] for word in words]
    assert all(before[-1] + 1 < after[0] for before, after in pairwise(ends))


HASH = "A" * 43 + "="


@pytest.mark.parametrize(
    "text",
    [
        "",
        "witnessed-ledger/multi-proof@v2\n1\n",
        "witnessed-ledger/multi-proof@v1\n1",
        "witnessed-ledger/multi-proof@v1\n\n",
        "witnessed-ledger/multi-proof@v1\n1 2\n",
        "witnessed-ledger/multi-proof@v1\n3 2\n",
        "witnessed-ledger/multi-proof@v1\n2-2\n",
        "witnessed-ledger/multi-proof@v1\n3-2\n",
        "witnessed-ledger/multi-proof@v1\n1-2-3\n",
        "witnessed-ledger/multi-proof@v1\n01\n",
        "witnessed-ledger/multi-proof@v1\n1  3\n",
        "witnessed-ledger/multi-proof@v1\n0-99\n",
        "witnessed-ledger/multi-proof@v1\n0-9223372036854775806\n",
        "witnessed-ledger/multi-proof@v1\n9223372036854775807\n",
        f"witnessed-ledger/multi-proof@v1\n1\n{HASH}",
        f"witnessed-ledger/multi-proof@v1\n1\n{HASH[1:]}\n",
        f"witnessed-ledger/multi-proof@v1\n1\n\n{HASH}\n",
        "witnessed-ledger/multi-proof@v1\n1\n" + f"{HASH}\n" * 64,
    ],
)
def test_a_text_of_another_form_is_malformed(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_multi_proof(text.encode(), leaves_max=99)


@pytest.mark.parametrize(("step", "hashes"), [(2, 0.718), (5, 1.774), (20, 3.561), (100, 5.791)])
def test_scattered_leaves_need_as_many_hashes_as_the_benchmarks_page_says(
    step: int, hashes: float
) -> None:
    """For each height h a maximal empty subtree stands beside one that isn't empty."""
    kept = 1 - 1 / step
    expected = step * sum(
        kept ** (1 << height) * (1 - kept ** (1 << height)) / (1 << height) for height in range(20)
    )
    assert expected == pytest.approx(hashes, abs=0.001)
    size = 1 << 16
    indices = sorted(Random(step).sample(range(size), size // step))
    got = len(plan_multi(indices=indices, tree_size=size).groups) / len(indices)
    assert got == pytest.approx(expected, rel=0.03)
