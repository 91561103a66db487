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
* A sync fails: the kernel then forgets the data, and a second sync would succeed without it. So the
  files are sealed for good, and what they hold unsynced is written again to a new file, under the
  same numbers. The ledger knows an event that it gets twice by its id.
* Somebody removes the file: what is written to it goes with the process. So the file must still
  have a name after a write, which is checked once a millisecond; if it has none, the frame is cut
  off again and the write has failed. `abandon` saves the frames that were written before.
"""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ledger_client.recording.frames import ENVELOPE_HEAD, HEADER, format_header
from ledger_client.recording.open_segment import (
    NEW_FILE,
    OpenSegment,
    Position,
    read_whole,
    write_whole,
)
from ledger_client.recording.options import Fsync, SpoolClosedError
from ledger_client.recording.spool_dir import InstanceDir
from ledger_client.recording.synced_marks import write_marks
from ledger_client.recording.unsynced import Unsynced, UnsyncedFrames

if TYPE_CHECKING:
    from ledger_client.recording.encoding import EncodedEvent

FRAME_OVERHEAD_BYTES: Final = HEADER.size + 32
"""What a frame has beside its event, at most: header, number and the type bytes of msgpack."""

NAME_CHECK_S: Final = 0.001
"""How often a written file is checked to have a name. A system call costs as much as the write."""

_log = logging.getLogger("ledger_client.recorder")


class Spool:
    """Appends to the directory of one recorder. Safe from many threads; not across a fork."""

    def __init__(
        self,
        instance_dir: InstanceDir,
        *,
        bytes_max: int,
        segment_bytes_max: int,
        fsync: Fsync,
        on_unwritten: "Callable[[EncodedEvent, Exception], None]",
    ) -> None:
        """`bytes_max` is for the whole folder, of which other recorders hold `others_bytes`.

        `on_unwritten` gets an event that a signal handler appended in the middle of another append,
        if it could not be written afterwards.
        """
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
        self._on_unwritten: Final = on_unwritten
        self._next_seq = 1
        self._name_due_s = 0.0
        self._is_appending = False
        self._interrupting: list[EncodedEvent] = []
        self._segment: OpenSegment | None = None
        self._sealed: list[OpenSegment] = []  # Not synced yet.
        self._removed: list[OpenSegment] = []  # Somebody removed their files.
        self._unsynced: Final = UnsyncedFrames()
        self._is_suspect = False  # Whether a sync has failed since the files were sealed for it.
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

    @property
    def last_seq(self) -> int:
        """The last number that was given out."""
        return self._next_seq - 1

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

    def append(self, event: "EncodedEvent") -> int:
        """Number one event and write it, however full the spool is; its place for `give_up`.

        If a signal handler interrupts an append and appends an event itself, that event is written
        after the interrupted one, even if the interrupted one could not be written.

        Raises: OSError, with nothing appended; SpoolClosedError.
        """
        with self.lock:
            if self._is_appending:
                self._interrupting.append(event)
                return 0
            self._is_appending = True
            try:
                self._append(event)
            finally:
                self._end_append()
            return self.appended

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
        """Make durable what was appended before. Raises: OSError, and then none of it may be."""
        appended = self.appended
        with self._sync_lock:
            if self._synced >= appended:
                return
            if not self._is_suspect:
                try:
                    self._sync_files()
                except OSError as error:
                    self._is_suspect = True
                    _log.error(
                        "sync_failed reason=%s: the events are written again", error.strerror
                    )
                else:
                    return
            self._write_again()
            self._sync_files()

    def give_up(self, place: int | None = None) -> None:
        """Write the event at this place, or all of them, not again when a later sync fails."""
        with self.lock:
            self._unsynced.forget(place)

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
        self._sealed += self._removed
        self._removed.clear()
        self._close_sealed()

    def abandon(self) -> dict[int, bytes]:
        """Close the files and append no more; what the open segments hold, by their numbers.

        For a directory that was removed: the system keeps a file while it is open.
        """
        with self.room:
            self._is_closed = True
            self.room.notify_all()
            current = [] if self._segment is None else [self._segment]
            segments = [*self._removed, *self._sealed, *current]
            found = {each.number: read_whole(each.fd) for each in segments}
        with self._sync_lock, self.lock:
            self.close_files()
        return found

    def _end_append(self) -> None:
        """Write what signal handlers appended meanwhile, while `_is_appending` was set."""
        try:
            if self._interrupting:
                self._append_interrupting()
        finally:
            self._is_appending = False
        if self._interrupting:
            # Window: a handler came after the last look at the list.
            self._is_appending = True
            self._end_append()

    def _append_interrupting(self) -> None:
        while self._interrupting:
            event = self._interrupting.pop(0)
            try:
                self._append(event)
            except (OSError, SpoolClosedError) as error:
                # The handler was told that its event is recorded.
                self._on_unwritten(event, error)

    def _sync_files(self) -> None:
        with self.lock:
            upto = self.appended
            sealed = list(self._sealed)
            current = self._segment
            last_number = self._last_number
            written = sealed if current is None else [*sealed, current]
            ends = [(segment.number, segment.end) for segment in written]
        for segment in written:
            os.fdatasync(segment.fd)
        # Window: a power failure may lose the name of a new file, and its frames with it.
        if self._synced_number != last_number:
            self.instance_dir.sync()
            self._synced_number = last_number
        write_marks(self.instance_dir.path, ends)
        with self.lock:
            for segment in sealed:
                # A signal handler's sync may have closed it already.
                if segment in self._sealed:
                    self._sealed.remove(segment)
                    os.close(segment.fd)
            self._unsynced.forget_until(upto)
        self._synced = max(self._synced, upto)
        self._is_suspect = False

    def _write_again(self) -> None:
        """Write to a new file what the old ones hold unsynced. Raises: OSError."""
        with self.lock:
            if self._is_appending:
                # A signal handler syncs in the middle of a write to the file. What it interrupted
                # syncs next.
                raise OSError(errno.EAGAIN, "the last sync failed")
            self._is_appending = True
            try:
                self._seal()
                self._close_sealed()
                for _, seq, sent_json in self._unsynced:
                    self._write(seq, sent_json)
            finally:
                self._end_append()

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
        if self._fsync != "none":
            self._unsynced.add(Unsynced(self.appended, seq, sent_json))

    def _begin_segment(self) -> OpenSegment:
        self._seal()
        number = self._last_number + 1
        header = format_header(self.instance_dir.instance, number)
        path = self.instance_dir.segment_path(number)
        # First the number: a signal handler that raises must not leave a file in the way.
        self._last_number = number
        fd = os.open(path, NEW_FILE, 0o600)
        try:
            write_whole(fd, header)
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        self.bytes_held += len(header)
        self._segment = OpenSegment(number, fd, header)
        return self._segment

    def _write(self, seq: int, sent_json: bytes) -> None:
        segment = self._segment
        if segment is None or segment.end >= self._segment_bytes_max:
            segment = self._begin_segment()
        frame = segment.codec.encode(seq, sent_json)
        byte_count = len(frame)
        try:
            done = os.write(segment.fd, frame)
            if done != byte_count:
                write_whole(segment.fd, frame[done:])
            now_s = time.monotonic()
            if now_s >= self._name_due_s:
                self._name_due_s = now_s + NAME_CHECK_S
                if not os.fstat(segment.fd).st_nlink:
                    raise FileNotFoundError(errno.ENOENT, "the spool was removed")
        except OSError:
            self._name_due_s = 0.0
            self._cut_half_frame(segment)
            raise
        segment.end += byte_count
        if sent_json.startswith(ENVELOPE_HEAD):
            segment.is_private = True
        self.bytes_held += byte_count

    def _cut_half_frame(self, segment: OpenSegment) -> None:
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
        if not os.fstat(segment.fd).st_nlink:
            # Whoever gives up this spool saves the frames that the file has.
            self._removed.append(segment)
            self._segment = None
        elif has_frames or not is_whole:
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
