"""The spool of one recorder that lives: it numbers events and appends them to segment files.

A frame is written by one `write` to the file itself, with nothing kept in the process, so it
outlives the process from the moment at which `append` returns. When it outlives the machine is the
policy: `each` syncs before `record` returns (threads that wait together share one sync), `interval`
syncs every so often from a thread of its own, `none` leaves it to the system.

All state is guarded by `lock`. A signal handler may record too, in the middle of a recording of its
own thread, so every lock on this way can be taken again by its holder.
"""

import os
import threading
from contextlib import suppress
from typing import Final, NamedTuple

from ledger_client.recording.frames import HEADER, FrameCodec, format_header, is_enveloped
from ledger_client.recording.options import Fsync, SpoolClosedError
from ledger_client.recording.spool_dir import InstanceDir

FRAME_OVERHEAD_BYTES: Final = HEADER.size + 32
"""What a frame has beside its event: header, number and the marks of msgpack, at most."""

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND


class Position(NamedTuple):
    """A place between two frames."""

    segment: int
    offset: int


class _Segment:
    """A file that is being appended to, or was and isn't synced yet."""

    __slots__ = ("codec", "end", "fd", "is_private", "number", "start")

    def __init__(self, number: int, fd: int, header: bytes) -> None:
        self.number = number
        self.fd = fd
        self.codec = FrameCodec(header)
        self.start = self.end = len(header)
        self.is_private = False


