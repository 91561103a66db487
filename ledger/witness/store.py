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

Each read verifies what it reads (`rows.py`). All rows are verified at start, and by `ledger witness
fsck`. An older copy of the whole store is noticed by a marker beside it (`generation.py`).
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple, Self, TypeAlias

from ledger.store import keyspace
from ledger.store.environment import (
    MAP_BYTES_DEFAULT,
    Environment,
    LmdbError,
    create_environment,
    lock_for_writing,
)
from ledger.store.pages import check_pages
from ledger.store.transaction import Transaction
from ledger.witness.generation import Generation, check_generation
from ledger.witness.known_log import KnownLog, decode_lines, encode_lines
from ledger.witness.rows import mark, put_log, read_rows, row_key
from ledger_client.runtime.files import FileLock
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.cosignature import parse_verifier
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.log_list import ListedLog
from ledger_core.tlog.note import verify_note
from ledger_core.tlog.witness import Refused, cosigned_at

LISTED_KNOWN_MAX: Final = 100_000
"""Logs up to which lists add more. None is removed, so lists that change would fill the disk."""
MARKER_FILE: Final = "cosigned"
_DATABASES: Final = (keyspace.LOGS, keyspace.HEADS, keyspace.META)


class Added(NamedTuple):
    """The changes by a list of logs: the origins that are new, and those whose limit is another.

    `left_out`: why logs of the list were not taken, a line each.
    """

    new: tuple[str, ...]
    limits_changed: tuple[str, ...]
    left_out: tuple[str, ...]


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
        return cls(
            Environment.open(
                path, _DATABASES, readonly=readonly, map_bytes=map_bytes, map_setting="--map-bytes"
            )
        )

    def close(self) -> None:
        self.environment.close()

    @property
    def marker(self) -> Path:
        """The file that shows that these heads are an older copy."""
        return self.environment.path.with_name(MARKER_FILE)

    def vkeys(self) -> tuple[str, ...]:
        """The witness's own keys, which this environment belongs to."""
        with self.environment.read() as transaction:
            return decode_lines(transaction.require(keyspace.META, keyspace.META_KEYS))

    def log(self, origin: str) -> KnownLog | None:
        with self.environment.read() as transaction:
            return read_rows(transaction, row_key(origin))[0]

    def logs(
        self, *, logs_max: int | None = None
    ) -> list[tuple[KnownLog, SignedCheckpoint | None]]:
        """The logs, each with its head, in the order of the hashes of their origins."""
        with self.environment.read() as transaction:
            keys = [key for key, _ in islice(transaction.rows(keyspace.LOGS), logs_max)]
            rows = [read_rows(transaction, key) for key in keys]
        return [(log, head) for log, head in rows if log is not None]

    def check(self) -> list[str]:
        """Verify the marker and every row; returns what is wrong. Cost: two signatures a head."""
        try:
            check_generation(self.marker, self.environment.last_transaction, is_strict=True)
        except MalformedError as error:
            return [str(error), *self.check_rows()]
        return self.check_rows()

    def check_rows(self) -> list[str]:
        """Verify every row; returns what is wrong."""
        problems = []
        try:
            check_pages(self.environment)
        except MalformedError as error:
            problems.append(str(error))
        try:
            with self.environment.read() as transaction:
                databases = (keyspace.LOGS, keyspace.HEADS)
                for key in sorted({key for name in databases for key, _ in transaction.rows(name)}):
                    try:
                        read_rows(transaction, key)
                    except MalformedError as error:
                        problems.append(str(error))
        except LmdbError as error:
            problems.append(f"{self.environment.path} can't be read: {error}")
        return problems

    def count_logs(self) -> int:
        return self.environment.count(keyspace.LOGS)

    def head(self, origin_hash: bytes) -> SignedCheckpoint | None:
        """The last cosigned head of the log whose origin has this SHA-256."""
        with self.environment.read() as transaction:
            return read_rows(transaction, origin_hash)[1]

    def head_of(self, origin: str) -> SignedCheckpoint | None:
        """The last cosigned head of a log."""
        return self.head(row_key(origin))

    def known_size(self, origin: str) -> int:
        """The size of the last cosigned head of a log; 0 for none."""
        return 0 if (head := self.head_of(origin)) is None else head.head.tree_size

    def add_log(self, origin: str, vkeys: Sequence[str]) -> KnownLog:
        """Add a log by hand, or keys to a known one. A running witness uses them at once.

        A log that a list added is the owner's from now on: these keys take the place of the key of
        the list, and its limit ends. The head that was cosigned last stays in any case.

        Raises: ValueError for an origin that no checkpoint can have, for a key of another type or
        of this witness itself, for too many, and when none of these keys has signed the head that
        was cosigned under the key of a list.
        """
        own = self._own_public_keys()
        with self.environment.write() as transaction:
            known, head = read_rows(transaction, row_key(origin))
            before = () if known is None or known.is_listed else known.vkeys
            log = KnownLog(
                origin,
                tuple(dict.fromkeys((*before, *vkeys))),
                has_head=known is not None and known.has_head,
            )
            if head is not None and not _has_signed(log, head):
                raise ValueError(
                    f"none of these keys has signed the head of size {head.head.tree_size} of "
                    f"{origin} that was cosigned last, under the key that a list gave; no tree but "
                    "that one is ever cosigned under this origin. If the key is one of the log's, "
                    f"give it too: {' '.join(known.vkeys if known else ())}. Otherwise the log "
                    "needs another origin, or another witness"
                )
            put_log(transaction, log, own)
        return log

    def remove_keys(self, origin: str, vkeys: Sequence[str]) -> KnownLog:
        """Accept no head by these keys of a log any more. A running witness does so at once.

        Raises: ValueError for a log or a key that is not known, when no key would be left, and when
        the head cosigned last is signed by none of the others: it would count as damaged.
        """
        own = self._own_public_keys()
        with self.environment.write() as transaction:
            known, head = read_rows(transaction, row_key(origin))
            if known is None:
                raise ValueError(f"no log with the origin {origin} is known")
            if strange := set(vkeys).difference(known.vkeys):
                raise ValueError(f"{origin} has no key {', '.join(sorted(strange))}")
            log = known._replace(vkeys=tuple(key for key in known.vkeys if key not in vkeys))
            if not log.vkeys:
                raise ValueError(f"{origin} would have no key: add its new one first")
            if head is not None and not _has_signed(log, head):
                raise ValueError(
                    f"no other key of {origin} has signed the head of size "
                    f"{head.head.tree_size} that was cosigned last: wait for its next head"
                )
            put_log(transaction, log, own)
        return log

    def add_listed(self, listed: Sequence[ListedLog]) -> Added:
        """Add the logs of a list that are new, and take over the limits of those that lists added.

        No log and no key is removed, and nothing changes of a log that was added by hand. A list
        gives a known log no other key: it may come from somebody who wants a second history
        cosigned.
        """
        with self.environment.read() as transaction:
            # Nearly all are known, and reading them again holds up no head.
            listed = [each for each in listed if not _is_as_listed(transaction, each)]
        if not listed:
            return Added((), (), ())
        own = self._own_public_keys()
        new: list[str] = []
        limits_changed: list[str] = []
        left_out: list[str] = []
        with self.environment.write() as transaction:
            room = LISTED_KNOWN_MAX - transaction.count(keyspace.LOGS)
            for each in listed:
                known = read_rows(transaction, row_key(each.origin))[0]
                if known is None and len(new) >= room:
                    left_out.append(f"{each.origin}: no list adds to {LISTED_KNOWN_MAX} logs")
                    continue
                log = known or KnownLog(each.origin, (each.vkey,), is_listed=True)
                if each.vkey not in log.vkeys:
                    left_out.append(f"{each.origin} is known with another key, which stays")
                    continue
                if log.is_as_listed(each) and known is not None:
                    continue
                log = log._replace(requests_per_day=each.requests_per_day)
                try:
                    put_log(transaction, log, own)
                except ValueError as error:
                    left_out.append(str(error))
                else:
                    (new if known is None else limits_changed).append(each.origin)
        return Added(tuple(new), tuple(limits_changed), tuple(left_out))

    def _own_public_keys(self) -> set[bytes]:
        return {parse_verifier(vkey).public_key for vkey in self.vkeys()}


