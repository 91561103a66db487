"""Keys: their text, and the name and id by which a signature refers to its key.

A verifier key, or *vkey*, is public. A user must get it from a source other than the log:

    example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k
    └ name          └ key id └ base64(signature type ‖ public key)

    key id = SHA-256(name ‖ 0x0A ‖ signature type ‖ public key)[:4]

The id is short on purpose: it finds a key and proves nothing. It covers the signature type, so that
a key of one type is never taken for one of another. The known types, and the modules that build the
bytes that they sign:

    0x01   Ed25519     the text of a note             note
    0x04   Ed25519     a checkpoint and a time        cosignature
    0x06   ML-DSA-44   a checkpoint and a time        cosignature

A signer key is secret:

    PRIVATE+KEY+example.com/foo+530d903a+<base64(signature type ‖ 32-byte seed)>

ML-DSA-44 needs the package `cryptography`, which comes with the extra `ml-dsa` and is imported with
the first key of that type. Without it such a key is refused with UnavailableError where it is read,
so that no policy is ever checked without one of its keys.

Source: c2sp.org/signed-note; the signer key is that of Go's golang.org/x/mod/sumdb/note.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias

from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.text import excerpt, format_base64, from_wire, parse_base64

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

ED25519 = 0x01
ED25519_COSIGNATURE = 0x04
MLDSA44_COSIGNATURE = 0x06

KEY_NAME_BYTES_MAX = 255
"""The limit of an ML-DSA-44 cosignature. Source: c2sp.org/tlog-cosignature."""

KEY_TEXT_CHARS_MAX = 4096
"""An ML-DSA-44 public key takes 1,752 characters."""

SEED_BYTES = 32

PUBLIC_KEY_BYTES = {ED25519: 32, ED25519_COSIGNATURE: 32, MLDSA44_COSIGNATURE: 1312}
"""The length of a public key, by signature type."""

SIGNATURE_BYTES = {ED25519: 64, ED25519_COSIGNATURE: 64, MLDSA44_COSIGNATURE: 2420}
"""The length of a signature, by signature type."""

_KEY_ID_BYTES = 4
_SIGNER_PREFIX = "PRIVATE+KEY+"
_KEY_TEXT = re.compile(r"(?P<name>[^+]+)\+(?P<key_id>[0-9a-f]{8})\+(?P<material>[A-Za-z0-9+/=]+)")

_PublicKey: TypeAlias = "VerifyKey | MLDSA44PublicKey"
_PrivateKey: TypeAlias = "SigningKey | MLDSA44PrivateKey"


def check_new_name(name: str) -> None:
    """Raise ValueError unless a new log or witness should have this name: a URL without a scheme.

    Clients take other names too. Networks of witnesses and tools for tiles ask for this form, and
    nobody can rename a log later. Source: c2sp.org/signed-note, c2sp.org/tlog-checkpoint.
    """
    check_key_name(name)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name) or name.startswith("//"):
        raise ValueError(
            f"a name is a URL without its scheme: {excerpt(name.split('//')[1].rstrip('/'))}"
        )
    if name.endswith("/"):
        raise ValueError(f"a name has no slash at its end: {excerpt(name.rstrip('/'))}")


# The same few names stand in all notes of a log.
@lru_cache(maxsize=256)
def check_key_name(name: str) -> None:
    """Raise ValueError unless a signature line can carry the name.

    It has 1 to 255 bytes of UTF-8; no space of any kind in Unicode, no plus, no control character.
    """
    if not name:
        raise ValueError("a key name is empty")
    if any(char.isspace() or char < " " or char == "+" for char in name):
        raise ValueError(f"a key name has a space, a plus or a control character: {excerpt(name)}")
    size_bytes = len(name.encode())
    if size_bytes > KEY_NAME_BYTES_MAX:
        raise ValueError(f"a key name has at most {KEY_NAME_BYTES_MAX} bytes, got {size_bytes}")


@dataclass(frozen=True, slots=True, repr=False)
class VerifierKey:
    """A public key of one signature type, under a name. `str()` of it is the vkey."""

    name: str
    algorithm: int
    public_key: bytes
    key_id: int = field(init=False)
    _loaded: _PublicKey = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Load the key.

        Raises: ValueError for a bad name, an unknown type, and a weak or bad key; UnavailableError
        for an ML-DSA-44 key without `cryptography`.
        """
        check_key_name(self.name)
        object.__setattr__(self, "_loaded", _load_public(self.algorithm, self.public_key))
        key = self.name.encode() + b"\n" + bytes([self.algorithm]) + self.public_key
        key_id = int.from_bytes(sha256(key).digest()[:_KEY_ID_BYTES])
        object.__setattr__(self, "key_id", key_id)

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """Parse a vkey; `str()` of the key is the same vkey. Raises: MalformedError."""
        match = _KEY_TEXT.fullmatch(vkey) if len(vkey) <= KEY_TEXT_CHARS_MAX else None
        if match is None:
            raise MalformedError(f"not a verifier key: {excerpt(vkey)}")
        material = parse_base64(match["material"])
        with from_wire():
            key = cls(match["name"], material[0], material[1:])
        if f"{key.key_id:08x}" != match["key_id"]:
            raise MalformedError(f"{key!r} has another id in its text: {match['key_id']}")
        return key

    def __str__(self) -> str:
        return _format(self.name, self.key_id, self.algorithm, self.public_key)

    def __repr__(self) -> str:
        return f"<verifier key {self.name}+{self.key_id:08x}>"

    def check(self, message: bytes, signature: bytes) -> None:
        """Check a signature over bytes.

        Cost: 60 µs with Ed25519, 120 µs with ML-DSA-44. Raises: VerificationError.
        """
        want = SIGNATURE_BYTES[self.algorithm]
        if len(signature) != want:
            raise VerificationError(
                f"a signature of {self.name} has {want} bytes, got {len(signature)}"
            )
        if not _is_valid(self._loaded, message, signature):
            raise VerificationError(
                f"the signature of {self.name}+{self.key_id:08x} does not verify"
            )


