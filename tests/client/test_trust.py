"""The rules by which a client accepts an answer: bytes in, verdicts out."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core.tlog.checkpoint import Checkpoint
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.policy import parse_policy
from ledger_core.tlog.trust import HEADS_KEPT_MAX, ConsistencyProof, TrustedLog
from ledger_core.tlog.verify import check_consistency
from tests.client.trees import SmallLog, numbered

SIZE_MAX = 40
LOG = SmallLog(numbered(SIZE_MAX))
FORK = SmallLog([*numbered(10), b"another leaf", *numbered(SIZE_MAX)[11:]])


def trusting(*sizes: int) -> TrustedLog:
    """A client that has accepted the heads of these sizes, in this order."""
    trusted = TrustedLog(LOG.policy)
    for size in sizes:
        accept(trusted, size)
    return trusted


def accept(trusted: TrustedLog, size: int, log: SmallLog = LOG) -> None:
    head = trusted.check_head(log.note(size))
    needed = trusted.needs(head)
    proof = None if needed is None else log.consistency(*needed)
    assert trusted.accept(head, proof)


def latest_size(trusted: TrustedLog) -> int:
    assert trusted.latest is not None
    return trusted.latest.checkpoint.tree_size


def test_nothing_is_trusted_at_first() -> None:
    assert trusting().latest is None


def test_the_first_head_is_the_anchor() -> None:
    trusted = trusting()
    head = trusted.check_head(LOG.note(7))
    assert trusted.needs(head) is None
    assert trusted.accept(head)
    assert trusted.latest == head


def test_a_larger_head_needs_a_proof_and_becomes_the_latest() -> None:
    trusted = trusting(7)
    head = trusted.check_head(LOG.note(20))
    assert trusted.needs(head) == (7, 20)
    assert not trusted.accept(head)
    assert latest_size(trusted) == 7
    assert trusted.accept(head, LOG.consistency(7, 20))
    assert latest_size(trusted) == 20


def test_a_smaller_head_needs_a_proof_and_moves_nothing() -> None:
    trusted = trusting(20)
    head = trusted.check_head(LOG.note(7))
    assert trusted.needs(head) == (7, 20)
    assert not trusted.accept(head)
    assert trusted.accept(head, LOG.consistency(7, 20))
    assert latest_size(trusted) == 20
    assert trusted.needs(head) is None


def test_a_smaller_head_may_be_proven_up_to_any_accepted_head() -> None:
    trusted = trusting(0, 10, 20)
    head = trusted.check_head(LOG.note(7))
    assert not trusted.accept(head, LOG.consistency(7, 15))
    nonsense = ConsistencyProof(old_size=7, new_size=0, hashes=())
    assert not trusted.accept(head, nonsense)
    assert trusted.accept(head, LOG.consistency(7, 10))


def test_a_larger_head_is_proven_from_the_latest_alone() -> None:
    # Two heads that both extend a third one may yet be of two trees.
    trusted = trusting(10, 20)
    head = trusted.check_head(LOG.note(30))
    assert not trusted.accept(head, LOG.consistency(10, 30))
    assert trusted.needs(head) == (20, 30)


def test_the_same_head_again_needs_nothing() -> None:
    trusted = trusting(7, 20)
    for size in (7, 20):
        head = trusted.check_head(LOG.note(size))
        assert trusted.needs(head) is None
        assert trusted.accept(head)


def test_the_empty_tree_is_the_beginning_of_every_tree() -> None:
    trusted = trusting(0)
    assert latest_size(trusted) == 0
    accept(trusted, 12)
    assert latest_size(trusted) == 12
    accept(trusted, 0)
    assert latest_size(trusted) == 12
    trusted = trusting(12)
    accept(trusted, 0)
    assert latest_size(trusted) == 12


def test_two_roots_of_one_size_are_a_fork() -> None:
    trusted = trusting(20)
    head = trusted.check_head(FORK.note(20))
    with pytest.raises(VerificationError, match="forked") as caught:
        trusted.accept(head)
    assert caught.value.evidence == {
        "accepted.note": LOG.note(20).encode(),
        "offered.note": FORK.note(20).encode(),
    }
    assert trusted.latest is not None
    assert trusted.latest.note == LOG.note(20)


@pytest.mark.parametrize(("accepted", "offered"), [(20, 30), (30, 20), (20, 11), (11, 20)])
@pytest.mark.parametrize("prover", [LOG, FORK])
def test_a_fork_can_be_proven_by_nobody(accepted: int, offered: int, prover: SmallLog) -> None:
    trusted = trusting(accepted)
    head = trusted.check_head(FORK.note(offered))
    needed = trusted.needs(head)
    assert needed is not None
    with pytest.raises(VerificationError, match="forked") as caught:
        trusted.accept(head, prover.consistency(*needed))
    evidence = caught.value.evidence
    assert evidence["accepted.note"] == LOG.note(accepted).encode()
    assert evidence["offered.note"] == FORK.note(offered).encode()
    assert evidence["proof.txt"] == prover.consistency(*needed).format().encode()
    assert latest_size(trusted) == accepted


def test_a_fork_before_it_forked_is_no_fork() -> None:
    accept(trusting(7), 10, log=FORK)


def test_a_head_of_another_key_is_nothing() -> None:
    with pytest.raises(VerificationError):
        trusting().check_head(SmallLog(numbered(5), key="another key").note())


def test_a_head_of_another_log_is_nothing() -> None:
    with pytest.raises(VerificationError, match="origin"):
        trusting().check_head(SmallLog(numbered(5), origin="example.com/other").note())


def test_a_changed_head_is_nothing() -> None:
    with pytest.raises(VerificationError):
        trusting().check_head(LOG.note(7).replace("\n7\n", "\n8\n"))


def test_bytes_that_are_no_note_are_malformed() -> None:
    for note in (b"", b"\xff", b"not a note", LOG.note(7).encode()[:-1]):
        with pytest.raises(MalformedError):
            trusting().check_head(note)


def test_a_leaf_is_accepted_by_its_proof() -> None:
    trusted = trusting(20)
    head = trusted.check_proof(LOG.proof(3, 20), leaf_hash=LOG.leaf_hashes[3])
    assert head == trusted.latest
    with pytest.raises(VerificationError):
        trusted.check_proof(LOG.proof(3, 20), leaf_hash=LOG.leaf_hashes[4])
    with pytest.raises(VerificationError):
        trusted.check_proof(replace(LOG.proof(3, 20), leaf_index=4), leaf_hash=LOG.leaf_hashes[3])


def test_leaves_are_accepted_by_their_range_proof() -> None:
    trusted = trusting(20)
    proof = LOG.range_proof(3, 9, 20)
    assert trusted.check_range_proof(proof, leaf_hashes=LOG.leaf_hashes[3:9]) == trusted.latest
    for leaf_hashes in (LOG.leaf_hashes[4:10], LOG.leaf_hashes[3:8], []):
        with pytest.raises(VerificationError):
            trusted.check_range_proof(proof, leaf_hashes=leaf_hashes)


def test_a_proof_against_a_head_that_was_not_accepted_is_the_callers_mistake() -> None:
    trusted = trusting(20)
    with pytest.raises(ValueError, match="not accepted"):
        trusted.check_proof(LOG.proof(3, 21), leaf_hash=LOG.leaf_hashes[3])
    with pytest.raises(ValueError, match="not accepted"):
        trusted.check_range_proof(LOG.range_proof(3, 9, 21), leaf_hashes=LOG.leaf_hashes[3:9])
    with pytest.raises(ValueError, match="not accepted"):
        trusted.check_proof(FORK.proof(3, 20), leaf_hash=FORK.leaf_hashes[3])


def test_an_anchor_is_the_latest_head() -> None:
    trusted = TrustedLog(LOG.policy, anchor=LOG.note(20))
    assert latest_size(trusted) == 20
    head = trusted.check_head(FORK.note(20))
    with pytest.raises(VerificationError, match="forked"):
        trusted.accept(head)


def test_an_anchor_of_another_key_is_refused() -> None:
    other = SmallLog(numbered(5), key="another key")
    with pytest.raises(VerificationError):
        TrustedLog(LOG.policy, anchor=other.note())


def test_a_policy_of_no_log_or_of_two_is_refused() -> None:
    other = SmallLog([], key="another key", origin="example.com/other")
    two = f"log {LOG.signer.verifier}\nlog {other.signer.verifier}\nquorum none\n"
    for policy in (b"quorum none\n", two.encode()):
        with pytest.raises(ValueError, match="one origin"):
            TrustedLog(parse_policy(policy))


def test_a_policy_may_name_two_keys_of_one_log() -> None:
    renewed = SmallLog(numbered(30), key="the next key")
    policy = f"log {LOG.signer.verifier}\nlog {renewed.signer.verifier}\nquorum none\n"
    trusted = TrustedLog(parse_policy(policy.encode()), anchor=LOG.note(20))
    accept(trusted, 30, log=renewed)
    assert latest_size(trusted) == 30


def test_old_heads_are_forgotten_and_the_latest_never_is() -> None:
    log = SmallLog(numbered(HEADS_KEPT_MAX + 10))
    trusted = TrustedLog(log.policy, anchor=log.note())
    for size in range(1, HEADS_KEPT_MAX + 10):
        accept(trusted, size, log=log)
    assert latest_size(trusted) == HEADS_KEPT_MAX + 10
    first = trusted.check_head(log.note(1))
    assert trusted.needs(first) == (1, HEADS_KEPT_MAX + 10)


@given(st.lists(st.integers(0, SIZE_MAX), min_size=1, max_size=30))
def test_heads_of_one_log_are_accepted_in_any_order(sizes: list[int]) -> None:
    trusted = trusting()
    largest = 0
    for size in sizes:
        accept(trusted, size)
        largest = max(largest, size)
        assert latest_size(trusted) == largest


@given(
    honest=st.lists(st.integers(0, SIZE_MAX), max_size=6),
    forked=st.integers(0, SIZE_MAX),
    prover=st.sampled_from([LOG, FORK]),
    sizes=st.tuples(st.integers(0, SIZE_MAX), st.integers(0, SIZE_MAX)).map(sorted),
)
def test_whatever_is_accepted_is_of_one_tree(
    honest: list[int], forked: int, prover: SmallLog, sizes: list[int]
) -> None:
    trusted = trusting(*honest)
    head = trusted.check_head(FORK.note(forked))
    needed = trusted.needs(head) or sizes
    proof = prover.consistency(*needed)
    try:
        accepted = trusted.accept(head, proof)
    except VerificationError:
        return
    assert trusted.latest is not None
    if accepted and honest and max(honest) > 10:
        assert forked <= 10
    latest = trusted.latest.checkpoint
    if accepted and forked <= latest.tree_size:
        log = LOG if max(honest, default=0) > 10 else FORK
        check_consistency(
            old_size=forked,
            new_size=latest.tree_size,
            proof=log.consistency(forked, latest.tree_size).hashes if forked else (),
            old_root=head.checkpoint.root_hash,
            new_root=latest.root_hash,
        )


def test_a_proof_with_hashes_to_spare_is_refused() -> None:
    trusted = trusting(7)
    head = trusted.check_head(LOG.note(20))
    proof = LOG.consistency(7, 20)
    longer = ConsistencyProof(old_size=7, new_size=20, hashes=(*proof.hashes, LOG.leaf_hashes[0]))
    with pytest.raises(VerificationError):
        trusted.accept(head, longer)


def test_a_head_of_the_empty_tree_has_the_empty_root() -> None:
    note = LOG.sign(Checkpoint(LOG.signer.verifier.name, 0, LOG.leaf_hashes[0]))
    with pytest.raises(VerificationError):
        trusting().check_head(note)
