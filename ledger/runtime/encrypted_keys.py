"""Key files under a passphrase, which a service gets without a person at its terminal.

    ENCRYPTED+KEYS+1+3+268435456+SALT+BOX       one line, in place of those of `keys`

The numbers are the version, and the passes and bytes of memory of Argon2id, which makes a key of 32
bytes from the passphrase and the salt (16 bytes, base64). The box is XSalsa20-Poly1305 (base64) of
what the file would hold otherwise. Source: RFC 9106; NaCl's secretbox, as PyNaCl has both.

The passphrase comes from the first of these that there is:

    LEDGER_KEY_PASSPHRASE_FILE      a file that only this user may read, or of another user, who
                                    lets the group of this one read it
    LEDGER_KEY_PASSPHRASE_FD        the number of a descriptor, read once
    $CREDENTIALS_DIRECTORY/ledger-key-passphrase       systemd's LoadCredential=
"""

import base64
import os
import stat
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

from nacl import pwhash
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from ledger_core.tlog.errors import MalformedError, UnavailableError

PREFIX: Final = b"ENCRYPTED+KEYS+1+"
FILE_VARIABLE: Final = "LEDGER_KEY_PASSPHRASE_FILE"
DESCRIPTOR_VARIABLE: Final = "LEDGER_KEY_PASSPHRASE_FD"
CREDENTIAL: Final = "ledger-key-passphrase"
PASSPHRASE_BYTES_MIN: Final = 12
PASSPHRASE_BYTES_MAX: Final = 1024
PASSES: Final = pwhash.argon2id.OPSLIMIT_MODERATE
MEMORY_BYTES: Final = pwhash.argon2id.MEMLIMIT_MODERATE
PASSES_MAX: Final = 64
MEMORY_BYTES_MAX: Final = 1 << 32
MEMORY_BLOCK_BYTES: Final = 1024
OVERHEAD_BYTES: Final = 256
"""Bytes of a file beyond four thirds of what it holds."""

_FIELDS: Final = 4
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_EVERYBODY: Final = stat.S_IRWXO


def is_encrypted(data: bytes) -> bool:
    """Whether the content of a key file is under a passphrase."""
    return data.startswith(PREFIX)


def encrypt(data: bytes, passphrase: bytes, *, random: Callable[[int], bytes]) -> bytes:
    """The content of a key file under a passphrase. `random` gives so many random bytes."""
    salt = random(pwhash.argon2id.SALTBYTES)
    key = _derive(passphrase, salt, PASSES, MEMORY_BYTES)
    box = SecretBox(key).encrypt(data, random(SecretBox.NONCE_SIZE))
    numbers = b"%d+%d" % (PASSES, MEMORY_BYTES)
    return PREFIX + b"+".join((numbers, _url_safe(salt), _url_safe(bytes(box)))) + b"\n"


def decrypt(data: bytes, passphrase: bytes, path: Path) -> bytes:
    """The content of a key file. Raises: MalformedError for another passphrase or damage."""
    fields = data[len(PREFIX) :].removesuffix(b"\n").split(b"+")
    try:
        if len(fields) != _FIELDS:
            raise ValueError  # noqa: TRY301 - one message for all that it is not
        passes, memory = int(fields[0]), int(fields[1])
        salt, box = (base64.urlsafe_b64decode(field) for field in fields[2:])
        is_canonical = fields == [b"%d" % passes, b"%d" % memory, _url_safe(salt), _url_safe(box)]
        # Argon2id takes whole blocks of memory: other numbers would give the same key.
        is_whole = 0 < memory <= MEMORY_BYTES_MAX and memory % MEMORY_BLOCK_BYTES == 0
        if not (is_canonical and is_whole and 0 < passes <= PASSES_MAX):
            raise ValueError  # noqa: TRY301
        key = _derive(passphrase, salt, passes, memory)
        return SecretBox(key).decrypt(box)
    except CryptoError:
        raise MalformedError(f"{path} does not open with this passphrase, or is damaged") from None
    except (ValueError, TypeError):
        raise MalformedError(f"{path} is no encrypted key file of version 1") from None


def passphrase_of(environ: Mapping[str, str], path: Path) -> bytes:
    """The passphrase of a key file, from where the environment says.

    Raises: UnavailableError when it says nothing, or it can't be read.
    """
    if file := environ.get(FILE_VARIABLE):
        return read_passphrase(Path(file))
    if number := environ.get(DESCRIPTOR_VARIABLE):
        return _read_descriptor(number)
    if folder := environ.get("CREDENTIALS_DIRECTORY"):
        credential = Path(folder) / CREDENTIAL
        if credential.exists():
            return read_passphrase(credential)
    raise UnavailableError(
        f"{path} is encrypted: name a file with its passphrase in {FILE_VARIABLE}, a descriptor in "
        f"{DESCRIPTOR_VARIABLE}, or give the credential {CREDENTIAL} (LoadCredential= of systemd)"
    )


def read_passphrase(
    path: Path, *, bytes_min: int = PASSPHRASE_BYTES_MIN, what: str = "passphrase"
) -> bytes:
    """The first line of a file that others may not read. Raises: UnavailableError naming `what`.

    Of a file of another user the group may: systemd hands a credential of root's to the user of a
    unit by an access list, which shows as a right of the group, and Kubernetes by the group.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_mode & (_OTHERS if found.st_uid == os.geteuid() else _EVERYBODY):
                raise UnavailableError(f"others can read the {what} in {path}: chmod 600 {path}")
            data = file.read(PASSPHRASE_BYTES_MAX + 2)
            return _checked(data, str(path), bytes_min=bytes_min, what=what)
    except OSError as error:
        raise UnavailableError(f"the {what} in {path} can't be read: {error.strerror}") from None


@lru_cache(maxsize=1)
def _read_descriptor(number: str) -> bytes:
    try:
        with os.fdopen(int(number), "rb") as file:
            return _checked(file.read(PASSPHRASE_BYTES_MAX + 2), f"descriptor {number}")
    except (OSError, ValueError):
        raise UnavailableError(
            f"the descriptor in {DESCRIPTOR_VARIABLE} can't be read: it must be open"
        ) from None


def _checked(
    data: bytes, source: str, *, bytes_min: int = PASSPHRASE_BYTES_MIN, what: str = "passphrase"
) -> bytes:
    passphrase = data.split(b"\n", 1)[0]
    if not bytes_min <= len(passphrase) <= PASSPHRASE_BYTES_MAX:
        raise UnavailableError(
            f"the {what} of {source} has {len(passphrase)} bytes: want {bytes_min} "
            f"to {PASSPHRASE_BYTES_MAX} on the first line"
        )
    return passphrase


def _derive(passphrase: bytes, salt: bytes, passes: int, memory: int) -> bytes:
    return bytes(
        pwhash.argon2id.kdf(SecretBox.KEY_SIZE, passphrase, salt, opslimit=passes, memlimit=memory)
    )


def _url_safe(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data)
