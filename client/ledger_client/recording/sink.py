"""The path of a recorder's events: to a spool, and from there to the ledger.

`Sink` is what a recorder needs of it. `MemorySink` (in `memory`) is the one of tests.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from ledger_client.recording.encoding import EncodedEvent
from ledger_client.recording.fallback import Fallback
from ledger_client.recording.fork_hooks import register, register_multiprocessing_exit
from ledger_client.recording.options import (
    RecorderOptions,
    RecorderStatus,
    SpoolClosedError,
    SpoolFullError,
)
from ledger_client.recording.session import RecorderSession, has_orphans
from ledger_core.event.model import EventError

if TYPE_CHECKING:
    from ledger_client.client import LedgerClient

RETRY_S: Final = 0.05
"""How often `append` tries a disk that refuses to write, with on_full="block"."""

_log = logging.getLogger("ledger_client.recorder")

_entering = threading.RLock()
"""Held by the first thread of a forked child that finds what it has from its parent."""


class Sink(Protocol):
    """Takes the events of one recorder. Safe from many threads."""

    def append(self, event: EncodedEvent) -> bool:
        """Take one event; False when it was dropped.

        Raises: SpoolFullError; ValueError after `close`.
        """

    def dead_letter(self, letter: dict[str, Any], error: EventError) -> None:
        """Take an event with a mistake."""

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was taken before is in the ledger; False when time is up."""

    def close(self, timeout_s: float) -> bool:
        """Flush, and end; False when events wait for another recorder."""

    @property
    def may_wait(self) -> bool:
        """Whether `append` may wait."""

    @property
    def status(self) -> RecorderStatus:
        """Counts of the events so far."""


