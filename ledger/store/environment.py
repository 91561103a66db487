"""One LMDB environment, opened with full sync and without a writable map.

The log, the access tokens, the erasable values and the heads of a witness each have an
environment of their own: a folder with `data.mdb` and `lock.mdb`, and in it named databases.

* Full `sync` and no `writemap`: a commit that returned is on the disk.
* The engine is the 0.9 series, named explicitly: the bundled engines write files that the other
  can't read, and 0.9 is what other people's tools read.
* The map is sized once, large: it is address space, not disk. Growing it under readers corrupts.
* Nothing is read after `fork()`: LMDB does not refuse this, and its reader table would be wrong.
* `put` of LMDB reports some refusals by returning False. `Transaction.put` raises instead.
"""

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final, Self

import lmdb
import structlog

from ledger.store import keyspace
from ledger.store.commit_errors import (
    FULL_BYTES,
    MAP_SETTING_DEFAULT,
    CommitFailedError,
    CommitUndoneError,
    StorageFullError,
    broken,
    commit_errors,
    displaced,
    file_identity,
    free_bytes,
    is_disk_full,
    is_displaced,
    panics,
)
from ledger.store.drafts import DATA_FILE as DATA_FILE
from ledger.store.drafts import READERS_FILE, made_aside
from ledger.store.file_length import check_length
from ledger.store.readers_file import READERS_MAX, allocate_readers
from ledger.store.transaction import Databases, Transaction
from ledger_client.runtime.files import FileLock, FileLockedError, keep_owner
from ledger_client.runtime.forks import fork_number
from ledger_core.tlog.errors import MalformedError, UnavailableError

ENGINE_MAJOR: Final = 0
MAP_BYTES_DEFAULT: Final = 1 << 40
FULL_MAP_RATIO: Final = 0.9
"""A map that was full has room again below this part of it."""
LOCK_FILE: Final = "writer.lock"
COPIED_ROWS: Final = 2_000
"""Rows of a copy that one transaction writes."""

_log = structlog.get_logger("ledger.store")

ChangeRows = Callable[[bytes, Iterator[tuple[bytes, bytes]]], Iterator[tuple[bytes, bytes]]]
"""Gets the name of a database and its rows; gives other rows, in the order of their keys."""

LmdbError: Final = lmdb.Error
"""The base of the errors of LMDB, for damage that a read meets."""

CorruptedError: Final = lmdb.CorruptedError
"""Raised inside a write transaction, it undoes the transaction: see `Environment.write`."""


