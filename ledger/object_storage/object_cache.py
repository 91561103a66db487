"""A bounded cache of objects of a bucket on the local disk.

    DIR/cache/5f/1a0c…     "ledger cached 1\\n" ‖ SHA-256 of name and data, 32 bytes ‖ data

The name of a file is the SHA-256 of the object's. A file is written aside and renamed, and is not
synced: what a crash leaves of it does not match its hash, and is removed when it is read. The least
recently used files go first, before a new one is written, so the folder never takes more than its
bound. One process at a time uses a folder.
"""

import hashlib
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Final

import structlog

from ledger_client.runtime.files import read_limited
from ledger_core.tlog.errors import MalformedError

_MAGIC: Final = b"ledger cached 1\n"
_HASH_BYTES: Final = 32
_HEAD_BYTES: Final = len(_MAGIC) + _HASH_BYTES
_BLOCK: Final = 4096
"""What a file takes of the disk is rounded up to this."""

_NEW: Final = ".new"

_log = structlog.get_logger("ledger.reader")


class ObjectCache:
    """The cache in one folder. Safe from any thread."""

    def __init__(self, folder: Path, *, bytes_max: int) -> None:
        """Use the files that an earlier process left; 0 bytes: nothing is kept. Raises: OSError."""
        if bytes_max:
            folder.mkdir(mode=0o700, exist_ok=True)
        self.bytes_max: Final = bytes_max
        self.bytes_used = 0
        self._folder: Final = folder
        self._lock: Final = threading.Lock()
        self._sizes: Final[OrderedDict[str, int]] = OrderedDict()
        self._is_failing = False
        if bytes_max:
            self._scan()

    def read(self, name: str) -> bytes | None:
        """The data that was kept under a name; None when there is none, or it was damaged."""
        key = _key(name)
        with self._lock:
            if key not in self._sizes:
                return None
            self._sizes.move_to_end(key)
            size = self._sizes[key]
        path = self._path(key)
        try:
            stored = read_limited(path, size)
            os.utime(path)
        except FileNotFoundError:
            # Another thread made room since the look above, or somebody emptied the folder.
            self.remove(name)
            return None
        except (MalformedError, OSError):
            stored = b""
        data = stored[_HEAD_BYTES:]
        if stored[:_HEAD_BYTES] == _head(name, data):
            return data
        _log.warning("cached_object_damaged", path=str(path))
        self.remove(name)
        return None

    def keep(self, name: str, data: bytes) -> None:
        """Keep data that was verified, if it is not too large for the cache."""
        key, size = _key(name), _taken(_HEAD_BYTES + len(data))
        with self._lock:
            if key in self._sizes or size > self.bytes_max:
                return
            while self.bytes_used + size > self.bytes_max:
                old, old_size = self._sizes.popitem(last=False)
                self._unlink(old, old_size)
            path = self._path(key)
            aside = path.with_name(f"{path.name}{_NEW}")
            try:
                path.parent.mkdir(mode=0o700, exist_ok=True)
                aside.write_bytes(_head(name, data) + data)
                aside.replace(path)
            except OSError as error:
                self._note_failure(error)
                aside.unlink(missing_ok=True)
                return
            self._is_failing = False
            self._sizes[key] = size
            self.bytes_used += size

    def remove(self, name: str) -> None:
        """Forget an object."""
        key = _key(name)
        with self._lock:
            size = self._sizes.pop(key, None)
            if size is not None:
                self._unlink(key, size)

    def _scan(self) -> None:
        """Count the files in the order of their last use; remove the oldest beyond the limit."""
        found: list[tuple[int, str, int]] = []
        for path in self._folder.glob("??/*"):
            if path.name.endswith(_NEW):
                path.unlink(missing_ok=True)
                continue
            status = path.stat()
            found.append((status.st_mtime_ns, path.parent.name + path.name, status.st_size))
        for _, key, length in sorted(found):
            self._sizes[key] = _taken(length)
            self.bytes_used += _taken(length)
        while self.bytes_used > self.bytes_max:
            self._unlink(*self._sizes.popitem(last=False))

    def _unlink(self, key: str, size: int) -> None:
        self.bytes_used -= size
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            self._note_failure(error)

    def _note_failure(self, error: OSError) -> None:
        if not self._is_failing:
            self._is_failing = True
            _log.warning("cache_unwritable", folder=str(self._folder), reason=error.strerror)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key[2:]


def _key(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _head(name: str, data: bytes) -> bytes:
    hash_ = hashlib.sha256(name.encode() + b"\0")
    hash_.update(data)
    return _MAGIC + hash_.digest()


def _taken(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK
