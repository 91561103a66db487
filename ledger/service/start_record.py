"""What was in a ledger's folder when it was last started: `DIR/started.json`.

It shows at the next start, and to `ledger fsck`, which optional parts are gone and which small
files are not as they were. The service writes it at a start and at SIGHUP, and commands when they
change a file: each of them holds a lock from its read to its write, or one would undo what the
other wrote. The lock is on the folder itself, so no file of it is left behind.
"""

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from ledger.runtime.records import CheckedRecord, checked, encode_record, unreadable
from ledger.service.data_dir import DirectoryPaths
from ledger_client.runtime.files import TEXT_BYTES_MAX, read_limited, try_lock, write_atomically
from ledger_core.tlog.errors import UnavailableError

PRIVATE_DATA: Final = "private/data.mdb"
OPTIONAL_PARTS: Final = (
    *("secrets.toml", "principals.toml", "private.toml"),
    *("sinks.toml", "alarms.toml", "archive.toml", "mirrors.toml", "retention.toml"),
    *("legal-holds.json", PRIVATE_DATA),
)
"""Parts that a ledger may lack, so that nothing else would show that they are gone."""
FIXED_FILES: Final = ("digest.key", "private.key")
"""Keys that never change, and have nothing in them that shows a flipped bit."""
RELOADED_FILES: Final = (
    *("ledger.toml", "principals.toml", "retention.toml"),
    *("sinks.toml", "alarms.toml", "archive.toml", "mirrors.toml"),
)
"""Files whose edits hold in a running service, by itself or at SIGHUP."""
EDITED_FILES: Final = ("policy", "secrets.toml", "private.toml", *RELOADED_FILES)
SMALL_FILES: Final = (*FIXED_FILES, "key", *EDITED_FILES, "mirror.toml", "cosigner/key")
"""Files whose content `started.json` knows by its hash."""

LOCK_WAIT_S: Final = 10.0
_LOCK_POLL_S: Final = 0.01


class StartRecord(CheckedRecord, frozen=True):
    """The content of `started.json`: what was there when the ledger was last started.

    `files`: the optional parts and the small files, each with the SHA-256 of its content in hex; a
    part that changes by itself has none.
    """

    files: dict[str, str | None]


def _read_start(paths: DirectoryPaths) -> StartRecord:
    """Raises: MalformedError when `started.json` can't be read."""
    try:
        data = read_limited(paths.started, TEXT_BYTES_MAX)
        if data[:1] == b"[":  # Version 0.1 listed the names.
            return StartRecord(dict.fromkeys(msgspec.json.decode(data, type=list[str])))
        return checked(msgspec.json.decode(data, type=StartRecord), str(paths.started))
    except FileNotFoundError:
        return StartRecord({})
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise unreadable(paths.started, error) from None


def missing_files(paths: DirectoryPaths) -> list[str]:
    """The optional parts that were there when the ledger was last started, and are gone.

    Raises: MalformedError when `started.json` can't be read.
    """
    # A promotion takes the file away that makes a folder a mirror's.
    taken_away = paths.mirror.name if paths.promoted.exists() else None
    return [
        name
        for name in _read_start(paths).files
        if name != taken_away and not (paths.root / name).exists()
    ]


def changed_files(paths: DirectoryPaths) -> list[str]:
    """The small files whose content is not that of the last start. Raises: MalformedError, OSError.

    A person may have edited them, unless they are `FIXED_FILES`.
    """
    known = _read_start(paths).files
    return [
        name
        for name, digest in known.items()
        if digest is not None and (paths.root / name).is_file() and _digest(paths, name) != digest
    ]


def check_nothing_lost(paths: DirectoryPaths) -> None:
    """Check that every part is there that was at the last start, and no `FIXED_FILES` is another.

    Raises: UnavailableError that names them, with what to do; as `changed_files`.
    """
    changed = [name for name in changed_files(paths) if name in FIXED_FILES]
    for names, what in ((missing_files(paths), "gone"), (changed, "not as it was then")):
        if names:
            raise UnavailableError(
                f"{', '.join(names)} in {paths.root} was there when the ledger was last started, "
                f"and is {what}: put it back, as from a backup, or delete {paths.started} if it is "
                "meant"
            )


def remember_files(paths: DirectoryPaths) -> list[str]:
    """Write down which files are there at a start, and their hashes; returns those that are gone.

    They are reported at each start until they are back, or `started.json` is deleted. Raises: as
    `remember_reloaded`.
    """
    with _locked(paths):
        gone = missing_files(paths)
        files: dict[str, str | None] = dict.fromkeys(gone)
        files |= {name: None for name in OPTIONAL_PARTS if (paths.root / name).exists()}
        files |= _digests(paths, SMALL_FILES)
        record = encode_record(StartRecord(dict(sorted(files.items()))))
        if not paths.started.exists() or read_limited(paths.started, TEXT_BYTES_MAX) != record:
            write_atomically(paths.started, record)
        return gone


def remember_reloaded(paths: DirectoryPaths) -> list[str]:
    """Write down the hashes of `RELOADED_FILES` at a reload; returns those that were changed.

    Raises: MalformedError, OSError, UnavailableError while another process holds the lock.
    """
    with _locked(paths):
        known = _read_start(paths).files
        new = _digests(paths, RELOADED_FILES)
        changed = [name for name, digest in new.items() if known.get(name) != digest]
        if changed:
            write_atomically(paths.started, encode_record(StartRecord({**known, **new})))
        return changed


@contextmanager
def changing_files(paths: DirectoryPaths, *names: str) -> Iterator[None]:
    """Have what a command of ours makes of small files within known to the next start.

    A file that somebody else had changed before stays unknown, and is named then. So is one whose
    change was cut off before `started.json` was written: better once too often. Raises: as
    `remember_reloaded`.
    """
    changed = changed_files(paths)
    try:
        yield
    finally:
        with _locked(paths):
            files = _read_start(paths).files
            new = {
                name: digest
                for name, digest in _digests(paths, names).items()
                if files.get(name) is not None and name not in changed
            }
            if new.items() - files.items():
                write_atomically(paths.started, encode_record(StartRecord(files | new)))


@contextmanager
def _locked(paths: DirectoryPaths) -> Iterator[None]:
    """Keep others from writing `started.json`. The kernel releases the lock of a killed process.

    Raises: UnavailableError when another process holds it for long, OSError.
    """
    folder = os.open(paths.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until_s = time.monotonic() + LOCK_WAIT_S
        while not try_lock(folder):
            if time.monotonic() > until_s:
                raise UnavailableError(
                    f"another process has locked the folder {paths.root} for {LOCK_WAIT_S:g} s: "
                    "try again when it has ended"
                )
            time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(folder)


def _digests(paths: DirectoryPaths, names: Iterable[str]) -> dict[str, str | None]:
    return {name: _digest(paths, name) for name in names if (paths.root / name).exists()}


def _digest(paths: DirectoryPaths, name: str) -> str:
    return hashlib.sha256(read_limited(paths.root / name, TEXT_BYTES_MAX)).hexdigest()
