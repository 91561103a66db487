"""Opens a .zip from a stranger, and names what does not belong in it.

A file costs no more than its size: its directory is limited before it is read, each entry before it
is decompressed, and only deflate is decompressed, because zipfile has no limit for other methods.

Whoever unpacks a bundle and zips it again changes the order, the times and the compression, and
may add folders; all of that is accepted, also one folder around everything. Comments, and bytes
before, between or behind the files, are named: readers of .zip pass over them, so they could hold
anything.
"""

import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ledger_core.evidence.layout import MANIFEST
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.text import excerpt

FILES_MAX: Final = 40_100
"""Of the first edition, two for each of 20,000 events; a bundle of today has fewer."""

DIRECTORY_BYTES_MAX: Final = 256 * FILES_MAX
"""A file takes 46 bytes, its name, and what other packers add for times and owners."""

READ_BYTES: Final = 1 << 16

_LOCAL_HEADER_BYTES: Final = 30
_DIRECTORY_ENTRY_BYTES: Final = 46
_END_BYTES: Final = 22
_ZIP64_END_BYTES: Final = 76
_DESCRIPTOR_BYTES_MAX: Final = 24
_COMMENT_BYTES_MAX: Final = 0xFFFF
_HAS_DESCRIPTOR: Final = 0x08
_IS_UTF8: Final = 0x800
_END_MARK: Final = b"PK\x05\x06"

_JUNK: Final = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
_JUNK_FOLDER: Final = "__MACOSX/"

_UNREADABLE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,  # The file is encrypted.
    ValueError,
    struct.error,
)


