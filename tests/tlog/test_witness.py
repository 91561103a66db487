"""The decision of a witness, held against the specification written down a second time."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from ledger_core.tlog.checkpoint import Checkpoint, SignedCheckpoint, format_checkpoint
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import EMPTY_ROOT_HASH
from ledger_core.tlog.keys import ED25519_COSIGNATURE, MLDSA44_COSIGNATURE
from ledger_core.tlog.note import NoteVerifier, Signature, Signer, verify_note
from ledger_core.tlog.witness import (
    BODY_BYTES_MAX,
    PROOF_HASHES_MAX,
    AddCheckpoint,
    Authentic,
    Refused,
    advance,
    authenticate,
    compare,
    cosign,
    cosignatures_by,
    cosigned_at,
    format_add_checkpoint,
    format_cosignatures,
    format_size_answer,
    is_fork,
    parse_add_checkpoint,
    parse_cosignatures,
    parse_size_answer,
)
from tests.tlog.oracle import Oracle

ORIGIN = "example.com/log"
LOG = Signer.generate(ORIGIN, seed=b"l" * 32)
LATER_LOG = Signer.generate(ORIGIN, seed=b"m" * 32)
STRANGER = Signer.generate(ORIGIN, seed=b"s" * 32)
MLDSA_LOG = CosignatureSigner.generate(ORIGIN, algorithm=MLDSA44_COSIGNATURE, seed=b"p" * 32)
KEYS = (LOG.verifier, LATER_LOG.verifier)
WITNESS = (
    CosignatureSigner.generate("example.com/w", algorithm=ED25519_COSIGNATURE, seed=b"w" * 32),
    CosignatureSigner.generate("example.com/w", algorithm=MLDSA44_COSIGNATURE, seed=b"x" * 32),
)
NOW = 1_790_000_000

SIZES_MAX = 12
TREE = Oracle([b"leaf %d" % number for number in range(SIZES_MAX)])
FORK = Oracle([b"leaf %d" % min(number, 6) for number in range(SIZES_MAX)])
"""The same tree up to size 7, and another from 8 on."""


def note(
    checkpoint: Checkpoint, *signers: Signer, bad: tuple[Signer, ...] = ()
) -> SignedCheckpoint:
    text = format_checkpoint(checkpoint)
    lines = [signer.sign(text) for signer in signers]
    lines += [signer.sign("another text\n") for signer in bad]
    return SignedCheckpoint(checkpoint, tuple(lines))


def cosigned(tree_size: int, tree: Oracle = TREE) -> SignedCheckpoint:
    signed = note(Checkpoint(ORIGIN, tree_size, tree.root(tree_size)), LOG)
    return cosign(signed, WITNESS[:1], time_unix_s=NOW)


@dataclass(frozen=True)
class Ask:
    """The parts of a request, so that the oracle need not parse one."""

    old_size: int
    tree_size: int
    root_hash: bytes
    proof: tuple[bytes, ...]
    good: tuple[Signer, ...]
    bad: tuple[Signer, ...]

    def request(self) -> AddCheckpoint:
        head = Checkpoint(ORIGIN, self.tree_size, self.root_hash)
        return AddCheckpoint(self.old_size, self.proof, note(head, *self.good, bad=self.bad))


def status_by_the_letter(ask: Ask, *, is_known_log: bool, known: tuple[int, bytes] | None) -> int:
    """The specification, sentence by sentence, over trees of which all leaves are known."""
    if not is_known_log:
        return 404
    trusted = (LOG, LATER_LOG)
    if any(signer in trusted for signer in ask.bad):
        return 403
    if not any(signer in trusted for signer in ask.good):
        return 403
    if not ask.old_size <= ask.tree_size:
        return 400
    known_size, known_root = known if known is not None else (0, EMPTY_ROOT_HASH)
    if ask.old_size != known_size:
        return 409
    if ask.tree_size == 0 and ask.root_hash != EMPTY_ROOT_HASH:
        return 422
    if ask.old_size == 0:
        return 422 if ask.proof else 200
    if ask.old_size == ask.tree_size:
        return 422 if ask.root_hash != known_root or ask.proof else 200
    for tree in (TREE, FORK):
        if (
            tree.root(ask.old_size) == known_root
            and tree.root(ask.tree_size) == ask.root_hash
            and tuple(tree.consistency(ask.old_size, ask.tree_size)) == ask.proof
        ):
            return 200
    return 422


def decide(
    request: AddCheckpoint, *, log: Sequence[NoteVerifier] | None, known: SignedCheckpoint | None
) -> SignedCheckpoint | Refused:
    """Both halves of a decision, as `advance` runs them."""
    asked = authenticate(request, log=log)
    return asked if isinstance(asked, Refused) else compare(asked, known=known)


signer_sets = [
    signers for count in range(4) for signers in product([LOG, LATER_LOG, STRANGER], repeat=count)
]
ask_choices = st.tuples(
    st.sampled_from([TREE, TREE, TREE, FORK]),
    st.sampled_from([None] * 2 * SIZES_MAX + [*range(SIZES_MAX + 1)]),
    st.sampled_from([*product(range(SIZES_MAX + 1), (False, True))]),
    st.sampled_from([*product(range(10), range(10))]),
    st.sampled_from([(LOG,)] * len(signer_sets) + signer_sets),
    st.sampled_from([()] * 2 * len(signer_sets) + signer_sets),
)
"""All parts of a request, each one choice from a list: many small strategies cost far more."""


def ask_of(choices: tuple[Any, ...], known_size: int) -> Ask:
    """A request of which a good part is right, and each part is wrong now and then."""
    tree, old_size, (tree_size, is_raised), (proof_fault, root_fault), good, bad = choices
    old_size = known_size if old_size is None else old_size
    tree_size = max(tree_size, old_size) if is_raised else tree_size
    proof: tuple[bytes, ...] = ()
    if 0 < old_size < tree_size:
        proof = tuple(tree.consistency(old_size, tree_size))
    match proof_fault:
        case 0:
            proof = (*proof, bytes(32))
        case 1:
            proof = proof[1:]
        case 2:
            proof = tuple(reversed(proof))
    root_hash = bytes(32) if root_fault == 0 else tree.root(tree_size)
    return Ask(old_size, tree_size, root_hash, proof, good or (STRANGER,), bad)


class DecidingMachine(RuleBasedStateMachine):
    """Any requests in any order get the statuses of the specification."""

    def __init__(self) -> None:
        super().__init__()
        self.known: SignedCheckpoint | None = None

    @rule(choices=ask_choices, is_known_log=st.integers(0, 9).map(bool))
    def ask(self, choices: tuple[Any, ...], is_known_log: bool) -> None:
        known_size = self.known.checkpoint.tree_size if self.known else 0
        ask = ask_of(choices, known_size)
        log = KEYS if is_known_log else None
        decision = decide(ask.request(), log=log, known=self.known)
        want = status_by_the_letter(
            ask,
            is_known_log=is_known_log,
            known=(known_size, self.known.checkpoint.root_hash) if self.known else None,
        )
        if isinstance(decision, Refused):
            assert decision.status == want
            assert decision.known_size == (known_size if want == 409 else None)
            return
        assert want == 200
        assert decision.head.tree_size >= known_size
        text = decision.as_note().text
        assert set(decision.signatures) <= {signer.sign(text) for signer in (LOG, LATER_LOG)}
        self.known = cosign(decision, WITNESS[:1], time_unix_s=NOW)


TestDeciding = DecidingMachine.TestCase
TestDeciding.settings = settings(deadline=None, max_examples=100, stateful_step_count=12)


hashes = st.binary(min_size=32, max_size=32)
requests = st.builds(
    AddCheckpoint,
    st.integers(0, 2**63 - 1),
    st.lists(hashes, max_size=PROOF_HASHES_MAX).map(tuple),
    st.builds(
        lambda size, root: note(Checkpoint(ORIGIN, size, root), LOG),
        st.integers(0, 2**63 - 1),
        hashes,
    ),
)


@settings(deadline=None)
@given(requests)
def test_a_request_comes_back_as_it_was_written(request: AddCheckpoint) -> None:
    body = format_add_checkpoint(request)
    assert len(body) <= BODY_BYTES_MAX
    read = parse_add_checkpoint(body)
    assert read == request
    assert read.signed.note == request.signed.note
    assert format_add_checkpoint(read) == body


GOOD = format_add_checkpoint(
    AddCheckpoint(3, tuple(TREE.consistency(3, 8)), note(Checkpoint(ORIGIN, 8, TREE.root(8)), LOG))
)


@settings(deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_reads_as_it_was_written(place: int, change: int) -> None:
    body = bytearray(GOOD)
    body[place] ^= change
    try:
        request = parse_add_checkpoint(bytes(body))
    except MalformedError:
        return
    assert format_add_checkpoint(request) == bytes(body)
    assert isinstance(decide(request, log=KEYS, known=cosigned(3)), Refused)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"old 3\n", b"old 03\n"),
        (b"old 3\n", b"old +3\n"),
        (b"old 3\n", b"old  3\n"),
        (b"old 3\n", b"old 3 \n"),
        (b"old 3\n", b"old -3\n"),
        (b"old 3\n", b"old 9223372036854775808\n"),
        (b"old 3\n", "old ٣\n".encode()),
        (b"old 3\n", b"old 3\r\n"),
        (b"old 3\n", b"old\n"),
        (b"old 3\n", b"Old 3\n"),
        (b"old 3\n", b"\n"),
        (b"old 3\n", b"old 3\n" + b"A" * 44 + b"\n"),
        (b"old 3\n", b"old 3\n" + b64encode(bytes(31)) + b"\n"),
        (b"old 3\n", b"old 3\n" + (b64encode(bytes(32)) + b"\n") * PROOF_HASHES_MAX),
        (b"\n\n", b"\n"),
        (b"\n8\n", b"\n08\n"),
        (b"example.com/log\n8\n", b"example.com/log\n"),
        ("— ".encode(), b"- "),
        (ORIGIN.encode(), b"\xff"),
    ],
)
def test_what_is_not_the_format_is_refused(old: bytes, new: bytes) -> None:
    parse_add_checkpoint(GOOD)
    assert old in GOOD
    with pytest.raises(MalformedError):
        parse_add_checkpoint(GOOD.replace(old, new, 1))


@pytest.mark.parametrize("body", [b"", b"\n\n", GOOD[:-1], GOOD + b"\n", b"\0" * BODY_BYTES_MAX])
def test_no_request_at_all_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_add_checkpoint(body)


def test_a_body_over_the_limit_is_not_looked_at() -> None:
    with pytest.raises(MalformedError, match="at most"):
        parse_add_checkpoint(GOOD + b"x" * BODY_BYTES_MAX)


def test_a_request_that_no_line_could_say_is_a_mistake_of_the_caller() -> None:
    signed = note(Checkpoint(ORIGIN, 8, TREE.root(8)), LOG)
    for old_size, proof in [(-1, ()), (2**63, ()), (1, (bytes(31),)), (1, (bytes(32),) * 64)]:
        with pytest.raises(ValueError, match=r"\d"):
            AddCheckpoint(old_size, proof, signed)


def accepted(decision: SignedCheckpoint | Refused) -> SignedCheckpoint:
    assert isinstance(decision, SignedCheckpoint), decision
    return decision


def test_the_answer_has_a_line_for_each_key_and_the_note_the_logs_first() -> None:
    head = Checkpoint(ORIGIN, 8, TREE.root(8))
    request = AddCheckpoint(0, (), note(head, STRANGER, LOG, LOG, LATER_LOG))
    made = cosign(accepted(decide(request, log=KEYS, known=None)), WITNESS, time_unix_s=NOW)
    assert [line.name for line in made.signatures] == [ORIGIN, ORIGIN, *["example.com/w"] * 2]
    verifiers = [*KEYS, *(signer.verifier for signer in WITNESS)]
    assert len(verify_note(made.as_note(), verifiers)) == 4
    answer = cosignatures_by(made, WITNESS)
    for signer, line in zip(WITNESS, answer, strict=True):
        assert signer.verifier.check(made.as_note().text, line) == NOW
    assert parse_cosignatures(format_cosignatures(answer).encode()) == answer


def test_extension_lines_are_cosigned_by_the_keys_whose_cosignatures_cover_them() -> None:
    head = Checkpoint(ORIGIN, 8, TREE.root(8), ("an extension",))
    authentic = authenticate(AddCheckpoint(0, (), note(head, LOG)), log=KEYS)
    assert isinstance(authentic, Authentic)
    made = accepted(advance(authentic, known=None, signers=WITNESS, time_unix_s=NOW))
    (line,) = cosignatures_by(made, WITNESS)
    assert WITNESS[0].verifier.check(made.as_note().text, line) == NOW
    refused = advance(authentic, known=None, signers=WITNESS[1:], time_unix_s=NOW)
    assert isinstance(refused, Refused)
    assert refused.status == 403


def test_a_time_that_is_not_said_is_not_signed() -> None:
    request = AddCheckpoint(0, (), note(Checkpoint(ORIGIN, 8, TREE.root(8)), LOG))
    decision = accepted(decide(request, log=KEYS, known=None))
    with pytest.raises(ValueError, match="time"):
        cosign(decision, WITNESS, time_unix_s=0)


def test_a_witness_without_a_key_cosigns_nothing() -> None:
    request = AddCheckpoint(0, (), note(Checkpoint(ORIGIN, 8, TREE.root(8)), LOG))
    decision = accepted(decide(request, log=KEYS, known=None))
    with pytest.raises(ValueError, match="at least one key"):
        cosign(decision, [], time_unix_s=NOW)


def authentic(tree_size: int, *, old_size: int) -> Authentic:
    proof = tuple(TREE.consistency(old_size, tree_size)) if 0 < old_size < tree_size else ()
    head = Checkpoint(ORIGIN, tree_size, TREE.root(tree_size))
    asked = authenticate(AddCheckpoint(old_size, proof, note(head, LOG)), log=KEYS)
    assert isinstance(asked, Authentic)
    return asked


def test_no_time_earlier_than_the_last_is_signed() -> None:
    known = cosigned(3)
    for tree_size in (3, 8):
        asked = authentic(tree_size, old_size=3)
        late = advance(asked, known=known, signers=WITNESS, time_unix_s=NOW - 1)
        assert isinstance(late, Refused)
        assert late.status == 503
        for time_unix_s in (NOW, NOW + 1):
            head = advance(asked, known=known, signers=WITNESS[:1], time_unix_s=time_unix_s)
            assert isinstance(head, SignedCheckpoint)
            assert cosigned_at(head) == time_unix_s


def test_a_clock_that_is_not_set_signs_nothing() -> None:
    for time_unix_s in (0, -1):
        unset = advance(
            authentic(8, old_size=0), known=None, signers=WITNESS, time_unix_s=time_unix_s
        )
        assert isinstance(unset, Refused)
        assert unset.status == 503


def test_a_refusal_comes_before_the_clock() -> None:
    late = advance(authentic(8, old_size=2), known=cosigned(3), signers=WITNESS, time_unix_s=1)
    assert isinstance(late, Refused)
    assert late.status == 409


def test_the_same_head_in_the_same_second_is_the_one_that_was_kept() -> None:
    known = cosigned(3)
    asked = authentic(3, old_size=3)
    assert advance(asked, known=known, signers=WITNESS[:1], time_unix_s=NOW) is known
    later = advance(asked, known=known, signers=WITNESS[:1], time_unix_s=NOW + 1)
    assert isinstance(later, SignedCheckpoint)
    assert later != known
    assert cosigned_at(later) == NOW + 1


def mldsa_note(head: Checkpoint) -> SignedCheckpoint:
    text = format_checkpoint(head)
    return SignedCheckpoint(head, (MLDSA_LOG.sign(text, time_unix_s=NOW),))


def test_a_log_may_sign_with_ml_dsa_alone() -> None:
    request = AddCheckpoint(0, (), mldsa_note(Checkpoint(ORIGIN, 8, TREE.root(8))))
    accepted(decide(request, log=[MLDSA_LOG.verifier], known=None))


def test_extension_lines_that_no_key_signed_are_refused() -> None:
    head = Checkpoint(ORIGIN, 8, TREE.root(8), extensions=("anybody's words",))
    decision = decide(
        AddCheckpoint(0, (), mldsa_note(head)), log=[MLDSA_LOG.verifier, *KEYS], known=None
    )
    assert isinstance(decision, Refused)
    assert decision.status == 403
    accepted(decide(AddCheckpoint(0, (), note(head, LOG)), log=KEYS, known=None))


def test_two_trees_of_one_size_are_a_fork_whatever_old_size_came_with_them() -> None:
    for old_size, tree, tree_size, want in [
        (8, FORK, 8, True),
        (2, FORK, 8, True),
        (8, TREE, 8, False),
        (8, FORK, 9, False),
    ]:
        head = Checkpoint(ORIGIN, tree_size, tree.root(tree_size))
        asked = authenticate(AddCheckpoint(old_size, (), note(head, LOG)), log=KEYS)
        assert isinstance(asked, Authentic)
        assert is_fork(asked, cosigned(8)) is want
        assert not is_fork(asked, None)


def test_a_size_answer_is_one_number_on_a_line() -> None:
    assert parse_size_answer(format_size_answer(20852163).encode()) == 20852163
    for body in (b"", b"7", b"07\n", b"7\n\n", b"7\n8\n", b"\n", b"seven\n", b"7\r\n", b"\xff\n"):
        with pytest.raises(MalformedError):
            parse_size_answer(body)


def test_an_answer_is_signature_lines_and_nothing_else() -> None:
    line = format_cosignatures([Signature("example.com/w", 7, b"some bytes")]).encode()
    for count in (3, 65_536 // len(line)):
        assert len(parse_cosignatures(line * count)) == count
    for body in (b"", b"\n", line[:-1], line + b"\n", line + b"junk\n", b"\xff\n"):
        with pytest.raises(MalformedError):
            parse_cosignatures(body)
    with pytest.raises(MalformedError, match="at most"):
        parse_cosignatures(line * (65_536 // len(line) + 1))
