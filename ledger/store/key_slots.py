"""The file of wrapped keys beside the erasable values: a slot for each subject.

A slot is written and then made durable by `sync`, so many of them take one sync together.
"""

import errno
import os
from pathlib import Path
from typing import Final, Self

from nacl.secret import SecretBox

from ledger.store import keyspace
from ledger.store.commit_errors import disk_error
from ledger.store.transaction import Transaction
from ledger_client.runtime.files import OWNER_ONLY_MODE, keep_owner
from ledger_core.tlog.errors import UnavailableError

KEYS_FILE: Final = "keys"
SLOT_BYTES: Final = SecretBox.NONCE_SIZE + SecretBox.KEY_SIZE + SecretBox.MACBYTES
ERASED: Final = bytes(SLOT_BYTES)


class KeySlots:
    """The open file of slots. Safe from several threads."""

    def __init__(self, path: Path, file: int) -> None:
        """`path` is the folder of the store, `file` the descriptor of its file of keys."""
        self._path: Final = path
        self._file: Final = file

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the slots in the folder `path`. Raises: UnavailableError when they are missing."""
        try:
            return cls(path, os.open(path / KEYS_FILE, os.O_RDWR | os.O_CLOEXEC))
        except FileNotFoundError:
            raise UnavailableError(f"there is no {KEYS_FILE} in {path}") from None

    def close(self) -> None:
        os.close(self._file)

    def read(self, slot: int) -> bytes:
        """The content of a slot, as far as the file has it."""
        return os.pread(self._file, SLOT_BYTES, slot * SLOT_BYTES)

    def write(self, slot: int, data: bytes) -> None:
        """Write a slot, which is durable after `sync`.

        Raises: CommitUndoneError; the slot may hold the old data, the new or a part of it.
        """
        try:
            written = os.pwrite(self._file, data, slot * SLOT_BYTES)
        except OSError as error:
            raise disk_error(error, self._path) from error
        if written != SLOT_BYTES:
            raise disk_error(OSError(errno.EIO, "short write"), self._path)

    def sync(self) -> None:
        """Wait until the slots that were written are on the disk. Raises: CommitUndoneError."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise disk_error(error, self._path) from error


def read_slots(path: Path, slots: int) -> bytes:
    """The first `slots` slots in the folder `path`, as far as the file has them. Raises: OSError.

    What stands behind them was never used: the next subject writes over it.
    """
    with (path / KEYS_FILE).open("rb") as file:
        slots = min(slots, os.fstat(file.fileno()).st_size // SLOT_BYTES)
        return file.read(slots * SLOT_BYTES)


def slot_count(transaction: Transaction[bytes]) -> int:
    """The number of slots that a store of erasable values has used."""
    found = transaction.get(keyspace.META, keyspace.META_SLOTS)
    return 0 if found is None else keyspace.decode_u64(found)


def create_slots(path: Path) -> None:
    """Make a file without slots in the folder `path`."""
    os.close(os.open(path / KEYS_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY_MODE))
    keep_owner(path / KEYS_FILE)
