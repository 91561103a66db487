"""Opens a .zip from a stranger, and names what does not belong in it.

A file costs no more than its size: its directory is limited before it is read, each entry before it
is decompressed, and only deflate is decompressed, because zipfile has no limit for other methods.

Whoever unpacks a bundle and zips it again changes the order, the times and the compression, and
may add folders; all of that is accepted, also one folder around everything. Comments, and bytes
before, between or behind the files, are named: readers of .zip pass over them, so they could hold
anything. So is what another reader of .zip would unpack as another file: a second name in an extra
field, or a file whose own header disagrees with the directory.
"""

import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ledger_core.evidence.layout import MANIFEST
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.text import excerpt

FILES_MAX: Final = 40_100
"""Of the first edition, two for each of 20,000 events; a bundle of today has fewer."""

DIRECTORY_BYTES_MAX: Final = 256 * FILES_MAX
"""A file takes 46 bytes, its name, and what other packers add for times and owners."""

READ_BYTES: Final = 1 << 16

_LOCAL_HEADER: Final = struct.Struct("<4s5H3L2H")
_LOCAL_MARK: Final = b"PK\x03\x04"
_IN_ZIP64: Final = 0xFFFFFFFF
_EXTRA_HEAD: Final = struct.Struct("<HH")
_UNICODE_PATH: Final = 0x7075
_UNICODE_PATH_HEAD_BYTES: Final = 5
_DIRECTORY_ENTRY_BYTES: Final = 46
_END_BYTES: Final = 22
_ZIP64_END_BYTES: Final = 76
_DESCRIPTOR_BYTES_MAX: Final = 24
_COMMENT_BYTES_MAX: Final = 0xFFFF
_HAS_DESCRIPTOR: Final = 0x08
_IS_UTF8: Final = 0x800
_END_MARK: Final = b"PK\x05\x06"

_JUNK: Final = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
_JUNK_FOLDER: Final = "__MACOSX"
_NO_NAMES: Final = frozenset({"", ".", ".."})

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
    """Whether a file is one that a desktop adds by itself, in its place."""
    *folders, last = name.split("/")
    if "\\" in name or not _NO_NAMES.isdisjoint((*folders, last)):
        return False  # Unpacked, it would be in another place than its name begins with.
    return last in _JUNK or _JUNK_FOLDER in folders


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
    yield from _odd_files(infos, file)
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
        _, name, extra = _read_header(info, file)
        end = info.header_offset + _LOCAL_HEADER.size + len(name) + len(extra) + info.compress_size
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


def _odd_files(infos: list[zipfile.ZipInfo], file: io.FileIO) -> Iterator[str]:
    """What single files of a .zip have beside their name and content."""
    if commented := sum(bool(info.comment) for info in infos):
        yield f"comments of {commented} files"
    if hidden := sum(bool(info.file_size) for info in infos if info.filename.endswith("/")):
        yield f"{hidden} folders with a content"
    if outside := sum(_is_outside(info.filename) for info in infos):
        yield f"{outside} names that lead out of the folder in which it is unpacked"
    folder = _common_folder([info.filename for info in infos])
    if other := sum(not _is_unpacked_alike(info, file, folder) for info in infos):
        yield f"{other} files that other programs unpack under other names, or as other files"


def _is_outside(name: str) -> bool:
    """Whether a file or a folder of this name may be unpacked above or beside the others."""
    folders = name.removesuffix("/").split("/")
    return not _NO_NAMES.isdisjoint(folders) or not {"\\", ":", "\0"}.isdisjoint(name)


def _read_header(info: zipfile.ZipInfo, file: io.FileIO) -> tuple[tuple[Any, ...], bytes, bytes]:
    """The header before a file: its numbers, its name and its extra fields."""
    file.seek(info.header_offset)
    head = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    return head, file.read(head[-2]), file.read(head[-1])


def _is_unpacked_alike(info: zipfile.ZipInfo, file: io.FileIO, folder: str) -> bool:
    """Whether programs that read the header of a file alone, or its extra fields, see this file.

    A file that was written as a stream has its sizes behind it.
    """
    (mark, _, flags, method, _, _, *sizes, _, _), name, extra = _read_header(info, file)
    wanted = (info.CRC, info.compress_size, info.file_size)
    is_stream = flags & _HAS_DESCRIPTOR
    return (
        (mark, method, name) == (_LOCAL_MARK, info.compress_type, _name_bytes(info))
        and all(
            got in (want, _IN_ZIP64) or (is_stream and got == 0)
            for got, want in zip(sizes, wanted, strict=True)
        )
        and _has_its_name(extra, info.filename, folder)
        and _has_its_name(info.extra, info.filename, folder)
    )


def _has_its_name(extra: bytes, name: str, folder: str) -> bool:
    """Whether an extra field with a name, which some programs prefer, has the name of the file.

    The folder around everything may be spelled in another way: packers write the field for one that
    is not ASCII.
    """
    while len(extra) >= _EXTRA_HEAD.size:
        kind, size = _EXTRA_HEAD.unpack_from(extra)
        field, extra = extra[_EXTRA_HEAD.size :][:size], extra[_EXTRA_HEAD.size + size :]
        if kind != _UNICODE_PATH:
            continue
        other = field[_UNICODE_PATH_HEAD_BYTES:].decode(errors="replace")
        inner = name.removeprefix(folder)
        if other != name and (inner == name or other.partition("/")[2] != inner):
            return False
    return True


def _directory_entry_bytes(info: zipfile.ZipInfo) -> int:
    return _DIRECTORY_ENTRY_BYTES + len(_name_bytes(info)) + len(info.extra) + len(info.comment)


def _name_bytes(info: zipfile.ZipInfo) -> bytes:
    return info.orig_filename.encode("utf-8" if info.flag_bits & _IS_UTF8 else "cp437")
