"""Proofs to keep: they verify offline, and nothing in them can be changed unseen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core.tlog.checkpoint import Checkpoint, format_checkpoint
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.note import Note, Signer, format_note
from ledger_core.tlog.policy import format_policy, parse_policy
from ledger_core.tlog.proof import (
    EXTRA_BYTES_MAX,
    PROOF_BYTES_MAX,
    Proof,
    RangeProof,
    check_proof,
    check_range_proof,
    format_proof,
    format_range_proof,
    parse_proof,
    parse_range_proof,
)
from tests.tlog.oracle import SIZE_MAX as ORACLE_SIZE_MAX
from tests.tlog.oracle import oracle

LOG = Signer.generate("example.com/audit", seed=bytes(32))
POLICY = parse_policy(format_policy([LOG.verifier]).encode())
OTHERS = parse_policy(
    format_policy([Signer.generate("example.com/audit", seed=bytes([1]) * 32).verifier]).encode()
)

sizes = st.integers(1, ORACLE_SIZE_MAX)
hashes = st.lists(st.binary(min_size=32, max_size=32), max_size=63).map(tuple)


def head(size: int) -> str:
    text = format_checkpoint(Checkpoint("example.com/audit", size, oracle().root(size)))
    return format_note(Note(text, (LOG.sign(text),)))


def proof_of(index: int, size: int) -> Proof:
    return Proof(index, tuple(oracle().inclusion(index, size)), head(size))


def range_proof_of(start: int, end: int, size: int) -> RangeProof:
    return RangeProof(start, end, tuple(oracle().range(start, end, size)), head(size))


@given(
    st.builds(
        Proof,
        st.integers(0, 2**63 - 2),
        hashes,
        st.just(head(7)),
        st.none() | st.binary(min_size=1, max_size=99),
    )
)
def test_every_proof_is_read_back(proof: Proof) -> None:
    assert parse_proof(format_proof(proof)) == proof
    assert parse_proof(format_proof(proof).encode()) == proof


@given(st.integers(0, 2**63 - 2), st.integers(1, 2**63 - 1), hashes)
def test_every_range_proof_is_read_back(start: int, count: int, nodes: tuple[bytes, ...]) -> None:
    proof = RangeProof(start, min(start + count, 2**63 - 1), nodes, head(7))
    assert parse_range_proof(format_range_proof(proof)) == proof
    assert parse_range_proof(format_range_proof(proof).encode()) == proof


def test_a_proof_is_the_text_of_the_specification() -> None:
    text = format_proof(Proof(5, (bytes(32), bytes([255]) * 32), head(7), b"ABC"))
    assert text == (
        f"c2sp.org/tlog-proof@v1\nextra QUJD\nindex 5\n{'A' * 43}=\n{'/' * 42}8=\n\n{head(7)}"
    )


@given(sizes, st.data())
def test_a_leaf_is_verified_by_its_proof_and_by_no_other(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, ORACLE_SIZE_MAX - 1))
    proof = parse_proof(format_proof(proof_of(index, size)))
    verified = check_proof(proof, leaf_hash=oracle().mth(index, index + 1), policy=POLICY)
    assert verified.checkpoint.tree_size == size
    assert verified.note == proof.checkpoint
    if other != index:
        with pytest.raises(VerificationError) as caught:
            check_proof(proof, leaf_hash=oracle().mth(other, other + 1), policy=POLICY)
        assert caught.value.evidence == {"proof": format_proof(proof).encode()}


@given(sizes, st.data())
def test_a_range_is_verified_by_its_proof_and_by_no_other(size: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(start + 1, size))
    proof = parse_range_proof(format_range_proof(range_proof_of(start, end, size)))
    leaves = oracle().leaf_hashes(start, end)
    assert check_range_proof(proof, leaf_hashes=leaves, policy=POLICY).checkpoint.tree_size == size
    with pytest.raises(VerificationError) as caught:
        check_range_proof(proof, leaf_hashes=[*leaves[:-1], bytes(32)], policy=POLICY)
    assert caught.value.evidence == {"proof": format_range_proof(proof).encode()}
    for count in (len(leaves) - 1, len(leaves) + 1):
        with pytest.raises(VerificationError, match=f"not of {count}"):
            check_range_proof(proof, leaf_hashes=(leaves * 2)[:count], policy=POLICY)


@given(st.data())
def test_any_character_of_a_proof_that_is_changed_is_seen(data: st.DataObject) -> None:
    text = format_proof(proof_of(77, 130))
    place = data.draw(st.integers(0, len(text) - 1))
    char = data.draw(st.characters(exclude_categories=["Cs"]))
    changed = f"{text[:place]}{char}{text[place + 1 :]}"
    if changed == text:
        return
    leaf_hash = oracle().mth(77, 78)
    with pytest.raises((MalformedError, VerificationError)):
        check_proof(parse_proof(changed), leaf_hash=leaf_hash, policy=POLICY)


def test_a_proof_under_a_head_that_the_policy_does_not_believe_is_refused() -> None:
    with pytest.raises(VerificationError, match="which the policy does not list"):
        check_proof(proof_of(5, 7), leaf_hash=oracle().mth(5, 6), policy=OTHERS)
    with pytest.raises(VerificationError, match="which the policy does not list"):
        check_range_proof(
            range_proof_of(2, 5, 7), leaf_hashes=oracle().leaf_hashes(2, 5), policy=OTHERS
        )


def test_an_index_past_the_signed_size_is_untrue_and_not_malformed() -> None:
    text = format_proof(Proof(7, tuple(oracle().inclusion(5, 7)), head(7)))
    with pytest.raises(VerificationError, match="leaf 7 is not in a tree of size 7"):
        check_proof(parse_proof(text), leaf_hash=oracle().mth(5, 6), policy=POLICY)
    text = format_range_proof(RangeProof(5, 8, (), head(7)))
    with pytest.raises(VerificationError, match="not a range of leaves in a tree of size 7"):
        check_range_proof(parse_range_proof(text), leaf_hashes=[bytes(32)] * 3, policy=POLICY)


@pytest.mark.parametrize(
    ("index", "nodes", "extra"),
    [
        (-1, (), None),
        (2**63 - 1, (), None),
        (0, (bytes(31),), None),
        (0, (bytes(32),) * 64, None),
        (0, (), b""),
        (0, (), bytes(EXTRA_BYTES_MAX + 1)),
    ],
)
def test_a_proof_that_cannot_be_written_cannot_be_made(
    index: int, nodes: tuple[bytes, ...], extra: bytes | None
) -> None:
    with pytest.raises(ValueError, match=r"index|hash|extra"):
        Proof(index, nodes, head(7), extra)


def test_a_proof_with_as_many_hashes_as_the_largest_tree_needs_is_read_back() -> None:
    proof = Proof(0, (bytes(32),) * 63, head(7), None)
    assert parse_proof(format_proof(proof)) == proof


@pytest.mark.parametrize(("start", "end"), [(-1, 1), (3, 3), (4, 3), (0, 2**63)])
def test_a_range_that_cannot_be_written_cannot_be_made(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="not a range"):
        RangeProof(start, end, (), head(7))


def test_the_largest_extra_data_is_read_back() -> None:
    proof = Proof(0, (), head(1), bytes(EXTRA_BYTES_MAX))
    assert parse_proof(format_proof(proof)) == proof


def test_a_proof_that_is_too_large_is_refused_before_it_is_read() -> None:
    for parse in (parse_proof, parse_range_proof):
        with pytest.raises(MalformedError, match=f"at most {PROOF_BYTES_MAX} bytes"):
            parse(b"\xff" * (PROOF_BYTES_MAX + 1))
