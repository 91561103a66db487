"""The store of a witness: the logs that it knows, and the head that it cosigned last for each.

`HeadStore` reads from any thread, and adds logs from any process: the command line does so while
the witness runs. `HeadWriter` alone changes heads, on one thread. A commit is one LMDB transaction
in which each head is read, compared and replaced, so that a slow request never puts back a smaller
head; when it returns, all of it is on the disk, and only then may a cosignature leave the process.

The crash window: a process that dies after the commit and before the answer has stored a head whose
cosignature nobody has seen. The log asks again, gets the size that is stored here, and then a
cosignature of that head. The opposite, a cosignature that was sent but whose head is not stored,
does not happen while this environment exists. A witness whose environment was lost, or restored
from a copy, would sign a second history: its keys must never be used again.

A damaged key would make the head of a known log look like that of an unknown one. So the keys of
all heads are checked against their origins at start, and again before a first head is accepted.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple, Self, TypeAlias

from ledger.store import keyspace
from ledger.store.environment import (
    MAP_BYTES_DEFAULT,
    Environment,
    Transaction,
    create_environment,
    lock_for_writing,
)
from ledger_client.runtime.files import FileLock
from ledger_core.tlog.checkpoint import Checkpoint, SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.cosignature import parse_verifier
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import EMPTY_ROOT_HASH
from ledger_core.tlog.note import check_algorithm, known_keys
from ledger_core.tlog.policy import LOG_ALGORITHMS
from ledger_core.tlog.witness import Refused, cosigned_at

LOG_KEYS_MAX: Final = 8
_DATABASES: Final = (keyspace.LOGS, keyspace.HEADS, keyspace.META)


class KnownLog(NamedTuple):
    """A log that the witness cosigns: its origin, and the vkeys that it may sign with."""

    origin: str
    vkeys: tuple[str, ...]


class Update(NamedTuple):
    """A change to the head of one log.

    `advance` gets the stored head when its turn comes, and returns the head to store, which may be
    the same, or a refusal.
    """

    origin: str
    advance: Callable[[SignedCheckpoint | None], SignedCheckpoint | Refused]


Outcome: TypeAlias = SignedCheckpoint | Refused


class HeadStore:
    """The environment of a witness, open in one process.

    A witness with a new environment would cosign any history. So none is ever made by `open`.
    """

    def __init__(self, environment: Environment) -> None:
        self.environment = environment

    @classmethod
    def open(cls, path: Path, *, readonly: bool = True, map_bytes: int = MAP_BYTES_DEFAULT) -> Self:
        """Open existing heads. Raises: as `Environment.open`."""
        return cls(Environment.open(path, _DATABASES, readonly=readonly, map_bytes=map_bytes))

    def close(self) -> None:
        self.environment.close()

    def vkeys(self) -> tuple[str, ...]:
        """The witness's own keys, which this environment belongs to."""
        with self.environment.read() as transaction:
            return _lines(transaction.require(keyspace.META, keyspace.META_KEYS))

    def log(self, origin: str) -> KnownLog | None:
        value = self.environment.get(keyspace.LOGS, _key(origin))
        return None if value is None else _decode_log(value)

    def logs(
        self, *, logs_max: int | None = None
    ) -> list[tuple[KnownLog, SignedCheckpoint | None]]:
        """The logs, each with its head, in the order of the hashes of their origins."""
        with self.environment.read() as transaction:
            return [
                (_decode_log(value), _read_head(transaction, key))
                for key, value in islice(transaction.rows(keyspace.LOGS), logs_max)
            ]

    def count_logs(self) -> int:
        return self.environment.count(keyspace.LOGS)

    def head(self, origin_hash: bytes) -> SignedCheckpoint | None:
        """The last cosigned head of the log whose origin has this SHA-256."""
        with self.environment.read() as transaction:
            return _read_head(transaction, origin_hash)

    def add_log(self, origin: str, vkeys: Sequence[str]) -> KnownLog:
        """Add a log, or keys to a known one; its head stays. A running witness uses them at once.

        Raises: ValueError for an origin that no checkpoint can have, for a key of another type or
        of this witness itself, and for too many.
        """
        Checkpoint(origin, 0, EMPTY_ROOT_HASH)
        own = {parse_verifier(vkey).public_key for vkey in self.vkeys()}
        with self.environment.write() as transaction:
            value = transaction.get(keyspace.LOGS, _key(origin))
            before = () if value is None else _decode_log(value).vkeys
            log = KnownLog(origin, tuple(dict.fromkeys((*before, *vkeys))))
            if not 1 <= len(log.vkeys) <= LOG_KEYS_MAX:
                raise ValueError(
                    f"a log has 1 to {LOG_KEYS_MAX} keys, {origin} would have {len(log.vkeys)}"
                )
            verifiers = [parse_verifier(vkey) for vkey in log.vkeys]
            for verifier in verifiers:
                check_algorithm(verifier.key, *LOG_ALGORITHMS)
                if verifier.public_key in own:
                    # Its own cosignatures would pass for signatures of the log.
                    raise ValueError(f"{verifier.key!r} has a public key of this witness")
            known_keys(verifiers)
            transaction.put(keyspace.LOGS, _key(origin), _encode_lines(origin, *log.vkeys))
        return log


