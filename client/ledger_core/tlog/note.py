"""Signed notes: a text and its signatures.

    This is an example message.
                                                           an empty line, the last one
    — example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq…    — name base64(key id ‖ signature)

The text is UTF-8 without control characters but for newlines, ends with one, and may have empty
lines of its own. Each signature is over the text with its last newline, and without the empty line
that follows. Names have no space and no plus.

A verifier ignores a signature by an unknown key, so that a log can change its key and a witness can
add a signature. A bad signature under the name and id of a known key condemns the whole note. A
text that no known key has signed must not be used.

This module knows the signatures of type 0x01, Ed25519 over the text; `cosignature` knows those that
carry a time.

Source: c2sp.org/signed-note.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Self

from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.keys import (
    ED25519,
    PrivateKey,
    SignerKey,
    VerifierKey,
    check_key_name,
)
from ledger_core.tlog.text import decode_text, excerpt, format_base64, from_wire, parse_base64

TEXT_BYTES_MAX = 1 << 16

SIGNATURE_BYTES_MAX = 1 << 13
"""Post-quantum signatures have up to 5,000."""

SIGNATURES_MAX = 64
"""Room for 48 witnesses and the log. The specification asks for 16 at least."""

NOTE_BYTES_MAX = 1 << 20
"""More than the limits above add up to."""

_DASH = "— "
_KEY_ID_BYTES = 4
_KEY_ID_MAX = 2**32 - 1
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: the name and id of a key, and the bytes of the signature."""

    name: str
    key_id: int
    signature: bytes

    def __post_init__(self) -> None:
        """Raises: ValueError for values that no line can carry."""
        check_key_name(self.name)
        if not 0 <= self.key_id <= _KEY_ID_MAX:
            raise ValueError(f"a key id has 32 bits: {self.key_id}")
        if not 1 <= len(self.signature) <= SIGNATURE_BYTES_MAX:
            raise ValueError(
                f"a signature has 1 to {SIGNATURE_BYTES_MAX} bytes, got {len(self.signature)}"
            )


@dataclass(frozen=True, slots=True)
class Note:
    """A text that ends with a newline, and its signatures in their order, verified or not."""

    text: str
    signatures: tuple[Signature, ...]

    def __post_init__(self) -> None:
        """Raises: ValueError for values that no note can carry."""
        check_note_text(self.text)
        if not 1 <= len(self.signatures) <= SIGNATURES_MAX:
            raise ValueError(
                f"a note has at least 1 and at most {SIGNATURES_MAX} signatures, "
                f"got {len(self.signatures)}"
            )


def check_note_text(text: str) -> None:
    """Raise ValueError unless the text can be signed."""
    size_bytes = len(text.encode())
    if size_bytes > TEXT_BYTES_MAX:
        raise ValueError(f"the text of a note has at most {TEXT_BYTES_MAX} bytes, got {size_bytes}")
    if not text.endswith("\n"):
        raise ValueError("the text of a note does not end with a newline")
    if control := _CONTROL.search(text):
        raise ValueError(f"a note has the control character {control[0]!a} at {control.start()}")


def parse_note(data: bytes | str) -> Note:
    """Parse a note, verifying nothing. `format_note` gives the same bytes back.

    Raises: MalformedError.
    """
    if len(data) > NOTE_BYTES_MAX:
        raise MalformedError(f"a note has at most {NOTE_BYTES_MAX} bytes, got {len(data)}")
    text, separator, lines = decode_text(data).rpartition("\n\n")
    if not separator:
        raise MalformedError("a note has an empty line between its text and its signatures")
    if not lines.endswith("\n"):
        raise MalformedError("a note ends with a signature line and a newline")
    signature_lines = lines[:-1].split("\n")[: SIGNATURES_MAX + 1]  # One too many is refused.
    with from_wire():
        return Note(text + "\n", tuple(map(parse_signature_line, signature_lines)))


def format_note(note: Note) -> str:
    """The text, an empty line, and the signature lines, each with its newline."""
    lines = (f"{format_signature_line(signature)}\n" for signature in note.signatures)
    return f"{note.text}\n{''.join(lines)}"


def parse_signature_line(line: str) -> Signature:
    """`— <name> <base64(key id ‖ signature)>`, without a newline. Raises: MalformedError."""
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not encoded:
        raise MalformedError(f"not a signature line: {excerpt(line)}")
    data = parse_base64(encoded)
    with from_wire():
        return Signature(name, int.from_bytes(data[:_KEY_ID_BYTES]), data[_KEY_ID_BYTES:])


def format_signature_line(signature: Signature) -> str:
    """`— <name> <base64(key id ‖ signature)>`, without a newline."""
    data = signature.key_id.to_bytes(_KEY_ID_BYTES) + signature.signature
    return f"{_DASH}{signature.name} {format_base64(data)}"