class SpoolSink:
    """Spools events to a folder, and to memory and standard error when that takes none."""

    def __init__(
        self,
        folder: Path,
        options: RecorderOptions,
        client: "Callable[[Path | None], LedgerClient]",
    ) -> None:
        """Create the folder, and adopt what a former process left there.

        `client` connects to the ledger, with a state file or without. A folder that can't be made
        is logged.

        Raises: what `client` raises without a state file.
        """

        def connect() -> "LedgerClient":
            try:
                return client(folder / "state")
            except OSError:
                return client(None)

        connect().close()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            _log.error("spool_not_made spool=%s reason=%s: will retry", folder, error.strerror)
        self._folder: Final = folder
        self._options: Final = options
        self._new_session: Final[Callable[[], RecorderSession]] = lambda: RecorderSession(
            folder,
            options,
            connect=connect,
            on_unwritten=self._keep_unwritten,
            on_removed=self._replace_session,
        )
        self._new_fallback: Final[Callable[[], Fallback]] = lambda: Fallback(
            spool_event=self._spool_event, report_lost=self._report_lost, connect=connect
        )
        self._fallback = self._new_fallback()
        self._lock = threading.RLock()
        self.session: RecorderSession | None = None  # Set under _lock, at the first event.
        self._forking: RecorderSession | None = None  # Its locks are held across a fork.
        self._last_session: RecorderSession | None = None  # While the interpreter ends.
        self._is_refusing = False  # Whether the last wait for the disk was in vain.
        self._is_closed = False
        self._process_id = os.getpid()
        register(self)
        if not _is_before_fork() and has_orphans(folder):
            with suppress(OSError):
                self._start_session()

    def __repr__(self) -> str:
        return f"spool={str(self._folder)!r}"

    def append(self, event: EncodedEvent) -> bool:
        """Spool one event. Raises: SpoolFullError when on_full is "raise"; ValueError if closed."""
        self._enter_process()
        if sys.is_finalizing():
            return self._append_at_the_end(event)
        deadline_s: float | None = None
        while True:
            if self._is_closed:
                raise ValueError("the recorder is closed")
            try:
                is_kept = self._spool_event(event)
            except OSError as error:
                cause = f"{self._folder}: {error.strerror or error}"
                if self._options.on_full == "raise":
                    raise SpoolFullError(f"there is no spool: {cause}") from error
                is_blocking = self._options.on_full == "block" and not self._is_refusing
                if deadline_s is None:
                    deadline_s = time.monotonic() + self._options.block_s
                if is_blocking and time.monotonic() < deadline_s:
                    time.sleep(RETRY_S)
                    continue
                self._is_refusing = True
                self._fallback.store(event, cause=cause)
                return False
            self._is_refusing = False
            return is_kept

    def _append_at_the_end(self, event: EncodedEvent) -> bool:
        """Spool an event while the interpreter ends, as of a `__del__`.

        No other thread runs any more, but one may hold a lock for ever. So this has a session of
        its own, which starts no thread.
        """
        try:
            if self._last_session is None:
                self._last_session = self._new_session()
            return self._last_session.append(event)
        except Exception:  # noqa: BLE001 - parts of the interpreter are gone
            self._fallback.write(event)
            return False

    def _spool_event(self, event: EncodedEvent) -> bool:
        """Spool one event; False when it was dropped. Raises: OSError, SpoolFullError."""
        while True:
            session = self.session or self._start_session()
            try:
                return session.append(event)
            except SpoolClosedError:
                # Window: the session ended after this thread had read it, as at the exit.
                with self._lock:
                    if self.session is session:
                        self.session = None
            except OSError:
                if not session.is_removed:
                    raise
                self._replace_session(session)

    def _replace_session(self, session: RecorderSession) -> None:
        """Start a session in place of one whose directory was removed. Raises: OSError."""
        with self._lock:
            if self.session is not session:
                return
            self.session = None
            lost = session.abandon()
            if self._is_closed:
                return
            following = self._start_session()
        if lost is not None:
            following.report_lost(lost)

    def _report_lost(self, count: int) -> None:
        with suppress(SpoolClosedError):
            (self.session or self._start_session()).report_lost(count)

    def _keep_unwritten(self, event: EncodedEvent, error: Exception) -> None:
        self._fallback.store(event, cause=f"{self._folder}: {error}")

    def dead_letter(self, letter: dict[str, Any], error: EventError) -> None:
        """Keep an event with a mistake, which is masked, in the file of dead letters.

        Raises: ValueError if closed.
        """
        is_kept = False
        self._enter_process()
        if self._is_closed:
            raise ValueError("the recorder is closed")
        with suppress(OSError):
            is_kept = not sys.is_finalizing() and (
                self.session or self._start_session()
            ).dead_letter(letter, error)
        if not is_kept:
            self._fallback.write_letter(letter, error)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was recorded before is in the ledger; False when time is up."""
        self._enter_process()
        deadline_s = time.monotonic() + timeout_s
        is_empty = not self._fallback.waiting or self._fallback.flush(timeout_s)
        session = self.session
        left_s = max(0.0, deadline_s - time.monotonic())
        return is_empty and (session is None or session.flush(left_s))

    def close(self, timeout_s: float) -> bool:
        """Flush, and end the threads; False when events stay in the spool for another recorder."""
        self._is_closed = True
        return self._end_session(timeout_s)

    @property
    def may_wait(self) -> bool:
        """Whether `record` may wait for the disk or for room, as an event loop must not."""
        session = self.session
        return self._options.fsync == "each" or session is None or session.may_wait

    @property
    def status(self) -> RecorderStatus:
        """Counts of the events so far, and the last failure to send."""
        self._enter_process()
        session = self.session
        status = RecorderStatus() if session is None else session.status()
        return replace(status, in_memory=self._fallback.waiting)

    def before_fork(self) -> None:
        """Take every lock, so that the child finds consistent state. `fork_hooks` calls this."""
        self._lock.acquire()
        self._forking = self.session
        if self._forking is not None:
            self._forking.acquire_locks()

    def after_fork_in_parent(self) -> None:
        """Release the locks."""
        if self._forking is not None:
            self._forking.release_locks()
            self._forking = None
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Close the copies of the parent's files; the next event starts a session of our own."""
        session, self.session, self._forking = self.session, None, None
        self._lock = threading.RLock()
        self._fallback = self._new_fallback()
        if session is not None:
            session.close_files()
        self._process_id = os.getpid()

    def _enter_process(self) -> None:
        """Begin anew in a child that C code forked without calling the hooks.

        With the session of its parent, it would write under the same numbers to files that only
        the parent sends, and removes. It waits for no lock that a thread of the parent may hold.
        """
        if self._process_id != os.getpid():
            with _entering:
                if self._process_id != os.getpid():
                    self.after_fork_in_child()

    def at_exit(self) -> None:
        """Send what can be sent in time. Events recorded even later wait in the spool."""
        self._end_session(self._options.exit_flush_s)

    def _start_session(self) -> RecorderSession:
        with self._lock:
            return self.session or self._install(self._new_session())

    def _install(self, session: RecorderSession) -> RecorderSession:
        if self.session is not None:
            # Window: a signal handler recorded while this session was made, and installed one.
            session.end(0.0)
            return self.session
        self.session = session
        register_multiprocessing_exit()
        return session

    def _end_session(self, timeout_s: float) -> bool:
        self._enter_process()
        deadline_s = time.monotonic() + timeout_s
        is_empty = self._fallback.end(timeout_s)
        with self._lock:
            session, self.session = self.session, None
        left_s = max(0.0, deadline_s - time.monotonic())
        return (session is None or session.end(left_s)) and is_empty


def _is_before_fork() -> bool:
    """Whether uWSGI has loaded the application in the process that it makes workers of.

    It forks without a hook: a worker may wait for ever for a thread that ran meanwhile.
    """
    uwsgi = sys.modules.get("uwsgi")
    return uwsgi is not None and not uwsgi.worker_id()
