"""What a witness keeps: the logs that it knows, and the head that it cosigned last for each.

`HeadStore` reads from any thread, and adds logs from any process: the command line does so while
the witness runs. `HeadWriter` is the only one to change heads, on one thread. A commit is one LMDB
transaction in which each head is read, compared and replaced, so that no slower request puts back
a smaller one; when it returns, all of it is on the disk, and only then may a cosignature be shown.

The crash window: a process that dies after the commit and before the answer stands by a head whose
cosignature nobody has seen. The log asks again, is told the size that is known here, and gets a
cosignature of that head. The other way round, a cosignature that was shown and that nobody here
knows of, does not happen while this environment is kept. One that was lost or put back from a copy
would sign a second history, so that witness has ended: its keys must never be used again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Final, Self, TypeAlias

import lmdb

from ledger.store import keyspace
from ledger.store.environment import (
    MAP_BYTES_DEFAULT,
    CommitFailedError,
    Transaction,
    WriterLock,
    commit_errors,
    engine_version,
    open_databases,
    open_environment,
)
from ledger_core.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.witness import Refused, cosigned_at

LOG_KEYS_MAX: Final = 8
_DATABASES: Final = (keyspace.LOGS, keyspace.HEADS, keyspace.META)


@dataclass(frozen=True, slots=True)
class KnownLog:
    """A log that the witness cosigns: its origin, and the vkeys that it may sign with."""

    origin: str
    vkeys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """A change to the head of one log.

    `advance` is given the head that is known when its turn comes. It gives back the head to keep,
    which may be the same, or why there is none.
    """

    origin: str
    advance: Callable[[SignedCheckpoint | None], SignedCheckpoint | Refused]


Outcome: TypeAlias = SignedCheckpoint | Refused


class HeadStore:
    """The environment of a witness, open in one process."""

    def __init__(self, path: Path, environment: lmdb.Environment) -> None:
        self.path = path
        self.environment = environment
        self.databases = open_databases(environment, _DATABASES, path)

    @classmethod
    def open(cls, path: Path, *, readonly: bool = True, map_bytes: int = MAP_BYTES_DEFAULT) -> Self:
        """Raises: UnavailableError when there is none, MalformedError for another format."""
        # A witness that made a new environment would begin at size 0, and sign any history.
        open_environment(path, readonly=True, databases_max=len(_DATABASES)).close()
        environment = open_environment(
            path, readonly=readonly, databases_max=len(_DATABASES), map_bytes=map_bytes
        )
        try:
            return cls(path, environment)
        except BaseException:
            environment.close()
            raise

    def close(self) -> None:
        """Close the environment."""
        self.environment.close()

    def vkeys(self) -> tuple[str, ...]:
        """The witness's own keys, which this environment belongs to."""
        with self.environment.begin() as transaction:
            return _lines(self._meta(transaction, keyspace.META_KEYS))

    def log(self, origin: str) -> KnownLog | None:
        """The log of an origin, None when it is not known."""
        with self.environment.begin() as transaction:
            value = transaction.get(_key(origin), db=self.databases[keyspace.LOGS])
        return None if value is None else _decode_log(value)

    def logs(
        self, *, logs_max: int | None = None
    ) -> list[tuple[KnownLog, SignedCheckpoint | None]]:
        """The logs, each with its head, in an order that means nothing."""
        with (
            self.environment.begin() as transaction,
            transaction.cursor(self.databases[keyspace.LOGS]) as cursor,
        ):
            return [
                (_decode_log(value), self._head(transaction, key))
                for key, value in islice(cursor, logs_max)
            ]

    def count_logs(self) -> int:
        """How many logs are known."""
        with self.environment.begin() as transaction:
            return int(transaction.stat(self.databases[keyspace.LOGS])["entries"])

    def head(self, origin_hash: bytes) -> SignedCheckpoint | None:
        """The head cosigned last for the log of the SHA-256 of an origin."""
        with self.environment.begin() as transaction:
            return self._head(transaction, origin_hash)

    def add_log(self, origin: str, vkeys: Sequence[str]) -> KnownLog:
        """Make a log known, or more keys of one that is. Its head, if it has one, stays.

        Raises: ValueError when it would have more keys than a log can have.
        """
        with commit_errors(self.path), self.environment.begin(write=True) as transaction:
            logs = self.databases[keyspace.LOGS]
            value = transaction.get(_key(origin), db=logs)
            before = () if value is None else _decode_log(value).vkeys
            log = KnownLog(origin, tuple(dict.fromkeys((*before, *vkeys))))
            if not 1 <= len(log.vkeys) <= LOG_KEYS_MAX:
                raise ValueError(
                    f"a log has 1 to {LOG_KEYS_MAX} keys, {origin} would have {len(log.vkeys)}"
                )
            self.put(transaction, keyspace.LOGS, _key(origin), _encode_lines(origin, *log.vkeys))
        return log

    def head_in(self, transaction: Transaction, origin: str) -> SignedCheckpoint | None:
        """The head of a log inside of a transaction."""
        return self._head(transaction, _key(origin))

    def put_head(self, transaction: Transaction, origin: str, head: SignedCheckpoint) -> None:
        """Replace the head of a log inside of a transaction."""
        self.put(transaction, keyspace.HEADS, _key(origin), _encode_head(head))

    def put(self, transaction: Transaction, database: bytes, key: bytes, value: bytes) -> None:
        """Put a row inside of a transaction."""
        # put() reports some refusals by returning False, which must not pass for success.
        if not transaction.put(key, value, db=self.databases[database]):
            raise lmdb.CorruptedError(f"a row of {database.decode()} was not stored")

    def _head(self, transaction: Transaction, key: bytes) -> SignedCheckpoint | None:
        value = transaction.get(key, db=self.databases[keyspace.HEADS])
        return None if value is None else _decode_head(value)

    def _meta(self, transaction: Transaction, key: bytes) -> bytes:
        value = transaction.get(key, db=self.databases[keyspace.META])
        if value is None:
            raise lmdb.CorruptedError(f"{self.path} does not say its {key.decode()}")
        return value