@dataclass(frozen=True, slots=True)
class NoteVerifier(ABC):
    """A public key that checks signatures over the texts of notes. `str()` of it is its vkey."""

    key: VerifierKey
    ALGORITHMS: ClassVar[tuple[int, ...]]

    def __post_init__(self) -> None:
        """Raises: ValueError for a key of another type."""
        check_algorithm(self.key, *self.ALGORITHMS)

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """Parse a vkey. Raises: MalformedError."""
        with from_wire():
            return cls(VerifierKey.parse(vkey))

    @property
    def name(self) -> str:
        """The name in its signature lines."""
        return self.key.name

    @property
    def key_id(self) -> int:
        """The number in its signature lines."""
        return self.key.key_id

    @property
    def algorithm(self) -> int:
        """The signature type: 0x01, 0x04 or 0x06."""
        return self.key.algorithm

    @property
    def public_key(self) -> bytes:
        """The bytes of the public key, without its type."""
        return self.key.public_key

    def __str__(self) -> str:
        return str(self.key)

    @abstractmethod
    def check(self, text: str, signature: Signature) -> object:
        """Check a signature over the text of a note. Raises: VerificationError."""


def known_keys(verifiers: Iterable[NoteVerifier]) -> dict[tuple[str, int], NoteVerifier]:
    """The verifiers by the name and id in their signature lines.

    Raises: ValueError when two different ones share both.
    """
    known: dict[tuple[str, int], NoteVerifier] = {}
    for verifier in verifiers:
        if known.setdefault((verifier.name, verifier.key_id), verifier) != verifier:
            raise ValueError(f"two keys share their name and their id: {verifier.key!r}")
    return known


def verify_note(note: Note, verifiers: Iterable[NoteVerifier]) -> tuple[Signature, ...]:
    """Verify the signatures by known keys; returns them in the order of the note.

    Signatures by unknown keys are ignored.

    Raises: VerificationError when a signature under the name and id of a known key is bad, and when
    there is none; ValueError when two different keys share their name and id.
    Source: c2sp.org/signed-note, "Signatures".
    """
    known = known_keys(verifiers)
    verified = []
    for signature in note.signatures:
        key = known.get((signature.name, signature.key_id))
        if key is not None:
            key.check(note.text, signature)
            verified.append(signature)
    if not verified:
        raise VerificationError("the note has no signature by a known key")
    return tuple(verified)


@dataclass(frozen=True, slots=True)
class Verifier(NoteVerifier):
    """A public key for signatures over the text of a note, type 0x01."""

    ALGORITHMS = (ED25519,)

    def check(self, text: str, signature: Signature) -> None:
        """Check a signature over the text of a note. Raises: VerificationError."""
        check_signed_by(self.key, signature)
        self.key.check(text.encode(), signature.signature)


@dataclass(frozen=True, slots=True)
class NoteSigner:
    """A private key that signs the texts of notes."""

    key: PrivateKey
    ALGORITHMS: ClassVar[tuple[int, ...]]

    def __post_init__(self) -> None:
        """Raises: ValueError for a key of another type."""
        check_algorithm(self.key.verifier_key, *self.ALGORITHMS)

    @classmethod
    def parse(cls, skey: str) -> Self:
        """Parse the text of `encode`. Raises: MalformedError, whose message omits that text."""
        with from_wire():
            return cls(SignerKey.parse(skey))

    def encode(self) -> str:
        """The text of the private key. It is secret."""
        return self.key.encode()


@dataclass(frozen=True, slots=True)
class Signer(NoteSigner):
    """A private key for signatures over the text of a note, type 0x01."""

    ALGORITHMS = (ED25519,)

    @classmethod
    def generate(cls, name: str, *, seed: bytes) -> Self:
        """Make a key from 32 random bytes that the caller drew. Raises: ValueError."""
        return cls(SignerKey(name, algorithm=ED25519, seed=seed))

    @property
    def verifier(self) -> Verifier:
        """The verifier of these signatures."""
        return Verifier(self.key.verifier_key)

    def sign(self, text: str) -> Signature:
        """Sign the text of a note. Raises: ValueError when no note can carry it."""
        check_note_text(text)
        public = self.key.verifier_key
        return Signature(public.name, public.key_id, self.key.sign(text.encode()))


def check_algorithm(key: VerifierKey, *algorithms: int) -> None:
    """Raise ValueError unless the key is of one of these signature types."""
    if key.algorithm not in algorithms:
        want = " or ".join(f"{algorithm:#04x}" for algorithm in algorithms)
        raise ValueError(f"{key!r} is of signature type {key.algorithm:#04x}, want {want}")


def check_signed_by(key: VerifierKey, signature: Signature) -> None:
    """Check that a signature line has the name and id of this key. Raises: VerificationError."""
    if (signature.name, signature.key_id) != (key.name, key.key_id):
        raise VerificationError(
            f"want a signature of {key.name}+{key.key_id:08x}, "
            f"got one of {signature.name}+{signature.key_id:08x}"
        )
