"""The writing side of one spool directory: numbers events and appends them to segment files.

One `write` puts a whole frame into the file itself, and nothing is buffered in the process, so the
frame outlives the process once `append` has returned. `fsync` decides when it outlives the machine:
`each` syncs before `record` returns (threads that wait together share one sync), `interval` syncs
regularly from a thread of its own, `none` leaves it to the system.

`lock` guards all state. A signal handler may record in the middle of a recording of its own thread,
so every lock on this path is reentrant.

Crash windows, and what closes each:

* The process dies in the middle of a write: half a frame ends the file. The reader takes it for no
  event, since `record` had not returned; a new process writes to a directory of its own.
* A write fails in the middle (disk full): the half frame is cut off again, or the file is sealed,
  so that no frame ever follows a half one.
* A signal handler raises in the middle of a write: nobody knows how much was written. The file is
  sealed, and its reader decides.
* The machine loses power: a sync covers the file's data and, for a new file, the directory's entry.
"""

import logging
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from ledger_client.recording.frames import HEADER, FrameCodec, format_header, is_enveloped
from ledger_client.recording.options import Fsync, SpoolClosedError
from ledger_client.recording.spool_dir import InstanceDir

if TYPE_CHECKING:
    from ledger_client.recording.encoding import EncodedEvent

FRAME_OVERHEAD_BYTES: Final = HEADER.size + 32
"""What a frame has beside its event, at most: header, number and the type bytes of msgpack."""

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
_log = logging.getLogger("ledger_client.recorder")


class Position(NamedTuple):
    """A place between two frames."""

    segment: int
    offset: int


