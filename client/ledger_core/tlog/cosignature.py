r"""Cosignatures: a witness signs a tree head and the time when it saw it.

A cosignature is a signature line of a checkpoint's note, and its bytes are a time and a signature:

    — witness.example.com/w1 base64(key id ‖ uint64 seconds since 1970 ‖ signature)

It states that the head is consistent with every head of this log that the witness saw before, and
that the witness knew of no larger one at this time. There are two types. Ed25519 (0x04) signs two
lines and the text of the checkpoint:

    cosignature/v1
    time 1679315147
    example.com/behind-the-sofa
    20852163
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

ML-DSA-44 (0x06), which quantum computers don't break, signs a structure with its own name in it;
logs sign with it too. Numbers are big-endian uint64, `name` and `origin` follow their length in one
byte, and for a checkpoint `start` is 0 and `end` is the tree size:

    "subtree/v1\n\0" ‖ name ‖ time ‖ origin ‖ start ‖ end ‖ root hash

An ML-DSA-44 key may also sign another subtree, the tree of the leaves [start, end) alone, by the
same structure. Its time is 0 then: the signer says nothing of how large the log was.

Weak: extension lines are not in that structure. If a checkpoint has only such signatures, nobody
has signed its extension lines.

The time is an argument: this package has no clock.

Source: c2sp.org/tlog-cosignature, FIPS 204.
"""

from dataclasses import dataclass
from typing import Self

from ledger_core.tlog.checkpoint import Checkpoint, format_checkpoint, parse_checkpoint
from ledger_core.tlog.errors import UnavailableError, VerificationError
from ledger_core.tlog.hashing import EMPTY_ROOT_HASH, SIZE_MAX, Hash
from ledger_core.tlog.keys import (
    ED25519,
    ED25519_COSIGNATURE,
    MLDSA44_COSIGNATURE,
    SEED_BYTES,
    SignerKey,
    VerifierKey,
)
from ledger_core.tlog.note import (
    NoteSigner,
    NoteVerifier,
    Signature,
    Verifier,
    check_algorithm,
    check_note_text,
    check_signed_by,
)

TIME_MAX = SIZE_MAX

_NUMBER_BYTES = 8
_SUBTREE_LABEL = b"subtree/v1\n\x00"


@dataclass(frozen=True, slots=True)
class Subtree:
    """The tree of the leaves [start, end) of a log alone, and its root hash."""

    origin: str
    start: int
    end: int
    root_hash: Hash


@dataclass(frozen=True, slots=True)
class CosignatureVerifier(NoteVerifier):
    """A public key for cosignatures, type 0x04 or 0x06."""

    ALGORITHMS = (ED25519_COSIGNATURE, MLDSA44_COSIGNATURE)

    def check(self, text: str, signature: Signature) -> int:
        """Check a cosignature of a checkpoint, given as the text of its note; returns its time.

        Raises: VerificationError; MalformedError when the text is not a checkpoint.
        """
        check_signed_by(self.key, signature)
        time_unix_s = cosigned_at_unix_s(signature)
        message = cosigned_message(self.key, text, time_unix_s=time_unix_s)
        self.key.check(message, signature.signature[_NUMBER_BYTES:])
        return time_unix_s

    def check_subtree(self, subtree: Subtree, signature: Signature) -> None:
        """Check the signature of a subtree. Raises: VerificationError."""
        check_signed_by(self.key, signature)
        if cosigned_at_unix_s(signature):
            raise VerificationError(f"the subtree signature of {signature.name} states a time")
        message = subtree_message(self.key, subtree, time_unix_s=0)
        self.key.check(message, signature.signature[_NUMBER_BYTES:])