class PrivateKey(Protocol):
    """A private key, wherever it is: a `SignerKey` in memory, or one that another process holds."""

    @property
    def verifier_key(self) -> VerifierKey:
        """Its public key."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Sign bytes. Raises: UnavailableError when the process that holds the key does not."""
        ...

    def encode(self) -> str:
        """Its line in a key file, which may be secret."""
        ...


class SignerKey:
    """A private key of one signature type. Only `encode` shows its text and bytes."""

    __slots__ = ("_loaded", "_seed", "verifier_key")

    def __init__(self, name: str, *, algorithm: int, seed: bytes) -> None:
        """Raises: as `VerifierKey`, and ValueError for a seed that hasn't 32 bytes."""
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a seed has {SEED_BYTES} bytes, got {len(seed)}")
        self._seed = seed
        self._loaded = _load_private(algorithm, seed)
        self.verifier_key = VerifierKey(name, algorithm, _public_bytes(self._loaded))

    @classmethod
    def parse(cls, skey: str) -> Self:
        """Parse the text of `encode`. Raises: MalformedError, whose message omits that text."""
        match = _KEY_TEXT.fullmatch(skey.removeprefix(_SIGNER_PREFIX))
        if match is None or not skey.startswith(_SIGNER_PREFIX):
            raise MalformedError("not a signer key")
        try:
            material = parse_base64(match["material"])
        except MalformedError:
            # The message of that error would show the secret.
            raise MalformedError("the signer key is not canonical base64") from None
        if len(material) != 1 + SEED_BYTES or material[0] not in SIGNATURE_BYTES:
            raise MalformedError("the signer key has no known type, or no seed of 32 bytes")
        with from_wire():
            key = cls(match["name"], algorithm=material[0], seed=material[1:])
        if key.encode() != skey:
            raise MalformedError("the id in the signer key is not that of its public key")
        return key

    def encode(self) -> str:
        """The text of the private key. It is secret."""
        public = self.verifier_key
        return _SIGNER_PREFIX + _format(public.name, public.key_id, public.algorithm, self._seed)

    def __repr__(self) -> str:
        return f"<signer key {self.verifier_key.name}+{self.verifier_key.key_id:08x}>"

    def sign(self, message: bytes) -> bytes:
        """Sign bytes. Ed25519 gives the same signature each time, ML-DSA-44 a new one."""
        if isinstance(self._loaded, SigningKey):
            return self._loaded.sign(message).signature
        return self._loaded.sign(message)


def _format(name: str, key_id: int, algorithm: int, material: bytes) -> str:
    return f"{name}+{key_id:08x}+{format_base64(bytes([algorithm]) + material)}"


def _load_public(algorithm: int, public_key: bytes) -> _PublicKey:
    want = PUBLIC_KEY_BYTES.get(algorithm)
    if want is None:
        raise ValueError(f"unknown signature type {algorithm:#04x}")
    if len(public_key) != want:
        raise ValueError(f"a public key of this type has {want} bytes, got {len(public_key)}")
    if algorithm == MLDSA44_COSIGNATURE:
        with _mldsa44() as mldsa:
            key: MLDSA44PublicKey = mldsa.MLDSA44PublicKey.from_public_bytes(public_key)
            return key
    # Anybody can sign under a point of small order, and a point with a second encoding would count
    # as two keys.
    if not crypto_core_ed25519_is_valid_point(public_key):
        raise ValueError(
            "the ed25519 public key is not a point, not its canonical encoding, or a point of "
            f"small order: {public_key.hex()}"
        )
    return VerifyKey(public_key)


def _load_private(algorithm: int, seed: bytes) -> _PrivateKey:
    if algorithm != MLDSA44_COSIGNATURE:
        return SigningKey(seed)
    with _mldsa44() as mldsa:
        key: MLDSA44PrivateKey = mldsa.MLDSA44PrivateKey.from_seed_bytes(seed)
        return key


def _public_bytes(key: _PrivateKey) -> bytes:
    if isinstance(key, SigningKey):
        return bytes(key.verify_key)
    return key.public_key().public_bytes_raw()


def _is_valid(key: _PublicKey, message: bytes, signature: bytes) -> bool:
    if isinstance(key, VerifyKey):
        try:
            key.verify(message, signature)
        except BadSignatureError:
            return False
        return True
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


@contextmanager
def _mldsa44() -> Iterator[ModuleType]:
    """The module that has ML-DSA-44. Raises: UnavailableError saying what to install."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import mldsa
    except ImportError as error:
        raise UnavailableError(
            "an ML-DSA-44 key needs the package cryptography, 50 or later:"
            " pip install 'witnessed-ledger-client[ml-dsa]'"
        ) from error
    try:
        yield mldsa
    except UnsupportedAlgorithm as error:
        raise UnavailableError(
            "this build of the package cryptography has no ML-DSA-44; its wheels since 50 do"
        ) from error
