"""The frames that a spool has written and not synced, to be written again if a sync fails."""

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

BYTES_MAX: Final = 8 << 20
"""Beyond it, which needs fsync="interval", the oldest frames are forgotten."""


class Unsynced(NamedTuple):
    """A frame; `place` counts all that were written, from 1 on."""

    place: int
    seq: int
    sent_json: bytes


class UnsyncedFrames:
    """Guarded by the spool's lock, which a signal handler takes again.

    So a handler may change the frames between any two steps here: each step takes what is there.
    """

    def __init__(self) -> None:
        self._frames: deque[Unsynced] = deque()
        self._bytes = 0

    def __iter__(self) -> Iterator[Unsynced]:
        return iter(list(self._frames))

    def add(self, frame: Unsynced) -> None:
        """Add a frame, behind all others."""
        self._frames.append(frame)
        byte_count = len(frame.sent_json)
        self._bytes += byte_count
        while self._bytes > BYTES_MAX and self._pop() is not None:
            pass

    def forget_until(self, place: int) -> None:
        """Forget the frames up to this place: they are synced."""
        while (frame := self._pop()) is not None:
            if frame.place > place:
                byte_count = len(frame.sent_json)
                self._frames.appendleft(frame)
                self._bytes += byte_count
                return

    def forget(self, place: int | None) -> None:
        """Forget the frame at this place, or all."""
        for frame in self:
            if place is None or frame.place == place:
                with suppress(ValueError):
                    self._frames.remove(frame)
                    byte_count = len(frame.sent_json)
                    self._bytes -= byte_count

    def _pop(self) -> Unsynced | None:
        try:
            frame = self._frames.popleft()
        except IndexError:
            return None
        byte_count = len(frame.sent_json)
        self._bytes -= byte_count
        return frame
