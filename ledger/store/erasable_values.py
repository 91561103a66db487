"""Erasable values: each encrypted under the key of its subject, and a subject erased for good.

LMDB never writes over a page that a reader may hold: what is deleted stays in free pages until they
are used again, and in no order that could be waited for. So nothing in LMDB opens a value. The
keys stand in a file beside it, a slot for each subject, and to erase a subject is to write zeros
over its slot and to sync:

    DIR/private.key          the wrapping key, 32 bytes
    DIR/private/keys         slot n: secretbox(wrapping key, the subject's key)
    DIR/private/data.mdb     secretbox(the subject's key, salt and value)

After that the pages that still hold the ciphertext hold noise: its key is in no file. A copy of the
folder without DIR/private.key shows nothing either.

An erasure is written down before it is done, in the transaction that deletes the rows, and struck
out once its event is in the log: after a crash at any moment, whoever opens the store next ends
what was begun. A slot is never used again.

Several processes may have the store open: LMDB lets one write at a time, and a slot is read from
the file whenever it is needed and kept nowhere.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

import lmdb
import msgspec
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from nacl.utils import random

from ledger.store import keyspace
from ledger.store.environment import (
    Transaction,
    commit_errors,
    engine_version,
    open_databases,
    open_environment,
)
from ledger_core.event.commitments import Commitment, Opening
from ledger_core.tlog.errors import MalformedError, UnavailableError

KEY_BYTES: Final = SecretBox.KEY_SIZE
SLOT_BYTES: Final = SecretBox.NONCE_SIZE + KEY_BYTES + SecretBox.MACBYTES
KEYS_FILE: Final = "keys"
MAP_BYTES: Final = 1 << 36
_ERASED: Final = bytes(SLOT_BYTES)
_DATABASES: Final = (
    keyspace.SUBJECTS,
    keyspace.VALUES,
    keyspace.BY_SUBJECT,
    keyspace.ERASING,
    keyspace.META,
)
_decode_opening = msgspec.json.Decoder(Opening).decode


class Erasure(NamedTuple):
    """An erasure that is done; its event is still to be logged."""

    subject_hash: bytes
    event_json: bytes


class PrivateStore:
    """The environment of erasable values, open in one process. Safe from several threads."""

    def __init__(self, path: Path, environment: lmdb.Environment, wrapping_key: bytes) -> None:
        self._path = path
        self._environment = environment
        self._databases = open_databases(environment, _DATABASES, path)
        self._wrapping = SecretBox(wrapping_key)
        self._keys = os.open(path / KEYS_FILE, os.O_RDWR | os.O_CLOEXEC)

    @classmethod
    def open(cls, path: Path, wrapping_key: bytes) -> Self:
        """Open a store, and end the erasures that a crash broke off.

        Raises: UnavailableError when there is none, MalformedError for another format.
        """
        open_environment(path, readonly=True, databases_max=len(_DATABASES)).close()
        environment = open_environment(
            path, readonly=False, databases_max=len(_DATABASES), map_bytes=MAP_BYTES
        )
        try:
            store = cls(path, environment, wrapping_key)
        except FileNotFoundError:
            environment.close()
            raise UnavailableError(f"there is no {KEYS_FILE} in {path}") from None
        except BaseException:
            environment.close()
            raise
        for slot in store._erasing_slots():
            store._overwrite(slot)
        return store

    def close(self) -> None:
        """Close the environment."""
        os.close(self._keys)
        self._environment.close()

    def keep(self, openings: Sequence[Opening]) -> None:
        """Keep values, durably; those that are kept already stay as they are.

        Cost: a sync of LMDB, and one of the keys when a subject is new.
        Raises: StorageFullError with nothing kept, CommitFailedError.
        """
        with commit_errors(self._path), self._environment.begin(write=True) as transaction:
            for opening in openings:
                subject = _subject_hash(opening.subject)
                slot, box = self._subject_box(transaction, subject)
                commitment = _commitment_bytes(opening.commitment)
                value = keyspace.encode_u64(slot) + box.encrypt(msgspec.json.encode(opening))
                known = transaction.get(commitment, db=self._databases[keyspace.VALUES])
                if known is not None and self._box(_slot_of(known)) is not None:
                    continue
                self._put(transaction, keyspace.VALUES, commitment, value)
                self._put(transaction, keyspace.BY_SUBJECT, subject + commitment, b"")

    def find(self, commitment: Commitment) -> Opening | None:
        """What opens a commitment at its path, checked against it; None when it is erased.

        Raises: MalformedError when what is kept doesn't open it.
        """
        with self._environment.begin() as transaction:
            row = transaction.get(
                _commitment_bytes(commitment.hash), db=self._databases[keyspace.VALUES]
            )
        box = None if row is None else self._box(_slot_of(row))
        if row is None or box is None:
            return None
        try:
            opening = _decode_opening(box.decrypt(row[keyspace.U64_BYTES :]))
        except (CryptoError, msgspec.MsgspecError):
            raise MalformedError(f"a value in {self._path} can't be decrypted") from None
        if opening.path != commitment.path:
            return None  # Somebody else's commitment, copied to another place.
        if opening.commitment != commitment.hash:
            raise MalformedError(f"a value in {self._path} does not open its commitment")
        return opening

    def subject_key(self, subject: str) -> bytes:
        """The key of a subject, made if it has none. For what must vanish with the subject."""
        with commit_errors(self._path), self._environment.begin(write=True) as transaction:
            return bytes(self._subject_box(transaction, _subject_hash(subject))[1])

    def count(self, subject: str) -> int:
        """How many values of a subject are kept."""
        with self._environment.begin() as transaction:
            return len(self._commitments(transaction, _subject_hash(subject)))

    def erase(self, subject: str, *, event_json: bytes) -> Erasure:
        """Destroy key, salts and values of a subject; `event_json` is the event that says so.

        When this returns, no file of the store has what opens them. `finish` it once the event is
        in the log. A subject of which nothing is kept is erased as well.
        """
        hashed = _subject_hash(subject)
        with commit_errors(self._path), self._environment.begin(write=True) as transaction:
            subjects = self._databases[keyspace.SUBJECTS]
            row = transaction.get(hashed, db=subjects)
            slot = None if row is None else keyspace.decode_u64(row)
            for commitment in self._commitments(transaction, hashed):
                transaction.delete(commitment, db=self._databases[keyspace.VALUES])
                transaction.delete(hashed + commitment, db=self._databases[keyspace.BY_SUBJECT])
            if slot is None:
                # Nothing to write zeros over but a slot that nobody has: the next one.
                slot = self._slots(transaction)
                self._put_slots(transaction, slot + 1)
            transaction.delete(hashed, db=subjects)
            self._put(transaction, keyspace.ERASING, hashed, keyspace.encode_u64(slot) + event_json)
        self._overwrite(slot)
        return Erasure(hashed, event_json)

    def unlogged(self) -> list[Erasure]:
        """Erasures whose events the log may not have yet."""
        with (
            self._environment.begin() as transaction,
            transaction.cursor(self._databases[keyspace.ERASING]) as cursor,
        ):
            return [Erasure(key, value[keyspace.U64_BYTES :]) for key, value in cursor]

    def finish(self, erasure: Erasure) -> None:
        """Strike out an erasure whose event is in the log, or in the outbox."""
        with commit_errors(self._path), self._environment.begin(write=True) as transaction:
            transaction.delete(erasure.subject_hash, db=self._databases[keyspace.ERASING])

    def _erasing_slots(self) -> list[int]:
        with (
            self._environment.begin() as transaction,
            transaction.cursor(self._databases[keyspace.ERASING]) as cursor,
        ):
            return [_slot_of(value) for _, value in cursor]

    def _subject_box(self, transaction: Transaction, subject: bytes) -> tuple[int, SecretBox]:
        row = transaction.get(subject, db=self._databases[keyspace.SUBJECTS])
        if row is not None:
            slot = keyspace.decode_u64(row)
            box = self._box(slot)
            if box is not None:
                return slot, box
        # Written before the transaction ends: if that fails, the next subject writes over it.
        slot = self._slots(transaction)
        key = random(KEY_BYTES)
        self._write(slot, self._wrapping.encrypt(key))
        self._put_slots(transaction, slot + 1)
        self._put(transaction, keyspace.SUBJECTS, subject, keyspace.encode_u64(slot))
        return slot, SecretBox(key)

    def _box(self, slot: int) -> SecretBox | None:
        """The box of a slot; None when it was erased."""
        wrapped = os.pread(self._keys, SLOT_BYTES, slot * SLOT_BYTES)
        if wrapped == _ERASED:
            return None
        try:
            return SecretBox(self._wrapping.decrypt(wrapped))
        except (CryptoError, ValueError):
            raise MalformedError(
                f"a key in {self._path / KEYS_FILE} can't be unwrapped by this wrapping key"
            ) from None

    def _overwrite(self, slot: int) -> None:
        self._write(slot, _ERASED)

    def _write(self, slot: int, data: bytes) -> None:
        written = os.pwrite(self._keys, data, slot * SLOT_BYTES)
        if written != SLOT_BYTES:
            raise UnavailableError(f"{self._path / KEYS_FILE} took {written} of {SLOT_BYTES} bytes")
        os.fsync(self._keys)

    def _slots(self, transaction: Transaction) -> int:
        found = transaction.get(keyspace.META_SLOTS, db=self._databases[keyspace.META])
        return 0 if found is None else keyspace.decode_u64(found)

    def _put_slots(self, transaction: Transaction, slots: int) -> None:
        self._put(transaction, keyspace.META, keyspace.META_SLOTS, keyspace.encode_u64(slots))

    def _commitments(self, transaction: Transaction, subject: bytes) -> list[bytes]:
        found: list[bytes] = []
        with transaction.cursor(self._databases[keyspace.BY_SUBJECT]) as cursor:
            if cursor.set_range(subject):
                for key in cursor.iternext(values=False):
                    if not key.startswith(subject):
                        break
                    found.append(key[len(subject) :])
        return found

    def _put(self, transaction: Transaction, database: bytes, key: bytes, value: bytes) -> None:
        if not transaction.put(key, value, db=self._databases[database]):
            raise lmdb.CorruptedError(f"a row of {database.decode()} was not stored")


def create_private(path: Path) -> None:
    """Make an empty store in the folder `path`."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path / KEYS_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    environment = open_environment(
        path, readonly=False, databases_max=len(_DATABASES), map_bytes=MAP_BYTES
    )
    try:
        with environment.begin(write=True) as transaction:
            for name in _DATABASES:
                environment.open_db(name, txn=transaction)
            meta = environment.open_db(keyspace.META, txn=transaction)
            transaction.put(keyspace.META_FORMAT, keyspace.FORMAT_VERSION, db=meta)
            transaction.put(keyspace.META_ENGINE, engine_version().encode(), db=meta)
    finally:
        environment.close()


def _subject_hash(subject: str) -> bytes:
    return hashlib.sha256(subject.encode()).digest()


def _commitment_bytes(commitment: str) -> bytes:
    return commitment.encode()


def _slot_of(row: bytes) -> int:
    return keyspace.decode_u64(row[: keyspace.U64_BYTES])
