"""The directory of a recorder from its other side: what isn't sent yet, in order, and freeing it.

The cursor says how far the ledger has taken the events. It is written after an acknowledgement was
verified, and a segment is removed when the cursor has passed its end. A cursor that a crash lost or
tore counts as none: then events are sent again, and their ids tell the ledger that it has them.
"""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

from ledger_client.recording.frames import HEADER, Decoded, Frame, FrameCodec, format_header
from ledger_client.recording.spool import Position
from ledger_client.recording.spool_dir import InstanceDir

READ_BYTES: Final = 2 << 20
DAMAGED_FOLDER: Final = "damaged"

_CURSOR: Final = struct.Struct("<QQI")
_CURSOR_TAG: Final = b"witnessed-ledger/cursor@v1"


class Batch(NamedTuple):
    """Consecutive frames."""

    frames: list[Frame]
    end: Position


class Damage(NamedTuple):
    """A segment that can't be read from some offset on; it was moved aside."""

    instance: str
    segment: int
    bytes_lost: int


class _Open(NamedTuple):
    number: int
    fd: int
    codec: FrameCodec


class SpoolReader:
    """Reads and frees the frames of one directory. For one thread.

    `tip` gives the end of what a living recorder has appended; None for a directory that was left
    behind, where all of every file counts.
    """

    def __init__(
        self,
        home: InstanceDir,
        *,
        tip: Callable[[], Position | None],
        on_freed: Callable[[int], None],
        on_damage: Callable[[Damage], None],
    ) -> None:
        self.home: Final = home
        self._tip: Final = tip
        self._on_freed: Final = on_freed
        self._on_damage: Final = on_damage
        self._open: _Open | None = None
        self._cursor_fd = os.open(home.path / "cursor", os.O_RDWR | os.O_CREAT, 0o600)
        self._at: Position | None = self._read_cursor()

    @property
    def at(self) -> Position | None:
        """Everything before this place is in the ledger."""
        return self._at

    def read(self, count_max: int) -> Batch | None:
        """The first frames that aren't freed; None when there are none.

        The same again until they are freed. Raises: OSError.
        """
        while True:
            tip = self._tip()
            segment = self._open_first()
            if segment is None:
                return None
            offset = self._offset(segment)
            is_live = tip is not None and tip.segment == segment.number
            end = tip.offset if is_live and tip is not None else os.fstat(segment.fd).st_size
            if offset < end:
                data = os.pread(segment.fd, min(READ_BYTES, end - offset), offset)
                if not data and not is_live:
                    # Half a frame, for which the disk had no room, was taken back in between.
                    continue
                decoded = segment.codec.decode(data, start=offset, count_max=count_max)
                if decoded.frames:
                    return Batch(decoded.frames, Position(segment.number, decoded.end))
                if not _is_torn(decoded, data, end=end):
                    self._set_aside(segment, bytes_lost=end - offset)
                    continue
            if is_live:
                return None
            self._remove(segment)

    def free(self, end: Position) -> None:
        """Say that everything before `end` is in the ledger. Raises: OSError."""
        self._at = end
        fields = _CURSOR.pack(end.segment, end.offset, 0)[:16]
        os.pwrite(self._cursor_fd, fields + struct.pack("<I", crc32(fields, crc32(_CURSOR_TAG))), 0)

    def close(self, *, remove: bool) -> None:
        """Close the files; with `remove` the directory goes too, else others may take it over."""
        self._close_segment()
        os.close(self._cursor_fd)
        if remove:
            self.home.remove()
        else:
            self.home.leave()

    def _read_cursor(self) -> Position | None:
        data = os.pread(self._cursor_fd, _CURSOR.size, 0)
        if len(data) != _CURSOR.size:
            return None
        segment, offset, checksum = _CURSOR.unpack(data)
        if crc32(data[:16], crc32(_CURSOR_TAG)) != checksum:
            return None
        return Position(segment, offset)

    def _open_first(self) -> _Open | None:
        """The segment that the next frame is in, or may be."""
        if self._open is not None:
            return self._open
        for number in self.home.segments():
            if self._at is not None and number < self._at.segment:
                # A crash came between the cursor's passing it and its removal.
                self._unlink(number)
                continue
            fd = os.open(self.home.segment_path(number), os.O_RDONLY)
            header = format_header(self.home.instance, number)
            self._open = _Open(number, fd, FrameCodec(header))
            found = os.pread(fd, len(header), 0)
            if found != header and not header.startswith(found.rstrip(b"\0")):
                self._set_aside(self._open, bytes_lost=os.fstat(fd).st_size)
                continue
            return self._open
        return None

    def _offset(self, segment: _Open) -> int:
        if self._at is not None and self._at.segment == segment.number:
            return self._at.offset
        return len(format_header(self.home.instance, segment.number))

    def _remove(self, segment: _Open) -> None:
        self._close_segment()
        following = segment.number + 1
        self.free(Position(following, len(format_header(self.home.instance, following))))
        self._unlink(segment.number)

    def _unlink(self, number: int) -> None:
        path = self.home.segment_path(number)
        size = path.stat().st_size
        path.unlink()
        self._on_freed(size)

    def _set_aside(self, segment: _Open, *, bytes_lost: int) -> None:
        self._close_segment()
        path = self.home.segment_path(segment.number)
        size = path.stat().st_size
        aside = self.home.path.parent / DAMAGED_FOLDER
        aside.mkdir(mode=0o700, exist_ok=True)
        path.rename(_free_name(aside / f"{self.home.instance}.{path.name}"))
        self._on_freed(size)
        self._on_damage(Damage(self.home.instance, segment.number, bytes_lost))

    def _close_segment(self) -> None:
        if self._open is not None:
            os.close(self._open.fd)
            self._open = None


def _is_torn(decoded: Decoded, data: bytes, *, end: int) -> bool:
    """Tell that what stands at the end of a file is what a crash leaves of its last frame."""
    if decoded.rest == "short":
        return True
    if decoded.end + len(data) == end and not data.strip(b"\0"):
        return True
    if len(data) < HEADER.size:
        return False
    # The length is there and the file ends as it says, but some page of it was not written.
    length, _ = HEADER.unpack_from(data)
    return bool(decoded.end + HEADER.size + length == end)


def _free_name(path: Path) -> Path:
    count = 0
    while path.exists():
        count += 1
        path = path.with_name(f"{path.name}.{count}")
    return path
