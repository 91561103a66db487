"""Erasable values: each is encrypted under the key of its subject, and erasing destroys that key.

LMDB keeps deleted rows in free pages until it uses those again, and nobody knows when. So nothing
in LMDB may open a value by itself. The keys stand in a file beside it, a slot for each subject.
Erasing a subject means writing zeros over its slot and syncing:

    DIR/private.key          the wrapping key, 32 bytes
    DIR/private/keys         slot n: secretbox(wrapping key, the subject's key)
    DIR/private/data.mdb     secretbox(the subject's key, salt and value)

After that, no file holds the key of the ciphertext that free pages may still hold. A copy of the
folder without DIR/private.key opens nothing either.

Rows are deleted before zeros are written. So a row whose slot is zeros is damage, never an erasure,
and is refused; no slot is overwritten that a subject in the store has.

The transaction that deletes the rows also records the erasure, in a row of its own, which is
deleted once zeros are on the disk and the event is in the log. So each process that opens the
store, erases the subject again or logs the event of another process completes an erasure that a
crash or the disk broke off. A slot is never used again.

A value belongs to one event: its row is found by the commitment and by the event. The commitment of
an erased value is remembered, so no repeated request stores the value again. Rows of version 0.1
lack the event (`unbound_values`).

Several processes may have the store open: LMDB lets one write at a time, and a slot is read from
the file whenever it is needed and cached nowhere.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import Final, NamedTuple, Self

import msgspec
import structlog
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from nacl.utils import random

from ledger.store import keyspace
from ledger.store.environment import Environment, create_environment
from ledger.store.key_slots import ERASED, KEYS_FILE, KeySlots, create_slots, slot_count
from ledger.store.transaction import Transaction
from ledger_client.runtime.files import keep_owner
from ledger_core.event.commitments import HASH_CHARS, Commitment, Opening
from ledger_core.event.ids import UUID7_RANDOM_BYTES, format_uuid7
from ledger_core.tlog.errors import MalformedError, UnavailableError

KEY_BYTES: Final = SecretBox.KEY_SIZE
MAP_BYTES: Final = 1 << 36
MAP_SETTING: Final = "private_map_bytes"
SUBJECT_BYTES: Final = hashlib.sha256().digest_size
FORGOTTEN: Final = b""
"""The row of a commitment whose value was erased."""
DATABASES: Final = (
    keyspace.SUBJECTS,
    keyspace.VALUES,
    keyspace.BY_SUBJECT,
    keyspace.ERASING,
    keyspace.META,
)
_log = structlog.get_logger("ledger.store")
_decode_opening = msgspec.json.Decoder(Opening).decode


class DamagedValueError(MalformedError):
    """A value, or the key of its subject, is not as it was written."""


class Erasure(NamedTuple):
    """An erasure that is done; its event is still to be logged. `rows`: their keys in the store.

    The key is the hash of the subject and the slot; version 0.1 wrote the hash alone, so a second
    erasure of a subject replaced the row of one that was not done.
    """

    rows: tuple[bytes, ...]
    event_json: bytes


class PrivateStore:
    """The environment of erasable values, open in one process. Safe from several threads."""

    def __init__(self, environment: Environment, slots: KeySlots, wrapping_key: bytes) -> None:
        self._path = environment.path
        self.environment = environment
        self._slots = slots
        self._wrapping = SecretBox(wrapping_key)
        self._own_ids = hashlib.blake2b(key=wrapping_key, person=b"wl/own-id")

    @classmethod
    def open(cls, path: Path, wrapping_key: bytes, *, map_bytes: int = MAP_BYTES) -> Self:
        """Open a store, and complete the erasures that a crash interrupted.

        Raises: as `Environment.open`, UnavailableError when its file of keys is missing.
        """
        environment = Environment.open(
            path, DATABASES, readonly=False, map_bytes=map_bytes, map_setting=MAP_SETTING
        )
        try:
            slots = KeySlots.open(path)
        except UnavailableError:
            environment.close()
            raise
        store = cls(environment, slots, wrapping_key)
        store.complete_erasures()
        return store

    def close(self) -> None:
        self._slots.close()
        self.environment.close()

    def put(self, openings: Sequence[tuple[bytes, Opening]]) -> int:
        """Store values durably, each with the `event_key` of its event; the bytes of new ones.

        Those that are stored already stay as they are, under the subject that they came with first,
        and those that were erased stay erased.

        Cost: a sync of LMDB, and one of the keys when a subject is new.
        Raises: CommitUndoneError or DamagedValueError with nothing stored, CommitFailedError.
        """
        stored_bytes = 0
        with self._writing() as transaction:
            for event, opening in openings:
                commitment = opening.commitment.encode()
                key = commitment + event
                if transaction.get(keyspace.VALUES, commitment) == FORGOTTEN:
                    continue
                known = transaction.get(keyspace.VALUES, key)
                if known is not None:
                    self._box(_slot_of(known))
                    continue
                subject = _subject_hash(opening.subject)
                slot, box = self._subject_box(transaction, subject)
                value = keyspace.encode_u64(slot) + box.encrypt(msgspec.json.encode(opening))
                transaction.put(keyspace.VALUES, key, value)
                transaction.put(keyspace.BY_SUBJECT, subject + key, b"")
                stored_bytes += len(value)
        return stored_bytes

    def find(self, commitment: Commitment, event: bytes) -> Opening | None:
        """The opening of a commitment in the event of this `event_key`, verified.

        None when it is erased or unknown. Raises: DamagedValueError.
        """
        found = self._stored_box(keyspace.VALUES, commitment.hash.encode() + event)
        if found is None:
            return None
        row, box = found
        try:
            opening = _decode_opening(box.decrypt(row[keyspace.U64_BYTES :]))
        except (CryptoError, msgspec.MsgspecError):
            raise DamagedValueError("a value in private/ can't be decrypted") from None
        if opening.path != commitment.path:
            return None  # The commitment stands in this event twice.
        if opening.commitment != commitment.hash:
            raise DamagedValueError("a value in private/ does not open its commitment")
        return opening

    def check_key(self, subject: str) -> None:
        """Check the key of a subject, if it has one. Raises: DamagedValueError."""
        self._stored_box(keyspace.SUBJECTS, _subject_hash(subject))

    def subject_key(self, subject: str) -> bytes:
        """The key of a subject, made if it has none. Encrypts what must vanish with the subject.

        Raises: as `put`.
        """
        found = self._stored_box(keyspace.SUBJECTS, _subject_hash(subject))
        if found is not None:
            return bytes(found[1])
        with self._writing() as transaction:
            return bytes(self._subject_box(transaction, _subject_hash(subject))[1])

    def make_keys(self, subjects: Iterable[str]) -> None:
        """Make the keys of subjects that have none. A damaged one is left to `subject_key`.

        Cost: as `put`, for all of them together. Raises: as `put`, but no DamagedValueError.
        """
        with self._writing() as transaction:
            for subject in subjects:
                with suppress(DamagedValueError):
                    self._subject_box(transaction, _subject_hash(subject))

    def own_id(self, *parts: bytes, unix_ms: int) -> str:
        """The id of an event of the service's own: the same for the same parts.

        Nobody else can predict it, and log another event under it first. It is made with the
        wrapping key, since `DIR/digest.key` is given to clients too.
        """
        digest = self._own_ids.copy()
        digest.update(msgspec.json.encode((unix_ms, parts)))
        return format_uuid7(unix_ms=unix_ms, random=digest.digest()[:UUID7_RANDOM_BYTES])

    def count(self, *names: str) -> int:
        """The number of stored values of a subject, under all of its names."""
        with self.environment.read() as transaction:
            return sum(len(_value_keys(transaction, _subject_hash(name))) for name in set(names))

    def erase(self, *names: str, event_json: bytes) -> Erasure:
        """Destroy key, salts and values of a subject; `event_json` is the event that records it.

        `names`: the subject's id, and what stands for it in the log if that differs. When this
        returns, no file of the store opens them any more. Call `finish` once the event is in the
        log. A subject without stored values is erased as well.

        Raises: as `put`, with nothing erased, or, if the disk refuses the zeros, with the values
        gone and the key left to `complete_erasures`; DamagedValueError when the subject's row may
        name the slot of another one. A damaged key is no hindrance.
        """
        hashes = tuple(dict.fromkeys(map(_subject_hash, names)))
        with self.environment.write() as transaction:
            is_first = not any(
                next(transaction.rows_from(keyspace.ERASING, hashed), (b"",))[0].startswith(hashed)
                for hashed in hashes
            )
            rows = [self._erase_rows(transaction, hashed, event_json) for hashed in hashes]
        if is_first:
            self._write_zeros({keyspace.decode_u64(row[SUBJECT_BYTES:]) for row in rows})
        else:
            # An earlier erasure of this subject may not be done: its event must not be all of it.
            self.complete_erasures()
        return Erasure(tuple(rows), event_json)

    def unlogged(self) -> list[Erasure]:
        """Erasures whose events may not be in the log yet.

        Call `complete_erasures` before `finish`, for the process of one may have ended before it
        wrote zeros.
        """
        with self.environment.read() as transaction:
            rows = transaction.rows(keyspace.ERASING)
            return [Erasure((key,), value[keyspace.U64_BYTES :]) for key, value in rows]

    def finish(self, erasure: Erasure) -> None:
        """Delete the row of an erasure whose event is in the log, or in the outbox."""
        with self.environment.write() as transaction:
            for row in erasure.rows:
                transaction.delete(keyspace.ERASING, row)

    def _erase_rows(
        self, transaction: Transaction[bytes], subject: bytes, event_json: bytes
    ) -> bytes:
        """Delete the rows of a subject and remember its erasure; the key of the row of that."""
        keys = _value_keys(transaction, subject)
        slot = self._slot_to_erase(transaction, subject, keys)
        for key in keys:
            transaction.delete(keyspace.VALUES, key)
            transaction.delete(keyspace.BY_SUBJECT, subject + key)
            commitment = key[:HASH_CHARS]
            if transaction.get(keyspace.VALUES, commitment) is None:
                transaction.put(keyspace.VALUES, commitment, FORGOTTEN)
        transaction.delete(keyspace.SUBJECTS, subject)
        slot_bytes = keyspace.encode_u64(slot)
        transaction.put(keyspace.ERASING, subject + slot_bytes, slot_bytes + event_json)
        return subject + slot_bytes

    def _slot_to_erase(
        self, transaction: Transaction[bytes], subject: bytes, keys: Sequence[bytes]
    ) -> int:
        """The slot that a subject and its values name; a new one if there are none."""
        row = transaction.get(keyspace.SUBJECTS, subject)
        named = [row, *(transaction.get(keyspace.VALUES, key) for key in keys)]
        slots = {_slot_of(each) for each in named if each}
        if not slots:
            return self._claim_slot(transaction)
        # A row that is lost is damage too: its values still name the slot.
        if len(slots) > 1 or (row is None and slots & _slots_of_subjects(transaction)):
            raise DamagedValueError(
                "a value of this subject in private/ is under another key than the subject's; "
                "nothing was erased"
            )
        return slots.pop()

    def complete_erasures(self) -> None:
        """Overwrite the slots of erasures whose process may have ended before it did.

        Cost: reads the rows of all subjects if there is such an erasure. Raises: CommitUndoneError.
        """
        with self.environment.read() as transaction:
            slots = {_slot_of(row) for _, row in transaction.rows(keyspace.ERASING)}
            taken = slots and slots & _slots_of_subjects(transaction)
        if slots - taken:
            self._write_zeros(slots - taken)
        if taken:
            _log.error("erasure_damaged", path=str(self._path), slots=sorted(taken))

    def _write_zeros(self, slots: Iterable[int]) -> None:
        for slot in slots:
            self._slots.write(slot, ERASED)
        self._slots.sync()

    @contextmanager
    def _writing(self) -> Iterator[Transaction[bytes]]:
        """A write transaction that may make keys: they are on the disk before it is.

        One sync for all of them: with one for each, a request with many new subjects would hold
        the lock, which all other writers wait for, for minutes.
        """
        with self.environment.write() as transaction:
            slots = transaction.get(keyspace.META, keyspace.META_SLOTS)
            yield transaction
            if transaction.get(keyspace.META, keyspace.META_SLOTS) != slots:
                self._slots.sync()

    def _subject_box(
        self, transaction: Transaction[bytes], subject: bytes
    ) -> tuple[int, SecretBox]:
        """Slot and box of a subject, new ones when it has none or they were erased."""
        row = transaction.get(keyspace.SUBJECTS, subject)
        if row is not None:
            slot = keyspace.decode_u64(row)
            return slot, self._box(slot)
        slot = self._claim_slot(transaction)
        key = random(KEY_BYTES)
        # Written before the transaction ends: if that fails, the next subject writes over it.
        self._slots.write(slot, self._wrapping.encrypt(key))
        transaction.put(keyspace.SUBJECTS, subject, keyspace.encode_u64(slot))
        return slot, SecretBox(key)

    def _claim_slot(self, transaction: Transaction[bytes]) -> int:
        """Claim the next slot, which no subject has had."""
        slot = slot_count(transaction)
        # A transaction that was undone may have left a key in it.
        if self._slots.read(slot).strip(b"\0") and slot in _slots_of_subjects(transaction):
            raise DamagedValueError(f"the next slot of private/{KEYS_FILE} is a subject's")
        transaction.put(keyspace.META, keyspace.META_SLOTS, keyspace.encode_u64(slot + 1))
        return slot

    def _stored_box(self, database: bytes, key: bytes) -> tuple[bytes, SecretBox] | None:
        """A row, and the box of the slot that it begins with. None: there is no row."""
        row = self.environment.get(database, key)
        try:
            return (row, self._box(_slot_of(row))) if row else None
        except DamagedValueError:
            if self.environment.get(database, key) != row:
                return None  # It was erased meanwhile.
            raise

    def _box(self, slot: int) -> SecretBox:
        """The box of a slot that a row in the store names. Raises: DamagedValueError."""
        wrapped = self._slots.read(slot)
        if wrapped == ERASED:
            raise DamagedValueError(
                f"a key in private/{KEYS_FILE} is zeros, but its subject was not erased"
            )
        try:
            return SecretBox(self._wrapping.decrypt(wrapped))
        except (CryptoError, ValueError):
            raise DamagedValueError(
                f"a key in private/{KEYS_FILE} can't be unwrapped by this wrapping key"
            ) from None


def create_private(path: Path) -> None:
    """Make an empty store in the folder `path`. Raises: as `create_environment`."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    keep_owner(path)
    # Before the environment, which marks the store as complete.
    create_slots(path)
    create_environment(path, DATABASES, meta={keyspace.META_BOUND: b""}, map_bytes=MAP_BYTES)


def event_key(event_id: str, tenant: str | None) -> bytes:
    """The 32 bytes that name the event of a value."""
    return hashlib.sha256(msgspec.json.encode((event_id.lower(), tenant))).digest()


def _slots_of_subjects(transaction: Transaction[bytes]) -> set[int]:
    return {keyspace.decode_u64(row) for _, row in transaction.rows(keyspace.SUBJECTS)}


def _value_keys(transaction: Transaction[bytes], subject: bytes) -> list[bytes]:
    """The keys of the stored values of a subject: a commitment, then the event."""
    with transaction.cursor(keyspace.BY_SUBJECT) as cursor:
        cursor.set_range(subject)
        keys = takewhile(lambda key: key.startswith(subject), cursor.iternext(values=False))
        return [key[len(subject) :] for key in keys]


def _subject_hash(subject: str) -> bytes:
    return hashlib.sha256(subject.encode()).digest()


def _slot_of(row: bytes) -> int:
    return keyspace.decode_u64(row[: keyspace.U64_BYTES])
