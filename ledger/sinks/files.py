"""JSON lines in a file, with rotation.

`audit.jsonl` is appended to. When it is long enough, it is renamed to
`audit.000000000000-000000065535.jsonl`, by the indices of its first and last line, and a new one is
begun. A batch is confirmed when it is on the disk. A kill can leave a part of a line, which the
next start cuts off, and lines that come again.
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from ledger.sinks.config import SinkConfig
from ledger.sinks.receiver import RetryError, Sent
from ledger.sinks.record import Record
from ledger_client.runtime.files import sync_directory

LINE_BYTES_MAX: Final = 1 << 20


class _Line(msgspec.Struct, frozen=True):
    index: int


class FileReceiver:
    """Appends to one file. Blocks while the disk writes: the process has nothing else to do."""

    def __init__(self, config: SinkConfig) -> None:
        self._path: Final = Path(config.path)
        self._rotate_bytes: Final = config.rotate_bytes
        self._keep_files: Final = config.keep_files
        self._mode: Final = int(config.file_mode, 8)
        self._file: BinaryIO | None = None
        self._span: tuple[int, int] | None = None  # Lowest and highest index of the file.

    async def send(self, records: Sequence[Record]) -> Sent:
        """Append a line for each record. Raises: RetryError."""
        try:
            file = self._open()
            if file.tell() >= self._rotate_bytes:
                file = self._rotate()
            file.write(b"".join([record.json + b"\n" for record in records]))
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            await self.close()  # The next attempt cuts off what was half written.
            raise RetryError(f"{self._path}: {error.strerror}") from None
        indices = [record.index for record in records]
        self._span = _unite(self._span, (min(indices), max(indices)))
        return Sent()

    async def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:
                return  # What it could not write is not confirmed.

    def _open(self) -> BinaryIO:
        if self._file is not None and self._is_current(self._file):
            return self._file
        if self._file is not None:
            self._file.close()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.fdopen(os.open(self._path, flags, self._mode), "r+b")
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise RetryError(f"{self._path} is not a regular file")
        self._file = file
        os.fchmod(file.fileno(), self._mode)
        sync_directory(self._path.parent)
        self._cut_torn_line(file)
        self._span = self._read_span(file)
        file.seek(0, os.SEEK_END)
        return file

    def _is_current(self, file: BinaryIO) -> bool:
        """Whether the path still leads to the file: another program may have rotated it."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return False
        opened = os.fstat(file.fileno())
        return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)

    def _rotate(self) -> BinaryIO:
        first, last = self._span or (0, 0)
        stem, suffix = self._path.stem, self._path.suffix
        target = self._path.with_name(f"{stem}.{first:012}-{last:012}{suffix}")
        number = 1
        while target.exists():  # After a rewind the same entries come again.
            target = self._path.with_name(f"{stem}.{first:012}-{last:012}.{number}{suffix}")
            number += 1
        self._path.rename(target)
        sync_directory(self._path.parent)
        if self._keep_files:
            for old in self._rotated()[: -self._keep_files]:
                old.unlink(missing_ok=True)
        return self._open()

    def _rotated(self) -> list[Path]:
        """The rotated files, the oldest first."""
        digits = "[0-9]" * 12
        pattern = f"{_literal(self._path.stem)}.{digits}-{digits}*{_literal(self._path.suffix)}"
        return sorted(self._path.parent.glob(pattern), key=lambda path: path.stat().st_mtime_ns)

    def _cut_torn_line(self, file: BinaryIO) -> None:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - LINE_BYTES_MAX)
        file.seek(start)
        end = file.read()
        if end and not end.endswith(b"\n"):
            file.truncate(start + end.rfind(b"\n") + 1)

    def _read_span(self, file: BinaryIO) -> tuple[int, int] | None:
        file.seek(0)
        first = file.readline(LINE_BYTES_MAX)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LINE_BYTES_MAX))
        last = file.read().rstrip(b"\n").rpartition(b"\n")[2]
        try:
            indices = [msgspec.json.decode(line, type=_Line).index for line in (first, last)]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None  # Another form, or somebody else's lines: named by 0.
        return min(indices), max(indices)


def _unite(one: tuple[int, int] | None, two: tuple[int, int]) -> tuple[int, int]:
    return two if one is None else (min(one[0], two[0]), max(one[1], two[1]))


def _literal(text: str) -> str:
    """Escape text for a glob, so that it matches itself."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in text)
