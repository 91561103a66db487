"""Opening LMDB environments the one way that is right for evidence.

Full `sync` and no `writemap`: a commit that returned is on the disk. The engine is the 0.9 series,
named explicitly, because the bundled engines write files that the other can't read, and 0.9 is
what other people's tools read. The map is sized once, large: it is address space, not disk, and
growing it under readers corrupts.
"""

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import lmdb

from ledger.store import keyspace
from ledger_core.tlog.errors import MalformedError, UnavailableError

if TYPE_CHECKING:
    # Values are copied out. Views are for slicing at once: they dangle when a transaction ends.
    Transaction = lmdb.Transaction[bytes]
    ViewTransaction = lmdb.Transaction[memoryview]
else:
    Transaction = ViewTransaction = lmdb.Transaction  # generic in its stubs only
Database = lmdb._Database  # noqa: SLF001 - the type has no public name

ENGINE_MAJOR: Final = 0
READERS_MAX: Final = 512
MAP_BYTES_DEFAULT: Final = 1 << 40


class StorageFullError(UnavailableError):
    """The map or the disk has no room; the transaction was undone as a whole."""


class CommitFailedError(UnavailableError):
    """A commit may or may not have reached the disk. Only a restart, which reads it, can tell."""


def engine_version() -> str:
    """The version of the engine that this house uses, such as "0.9.36"."""
    return ".".join(str(part) for part in lmdb.version(lib_version=ENGINE_MAJOR))


def open_environment(
    path: Path, *, readonly: bool, databases_max: int, map_bytes: int = MAP_BYTES_DEFAULT
) -> lmdb.Environment:
    """Open the environment in the folder `path`, making its files when it is to be written.

    Raises: UnavailableError when there is none to read or it can't be opened.
    """
    if readonly and not (path / "data.mdb").is_file():
        raise UnavailableError(f"there is no ledger data in {path}")
    try:
        environment = lmdb.open(
            str(path),
            map_size=map_bytes,
            max_dbs=databases_max,
            max_readers=READERS_MAX,
            readonly=readonly,
            readahead=False,
            subdir=True,
            mode=0o600,
            lib_version=ENGINE_MAJOR,
        )
    except lmdb.Error as error:
        raise UnavailableError(f"cannot open {path}: {error}") from error
    # A reader that was killed holds its pages until somebody clears its slot.
    environment.reader_check()
    return environment


def open_databases(
    environment: lmdb.Environment, names: Sequence[bytes], path: Path
) -> dict[bytes, Database]:
    """Handles of the named databases of an environment whose format this code reads.

    A handle that is opened inside a read transaction ends with it, so each has its own here.
    Raises: MalformedError when one is missing or the format is another.
    """
    databases: dict[bytes, Database] = {}
    for name in names:
        try:
            databases[name] = environment.open_db(name, create=False)
        except lmdb.NotFoundError:
            raise MalformedError(
                f"{path} is not a ledger's data: it has no database {name.decode()}"
            ) from None
    with environment.begin() as transaction:
        _check_format(transaction, databases[keyspace.META], path)
    return databases


def _check_format(transaction: Transaction, meta: Database, path: Path) -> None:
    """Refuse data that another version of this code wrote in a way that this one can't read."""
    found = transaction.get(keyspace.META_FORMAT, db=meta)
    if found is None:
        raise MalformedError(f"{path} is not a ledger's data: it has no format version")
    if found != keyspace.FORMAT_VERSION:
        raise MalformedError(
            f"{path} has format {found.decode(errors='replace')}, "
            f"this version reads {keyspace.FORMAT_VERSION.decode()}"
        )


@contextmanager
def commit_errors(path: Path) -> Iterator[None]:
    """Translate what LMDB raises inside a write transaction.

    LMDB undoes the transaction as a whole on every error before the commit call. An error of the
    commit call itself (EIO, ENOSPC) leaves the outcome unknown.
    """
    try:
        yield
    except lmdb.MapFullError as error:
        raise StorageFullError(f"the map of {path} is full") from error
    except lmdb.Error as error:
        full = getattr(error, "code", None) == errno.ENOSPC
        reason = "the disk is full" if full else str(error)
        raise CommitFailedError(f"a commit to {path} failed: {reason}") from error


class WriterLock:
    """The right to write one environment, held by one process until it ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path / "writer.lock"
        self._descriptor: int | None = None

    def acquire(self) -> Self:
        """Raises: UnavailableError when another process holds it, with that process's number."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise UnavailableError(
                f"{self._path.parent} is being written by process {holder}; "
                "there is one writer, stop that one first"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor
        return self

    def release(self) -> None:
        """Give the right back; harmless when it isn't held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
