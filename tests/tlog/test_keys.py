"""Keys: what they look like, which are refused, and that `encode` alone tells a private one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_core_ed25519_add

from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.keys import (
    ED25519,
    ED25519_COSIGNATURE,
    MLDSA44_COSIGNATURE,
    SignerKey,
    VerifierKey,
    check_key_name,
    check_new_name,
)

ALGORITHMS = (ED25519, ED25519_COSIGNATURE, MLDSA44_COSIGNATURE)

P = 2**255 - 19

# The points of small order: under each of them some signature holds for any text.
SMALL_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
]

# Coordinates of p and above, which are below p again when they are reduced.
NOT_CANONICAL = [(P + y).to_bytes(32, "little").hex() for y in range(19)]

seeds = st.binary(min_size=32, max_size=32)
names = st.text(min_size=1, max_size=60).filter(
    lambda name: not any(char.isspace() or char < " " or char == "+" for char in name)
)


@given(names, st.sampled_from(ALGORITHMS), seeds)
def test_the_texts_of_a_key_are_read_back(name: str, algorithm: int, seed: bytes) -> None:
    signer = SignerKey(name, algorithm=algorithm, seed=seed)
    assert SignerKey.parse(signer.encode()).encode() == signer.encode()
    verifier = VerifierKey.parse(str(signer.verifier_key))
    assert verifier == signer.verifier_key
    verifier.check(b"message", SignerKey.parse(signer.encode()).sign(b"message"))


@given(st.sampled_from(ALGORITHMS), st.binary(max_size=50), st.data())
def test_a_signature_holds_for_its_message_and_as_it_was_made(
    algorithm: int, message: bytes, data: st.DataObject
) -> None:
    key = SignerKey("example.com", algorithm=algorithm, seed=bytes(32))
    signature = key.sign(message)
    bit = data.draw(st.integers(0, 8 * len(signature) - 1))
    flipped = bytearray(signature)
    flipped[bit // 8] ^= 1 << bit % 8
    for wrong_message, wrong_signature in (
        (message, bytes(flipped)),
        (message + b"\0", signature),
        (message, signature[:-1]),
        (message, signature + b"\0"),
        (message, b""),
    ):
        with pytest.raises(VerificationError):
            key.verifier_key.check(wrong_message, wrong_signature)


def test_the_signer_key_is_spelled_as_go_spells_it() -> None:
    # The example of the documentation of golang.org/x/mod/sumdb/note, and its verifier key.
    skey = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
    vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    key = SignerKey.parse(skey)
    assert str(key.verifier_key) == vkey
    assert key.encode() == skey


@pytest.mark.parametrize("algorithm", [ED25519, ED25519_COSIGNATURE])
@pytest.mark.parametrize("point", SMALL_ORDER + NOT_CANONICAL)
def test_a_weak_or_ambiguous_ed25519_key_is_refused(algorithm: int, point: str) -> None:
    with pytest.raises(ValueError, match="small order"):
        VerifierKey("example.com", algorithm, bytes.fromhex(point))


def test_an_ed25519_key_with_a_part_of_small_order_is_refused() -> None:
    honest = SignerKey("example.com", algorithm=ED25519, seed=bytes(32)).verifier_key.public_key
    mixed = crypto_core_ed25519_add(honest, bytes.fromhex(SMALL_ORDER[3]))
    with pytest.raises(ValueError, match="small order"):
        VerifierKey("example.com", ED25519, mixed)


@pytest.mark.parametrize(
    ("algorithm", "public_key", "error"),
    [
        (ED25519, bytes(31), "32 bytes, got 31"),
        (ED25519_COSIGNATURE, b"", "32 bytes, got 0"),
        (MLDSA44_COSIGNATURE, bytes(32), "1312 bytes, got 32"),
        (0x02, bytes(32), "signature type 0x02"),
        (0xFF, bytes(32), "signature type 0xff"),
    ],
)
def test_a_key_that_is_not_of_its_type_is_refused(
    algorithm: int, public_key: bytes, error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        VerifierKey("example.com", algorithm, public_key)


@pytest.mark.parametrize("size_bytes", [0, 31, 33, 64])
def test_a_seed_of_another_length_is_refused(size_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"32 bytes, got {size_bytes}"):
        SignerKey("example.com", algorithm=ED25519, seed=bytes(size_bytes))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("PRIVATE+KEY+", ""),
        ("PRIVATE+KEY+", "PRIVATE+"),
        ("PRIVATE+KEY+", "private+key+"),
        ("example.com", ""),
        ("example.com", "exam ple.com"),
        ("example.com", "example.org"),
        ("+", "-"),
        ("+AVNF", "+BFNF"),
        ("+AVNF", "+AlNF"),
        ("+AVNF", "+"),
        ("+AVNF", "+U0VD"),
        ("+AVNF", "+ AVNF"),
        ("+AVNF", "+AVNFAAAA"),
        ("+AVNF", "+AVNG"),
        ("Qg", ""),
        ("g", ""),
        ("g", "="),
        ("g", "g\n"),
    ],
)
def test_a_malformed_signer_key_is_refused_and_not_shown(old: str, new: str) -> None:
    seed = b"SECRET seed, a secret of a test "
    good = SignerKey("example.com", algorithm=ED25519, seed=seed).encode()
    head, found, tail = good.rpartition(old)
    assert found
    with pytest.raises(MalformedError) as caught:
        SignerKey.parse(f"{head}{new}{tail}")
    assert good[-30:-4] not in str(caught.value)
    assert "0x53" not in str(caught.value)  # The first byte of the seed, where a type should be.
    assert caught.value.__cause__ is None


def test_nothing_that_is_printed_shows_the_private_key() -> None:
    seed = bytes(range(100, 132))
    key = SignerKey("example.com", algorithm=ED25519, seed=seed)
    for shown in (repr(key), str(key), f"{key}", repr(key.verifier_key), str(key.verifier_key)):
        assert "example.com" in shown
        assert key.encode()[-20:] not in shown
        assert seed.hex() not in shown


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a\tb", "a\u2003b", "a\u0085b", "a+b", "a\0b", "é" * 128, "\ud800"]
)
def test_a_name_that_no_signature_line_can_carry_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"key name|surrogates"):
        check_key_name(name)


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("https://example.com/audit", "example.com/audit"),
        ("HTTP://example.com", "example.com"),
        ("//example.com/audit", "example.com/audit"),
        ("example.com/audit/", "example.com/audit"),
        ("example.com//", "example.com"),
    ],
)
def test_a_new_name_is_a_url_without_scheme_and_final_slash(name: str, better: str) -> None:
    with pytest.raises(ValueError, match=f": '{better}'$"):
        check_new_name(name)
    check_new_name(better)
    check_key_name(name)  # Those of others are read.