class HeadWriter:
    """Owns the changes to heads, in one process and on the thread that calls `commit`."""

    def __init__(self, store: HeadStore, lock: FileLock) -> None:
        self.store = store
        self._lock = lock
        self._generation = Generation(store.marker, store.environment.last_transaction)

    @classmethod
    def open(cls, path: Path, *, map_bytes: int = MAP_BYTES_DEFAULT) -> Self:
        """Open existing heads to change them.

        Raises: as `Environment.open`, UnavailableError when another process writes it,
        MalformedError when a row is damaged.
        """
        with ExitStack() as opened:
            store = HeadStore.open(path, readonly=False, map_bytes=map_bytes)
            opened.callback(store.close)
            lock = opened.enter_context(lock_for_writing(path))
            writer = cls(store, lock)
            opened.callback(writer.close)
            problems = store.check_rows()
            if problems:
                raise MalformedError(problems[0])
            # Version 0.1 did not mark logs.
            with store.environment.write() as transaction:
                for key, _ in list(transaction.rows(keyspace.HEADS)):
                    log, _head = read_rows(transaction, key)
                    if log is not None:
                        mark(transaction, log)
            opened.pop_all()
        return writer

    def close(self) -> None:
        self._generation.close()
        self.store.close()
        self._lock.release()

    def commit(self, updates: Sequence[Update]) -> list[Outcome]:
        """Advance heads in order, each from what the update before it left. One outcome for each.

        When this returns, they are on the disk. Without any change there is no sync to wait for.
        Raises: as `Environment.write`.
        """
        with self.store.environment.write() as transaction:
            outcomes = [_advance(transaction, update) for update in updates]
        self._generation.note(self.store.environment.last_transaction())
        return outcomes


def create_heads(path: Path, *, vkeys: Sequence[str], map_bytes: int = MAP_BYTES_DEFAULT) -> None:
    """Make the environment of a new witness with these keys in the folder `path`.

    Raises: as `create_environment`.
    """
    meta = {keyspace.META_KEYS: encode_lines(*vkeys)}
    create_environment(path, _DATABASES, meta=meta, map_bytes=map_bytes)


def _is_as_listed(transaction: Transaction[bytes], listed: ListedLog) -> bool:
    known = read_rows(transaction, row_key(listed.origin))[0]
    return known is not None and known.is_as_listed(listed)


def _advance(transaction: Transaction[bytes], update: Update) -> Outcome:
    key = row_key(update.origin)
    log, known = read_rows(transaction, key)
    if log is None:
        raise MalformedError(f"the log {update.origin} is not known")
    outcome = update.advance(known)
    if isinstance(outcome, SignedCheckpoint) and outcome != known:
        value = keyspace.encode_u64(cosigned_at(outcome)) + outcome.note.encode()
        transaction.put(keyspace.HEADS, key, value)
        mark(transaction, log)
    return outcome


def _has_signed(log: KnownLog, head: SignedCheckpoint) -> bool:
    """Whether a key of a log has signed a head; if none has, its row counts as damaged."""
    try:
        verify_note(head.as_note(), map(parse_verifier, log.vkeys))
    except VerificationError:
        return False
    return True
