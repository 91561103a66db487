"""The plain files and folders of a backup, whose folder others than the ledger's user may write.

Nothing of it is followed: a link in a backup could lead to another ledger's keys, which would be
destroyed or copied, or back to its own folder, which would be copied without an end.
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from ledger.store.key_slots import KEYS_FILE
from ledger_client.runtime.files import create_file, sync_directory
from ledger_core.tlog.errors import MalformedError, VerificationError

FILE_BYTES_MAX: Final = 64 << 20
"""Of a plain file. Each is read in one piece, as the service reads it."""


def copy_files(source: Path, to: Path, names: Iterable[str]) -> dict[str, str]:
    """Copy those of the files that there are; returns the SHA-256 of each.

    Raises: MalformedError for one that is too long.
    """
    digests = {}
    for name in names:
        if (source / name).exists():
            data = _read(source / name)
            create_file(to / name, data)
            digests[name] = hashlib.sha256(data).hexdigest()
    if (source / "evidence").is_dir() and not (to / "evidence").exists():
        copy_tree(source / "evidence", to / "evidence")
    return digests


def check_files(digests: Mapping[str, str], parts: Path, *, known: Iterable[str]) -> None:
    """Check that the files of a backup are those of its manifest.

    Raises: MalformedError, VerificationError, which name the file.
    """
    for name, want in digests.items():
        if name not in known:
            raise MalformedError(f"the manifest names a file that no backup has: {name!r}")
        if not (parts / name).is_file():
            raise VerificationError(f"{parts / name} is missing")
        if hashlib.sha256(_read(parts / name)).hexdigest() != want:
            raise VerificationError(f"{parts / name} is not the file that was backed up")


def check_plain(folder: Path) -> None:
    """Check that there is nothing but files and folders. Raises: VerificationError."""
    for path in (folder, *folder.rglob("*")):
        mode = path.lstat().st_mode
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise VerificationError(f"{path} is a link, or no file: no backup has one")


def copy_tree(source: Path, to: Path) -> None:
    """Copy a folder that nobody writes, durably; locks and links stay behind."""
    to.mkdir(mode=0o700)
    for path in sorted(source.iterdir()):
        if path.is_symlink():
            continue
        if path.is_dir():
            copy_tree(path, to / path.name)
        elif path.suffix != ".lock" and path.name != "lock.mdb":
            shutil.copyfile(path, to / path.name)
            (to / path.name).chmod(0o600)
            with (to / path.name).open("rb+") as file:
                os.fsync(file.fileno())
    sync_directory(to)


def destroy(parts: Path) -> None:
    """Delete the parts of the backup before; first their keys, which free blocks would keep.

    Of a link, the link alone.
    """
    if parts.is_symlink() or not parts.is_dir():
        parts.unlink()
        return
    keys = parts / "private" / KEYS_FILE
    if not keys.parent.is_symlink() and not keys.is_symlink() and keys.is_file():
        descriptor = os.open(keys, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "wb") as file:
            found = os.fstat(descriptor)
            if found.st_nlink == 1:  # Another name may be that of the ledger's own file.
                file.write(bytes(found.st_size))
                file.flush()
                os.fsync(descriptor)
    shutil.rmtree(parts)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise MalformedError(f"{path} has more than {FILE_BYTES_MAX} bytes")
    return data