@dataclass(frozen=True, slots=True)
class CosignatureSigner(NoteSigner):
    """A private key for cosignatures, type 0x04 or 0x06."""

    ALGORITHMS = CosignatureVerifier.ALGORITHMS

    @classmethod
    def generate(cls, name: str, *, algorithm: int, seed: bytes) -> Self:
        """Make a key from 32 random bytes that the caller drew. Raises: ValueError."""
        return cls(SignerKey(name, algorithm=algorithm, seed=seed))

    @property
    def verifier(self) -> CosignatureVerifier:
        """The verifier of these cosignatures."""
        return CosignatureVerifier(self.key.verifier_key)

    def sign(self, text: str, *, time_unix_s: int) -> Signature:
        """Cosign a checkpoint, given as the text of its note.

        Precondition: the signer has verified what a cosignature states. A witness never signs time
        0, which stands for an unknown time.
        Raises: ValueError for a time out of range, and for a text that is not a checkpoint.
        """
        if not 0 <= time_unix_s <= TIME_MAX:
            raise ValueError(f"a time is below 2^63 and not negative: {time_unix_s}")
        check_note_text(text)
        public = self.key.verifier_key
        signature = self.key.sign(cosigned_message(public, text, time_unix_s=time_unix_s))
        return Signature(
            public.name, public.key_id, time_unix_s.to_bytes(_NUMBER_BYTES) + signature
        )

    def sign_subtree(self, subtree: Subtree) -> Signature:
        """Sign a subtree, without a time.

        Precondition: the signer has cosigned a tree of this log that has the subtree.
        Raises: ValueError for an Ed25519 key, which signs no subtrees.
        """
        public = self.key.verifier_key
        signature = self.key.sign(subtree_message(public, subtree, time_unix_s=0))
        return Signature(public.name, public.key_id, bytes(_NUMBER_BYTES) + signature)


def parse_verifier(vkey: str) -> Verifier | CosignatureVerifier:
    """Parse a vkey of any known signature type. Raises: MalformedError."""
    key = VerifierKey.parse(vkey)
    return Verifier(key) if key.algorithm == ED25519 else CosignatureVerifier(key)


def cosigned_at_unix_s(signature: Signature) -> int:
    """The time in a cosignature, which only a verified one states. Raises: VerificationError."""
    time_unix_s = int.from_bytes(signature.signature[:_NUMBER_BYTES])
    if len(signature.signature) <= _NUMBER_BYTES or time_unix_s > TIME_MAX:
        raise VerificationError(f"the cosignature of {signature.name} does not begin with a time")
    return time_unix_s


def cosigned_message(key: VerifierKey, text: str, *, time_unix_s: int) -> bytes:
    """The bytes that a key of type 0x04 or 0x06 signs for a checkpoint at a time.

    Raises: MalformedError when the text is not a checkpoint. Source: c2sp.org/tlog-cosignature.
    """
    checkpoint = parse_checkpoint(text)
    if key.algorithm == ED25519_COSIGNATURE:
        return f"cosignature/v1\ntime {time_unix_s}\n{text}".encode()
    subtree = Subtree(checkpoint.origin, 0, checkpoint.tree_size, checkpoint.root_hash)
    return subtree_message(key, subtree, time_unix_s=time_unix_s)


def subtree_message(key: VerifierKey, subtree: Subtree, *, time_unix_s: int) -> bytes:
    """The bytes that a key of type 0x06 signs for a subtree at a time, or for time 0.

    Raises: ValueError for a key of another type. Source: c2sp.org/tlog-cosignature.
    """
    check_algorithm(key, MLDSA44_COSIGNATURE)
    name, origin = key.name.encode(), subtree.origin.encode()
    return b"".join(
        (
            _SUBTREE_LABEL,
            bytes([len(name)]) + name,
            time_unix_s.to_bytes(_NUMBER_BYTES),
            bytes([len(origin)]) + origin,
            subtree.start.to_bytes(_NUMBER_BYTES),
            subtree.end.to_bytes(_NUMBER_BYTES),
            subtree.root_hash,
        )
    )


def self_test() -> None:
    """Sign and check with each type of key, before a service starts with such keys.

    Raises: UnavailableError saying what the library of this machine lacks.
    """
    head = Checkpoint("self-test.example", 0, EMPTY_ROOT_HASH)
    text = format_checkpoint(head)
    for algorithm in (ED25519_COSIGNATURE, MLDSA44_COSIGNATURE):
        signer = CosignatureSigner.generate(
            head.origin, algorithm=algorithm, seed=bytes(SEED_BYTES)
        )
        try:
            signer.verifier.check(text, signer.sign(text, time_unix_s=1))
        except VerificationError as error:
            raise UnavailableError(
                f"the cryptographic library does not verify what it signs: {error}"
            ) from error
