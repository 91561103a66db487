"""A thread that makes the spool durable every so often, whatever the sender is waiting for."""

import logging
import threading
from typing import Final

from ledger_client.recording.spool import Spool

_log = logging.getLogger("ledger_client.recorder")


class Syncer:
    """Syncs once an interval, when there is something new."""

    def __init__(self, spool: Spool, interval_s: float) -> None:
        self._spool: Final = spool
        self._interval_s: Final = interval_s
        self._stop: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._run, name="ledger-sync", daemon=True)

    def start(self) -> None:
        """Start the thread. Raises: RuntimeError when the interpreter is about to end."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; who closes the spool syncs it."""
        self._stop.set()

    def _run(self) -> None:
        is_failing = False
        while not self._stop.wait(self._interval_s):
            try:
                self._spool.sync()
            except OSError as error:
                if not is_failing:
                    _log.error("sync_failed reason=%s", error.strerror)
                is_failing = True
            else:
                is_failing = False