class Archive:
    """The files of a .zip by name, without folders. Use it in a `with` block."""

    def __init__(self, path: Path) -> None:
        """Raises: MalformedError for a file that is no whole .zip, or is beyond a limit."""
        self._file: Final = _BoundedFile(path)
        try:
            self._zip: Final = zipfile.ZipFile(self._file)
            self._infos: Final = self._list_files()
            self.odd_bytes: Final = tuple(_odd_bytes(self._zip, self._file))
            """What the .zip holds beside its files."""
        except BaseException as error:
            self._file.close()
            if isinstance(error, MalformedError) or not isinstance(error, _UNREADABLE):
                raise
            raise MalformedError(f"{path.name} is not a whole .zip: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._zip.close()
        self._file.close()

    @property
    def names(self) -> list[str]:
        """The names of all files, in the order of the directory."""
        return list(self._infos)

    def read(self, name: str, bytes_max: int) -> bytes:
        """A file of limited size, whatever size the archive states. Raises: MalformedError."""
        return b"".join(self._pieces(name, bytes_max))

    def lines(self, name: str, line_bytes_max: int) -> Iterator[bytes]:
        """The lines of a file of any length, without their newlines. Raises: MalformedError."""
        held = b""
        for piece in self._pieces(name, None):
            *lines, held = (held + piece).split(b"\n")
            if max(map(len, (*lines, held))) > line_bytes_max:
                raise MalformedError(f"a line of {name} is longer than {line_bytes_max} bytes")
            yield from lines
        if held:
            raise MalformedError(f"the last line of {name} does not end with a newline")

    def sha256(self, name: str, bytes_max: int) -> str:
        """The SHA-256 of a file in hexadecimal. Raises: MalformedError."""
        digest = hashlib.sha256()
        for piece in self._pieces(name, bytes_max):
            digest.update(piece)
        return digest.hexdigest()

    def _pieces(self, name: str, bytes_max: int | None) -> Iterator[bytes]:
        if name not in self._infos:
            raise MalformedError(f"{name} is missing")
        size = 0
        try:
            with self._zip.open(self._infos[name]) as file:
                while piece := file.read(READ_BYTES):
                    size += len(piece)
                    if bytes_max is not None and size > bytes_max:
                        break
                    yield piece
        except _UNREADABLE as error:
            raise MalformedError(f"{excerpt(name)} can't be read: {error}") from None
        if bytes_max is not None and size > bytes_max:
            raise MalformedError(f"{excerpt(name)} is longer than {bytes_max} bytes")

    def _list_files(self) -> dict[str, zipfile.ZipInfo]:
        # `ZipInfo.is_dir` of Python 3.11 fails for a file without a name.
        infos = [info for info in self._zip.infolist() if not info.filename.endswith("/")]
        if len(infos) > FILES_MAX:
            raise MalformedError(f"got {len(infos)} files, want {FILES_MAX} at most")
        for info in infos:
            if not info.filename:
                raise MalformedError("a file in it has no name")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise MalformedError(f"{excerpt(info.filename)} is not compressed with deflate")
        folder = _common_folder([info.filename for info in infos])
        found: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            name = info.filename.removeprefix(folder)
            if name in found:
                raise MalformedError(f"the name {excerpt(name)} stands twice in it")
            found[name] = info
        return found


def is_junk(name: str) -> bool:
    """Whether a file is one that a desktop adds by itself."""
    return name.rpartition("/")[2] in _JUNK or _JUNK_FOLDER in name


def _common_folder(names: list[str]) -> str:
    """The folder that holds the bundle, with its slash; empty for none."""
    if MANIFEST in names:
        return ""
    folders = [
        name.removesuffix(MANIFEST)
        for name in names
        if name.endswith(f"/{MANIFEST}") and name.count("/") == 1
    ]
    return folders[0] if len(folders) == 1 else ""


class _BoundedFile(io.FileIO):
    """A file that refuses a read larger than any that a .zip of evidence needs.

    Zipfile reads the directory in one piece, as large as the file states, and keeps an object of it
    for each entry.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        """Raises: MalformedError for more than `DIRECTORY_BYTES_MAX`."""
        want = DIRECTORY_BYTES_MAX + 1 if size is None or size < 0 else size
        data = super().read(min(want, DIRECTORY_BYTES_MAX + 1)) or b""
        if len(data) > DIRECTORY_BYTES_MAX:
            raise MalformedError(f"a directory has at most {DIRECTORY_BYTES_MAX} bytes")
        return data


def _odd_bytes(archive: zipfile.ZipFile, file: io.FileIO) -> Iterator[str]:
    """The bytes of a .zip that no reader of it shows. Raises: MalformedError, and as reading it."""
    if archive.comment:
        yield f"a comment of {len(archive.comment)} bytes"
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    if commented := sum(bool(info.comment) for info in infos):
        yield f"comments of {commented} files"
    end = slack = between = 0
    for info in infos:
        gap = info.header_offset - end
        if end == 0 and gap > 0:
            yield f"{gap} bytes before the first file"
        elif gap < 0:
            # Its bytes would be decompressed once for each of its names.
            raise MalformedError(f"{excerpt(info.filename)} overlaps another file")
        elif gap > slack:
            between += gap
        file.seek(info.header_offset)
        name_bytes, extra_bytes = struct.unpack("<HH", file.read(_LOCAL_HEADER_BYTES)[26:])
        end = info.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes
        end += info.compress_size
        slack = _DESCRIPTOR_BYTES_MAX if info.flag_bits & _HAS_DESCRIPTOR else 0
    if archive.start_dir - end > slack:
        between += archive.start_dir - end
    size = file.seek(0, io.SEEK_END)
    tail_start = file.seek(max(0, size - _END_BYTES - _COMMENT_BYTES_MAX))
    end_record = tail_start + file.read(_END_BYTES + _COMMENT_BYTES_MAX).rfind(_END_MARK)
    gap = end_record - archive.start_dir - sum(map(_directory_entry_bytes, infos))
    if gap not in (0, _ZIP64_END_BYTES):
        between += abs(gap)
    if between:
        yield f"{between} bytes between the files"
    if (behind := size - end_record - _END_BYTES - len(archive.comment)) > 0:
        yield f"{behind} bytes behind the end"


def _directory_entry_bytes(info: zipfile.ZipInfo) -> int:
    encoding = "utf-8" if info.flag_bits & _IS_UTF8 else "cp437"
    name = info.orig_filename.encode(encoding)
    return _DIRECTORY_ENTRY_BYTES + len(name) + len(info.extra) + len(info.comment)