class Spool:
    """Appends to the directory of one recorder. Safe from many threads; not across a fork."""

    def __init__(
        self, home: InstanceDir, *, bytes_max: int, segment_bytes_max: int, fsync: Fsync
    ) -> None:
        """`bytes_max` bounds the whole folder, `others_bytes` being what others hold there."""
        self.home: Final = home
        self.lock: Final = threading.RLock()
        self.room: Final = threading.Condition(self.lock)
        """Notified when there is more room."""
        self.others_bytes = 0  # Set by the sender, now and then.
        self._bytes_max: Final = bytes_max
        self._segment_bytes_max: Final = segment_bytes_max
        self._fsync: Final = fsync
        self._bytes_held = 0
        self._next_seq = 1
        self._appended = 0
        self._is_appending = False
        self._interrupting: list[tuple[bytes, bytes]] = []
        self._segment: _Segment | None = None
        self._sealed: list[_Segment] = []  # Not synced yet.
        self._last_number = 0
        self._sync_lock: Final = threading.RLock()
        self._synced = 0  # Guarded by _sync_lock: of `_appended`.
        self._synced_number = 0  # Guarded by _sync_lock: of `_last_number`.
        self._is_closed = False

    @property
    def appended(self) -> int:
        """The number of frames ever appended."""
        return self._appended

    @property
    def bytes_held(self) -> int:
        """The bytes of the segments that aren't freed yet."""
        return self._bytes_held

    @property
    def tip(self) -> Position:
        """The place behind the last frame."""
        with self.lock:
            if self._segment is None:
                return Position(self._last_number + 1, 0)
            return Position(self._segment.number, self._segment.end)

    def has_room(self, event_bytes: int) -> bool:
        """Tell that an event of this length fits below the limit."""
        held = self._bytes_held + self.others_bytes
        return held + event_bytes + FRAME_OVERHEAD_BYTES <= self._bytes_max

    def take_number(self) -> int:
        """Use up a number for an event that is not kept. Raises: SpoolClosedError."""
        with self.lock:
            if self._is_closed:
                raise SpoolClosedError
            seq = self._next_seq
            self._next_seq = seq + 1
            return seq

    def append(self, head: bytes, tail: bytes) -> None:
        """Write one event, its number standing between `head` and `tail`.

        Whether there is room is the caller's to ask. What a signal handler appends that interrupts
        an append of its own thread is written when that one is through.

        Raises: OSError, with nothing appended; SpoolClosedError.
        """
        with self.lock:
            if self._is_appending:
                self._interrupting.append((head, tail))
                return
            self._is_appending = True
            try:
                self._append(head, tail)
                while self._interrupting:
                    self._append(*self._interrupting.pop(0))
            finally:
                self._is_appending = False

    def retire(self, freed: Position | None) -> None:
        """End the file that is written to if it held private values and all of it is freed.

        Whoever frees it then finds that nobody writes to it any more, and removes it.
        """
        with self.lock:
            segment = self._segment
            if segment is None or not segment.is_private or self._is_appending:
                return
            if freed == Position(segment.number, segment.end):
                self._seal()

    def sync(self) -> None:
        """Make durable what was appended before. Raises: OSError."""
        self._sync_through(self._appended)

    def sync_each(self) -> None:
        """Make durable what was appended before, if that is the policy. Raises: OSError."""
        if self._fsync == "each":
            self._sync_through(self._appended)

    def freed(self, byte_count: int) -> None:
        """Take note that so many bytes are gone from the disk."""
        with self.room:
            self._bytes_held -= byte_count
            self.room.notify_all()

    def close(self) -> None:
        """Close the files, synced where that is the policy, and append no more. Raises: OSError."""
        with self.room:
            self._is_closed = True
            self.room.notify_all()
        try:
            if self._fsync != "none":
                self.sync()
        finally:
            with self._sync_lock, self.lock:
                self._seal()
                self._close_files()

    def abandon(self) -> None:
        """Close this process's copies of the files after a fork: they are the parent's."""
        self._seal()
        self._close_files()

    def _append(self, head: bytes, tail: bytes) -> None:
        if self._is_closed:
            raise SpoolClosedError
        seq = self._next_seq
        self._next_seq = seq + 1
        sent_json = b"%b%d%b" % (head, seq, tail)
        held = self._bytes_held
        try:
            try:
                self._write(seq, sent_json)
            except OSError:
                if self._segment is not None:
                    raise
                # That file was given up. A new one may do: its disk may have room again.
                self._write(seq, sent_json)
        except OSError:
            # A signal handler may have used up the next one.
            if self._next_seq == seq + 1:
                self._next_seq = seq
            raise
        except BaseException:
            # A signal handler raised, as Ctrl-C does. The frame may be there or not: the file's own
            # length says so to whoever reads it, once it is sealed.
            if self._bytes_held == held:
                self._seal()
            raise
        self._appended += 1

    def _begin_segment(self) -> _Segment:
        self._seal()
        number = self._last_number + 1
        header = format_header(self.home.instance, number)
        path = self.home.segment_path(number)
        fd = os.open(path, _NEW_FILE, 0o600)
        try:
            _write_whole(fd, header)
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        self._last_number = number
        self._bytes_held += len(header)
        self._segment = _Segment(number, fd, header)
        return self._segment

    def _write(self, seq: int, sent_json: bytes) -> None:
        segment = self._segment
        if segment is None or segment.end >= self._segment_bytes_max:
            segment = self._begin_segment()
        frame = segment.codec.encode(seq, sent_json)
        try:
            _write_whole(segment.fd, frame)
        except OSError:
            is_whole = False
            # Half a frame may stand there. A reader takes it for one that a crash cut off, as long
            # as nothing comes after it.
            has_frames = segment.end > segment.start
            with suppress(OSError):
                os.ftruncate(segment.fd, segment.end)
                is_whole = True
            if has_frames or not is_whole:
                self._seal()
            raise
        segment.end += len(frame)
        segment.is_private |= is_enveloped(sent_json)
        self._bytes_held += len(frame)

    def _seal(self) -> None:
        if self._segment is not None:
            self._sealed.append(self._segment)
            self._segment = None
        if self._fsync == "none":
            self._close_files()

    def _sync_through(self, appended: int) -> None:
        with self._sync_lock:
            if self._synced >= appended:
                return
            with self.lock:
                upto = self._appended
                sealed = list(self._sealed)
                current = self._segment
                last_number = self._last_number
            for segment in sealed:
                os.fdatasync(segment.fd)
            if current is not None:
                os.fdatasync(current.fd)
            if self._synced_number != last_number:
                self.home.sync()
                self._synced_number = last_number
            with self.lock:
                for segment in sealed:
                    # A signal handler's sync may have been quicker.
                    if segment in self._sealed:
                        self._sealed.remove(segment)
                        os.close(segment.fd)
            self._synced = max(self._synced, upto)

    def _close_files(self) -> None:
        while self._sealed:
            os.close(self._sealed.pop().fd)


def _write_whole(fd: int, data: bytes) -> None:
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, data[done:])