class _Segment:
    """A file that is open for appending, or is sealed and not synced yet."""

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
        self, instance_dir: InstanceDir, *, bytes_max: int, segment_bytes_max: int, fsync: Fsync
    ) -> None:
        """`bytes_max` is for the whole folder, of which other recorders hold `others_bytes`."""
        self.instance_dir: Final = instance_dir
        self.lock: Final = threading.RLock()
        self.room: Final = threading.Condition(self.lock)
        """Notified when there is more room."""
        self.others_bytes = 0  # The sender sets it regularly.
        self.appended = 0  # The number of frames ever appended.
        self.bytes_held = 0  # By the segments that aren't freed yet.
        self._instance: Final = instance_dir.instance.encode()
        self._bytes_max: Final = bytes_max
        self._segment_bytes_max: Final = segment_bytes_max
        self._fsync: Final = fsync
        self._next_seq = 1
        self._is_appending = False
        self._interrupting: list[EncodedEvent] = []
        self._segment: _Segment | None = None
        self._sealed: list[_Segment] = []  # Not synced yet.
        self._last_number = 0
        self._sync_lock: Final = threading.RLock()
        self._synced = 0  # Guarded by _sync_lock: how many of `appended` are durable.
        self._synced_number = 0  # Guarded by _sync_lock: the `_last_number` whose name is durable.
        self._is_closed = False

    @property
    def end_position(self) -> Position:
        """The place behind the last frame."""
        with self.lock:
            if self._segment is None:
                return Position(self._last_number + 1, 0)
            return Position(self._segment.number, self._segment.end)

    def has_room(self, event_bytes: int) -> bool:
        """Whether an event of this length fits below the limit."""
        held = self.bytes_held + self.others_bytes
        return held + event_bytes + FRAME_OVERHEAD_BYTES <= self._bytes_max

    def skip_number(self) -> int:
        """Use up the number of an event that is dropped. Raises: SpoolClosedError."""
        with self.lock:
            if self._is_closed:
                raise SpoolClosedError
            seq = self._next_seq
            self._next_seq = seq + 1
            return seq

    def append(self, event: "EncodedEvent") -> None:
        """Number one event and write it, however full the spool is.

        If a signal handler interrupts an append and appends an event itself, that event is written
        after the interrupted one.

        Raises: OSError, with nothing appended; SpoolClosedError.
        """
        with self.lock:
            if self._is_appending:
                self._interrupting.append(event)
                return
            self._is_appending = True
            try:
                self._append(event)
                while self._interrupting:
                    self._append(self._interrupting.pop(0))
            finally:
                self._is_appending = False

    def rotate(self, freed: Position | None) -> None:
        """Seal the open file if it holds private values and all of it is freed.

        The reader then finds that nobody writes to it any more, and removes it.
        """
        with self.lock:
            segment = self._segment
            if segment is None or not segment.is_private or self._is_appending:
                return
            if freed == Position(segment.number, segment.end):
                self._seal()

    def sync(self) -> None:
        """Make durable what was appended before. Raises: OSError."""
        appended = self.appended
        with self._sync_lock:
            if self._synced >= appended:
                return
            with self.lock:
                upto = self.appended
                sealed = list(self._sealed)
                current = self._segment
                last_number = self._last_number
            for segment in (*sealed, current):
                if segment is not None:
                    os.fdatasync(segment.fd)
            # Window: a power failure may lose the name of a new file, and its frames with it.
            if self._synced_number != last_number:
                self.instance_dir.sync()
                self._synced_number = last_number
            with self.lock:
                for segment in sealed:
                    # A signal handler's sync may have closed it already.
                    if segment in self._sealed:
                        self._sealed.remove(segment)
                        os.close(segment.fd)
            self._synced = max(self._synced, upto)

    def note_freed(self, byte_count: int) -> None:
        """Take note that a file of so many bytes was removed."""
        with self.room:
            self.bytes_held -= byte_count
            self.room.notify_all()

    def close(self) -> None:
        """Sync unless `fsync` is "none", close the files, append no more. Raises: OSError."""
        with self.room:
            self._is_closed = True
            self.room.notify_all()
        try:
            if self._fsync != "none":
                self.sync()
        finally:
            with self._sync_lock, self.lock:
                self.close_files()

    def close_files(self) -> None:
        """Close the files and sync nothing. Without a lock: for a forked child, and for `close`."""
        self._seal()
        self._close_sealed()

    def _append(self, event: "EncodedEvent") -> None:
        if self._is_closed:
            raise SpoolClosedError
        seq = self._next_seq
        self._next_seq = seq + 1
        sent_json = event.numbered(self._instance, seq)
        try:
            try:
                self._write(seq, sent_json)
            except OSError:
                if self._segment is not None:
                    raise
                # The file was sealed. A new one may succeed: its disk may have room again.
                self._write(seq, sent_json)
        except OSError:
            # Window: a signal handler may have skipped the next number during the write. Then this
            # number stays used up, for to give it out again would give out the next one twice.
            if self._next_seq == seq + 1:
                self._next_seq = seq
            raise
        except BaseException:
            # Window: a signal handler raised during the write, as Ctrl-C does. The frame may be
            # whole, half or missing. Sealed, the file's own length tells the reader.
            self._seal()
            raise
        self.appended += 1

    def _begin_segment(self) -> _Segment:
        self._seal()
        number = self._last_number + 1
        header = format_header(self.instance_dir.instance, number)
        path = self.instance_dir.segment_path(number)
        # First the number: a signal handler that raises must not leave a file in the way.
        self._last_number = number
        fd = os.open(path, _NEW_FILE, 0o600)
        try:
            _write_whole(fd, header)
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        self.bytes_held += len(header)
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
            self._cut_half_frame(segment)
            raise
        segment.end += len(frame)
        segment.is_private |= is_enveloped(sent_json)
        self.bytes_held += len(frame)

    def _cut_half_frame(self, segment: _Segment) -> None:
        """After a failed write, cut the file back to its last whole frame.

        A file with frames is sealed, so that the next attempt tries a new file. One without frames
        stays open if it could be cut, or a full disk would collect empty files. One that could not
        be cut is sealed: the reader drops half a frame at the end of a file, and nowhere else.
        """
        is_whole = False
        has_frames = segment.end > segment.start
        with suppress(OSError):
            os.ftruncate(segment.fd, segment.end)
            is_whole = True
        if has_frames or not is_whole:
            self._seal()

    def _seal(self) -> None:
        if self._segment is not None:
            self._sealed.append(self._segment)
            self._segment = None
        if self._fsync == "none":
            self._close_sealed()

    def _close_sealed(self) -> None:
        while self._sealed:
            os.close(self._sealed.pop().fd)


class PeriodicSync(threading.Thread):
    """Syncs the spool once an interval, even while the sender waits, until `stopping` is set."""

    def __init__(self, spool: Spool, interval_s: float) -> None:
        super().__init__(name="ledger-sync", daemon=True)
        self.stopping: Final = threading.Event()
        self._spool: Final = spool
        self._interval_s: Final = interval_s

    def run(self) -> None:
        is_failing = False
        while not self.stopping.wait(self._interval_s):
            try:
                self._spool.sync()
                is_failing = False
            except OSError as error:
                if not is_failing:
                    _log.error("sync_failed reason=%s", error.strerror)
                is_failing = True


def _write_whole(fd: int, data: bytes) -> None:
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, data[done:])