class HeadWriter:
    """Owns the changes to heads, in one process and on the thread that calls `commit`."""

    def __init__(self, store: HeadStore, lock: FileLock) -> None:
        self.store = store
        self._lock = lock

    @classmethod
    def open(cls, path: Path, *, map_bytes: int = MAP_BYTES_DEFAULT) -> Self:
        """Open existing heads to change them.

        Raises: as `Environment.open`, UnavailableError when another process writes it,
        MalformedError when a head is stored under another origin's key.
        """
        with ExitStack() as opened:
            store = HeadStore.open(path, readonly=False, map_bytes=map_bytes)
            opened.callback(store.close)
            with store.environment.read() as transaction:
                _check_head_keys(transaction)
            writer = cls(store, lock_for_writing(path))
            opened.pop_all()
        return writer

    def close(self) -> None:
        self.store.close()
        self._lock.release()

    def commit(self, updates: Sequence[Update]) -> list[Outcome]:
        """Advance heads in order, each from what the update before it left. One outcome for each.

        When this returns, they are on the disk. Without any change there is no sync to wait for.
        Raises: as `Environment.write`.
        """
        with self.store.environment.write() as transaction:
            return [_advance(transaction, update) for update in updates]


def create_heads(path: Path, *, vkeys: Sequence[str], map_bytes: int = MAP_BYTES_DEFAULT) -> None:
    """Make the environment of a new witness with these keys in the folder `path`.

    Raises: as `create_environment`.
    """
    meta = {keyspace.META_KEYS: _encode_lines(*vkeys)}
    create_environment(path, _DATABASES, meta=meta, map_bytes=map_bytes)


def _advance(transaction: Transaction[bytes], update: Update) -> Outcome:
    known = _read_head(transaction, _key(update.origin))
    if known is None:
        _check_head_keys(transaction)
    outcome = update.advance(known)
    if isinstance(outcome, SignedCheckpoint) and outcome != known:
        transaction.put(keyspace.HEADS, _key(update.origin), _encode_head(outcome))
    return outcome


def _read_head(transaction: Transaction[bytes], key: bytes) -> SignedCheckpoint | None:
    value = transaction.get(keyspace.HEADS, key)
    return None if value is None else _decode_head(value)


def _check_head_keys(transaction: Transaction[bytes]) -> None:
    """Raises: MalformedError for a damaged key or origin. Cost: 1 µs a head."""
    for key, value in transaction.rows(keyspace.HEADS):
        origin = value[keyspace.U64_BYTES :].partition(b"\n")[0]
        if sha256(origin).digest() != key:
            raise MalformedError(
                f"the head of {origin.decode(errors='replace')!a} is stored under a wrong key, "
                f"{key.hex()}: the store is damaged, and this witness must not sign"
            )


def _key(origin: str) -> bytes:
    """The SHA-256 of the origin, by which the protocol asks for a log's head."""
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
