"""The reading side of one spool directory: the unsent frames in order, and freeing them.

The file `cursor` holds the position up to which the ledger has taken the events. It is written
after an acknowledgement was verified, and a segment is removed when the cursor has passed its end.

Crash windows, and what closes each:

* The process dies between the acknowledgement and the cursor, a crash tears the cursor, or the disk
  does not take it: the events are sent again, and the ledger knows them by their ids.
* The process dies between the cursor's passing a segment and the segment's removal: the next reader
  removes it unread.
* The process died in the middle of a write: half a frame, or a page of zeros, ends the last file.
  Anything else that is no frame is damage, and the file is moved aside for a person to examine.
  So is a file whose frames end before the place up to which it was synced (`synced_marks`).
"""

import os
import struct
from collections.abc import Callable
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from tempfile import mkdtemp
from typing import Final, NamedTuple
from zlib import crc32

from ledger_client.recording.frames import (
    FRAME_BYTES_MAX,
    HEADER,
    Decoded,
    Frame,
    FrameCodec,
    format_header,
)
from ledger_client.recording.open_segment import Position, read_whole
from ledger_client.recording.spool_dir import SEGMENT_SUFFIX, InstanceDir, is_open_to_all
from ledger_client.recording.synced_marks import synced_end
from ledger_client.runtime.files import read_limited
from ledger_core.event.ids import is_uuid

READ_BYTES: Final = 2 << 20
DAMAGED_FOLDER: Final = "damaged"
CURSOR_BYTES_MAX: Final = 64
SEGMENT_FILE_BYTES_MAX: Final = 64 << 20
"""More than any: a segment ends with the frame that brings it to 8 MiB."""

_POSITION: Final = struct.Struct("<QQ")
_CHECKSUM: Final = struct.Struct("<I")
_CURSOR_SEED: Final = crc32(b"witnessed-ledger/cursor@v1")


class Batch(NamedTuple):
    """Consecutive frames."""

    frames: list[Frame]
    end: Position


class Damage(NamedTuple):
    """A segment that is unreadable from some offset on, and was moved aside."""

    instance: str
    segment: int
    bytes_lost: int


class _OpenSegment(NamedTuple):
    number: int
    fd: int
    codec: FrameCodec
    start: int


class SpoolReader:
    """Reads and frees the frames of one directory. For one thread.

    `end_position` returns the end of what a living recorder has appended, and None for an orphan,
    where every file is read to its end.
    """

    def __init__(
        self,
        instance_dir: InstanceDir,
        *,
        batch_events: int,
        end_position: Callable[[], Position | None],
        on_freed: Callable[[int], None],
        on_damage: Callable[[Damage], None],
    ) -> None:
        self.instance_dir: Final = instance_dir
        self._end_position: Final = end_position
        self._on_freed: Final = on_freed
        self._on_damage: Final = on_damage
        self.batch_events = batch_events
        """How many events the next request has: the sender changes it after each."""
        self._open: _OpenSegment | None = None
        self._cursor_fd = os.open(instance_dir.path / "cursor", os.O_RDWR | os.O_CREAT, 0o600)
        self.freed_position: Position | None = self._read_cursor()
        """The place before which everything is in the ledger."""

    def read(self, count_max: int) -> Batch | None:
        """The first frames that aren't freed, the same ones until they are; None for none.

        Raises: OSError.
        """
        while True:
            live_end = self._end_position()
            segment = self._open_first()
            if segment is None:
                return None
            offset = self._offset(segment)
            is_live = live_end is not None and live_end.segment == segment.number
            end = live_end.offset if live_end and is_live else os.fstat(segment.fd).st_size
            if offset < end:
                data = os.pread(segment.fd, min(READ_BYTES, end - offset), offset)
                if not data and not is_live:
                    # Window: after `fstat` the spool cut half a frame off, which had failed.
                    continue
                decoded = segment.codec.decode(data, start=offset, count_max=count_max)
                if decoded.frames:
                    return Batch(decoded.frames, Position(segment.number, decoded.end))
                if not _is_torn(decoded, data, end=end):
                    self._quarantine(segment, bytes_lost=end - offset)
                    continue
            if is_live:
                return None
            synced = synced_end(self.instance_dir.path, segment.number)
            if offset < synced:
                self._quarantine(segment, bytes_lost=synced - offset)
                continue
            self._remove(segment)

    def read_following(self) -> Frame | None:
        """The first frame behind the segment that `read` reads; None for none. Raises: OSError."""
        for number in self.instance_dir.segment_numbers():
            if self._open is None or number <= self._open.number:
                continue
            header = format_header(self.instance_dir.instance, number)
            fd = os.open(self.instance_dir.segment_path(number), os.O_RDONLY)
            try:
                data = os.pread(fd, len(header) + FRAME_BYTES_MAX, 0)
            finally:
                os.close(fd)
            if data.startswith(header):
                start = len(header)
                decoded = FrameCodec(header).decode(data[start:], start=start, count_max=1)
                if decoded.frames:
                    return decoded.frames[0]
        return None

    def free(self, end: Position) -> None:
        """Record that everything before `end` is in the ledger."""
        self.freed_position = end
        position = _POSITION.pack(*end)
        # Window: on a full disk this process alone knows the place. If it dies then, its events are
        # sent again. To wait for room instead would keep the disk full: sent files make room.
        with suppress(OSError):
            os.pwrite(self._cursor_fd, position + _CHECKSUM.pack(crc32(position, _CURSOR_SEED)), 0)

    def open_segment(self) -> dict[int, bytes]:
        """The bytes of the segment that is open for reading, by its number. Raises: OSError."""
        return {} if self._open is None else {self._open.number: read_whole(self._open.fd)}

    def close(self, *, remove: bool) -> None:
        """Close the files; remove the directory, or release its lock so that others adopt it."""
        self._close_segment()
        os.close(self._cursor_fd)
        if remove:
            self.instance_dir.remove()
        else:
            self.instance_dir.release_lock()

    def _read_cursor(self) -> Position | None:
        return _decode_cursor(os.pread(self._cursor_fd, _POSITION.size + _CHECKSUM.size, 0))

    def _open_first(self) -> _OpenSegment | None:
        """Open the segment that the next frame is in, or will be."""
        if self._open is not None:
            return self._open
        for number in self.instance_dir.segment_numbers():
            if self.freed_position is not None and number < self.freed_position.segment:
                # Window: a crash came between the cursor's passing it and its removal.
                self._unlink(number)
                continue
            fd = os.open(self.instance_dir.segment_path(number), os.O_RDONLY)
            header = format_header(self.instance_dir.instance, number)
            self._open = _OpenSegment(number, fd, FrameCodec(header), len(header))
            found = os.pread(fd, len(header), 0)
            # Window: a crash may have cut the header short, or left zeros. No frame follows then.
            if found != header and not header.startswith(found.rstrip(b"\0")):
                self._quarantine(self._open, bytes_lost=os.fstat(fd).st_size)
                continue
            return self._open
        return None

    def _offset(self, segment: _OpenSegment) -> int:
        if self.freed_position is not None and self.freed_position.segment == segment.number:
            return self.freed_position.offset
        return segment.start

    def _remove(self, segment: _OpenSegment) -> None:
        self._close_segment()
        following = segment.number + 1
        header = format_header(self.instance_dir.instance, following)
        # First the cursor: a crash in between leaves a file that the next reader removes.
        self.free(Position(following, len(header)))
        self._unlink(segment.number)

    def _unlink(self, number: int) -> None:
        path = self.instance_dir.segment_path(number)
        size = path.stat().st_size
        path.unlink()
        self._on_freed(size)

    def _quarantine(self, segment: _OpenSegment, *, bytes_lost: int) -> None:
        self._close_segment()
        path = self.instance_dir.segment_path(segment.number)
        size = path.stat().st_size
        aside = _open_damaged(self.instance_dir.path.parent)
        try:
            name = _unused_name(f"{self.instance_dir.instance}.{path.name}", aside)
            os.rename(path, name, dst_dir_fd=aside)
        finally:
            os.close(aside)
        self._on_freed(size)
        self._on_damage(Damage(self.instance_dir.instance, segment.number, bytes_lost))

    def _close_segment(self) -> None:
        if self._open is not None:
            os.close(self._open.fd)
            self._open = None