class Environment:
    """An environment whose format this code reads, open in one process. Safe from any thread.

    `failure` is why the last write failed, None after one that succeeded. `is_broken`: what the
    disk holds is unknown, and only a new process can go on.
    """

    def __init__(
        self,
        path: Path,
        raw: lmdb.Environment,
        names: Sequence[bytes],
        *,
        map_setting: str = MAP_SETTING_DEFAULT,
    ) -> None:
        self.path: Final = path
        self.map_setting: Final = map_setting
        self.failure: UnavailableError | None = None
        self.is_broken = False
        self._raw = raw
        self._identity = file_identity(self.data_file)
        self._fork_number = fork_number()
        self._databases = _open_databases(raw, names, path)
        with self.read() as transaction:
            _check_format(transaction, path, is_log=keyspace.ENTRIES in names)

    @classmethod
    def open(
        cls,
        path: Path,
        names: Sequence[bytes],
        *,
        readonly: bool,
        map_bytes: int = MAP_BYTES_DEFAULT,
        map_setting: str = MAP_SETTING_DEFAULT,
    ) -> Self:
        """Open the environment in a folder. It is never made by this, not even for writing.

        `map_setting`: the setting with the size of its map, for messages.
        Raises: UnavailableError when there is none or it can't be opened, MalformedError when it
        lacks one of the databases `names`, has another format or was cut short.
        """
        if not (path / DATA_FILE).is_file():
            hint = "name the folder of a ledger; ledger init makes one in a new folder"
            raise UnavailableError(f"there is no ledger data in {path}: {hint}")
        check_length(path / DATA_FILE)
        with ExitStack() as opened:
            raw = opened.enter_context(
                _open_raw(path, names, readonly=readonly, map_bytes=map_bytes)
            )
            # A reader that was killed holds its pages until somebody clears its slot.
            raw.reader_check()
            environment = cls(path, raw, names, map_setting=map_setting)
            opened.pop_all()
        return environment

    def close(self) -> None:
        self._raw.close()

    @property
    def data_file(self) -> Path:
        """The file with all rows."""
        return self.path / DATA_FILE

    def clear_dead_readers(self) -> None:
        """Release the pages that processes hold which were killed while they read."""
        self._raw.reader_check()

    @contextmanager
    def read(self) -> Iterator[Transaction[bytes]]:
        """A read transaction: one snapshot, whose values are copies."""
        self._check_process()
        with panics(self.path), self._raw.begin() as raw:
            yield Transaction(raw, self._databases)

    @contextmanager
    def view(self) -> Iterator[Transaction[memoryview]]:
        """A read transaction whose values are views of LMDB's pages."""
        self._check_process()
        with panics(self.path), self._raw.begin(buffers=True) as raw:
            yield Transaction(raw, self._databases)

    @contextmanager
    def write(self) -> Iterator[Transaction[bytes]]:
        """A write transaction, durable when the block ends, undone as a whole when it raises.

        Raises: CommitUndoneError with nothing stored, StorageFullError when the map or the disk is
        full; CommitFailedError when it is unknown what was stored, or nobody will find it, and from
        then on always.
        """
        self._check_process()
        if self.is_broken:
            raise broken(self.path)
        number = 0
        try:
            with commit_errors(self.path, self.map_setting), self._raw.begin(write=True) as raw:
                number = raw.id()
                yield Transaction(raw, self._databases)
        except CommitUndoneError as error:
            self._set_failure(error)
            raise
        except CommitFailedError as error:
            known = self._undone(error, number)
            self.is_broken = known is None
            self._set_failure(known or error)
            if known is not None:
                raise known from error
            raise
        # After the commit: else a folder that goes meanwhile has the commit acknowledged.
        self.check_place()
        if self.failure is not None and self.last_transaction() == number:
            self._set_failure(None)

    def is_displaced(self) -> bool:
        """Whether the data file was deleted, moved or replaced since it was opened."""
        return is_displaced(self.data_file, self._identity)

    def check_place(self) -> None:
        """Let nothing more be written to a file that nobody finds. Raises: CommitFailedError."""
        if self.is_displaced():
            self.is_broken = True
            self._set_failure(error := displaced(self.path))
            raise error

    def probe(self) -> None:
        """After a write that failed, write a row again as it is: shows whether writes succeed."""
        if self.failure is None or self.is_broken or self._is_full():
            return
        with suppress(UnavailableError), self.write() as transaction:
            row = transaction.require(keyspace.META, keyspace.META_FORMAT)
            transaction.put(keyspace.META, keyspace.META_FORMAT, row)

    def _undone(self, error: CommitFailedError, number: int) -> CommitUndoneError | None:
        """The error of a transaction that was certainly undone; None when that is unknown.

        LMDB writes the pages, syncs them, and writes its head last. If only that failed, it refuses
        every later transaction, and the head on the disk may be the old one or the new one.
        """
        cause = error.__cause__
        if cause is None or not number or self.last_transaction() >= number:
            return None
        try:
            self._raw.begin().abort()
        except lmdb.Error:
            return None
        if is_disk_full(cause, self.path):
            return StorageFullError(f"the disk of {self.path} is full")
        return CommitUndoneError(f"{error}; nothing was stored")

    def _is_full(self) -> bool:
        """Whether the last write failed for want of room, and there is none yet."""
        return isinstance(self.failure, StorageFullError) and (
            free_bytes(self.path) < FULL_BYTES or self.fill_ratio() > FULL_MAP_RATIO
        )

    def _set_failure(self, failure: UnavailableError | None) -> None:
        """Keep why writes fail, and log it once a state: on a full disk a small one may succeed."""
        if failure is None:
            if not self._is_full():
                self.failure = None
                _log.info("commits_go_on", path=str(self.path))
            return
        if str(failure) != str(self.failure):
            _log.error("commit_failed", path=str(self.path), reason=str(failure))
        self.failure = failure

    def get(self, database: bytes, key: bytes) -> bytes | None:
        """A point read: as in `read`, without the cost of its context managers."""
        self._check_process()
        try:
            with self._raw.begin() as raw:
                return raw.get(key, db=self._databases[database])
        except lmdb.PanicError as error:
            raise broken(self.path) from error

    def count(self, database: bytes) -> int:
        with self.read() as transaction:
            return transaction.count(database)

    def last_transaction(self) -> int:
        """The number of the last transaction that changed anything; it only grows."""
        return int(self._raw.info()["last_txnid"])

    def fill_ratio(self) -> float:
        """The used part of the map, from 0 to 1; pages that wait for reuse count as used."""
        info = self._raw.info()
        return float((info["last_pgno"] + 1) * self._raw.stat()["psize"] / info["map_size"])

    def copy_snapshot(
        self,
        snapshot: Transaction[bytes],
        folder: Path,
        *,
        change: ChangeRows = lambda _name, rows: rows,
        check: Callable[[Path], None] | None = None,
    ) -> None:
        """Write the rows of a read transaction of this environment to a new one in a folder.

        They come in the order of their keys, so every page of the copy is full. `change` gets the
        rows of each database and gives those of the copy. With a `check` of the copy, which it
        raises from, the copy takes the place of the environment that the folder holds.
        Raises: as `create_environment`.
        """
        with made_aside(folder, replaces=check is not None) as draft:
            names = tuple(self._databases)
            with (
                (
                    _open_raw(draft, names, readonly=False, map_bytes=MAP_BYTES_DEFAULT, sync=False)
                ) as raw,
                commit_errors(folder),
            ):
                for name in names:
                    handle, rows = raw.open_db(name), change(name, snapshot.rows(name))
                    while chunk := list(islice(rows, COPIED_ROWS)):
                        with raw.begin(write=True, db=handle) as written:
                            put, added = written.cursor().putmulti(chunk, append=True)
                        if not put == added == len(chunk):
                            raise CorruptedError(f"the rows of {name.decode()} are not in order")
                raw.sync(force=True)
            if check is not None:
                check(draft)

    def _check_process(self) -> None:
        if fork_number() != self._fork_number:
            raise RuntimeError(f"{self.path} was opened before fork(); open it in this process")