class HeadWriter:
    """Owns the changes to heads, in one process and on the thread that calls `commit`."""

    def __init__(self, store: HeadStore, lock: WriterLock) -> None:
        self.store = store
        self._lock = lock
        self._failed: CommitFailedError | None = None

    @classmethod
    def open(cls, path: Path, *, map_bytes: int = MAP_BYTES_DEFAULT) -> Self:
        """Raises: UnavailableError when there is none or another process writes it."""
        store = HeadStore.open(path, readonly=False, map_bytes=map_bytes)
        try:
            return cls(store, WriterLock(path).acquire())
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Close the environment and give the right to write back."""
        self.store.close()
        self._lock.release()

    def commit(self, updates: Sequence[Update]) -> list[Outcome]:
        """Advance heads in order, each from what the one before left. One outcome for each.

        When this returns, they are on the disk. Without any change there is nothing to wait for.
        Raises: StorageFullError with nothing kept; CommitFailedError with the outcome unknown, and
        from then on always: what was kept shows when the environment is opened again.
        """
        if self._failed is not None:
            raise CommitFailedError("the witness stopped after a failed commit; restart to go on")
        try:
            with (
                commit_errors(self.store.path),
                self.store.environment.begin(write=True) as transaction,
            ):
                return [self._advance(transaction, update) for update in updates]
        except CommitFailedError as error:
            self._failed = error
            raise

    def _advance(self, transaction: Transaction, update: Update) -> Outcome:
        known = self.store.head_in(transaction, update.origin)
        outcome = update.advance(known)
        if isinstance(outcome, SignedCheckpoint) and outcome is not known:
            self.store.put_head(transaction, update.origin, outcome)
        return outcome


def create_heads(path: Path, *, vkeys: Sequence[str], map_bytes: int = MAP_BYTES_DEFAULT) -> None:
    """Make the environment of a new witness, which belongs to these keys, in the folder `path`."""
    path.mkdir(mode=0o700, parents=True)
    environment = open_environment(
        path, readonly=False, databases_max=len(_DATABASES), map_bytes=map_bytes
    )
    try:
        with environment.begin(write=True) as transaction:
            for name in _DATABASES:
                environment.open_db(name, txn=transaction)
            meta = environment.open_db(keyspace.META, txn=transaction)
            for key, value in (
                (keyspace.META_FORMAT, keyspace.FORMAT_VERSION),
                (keyspace.META_ENGINE, engine_version().encode()),
                (keyspace.META_KEYS, _encode_lines(*vkeys)),
            ):
                transaction.put(key, value, db=meta)
    finally:
        environment.close()


def _key(origin: str) -> bytes:
    """By its hash: that is how the protocol asks for a log's head."""
    return sha256(origin.encode()).digest()


def _lines(value: bytes) -> tuple[str, ...]:
    # Not splitlines(): an origin may have signs in it that Python takes for the end of a line.
    return tuple(value.decode().split("\n")[:-1])


def _encode_lines(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _decode_log(value: bytes) -> KnownLog:
    origin, *vkeys = _lines(value)
    return KnownLog(origin, tuple(vkeys))


def _encode_head(head: SignedCheckpoint) -> bytes:
    return keyspace.encode_u64(cosigned_at(head)) + head.note.encode()


def _decode_head(value: bytes) -> SignedCheckpoint:
    # The time before the note is the one that the witness's cosignatures state.
    return parse_signed_checkpoint(value[keyspace.U64_BYTES :])
