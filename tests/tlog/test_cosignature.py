"""Cosignatures: exactly what they sign, the time in them, and what they leave out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core.tlog.checkpoint import Checkpoint, format_checkpoint
from ledger_core.tlog.cosignature import (
    TIME_MAX,
    CosignatureSigner,
    CosignatureVerifier,
    cosigned_at_unix_s,
    cosigned_message,
    parse_verifier,
    self_test,
)
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.keys import ED25519, ED25519_COSIGNATURE, MLDSA44_COSIGNATURE
from ledger_core.tlog.note import (
    Note,
    Signature,
    Signer,
    Verifier,
    format_note,
    parse_note,
    verify_note,
)
from tests.tlog.vector_files import good_text, read_texts

BOTH = pytest.mark.parametrize("algorithm", [ED25519_COSIGNATURE, MLDSA44_COSIGNATURE])

TIME = 1679315147
CHECKPOINT = good_text("checkpoint")


def signer_of(algorithm: int) -> CosignatureSigner:
    return CosignatureSigner.generate("witness.example/w1", algorithm=algorithm, seed=bytes(32))


def test_the_library_of_this_machine_has_both_algorithms() -> None:
    self_test()


@BOTH
def test_a_library_that_does_not_verify_what_it_signs_is_reported(
    algorithm: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = CosignatureVerifier.check

    def fail(verifier: CosignatureVerifier, text: str, signature: Signature) -> int:
        if verifier.key.algorithm == algorithm:
            raise VerificationError("no")
        return check(verifier, text, signature)

    monkeypatch.setattr(CosignatureVerifier, "check", fail)
    with pytest.raises(UnavailableError, match="does not verify what it signs"):
        self_test()


def test_an_ed25519_cosignature_signs_the_example_of_the_specification() -> None:
    key = signer_of(ED25519_COSIGNATURE).verifier.key
    assert cosigned_message(key, CHECKPOINT, time_unix_s=TIME).decode() == (
        "cosignature/v1\n"
        "time 1679315147\n"
        "example.com/behind-the-sofa\n"
        "20852163\n"
        "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    )


def test_an_ml_dsa_44_cosignature_signs_the_structure_of_the_specification() -> None:
    key = signer_of(MLDSA44_COSIGNATURE).verifier.key
    assert cosigned_message(key, CHECKPOINT, time_unix_s=TIME).hex() == (
        b"subtree/v1\n\0".hex()
        + "12"
        + b"witness.example/w1".hex()
        + "00000000641850cb"
        + "1b"
        + b"example.com/behind-the-sofa".hex()
        + "0000000000000000"
        + "00000000013e2dc3"
        + "0ac5186a91863e8e1d90c808014aa89bf5da8e3ee1d9f07630f0378f68f1ab62"
    )


def test_an_ml_dsa_44_key_has_the_id_that_torchwood_gives_it() -> None:
    # The seed is that of a test of its litewitness; the checkpoint of that test verified here.
    seed = bytes.fromhex("2886adc2b0eabfce67c0472939127998bf886cf256bfee8ba76a253fce1146e0")
    signer = CosignatureSigner.generate(
        "example.com/mldsa-log", algorithm=MLDSA44_COSIGNATURE, seed=seed
    )
    assert signer.verifier.key_id == 0xB5DF45C5


@BOTH
@pytest.mark.parametrize("time_unix_s", [0, 1, TIME, TIME_MAX])
def test_the_time_that_was_signed_is_told(algorithm: int, time_unix_s: int) -> None:
    signer = signer_of(algorithm)
    signature = signer.sign(CHECKPOINT, time_unix_s=time_unix_s)
    assert signer.verifier.check(CHECKPOINT, signature) == time_unix_s
    assert cosigned_at_unix_s(signature) == time_unix_s


@BOTH
@pytest.mark.parametrize("time_unix_s", [-1, TIME_MAX + 1])
def test_a_time_out_of_range_is_not_signed(algorithm: int, time_unix_s: int) -> None:
    with pytest.raises(ValueError, match="a time is below"):
        signer_of(algorithm).sign(CHECKPOINT, time_unix_s=time_unix_s)


@BOTH
@given(data=st.data())
def test_any_flipped_bit_of_time_or_signature_is_refused(
    algorithm: int, data: st.DataObject
) -> None:
    signer = signer_of(algorithm)
    good = signer.sign(CHECKPOINT, time_unix_s=TIME)
    bit = data.draw(st.integers(0, 127) | st.integers(0, 8 * len(good.signature) - 1))
    flipped = bytearray(good.signature)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(VerificationError):
        signer.verifier.check(CHECKPOINT, Signature(good.name, good.key_id, bytes(flipped)))


@BOTH
@pytest.mark.parametrize("size_bytes", [1, 7, 8, 9, 64, 71, 73, 2427, 2429])
def test_a_cosignature_of_another_length_is_refused(algorithm: int, size_bytes: int) -> None:
    verifier = signer_of(algorithm).verifier
    with pytest.raises(VerificationError):
        verifier.check(CHECKPOINT, Signature(verifier.name, verifier.key_id, bytes(size_bytes)))


@BOTH
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("example.com", "example.org"),
        ("20852163", "20852164"),
        ("CsUYap", "DsUYap"),
    ],
)
def test_another_checkpoint_is_refused(algorithm: int, old: str, new: str) -> None:
    signer = signer_of(algorithm)
    signature = signer.sign(CHECKPOINT, time_unix_s=TIME)
    with pytest.raises(VerificationError, match="does not verify"):
        signer.verifier.check(CHECKPOINT.replace(old, new), signature)


@BOTH
def test_the_name_of_the_cosigner_is_part_of_what_is_checked(algorithm: int) -> None:
    signer = signer_of(algorithm)
    other = CosignatureSigner.generate("witness.example/w2", algorithm=algorithm, seed=bytes(32))
    signature = signer.sign(CHECKPOINT, time_unix_s=TIME)
    with pytest.raises(VerificationError, match="want a signature of"):
        other.verifier.check(CHECKPOINT, signature)


def test_an_ml_dsa_44_cosignature_under_another_name_does_not_verify() -> None:
    # The key is the same and the key id is made to fit: only the name in the message tells.
    signer = signer_of(MLDSA44_COSIGNATURE)
    other = CosignatureSigner.generate("w2", algorithm=MLDSA44_COSIGNATURE, seed=bytes(32)).verifier
    signature = signer.sign(CHECKPOINT, time_unix_s=TIME)
    with pytest.raises(VerificationError, match="does not verify"):
        other.check(CHECKPOINT, Signature(other.name, other.key_id, signature.signature))


def test_extension_lines_are_covered_by_ed25519_alone() -> None:
    extended = f"{CHECKPOINT}an extension\n"
    for algorithm, is_covered in ((ED25519_COSIGNATURE, True), (MLDSA44_COSIGNATURE, False)):
        signer = signer_of(algorithm)
        signature = signer.sign(CHECKPOINT, time_unix_s=TIME)
        if is_covered:
            with pytest.raises(VerificationError, match="does not verify"):
                signer.verifier.check(extended, signature)
        else:
            signer.verifier.check(extended, signature)


CHECKPOINT_FAULTS = [row for row in read_texts("checkpoint") if row["error"]]


@BOTH
@pytest.mark.parametrize("row", CHECKPOINT_FAULTS, ids=[row["name"] for row in CHECKPOINT_FAULTS])
def test_what_is_not_a_checkpoint_is_neither_signed_nor_checked(
    algorithm: int, row: dict[str, Any]
) -> None:
    signer = signer_of(algorithm)
    with pytest.raises(ValueError, match=r"."):
        signer.sign(row["text"], time_unix_s=TIME)
    with pytest.raises(MalformedError):
        signer.verifier.check(row["text"], signer.sign(CHECKPOINT, time_unix_s=TIME))


@BOTH
def test_keys_are_read_back_and_show_nothing(algorithm: int) -> None:
    signer = signer_of(algorithm)
    again = CosignatureSigner.parse(signer.encode())
    assert again.encode() == signer.encode()
    assert CosignatureVerifier.parse(str(signer.verifier)) == again.verifier
    for shown in (repr(signer), str(signer), repr(signer.verifier)):
        assert signer.encode()[-20:] not in shown


def test_a_vkey_gives_the_verifier_of_its_type() -> None:
    log = Signer.generate("example.com", seed=bytes(32)).verifier
    assert parse_verifier(str(log)) == log
    assert isinstance(parse_verifier(str(log)), Verifier)
    for algorithm in (ED25519_COSIGNATURE, MLDSA44_COSIGNATURE):
        cosigner = signer_of(algorithm).verifier
        assert parse_verifier(str(cosigner)) == cosigner
        assert cosigner.algorithm == algorithm
    with pytest.raises(MalformedError, match="want 0x04 or 0x06"):
        CosignatureVerifier.parse(str(log))
    with pytest.raises(ValueError, match="want 0x04 or 0x06"):
        CosignatureSigner.generate("example.com", algorithm=ED25519, seed=bytes(32))


def test_a_note_carries_all_kinds_of_signatures_at_once() -> None:
    text = format_checkpoint(Checkpoint("example.com/audit", 7, bytes(32)))
    log = Signer.generate("example.com/audit", seed=bytes(32))
    cosigners = [signer_of(ED25519_COSIGNATURE), signer_of(MLDSA44_COSIGNATURE)]
    made = (log.sign(text), *(signer.sign(text, time_unix_s=TIME) for signer in cosigners))
    note = parse_note(format_note(Note(text, made)))
    verifiers = [log.verifier, *(signer.verifier for signer in cosigners)]
    assert verify_note(note, verifiers) == made
