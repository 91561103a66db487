"""Key files: private keys, one to a line, in a file that its owner alone may read.

    PRIVATE+KEY+example.com/w1+3eb5f1aa+BF0…      Ed25519, as `ledger_core.tlog.keys` writes it
    PRIVATE+KEY+example.com/w1+0be9f9bd+Bo9…      ML-DSA-44
    ssh-agent:/run/agent.sock example.com/w1+…    held by another process (`ssh_agent`)

A log has one such file and a witness another. It is created once and never overwritten. A file that
other users of this machine may read is refused: they may know the key already. No message contains
any part of a key.
"""

import os
import re
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ledger.runtime.encrypted_keys import (
    OVERHEAD_BYTES,
    decrypt,
    encrypt,
    is_encrypted,
    passphrase_of,
)
from ledger.runtime.ssh_agent import PREFIX as AGENT_PREFIX
from ledger.runtime.ssh_agent import AgentKey
from ledger_client.runtime.files import OWNER_ONLY_MODE, create_whole, keep_owner, write_atomically
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.keys import PrivateKey, SignerKey

LINE_BYTES_MAX: Final = 512
"""A name of 255 bytes and the rest of a line take 340."""

KEY_FILE_BYTES_MAX: Final = 4 * (LINE_BYTES_MAX + 1)
"""Ed25519 and ML-DSA-44, and each twice while a log's key is rotated."""

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def write_keys(path: Path, keys: Sequence[PrivateKey]) -> None:
    """Make a key file; when this returns, it is on the disk.

    Raises: FileExistsError when there is one: a key that was written over is lost for good.
    """
    create_whole(path, _format(keys))


def read_keys(path: Path, *, keys_max: int) -> tuple[PrivateKey, ...]:
    """The keys in a file, at least one, in order.

    Raises: UnavailableError when there is no file, others may read it or its passphrase is not
    there; MalformedError when it holds anything but 1 to `keys_max` different keys, or does not
    open.
    """
    lines = _read_open(path, (LINE_BYTES_MAX + 1) * keys_max).split(b"\n")
    if lines.pop() or not 1 <= len(lines) <= keys_max:
        raise MalformedError(f"{path} does not hold 1 to {keys_max} keys, each a line")
    keys = tuple(_parse(line, path, number) for number, line in enumerate(lines, 1))
    if len({str(key.verifier_key) for key in keys}) < len(keys):
        raise MalformedError(f"{path} holds a key twice")
    return keys


def copied_keys(path: Path) -> tuple[PrivateKey, ...] | None:
    """The keys in a copy of a key file, before it is used; None for one under a passphrase.

    Others may be able to read it: the file that is made of it is its owner's.
    Raises: MalformedError, OSError.
    """
    with path.open("rb") as file:
        data = file.read(KEY_FILE_BYTES_MAX * 4 // 3 + OVERHEAD_BYTES + 1)
    if is_encrypted(data):
        return None
    lines = data.removesuffix(b"\n").split(b"\n")
    return tuple(_parse(line, path, number) for number, line in enumerate(lines, 1))


def replace_keys(path: Path, keys: Sequence[PrivateKey]) -> None:
    """Put other keys into a key file at once; an encrypted one keeps its passphrase.

    Raises: as `read_keys`.
    """
    data = _format(keys)
    if is_encrypted(_read(path, KEY_FILE_BYTES_MAX * 4 // 3 + OVERHEAD_BYTES)):
        data = encrypt(data, passphrase_of(os.environ, path), random=secrets.token_bytes)
    write_atomically(path, data)


def encrypt_keys(path: Path, passphrase: bytes) -> None:
    """Put a key file under a passphrase, or under another one.

    Raises: as `read_keys`; ValueError when an agent holds all of its keys.
    """
    data = _read_open(path, KEY_FILE_BYTES_MAX)
    if all(line.startswith(AGENT_PREFIX.encode()) for line in data.splitlines()):
        raise ValueError(f"{path} holds no key to encrypt: an agent has it")
    encrypted = encrypt(data, passphrase, random=secrets.token_bytes)
    if decrypt(encrypted, passphrase, path) != data:
        raise AssertionError("what was encrypted opens again")
    write_atomically(path, encrypted)


def decrypt_keys(path: Path, passphrase: bytes | None = None) -> None:
    """Take the passphrase from a key file; None: the environment's. Raises: as `read_keys`."""
    write_atomically(path, _read_open(path, KEY_FILE_BYTES_MAX, passphrase))


def _read_open(path: Path, bytes_max: int, passphrase: bytes | None = None) -> bytes:
    """The content of a key file, decrypted with its passphrase if it has one."""
    data = _read(path, bytes_max * 4 // 3 + OVERHEAD_BYTES)
    if is_encrypted(data):
        data = decrypt(data, passphrase or passphrase_of(os.environ, path), path)
    if len(data) > bytes_max:
        raise MalformedError(f"{path} is larger than a key file can be: {bytes_max} bytes")
    return data


def write_secret_key(path: Path, key: bytes) -> None:
    """Make a file with one key that signs nothing, in hex. Raises: as `write_keys`."""
    create_whole(path, f"{key.hex()}\n".encode())
    keep_owner(path)


def read_secret_key(path: Path, *, key_bytes: int) -> bytes:
    """The key in a file of `write_secret_key`. Raises: as `read_keys`."""
    line = _read(path, 2 * key_bytes + 1)
    if not re.fullmatch(rb"[0-9a-f]{%d}\n" % (2 * key_bytes), line):
        raise MalformedError(f"{path} does not hold a key of {key_bytes} bytes in hex")
    return bytes.fromhex(line.decode())


def _read(path: Path, bytes_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & _OTHERS:
                raise UnavailableError(
                    f"{path} can be read by others: its mode is {stat.S_IMODE(mode):04o}, "
                    f"want {OWNER_ONLY_MODE:04o} (chmod {OWNER_ONLY_MODE:o} {path})"
                )
            data = file.read(bytes_max + 1)
    except FileNotFoundError:
        raise UnavailableError(f"there is no key file at {path}") from None
    if len(data) > bytes_max:
        raise MalformedError(f"{path} is larger than a key file can be: {bytes_max} bytes")
    return data


def _format(keys: Sequence[PrivateKey]) -> bytes:
    return b"".join(f"{key.encode()}\n".encode() for key in keys)


def _parse(line: bytes, path: Path, number: int) -> PrivateKey:
    try:
        text = line.decode()
        return AgentKey.parse(text) if text.startswith(AGENT_PREFIX) else SignerKey.parse(text)
    except ValueError:
        # Whatever is wrong with it, what stands there may be most of a key.
        raise MalformedError(f"line {number} of {path} is not a signer key") from None
