"""When the spool is full, or its disk refuses to write: block for a while, raise, or drop.

`block` waits for room, but once a wait was in vain the next ones aren't tried until there is room
again: an application of a hundred requests a second must not wait a hundred times for a ledger that
is down. After the wait the event is dropped, as with `drop`: its number is used up, and
`ledger.recorder.dropped` says so. `raise` uses up no number and leaves it to the application.
"""

import time
from typing import Final

from ledger_client.recording.meta_events import Notices
from ledger_client.recording.options import OnFull, SpoolFullError
from ledger_client.recording.spool import Spool
from ledger_core.event.canonical import LEAF_BYTES_MAX


class Overflow:
    """Keeps events in the spool while there is room, and acts by policy when there isn't."""

    def __init__(self, spool: Spool, notices: Notices, *, on_full: OnFull, block_s: float) -> None:
        self._spool: Final = spool
        self._notices: Final = notices
        self._on_full: Final = on_full
        self._block_s: Final = block_s
        self._is_full = False  # Guarded by the spool's lock.

    def keep(self, head: bytes, tail: bytes) -> bool:
        """Append one event; False when it was dropped.

        Raises: SpoolFullError, SpoolClosedError.
        """
        spool = self._spool
        deadline_s: float | None = None
        with spool.lock:
            while True:
                failure: OSError | None = None
                if spool.has_room(len(head) + len(tail)):
                    try:
                        spool.append(head, tail)
                    except OSError as error:
                        failure = error
                    else:
                        self._is_full = False
                        return True
                if self._on_full == "raise":
                    reason = "it is at its limit" if failure is None else failure.strerror
                    raise SpoolFullError(f"the spool takes no more events: {reason}") from failure
                if deadline_s is None:
                    deadline_s = time.monotonic() + self._block_s
                left_s = deadline_s - time.monotonic()
                if self._on_full == "drop" or self._is_full or left_s <= 0:
                    self._is_full = True
                    self._notices.dropped(spool.take_number())
                    return False
                spool.room.wait(left_s)

    @property
    def would_wait(self) -> bool:
        """Tell that `keep` may wait for room, as it is when the largest event would not fit."""
        if self._on_full != "block" or self._is_full:
            return False
        return not self._spool.has_room(LEAF_BYTES_MAX)