def count_waiting(folder: Path) -> int:
    """The number of events in a spool folder that the ledger has not acknowledged.

    Changes and locks nothing, so a recorder may work there meanwhile. Raises: OSError,
    MalformedError for a segment that is longer than a recorder makes any.
    """
    return sum(_count_waiting_in(path) for path in folder.iterdir() if is_uuid(path.name))


def _count_waiting_in(path: Path) -> int:
    with suppress(FileNotFoundError):  # Its recorder removes what is sent.
        cursor = path / "cursor"
        freed = _decode_cursor(read_limited(cursor, CURSOR_BYTES_MAX)) if cursor.exists() else None
        count = 0
        for segment in path.glob(f"*{SEGMENT_SUFFIX}"):
            if not (segment.stem.isascii() and segment.stem.isdigit()):
                continue  # No recorder has made it.
            number = int(segment.stem)
            if freed is not None and number < freed.segment:
                continue
            data = read_limited(segment, SEGMENT_FILE_BYTES_MAX)
            header = data[: data.find(b"\n") + 1]
            start = freed.offset if freed and number == freed.segment else len(header)
            decoded = FrameCodec(header).decode(data[start:], start=start, count_max=len(data))
            count += len(decoded.frames)
        return count
    return 0


def _decode_cursor(data: bytes) -> Position | None:
    position, checksum = data[: _POSITION.size], data[_POSITION.size :]
    if checksum != _CHECKSUM.pack(crc32(position, _CURSOR_SEED)):
        return None
    return Position(*_POSITION.unpack(position))


def _is_torn(decoded: Decoded, data: bytes, *, end: int) -> bool:
    """Whether the bytes that end a file are what a crash leaves of its last frame."""
    if decoded.rest == "short":
        return True
    if decoded.end + len(data) == end and not data.strip(b"\0"):
        return True
    if len(data) < HEADER.size:
        return False
    # The length is there and the file ends where it says, but some page of it was not written.
    length, _ = HEADER.unpack_from(data)
    return bool(decoded.end + HEADER.size + length == end)


def _open_damaged(spool: Path) -> int:
    """Open the folder for damaged segments. In a spool folder that is open to all, one that another
    user made, or a link, would hand them our events: then a new one is made. Raises: OSError.
    """
    folder = spool / DAMAGED_FOLDER
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    flags = os.O_RDONLY | os.O_DIRECTORY
    if not is_open_to_all(spool):
        return os.open(folder, flags)
    with suppress(OSError):
        fd = os.open(folder, flags | os.O_NOFOLLOW)
        if os.fstat(fd).st_uid == os.geteuid():
            return fd
        os.close(fd)
    return os.open(mkdtemp(prefix=f"{DAMAGED_FOLDER}-", dir=spool), flags | os.O_NOFOLLOW)


def _unused_name(name: str, folder_fd: int) -> str:
    taken = set(os.listdir(folder_fd))
    names = chain([name], (f"{name}.{number}" for number in count(1)))
    return next(each for each in names if each not in taken)
