"""Policies: a checkpoint is believed when a log and enough witnesses stand by it, not before."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core.tlog.checkpoint import Checkpoint, format_checkpoint
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import EMPTY_ROOT_HASH
from ledger_core.tlog.keys import ED25519_COSIGNATURE, MLDSA44_COSIGNATURE
from ledger_core.tlog.note import Note, Signature, Signer, format_note
from ledger_core.tlog.policy import (
    GROUPS_MAX,
    LOGS_MAX,
    WITNESSES_MAX,
    PolicyGroup,
    format_policy,
    parse_policy,
)
from tests.tlog.vector_files import good_text

ORIGIN = "example.com/audit"
TIME = 1679315147

LOG = Signer.generate(ORIGIN, seed=bytes(32))
PQ_LOG = CosignatureSigner.generate(ORIGIN, algorithm=MLDSA44_COSIGNATURE, seed=bytes(32))
OTHER_LOG = Signer.generate("example.com/other", seed=bytes([9]) * 32)

WITNESSES = {
    f"w{number}": CosignatureSigner.generate(
        f"witness.example/w{number}",
        algorithm=MLDSA44_COSIGNATURE if number == 3 else ED25519_COSIGNATURE,
        seed=bytes([number]) * 32,
    )
    for number in range(1, 7)
}

TEXT = format_checkpoint(Checkpoint(ORIGIN, 7, bytes(32)))


def head(*names: str, text: str = TEXT, signer: Signer = LOG) -> str:
    """A checkpoint signed by the log and by these witnesses, each a second later than the last."""
    cosignatures = (
        WITNESSES[name].sign(text, time_unix_s=TIME + number) for number, name in enumerate(names)
    )
    return format_note(Note(text, (signer.sign(text), *cosignatures)))


def policy_text(rule: str, *, logs: str = f"log {LOG.verifier}\n") -> bytes:
    witnesses = "".join(f"witness {name} {key.verifier}\n" for name, key in WITNESSES.items())
    return f"{logs}{witnesses}{rule}\n".encode()


NESTED = policy_text("group x 2 w1 w2 w3\ngroup y any w4 w5\ngroup all-of all x y\nquorum all-of")


def test_a_policy_says_what_its_lines_say() -> None:
    policy = parse_policy(good_text("policy").encode())
    assert [(log.verifier.name, log.url) for log in policy.logs] == [
        (ORIGIN, "https://log.example/")
    ]
    assert [(witness.name, witness.url) for witness in policy.witnesses] == [
        ("w1", None),
        ("w2", "https://witness.example/w2/"),
        ("w3", None),
        ("w4", None),
    ]
    assert policy.groups == (
        PolicyGroup("two", 2, ("w1", "w2", "w3")),
        PolicyGroup("both", 2, ("two", "w4")),
    )
    assert policy.quorum == "both"


def test_a_head_that_meets_the_policy_says_who_stood_by_it() -> None:
    note = head("w5", "w3", "w1")
    verified = parse_policy(NESTED).check(note)
    assert verified.checkpoint == Checkpoint(ORIGIN, 7, bytes(32))
    assert verified.cosignatures == (("w1", TIME + 2), ("w3", TIME + 1), ("w5", TIME))
    assert verified.log_key == str(LOG.verifier)
    assert verified.note == note


def test_the_quorum_holds_for_exactly_the_sets_that_the_rule_names() -> None:
    policy = parse_policy(NESTED)
    names = ["w1", "w2", "w3", "w4", "w5", "w6"]
    for count in range(len(names) + 1):
        for chosen in combinations(names, count):
            is_enough = len({"w1", "w2", "w3"} & set(chosen)) >= 2 and bool(
                {"w4", "w5"} & set(chosen)
            )
            if is_enough:
                policy.check(head(*chosen))
            else:
                with pytest.raises(VerificationError, match="quorum is not met"):
                    policy.check(head(*chosen))


@pytest.mark.parametrize(
    ("rule", "names", "missing"),
    [
        ("quorum w2", (), "witness w2 has not cosigned"),
        ("group x 2 w1 w2 w3\nquorum x", ("w1",), "group x: 1 of 2 needed, missing w2, w3"),
        ("group x any w1 w2\nquorum x", (), "group x: 0 of 1 needed, missing w1, w2"),
        ("group x all w1 w2\nquorum x", ("w2",), "group x: 1 of 2 needed, missing w1"),
        (
            "group x 2 w1 w2 w3\ngroup y all x w4\nquorum y",
            ("w3", "w4"),
            "group y: 1 of 2 needed, missing x; group x: 1 of 2 needed, missing w1, w2",
        ),
    ],
)
def test_the_error_says_which_part_of_the_quorum_is_missing(
    rule: str, names: tuple[str, ...], missing: str
) -> None:
    with pytest.raises(VerificationError) as caught:
        parse_policy(policy_text(rule)).check(head(*names))
    assert str(caught.value) == f"the quorum is not met: {missing}"


def test_no_quorum_asked_needs_the_log_alone() -> None:
    policy = parse_policy(policy_text("quorum none"))
    assert policy.quorum is None
    assert policy.check(head()).cosignatures == ()
    assert policy.check(head("w1").encode()).cosignatures == (("w1", TIME),)


def test_a_head_existed_before_the_quorum_had_cosigned_and_not_before_the_first_witness() -> None:
    def known_since(rule: str, *names: str) -> int | None:
        return parse_policy(policy_text(rule)).check(head(*names)).existed_before_unix_s

    two_of_three = "group g 2 w1 w2 w3\nquorum g"
    assert known_since(two_of_three, "w2", "w1") == TIME + 1
    assert known_since(two_of_three, "w4", "w3", "w1", "w2") == TIME + 2
    assert known_since("group g any w1 w2 w3\nquorum g", "w4", "w3", "w1") == TIME + 1
    assert known_since("group g all w1 w2 w3\nquorum g", "w3", "w1", "w2") == TIME + 2
    assert known_since("quorum none", "w1") is None


def test_a_witness_that_leaves_the_time_unsaid_dates_nothing() -> None:
    policy = parse_policy(policy_text("group g 2 w1 w2 w3\nquorum g"))
    lines = [
        LOG.sign(TEXT),
        WITNESSES["w1"].sign(TEXT, time_unix_s=TIME),
        WITNESSES["w3"].sign(TEXT, time_unix_s=0),
    ]
    assert policy.check(format_note(Note(TEXT, tuple(lines)))).existed_before_unix_s is None
    lines.append(WITNESSES["w2"].sign(TEXT, time_unix_s=TIME + 5))
    verified = policy.check(format_note(Note(TEXT, tuple(lines))))
    assert verified.existed_before_unix_s == TIME + 5


def test_whether_witnesses_are_a_quorum_is_asked_by_the_names_that_are_shown() -> None:
    policy = parse_policy(NESTED)
    assert policy.is_quorum({"w1", "w3", "w5"})
    assert not policy.is_quorum({"w1", "w3"})
    assert not policy.is_quorum({"x", "y", "all-of"})
    assert parse_policy(policy_text("quorum none")).is_quorum(())


def test_the_latest_of_two_cosignatures_of_one_witness_is_told_and_counts_once() -> None:
    cosigner = WITNESSES["w1"]
    lines = [cosigner.sign(TEXT, time_unix_s=time) for time in (TIME, TIME + 9, TIME + 5)]
    note = format_note(Note(TEXT, (LOG.sign(TEXT), *lines)))
    policy = parse_policy(policy_text("quorum w1"))
    assert policy.check(note).cosignatures == (("w1", TIME + 9),)
    with pytest.raises(VerificationError, match="1 of 2 needed"):
        parse_policy(policy_text("group x 2 w1 w2\nquorum x")).check(note)


def test_a_head_of_another_log_is_refused() -> None:
    text = format_checkpoint(Checkpoint("example.com/other", 7, bytes(32)))
    for signer in (LOG, OTHER_LOG):
        with pytest.raises(VerificationError, match="no log of the policy has the origin"):
            parse_policy(policy_text("quorum none")).check(head(text=text, signer=signer))


def test_one_log_of_the_policy_does_not_sign_for_another() -> None:
    logs = f"log {LOG.verifier}\nlog {OTHER_LOG.verifier}\n"
    policy = parse_policy(policy_text("quorum none", logs=logs))
    with pytest.raises(VerificationError, match=r"example\.com/audit did not sign"):
        policy.check(head(signer=OTHER_LOG))
    assert policy.check(head()).log_key == str(LOG.verifier)


def test_a_witness_does_not_sign_for_a_log() -> None:
    note = format_note(Note(TEXT, (WITNESSES["w1"].sign(TEXT, time_unix_s=TIME),)))
    with pytest.raises(VerificationError, match="did not sign its checkpoint"):
        parse_policy(policy_text("quorum w1")).check(note)


def test_a_policy_without_logs_believes_no_head() -> None:
    with pytest.raises(VerificationError, match="no log of the policy"):
        parse_policy(policy_text("quorum none", logs="")).check(head())


@pytest.mark.parametrize("is_log", [True, False])
def test_one_bad_signature_of_the_policy_condemns_a_head_that_is_good_without_it(
    is_log: bool,
) -> None:
    key = LOG.verifier if is_log else WITNESSES["w6"].verifier
    bad = Signature(key.name, key.key_id, bytes(64 if is_log else 72))
    note = format_note(Note(TEXT, (LOG.sign(TEXT), bad)))
    with pytest.raises(VerificationError, match="does not verify"):
        parse_policy(policy_text("quorum none")).check(note)


def test_a_log_may_sign_with_ml_dsa_44_and_either_key_is_enough() -> None:
    logs = f"log {LOG.verifier}\nlog {PQ_LOG.verifier}\n"
    policy = parse_policy(policy_text("quorum none", logs=logs))
    pq = PQ_LOG.sign(TEXT, time_unix_s=TIME)
    assert policy.check(format_note(Note(TEXT, (pq,)))).log_key == str(PQ_LOG.verifier)
    assert policy.check(format_note(Note(TEXT, (LOG.sign(TEXT), pq)))).log_key == str(LOG.verifier)


def test_extension_lines_that_the_log_did_not_sign_are_refused() -> None:
    logs = f"log {LOG.verifier}\nlog {PQ_LOG.verifier}\n"
    policy = parse_policy(policy_text("quorum none", logs=logs))
    text = f"{TEXT}an extension\n"
    pq = PQ_LOG.sign(TEXT, time_unix_s=TIME)
    with pytest.raises(VerificationError, match="did not sign the extension lines"):
        policy.check(format_note(Note(text, (pq,))))
    verified = policy.check(format_note(Note(text, (pq, LOG.sign(text)))))
    assert verified.checkpoint.extensions == ("an extension",)


def test_an_empty_tree_has_the_empty_root() -> None:
    policy = parse_policy(policy_text("quorum none"))
    policy.check(head(text=format_checkpoint(Checkpoint(ORIGIN, 0, EMPTY_ROOT_HASH))))
    with pytest.raises(VerificationError, match="not the root of the empty tree"):
        policy.check(head(text=format_checkpoint(Checkpoint(ORIGIN, 0, bytes(32)))))


@pytest.mark.parametrize("note", ["", TEXT, head()[:-1], head().replace("7\n", "07\n", 1)])
def test_what_is_no_signed_checkpoint_is_malformed(note: str) -> None:
    with pytest.raises(MalformedError):
        parse_policy(policy_text("quorum none")).check(note)


def test_names_that_are_not_utf_8_are_kept_apart_and_shown_escaped() -> None:
    text = policy_text("group g 2 w1 w2 w3\nquorum g")
    octets = text.replace(b" w1 ", b" \xff ").replace(b" w2 ", b" \xfe ")
    policy = parse_policy(octets)
    assert policy.check(head("w1", "w2")).cosignatures == (("\\xff", TIME), ("\\xfe", TIME + 1))
    with pytest.raises(VerificationError, match=r"missing \\xfe, w3"):
        policy.check(head("w1"))


def _many(kind: str, count: int) -> bytes:
    lines = []
    for number in range(count):
        seed = number.to_bytes(32)
        if kind == "log":
            lines.append(f"log {Signer.generate(ORIGIN, seed=seed).verifier}")
            continue
        key = CosignatureSigner.generate("w", algorithm=ED25519_COSIGNATURE, seed=seed).verifier
        if kind == "witness" or number == 0:
            lines.append(f"witness w{number} {key}")
        if kind == "group":
            lines.append(f"group g{number} all {f'g{number - 1}' if number else 'w0'}")
    return "\n".join((*lines, "quorum none", "")).encode()


@pytest.mark.parametrize(
    ("kind", "count_max"), [("log", LOGS_MAX), ("witness", WITNESSES_MAX), ("group", GROUPS_MAX)]
)
def test_the_limits_are_more_than_the_specification_asks_for(kind: str, count_max: int) -> None:
    assert count_max >= 32
    parse_policy(_many(kind, count_max))
    with pytest.raises(MalformedError, match=f"at most {count_max}"):
        parse_policy(_many(kind, count_max + 1))


def test_the_deepest_policy_is_checked() -> None:
    octets = _many("group", GROUPS_MAX).replace(b"quorum none", b"quorum g%d" % (GROUPS_MAX - 1))
    policy = parse_policy(b"log %s\n%s" % (str(LOG.verifier).encode(), octets))
    with pytest.raises(VerificationError, match="group g0: 0 of 1 needed, missing w0"):
        policy.check(head())


def test_a_policy_that_is_too_large_is_refused() -> None:
    with pytest.raises(MalformedError, match="at most"):
        parse_policy(b"#" * (1 << 20) + b"\n")


def test_the_policy_of_a_log_alone_is_read_back() -> None:
    text = format_policy([LOG.verifier, PQ_LOG.verifier])
    policy = parse_policy(text.encode())
    assert [log.verifier for log in policy.logs] == [LOG.verifier, PQ_LOG.verifier]
    assert policy.quorum is None
    with pytest.raises(ValueError, match="signature type 0x04"):
        format_policy([WITNESSES["w1"].verifier])


@given(st.binary(max_size=60) | st.text(" \tloqurmne#w1\n", max_size=40).map(str.encode))
def test_whatever_stands_in_a_policy_file_is_taken_or_malformed(data: bytes) -> None:
    try:
        parse_policy(data)
    except MalformedError:
        return
    assert b"quorum" in data
