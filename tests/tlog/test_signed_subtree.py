"""Parts of a cosigned tree are signed, by the keys that cosigned it, and by no other."""

import pytest

from ledger_core.tlog.checkpoint import Checkpoint, SignedCheckpoint, format_checkpoint
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.keys import ED25519_COSIGNATURE, MLDSA44_COSIGNATURE
from ledger_core.tlog.signed_subtree import (
    SignSubtree,
    format_sign_subtree,
    parse_sign_subtree,
    sign_subtree,
)
from ledger_core.tlog.witness import Refused
from tests.tlog.oracle import oracle

ORIGIN = "example.com/log"
MIRROR = CosignatureSigner.generate("m.example", algorithm=MLDSA44_COSIGNATURE, seed=b"m" * 32)
OTHER = CosignatureSigner.generate("o.example", algorithm=MLDSA44_COSIGNATURE, seed=b"o" * 32)
CLASSIC = CosignatureSigner.generate("m.example", algorithm=ED25519_COSIGNATURE, seed=b"c" * 32)
SIZE = 14


def request(
    start: int = 8,
    end: int = 13,
    *,
    proof: list[bytes] | None = None,
    by: tuple[CosignatureSigner, ...] = (MIRROR,),
) -> SignSubtree:
    checkpoint = Checkpoint(ORIGIN, SIZE, oracle().root(SIZE))
    text = format_checkpoint(checkpoint)
    signed = SignedCheckpoint(checkpoint, tuple(each.sign(text, time_unix_s=7) for each in by))
    if proof is None:
        proof = oracle().subtree_consistency(start, end, SIZE)
    return SignSubtree(start, end, oracle().mth(start, end), tuple(proof), signed)


def test_each_subtree_of_a_cosigned_tree_is_signed_without_a_time() -> None:
    for start, end in ((8, 13), (0, 14), (0, 1), (12, 14), (13, 14), (0, 9)):
        asked = request(start, end)
        assert parse_sign_subtree(format_sign_subtree(asked)) == asked
        signatures = sign_subtree(asked, [CLASSIC, MIRROR], is_known=True)
        assert not isinstance(signatures, Refused)
        (signature,) = signatures
        MIRROR.verifier.check_subtree(asked.subtree, signature)
        with pytest.raises(VerificationError):
            MIRROR.verifier.check_subtree(request(4, 6).subtree, signature)


def test_the_signature_of_a_checkpoint_is_none_of_a_subtree() -> None:
    asked = request(0, SIZE)
    with pytest.raises(VerificationError, match="states a time"):
        MIRROR.verifier.check_subtree(asked.subtree, asked.signed.signatures[0])


@pytest.mark.parametrize(
    ("asked", "signers", "is_known", "status"),
    [
        (request(), [MIRROR], False, 404),
        (request(by=(OTHER,)), [MIRROR], True, 403),
        (request(by=(CLASSIC,)), [CLASSIC, MIRROR], True, 403),
        (request(by=(CLASSIC,)), [CLASSIC], True, 403),
        (request(proof=[]), [MIRROR], True, 422),
        (request(proof=[bytes(32)] * 4), [MIRROR], True, 422),
    ],
)
def test_a_request_is_refused_by_the_first_fault(
    asked: SignSubtree, signers: list[CosignatureSigner], is_known: bool, status: int
) -> None:
    refused = sign_subtree(asked, signers, is_known=is_known)
    assert isinstance(refused, Refused)
    assert refused.status == status


def test_the_keys_that_cosigned_sign_and_no_others() -> None:
    signatures = sign_subtree(request(by=(OTHER, MIRROR)), [MIRROR, OTHER], is_known=True)
    assert not isinstance(signatures, Refused)
    assert [each.name for each in signatures] == ["m.example", "o.example"]
    signatures = sign_subtree(request(by=(MIRROR,)), [MIRROR, OTHER], is_known=True)
    assert not isinstance(signatures, Refused)
    assert [each.name for each in signatures] == ["m.example"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"subtree 8 13", b"subtree 8 15", "no subtree"),
        (b"subtree 8 13", b"subtree 9 13", "not a subtree"),
        (b"subtree 8 13", b"subtree 8 8", "not a subtree"),
        (b"subtree 8 13", b"subtree 08 13", "not a decimal number"),
        (b"subtree 8 13", b"subtree 8", "first line"),
        (b"subtree 8 13", b"old 8", "first line"),
        (b"\n\nexample", b"\nexample", "not base64|an empty line"),
    ],
)
def test_a_text_with_a_fault_is_refused_for_it(old: bytes, new: bytes, reason: str) -> None:
    body = format_sign_subtree(request())
    assert old in body
    with pytest.raises(MalformedError, match=reason):
        parse_sign_subtree(body.replace(old, new, 1))
