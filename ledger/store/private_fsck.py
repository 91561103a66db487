"""fsck of the erasable values: slots, values and subjects, against each other and the log.

An older copy of the store brings back values or keys that were erased. So each slot in use must
hold a key, each other one zeros, and a value of an entry that an erasure of its subject covers must
be gone.
"""

from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from ledger.store import keyspace
from ledger.store.environment import DATA_FILE, Environment
from ledger.store.erasable_values import DATABASES, MAP_BYTES
from ledger.store.key_slots import KEYS_FILE, SLOT_BYTES, read_slots, slot_count
from ledger.store.pages import check_pages
from ledger.store.transaction import Transaction

NEVER: Final = (1 << 64) - 1
_ZEROS: Final = bytes(SLOT_BYTES)


class PrivateSnapshot:
    """A snapshot of a store of erasable values; empty where there is none."""

    def __init__(
        self, transaction: Transaction[bytes] | None, keys: bytes, keys_bytes: int = 0
    ) -> None:
        """`keys`: the used slots, of a file of `keys_bytes`."""
        self._transaction = transaction
        self._keys = keys
        self._keys_bytes = keys_bytes
        self.slots = 0
        self.values = 0
        if transaction is not None:
            self.slots = slot_count(transaction)

    def slot_of(self, key: bytes) -> int | None:
        """The slot of a value, by its commitment and the key of its event."""
        row = self._transaction.get(keyspace.VALUES, key) if self._transaction else None
        return keyspace.decode_u64(row[: keyspace.U64_BYTES]) if row else None

    def problems(
        self, erased: Mapping[bytes, int], first_use: "array[int]", wrapping_key: bytes | None
    ) -> Iterator[str]:
        """What is wrong.

        `erased`: by the hash of a subject the end of the entries whose values are erased.
        `first_use`: by slot the first entry with a value under it. `wrapping_key`: None leaves the
        keys closed.
        """
        if self._transaction is None:
            return
        box = None if wrapping_key is None else SecretBox(wrapping_key)
        if self._keys_bytes % SLOT_BYTES or self._keys_bytes < self.slots * SLOT_BYTES:
            size = f"{self._keys_bytes} bytes for {self.slots} slots of {SLOT_BYTES}"
            yield f"the file {KEYS_FILE} has {size}"
        pending = {
            key: keyspace.decode_u64(row[: keyspace.U64_BYTES])
            for key, row in self._transaction.rows(keyspace.ERASING)
        }
        taken: dict[int, bytes] = {}
        for subject, row in self._transaction.rows(keyspace.SUBJECTS):
            slot, name = keyspace.decode_u64(row), subject.hex()[:16]
            if slot >= self.slots or slot in taken:
                yield f"the subject {name} has the slot {slot}, which is not its own"
                continue
            taken[slot] = subject
            wrapped = self._key(slot)
            if wrapped == _ZEROS:
                yield f"the key of the subject {name} is zeros, but no erasure says so"
            elif box is not None and not _opens(box, wrapped):
                yield f"the key of the subject {name} can't be unwrapped by private.key"
            if subject in erased and first_use[slot] < erased[subject]:
                yield (
                    f"a value of entry {first_use[slot]} can be read, but its subject {name} was "
                    f"erased with all values of entries below {erased[subject]}"
                )
        yield from self._erased_problems(taken, pending)
        for key, row in self._transaction.rows(keyspace.VALUES):
            if not row:
                continue
            self.values += 1
            if keyspace.decode_u64(row[: keyspace.U64_BYTES]) not in taken:
                yield f"the value {key[:12].decode(errors='replace')}… has no subject"

    def _erased_problems(
        self, taken: Mapping[int, bytes], pending: Mapping[bytes, int]
    ) -> Iterator[str]:
        """What is wrong with the slots of erased subjects, which hold zeros once it is done."""
        for subject, slot in pending.items():
            if slot >= self.slots or slot in taken:
                yield f"the erasure of the subject {subject.hex()[:16]} has the slot of another one"
        waiting = set(pending.values())
        for slot in range(self.slots):
            if slot not in taken and slot not in waiting and self._key(slot).strip(b"\0"):
                yield f"the key in slot {slot} can be read, but its subject was erased"

    def _key(self, slot: int) -> bytes:
        return self._keys[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES]


@contextmanager
def check_private(path: Path) -> Iterator[PrivateSnapshot]:
    """Open a store of erasable values for fsck. Raises: as `Environment.open`, OSError."""
    if not (path / DATA_FILE).exists():
        yield PrivateSnapshot(None, b"")
        return
    environment = Environment.open(path, DATABASES, readonly=True, map_bytes=MAP_BYTES)
    try:
        check_pages(environment)
        with environment.read() as transaction:
            keys = read_slots(path, slot_count(transaction))
            yield PrivateSnapshot(transaction, keys, (path / KEYS_FILE).stat().st_size)
    finally:
        environment.close()


def _opens(box: SecretBox, wrapped: bytes) -> bool:
    try:
        box.decrypt(wrapped)
    except (CryptoError, ValueError):
        return False
    return True