def create_environment(
    path: Path,
    names: Sequence[bytes],
    *,
    meta: Mapping[bytes, bytes],
    map_bytes: int = MAP_BYTES_DEFAULT,
    records_engine: bool = True,
) -> None:
    """Make an environment with empty databases in the folder `path`, which need not exist.

    It is made aside and renamed: after a crash it is there as a whole or not at all. What a crash
    leaves is a folder `.new-…`, which nothing reads. `records_engine`: meta names the LMDB version.
    Raises: FileExistsError when there is one, UnavailableError when it can't be made, OSError.
    """
    engine = {keyspace.META_ENGINE: engine_version().encode()} if records_engine else {}
    rows = {keyspace.META_FORMAT: keyspace.FORMAT_VERSION, **engine, **meta}
    with (
        made_aside(path) as draft,
        _open_raw(draft, names, readonly=False, map_bytes=map_bytes) as raw,
        commit_errors(path),
        raw.begin(write=True) as transaction,
    ):
        handles = {name: raw.open_db(name, txn=transaction) for name in names}
        for key, value in rows.items():
            Transaction(transaction, handles).put(keyspace.META, key, value)


def lock_for_writing(path: Path) -> FileLock:
    """Take the right to write the environment in a folder until it is released or we end.

    Raises: UnavailableError when another process has it, with that process's number and host.
    """
    since = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    holder = f"{os.getpid()} on {socket.gethostname()} since {since}\n"
    try:
        return FileLock(path / LOCK_FILE, holder=holder)
    except FileLockedError as error:
        raise UnavailableError(
            f"{path} is being written by process {error.holder}; "
            "there is one writer, stop that one first"
        ) from None


def engine_version() -> str:
    """The version of the LMDB engine in use, such as "0.9.36"."""
    return ".".join(str(part) for part in lmdb.version(lib_version=ENGINE_MAJOR))


def _open_raw(
    path: Path, names: Sequence[bytes], *, readonly: bool, map_bytes: int, sync: bool = True
) -> lmdb.Environment:
    allocate_readers(path)
    try:
        raw = lmdb.open(
            str(path),
            map_size=map_bytes,
            max_dbs=len(names),
            max_readers=READERS_MAX,
            readonly=readonly,
            sync=sync,
            readahead=False,
            subdir=True,
            mode=0o600,
            lib_version=ENGINE_MAJOR,
        )
    except lmdb.Error as error:
        raise UnavailableError(f"cannot open {path}: {error}") from error
    keep_owner(path / READERS_FILE, like=path / DATA_FILE)
    return raw


def _open_databases(raw: lmdb.Environment, names: Sequence[bytes], path: Path) -> Databases:
    # A handle that is opened inside a read transaction ends with it, so each has its own here.
    databases: dict[bytes, lmdb._Database] = {}
    for name in names:
        try:
            databases[name] = raw.open_db(name, create=False)
        except lmdb.NotFoundError:
            raise MalformedError(
                f"{path} is not a ledger's data: it has no database {name.decode()}. If a first "
                f"start was interrupted, it holds nothing: remove {path} and start again; for the "
                "folder log or access, remove log, access, policy, ledger.toml and key in "
                f"{path.parent} and run ledger init again"
            ) from None
    return databases


def _check_format(transaction: Transaction[bytes], path: Path, *, is_log: bool) -> None:
    """Refuse data that another version of this code wrote in a way that this one can't read."""
    found = transaction.get(keyspace.META, keyspace.META_FORMAT)
    if found is None:
        raise MalformedError(f"{path} is not a ledger's data: it has no format version")
    engine = transaction.get(keyspace.META, keyspace.META_ENGINE)
    if found not in (keyspace.LOG_FORMATS if is_log else (keyspace.FORMAT_VERSION,)):
        problem = (
            f"has format {{}}, this version reads {keyspace.FORMAT_VERSION.decode()}: install the"
            " version that wrote it, or a newer one"
        )
    elif engine is not None and not engine.startswith(b"%d." % ENGINE_MAJOR):
        problem, found = f"was made by LMDB {{}}, this version uses {engine_version()}", engine
    else:
        return
    raise MalformedError(f"{path} {problem.format(found.decode(errors='replace'))}")
