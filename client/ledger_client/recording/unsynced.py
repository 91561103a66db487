"""The frames that a spool has written and not synced, to be written again if a sync fails."""

from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

BYTES_MAX: Final = 8 << 20
"""Beyond it, which needs fsync="interval", the oldest frames are forgotten."""


class Unsynced(NamedTuple):
    """A frame; `place` counts all that were written, from 1 on."""

    place: int
    seq: int
    sent_json: bytes


class UnsyncedFrames:
    """Guarded by the spool's lock."""

    def __init__(self) -> None:
        self._frames: deque[Unsynced] = deque()
        self._bytes = 0

    def __iter__(self) -> Iterator[Unsynced]:
        return iter(list(self._frames))

    def add(self, frame: Unsynced) -> None:
        """Add a frame, behind all others."""
        self._frames.append(frame)
        self._bytes += len(frame.sent_json)
        while self._bytes > BYTES_MAX:
            self._pop()

    def forget_until(self, place: int) -> None:
        """Forget the frames up to this place: they are synced."""
        while self._frames and self._frames[0].place <= place:
            self._pop()

    def forget(self, place: int | None) -> None:
        """Forget the frame at this place, or all."""
        kept = [each for each in self._frames if place is not None and each.place != place]
        self._frames = deque(kept)
        self._bytes = sum(len(each.sent_json) for each in kept)

    def _pop(self) -> None:
        self._bytes -= len(self._frames.popleft().sent_json)
