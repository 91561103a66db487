"""`Recorder`, which applications use, and the one recorder of an application."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypedDict, Unpack

from ledger_client.event_values import new_event_id
from ledger_client.recording.arguments import (
    Changes,
    Principal,
    Source,
    Time,
    event_fields,
    time_text,
)
from ledger_client.recording.context import current_scope, merge
from ledger_client.recording.fork_hooks import register, register_multiprocessing_exit
from ledger_client.recording.options import (
    OnInvalid,
    RecorderKeywords,
    RecorderOptions,
    RecorderStatus,
    SpoolClosedError,
    SpoolFullError,
)
from ledger_client.runtime.clock import unix_us
from ledger_core.event.canonical import format_time
from ledger_core.event.model import EventError

if TYPE_CHECKING:
    import ssl

    from ledger_client.base_client import AnyPolicy, PathLike
    from ledger_client.recording.encoding import EncodedEvent, Mask
    from ledger_client.recording.session import RecorderSession

RETRY_S: Final = 0.05
"""How often `record` tries a disk that refuses to write, with on_full="block"."""

_log = logging.getLogger("ledger_client.recorder")


class RecordArguments(TypedDict, total=False):
    """The arguments of `record` beside the action."""

    outcome: Literal["success", "failure", "denied", "unknown"]
    actor: Principal | Callable[[], Principal | None] | None
    target: Principal | None
    targets: list[Principal] | tuple[Principal, ...] | None
    changes: Changes | None
    reason: str | None
    source: Source | None
    request_id: str | None
    trace_id: str | None
    context: Mapping[str, Any] | None
    tenant: str | None
    time: Time | None
    event_id: str | None


class Recorder:
    """Records events from an application: checked, spooled to disk, sent by a background thread.

        recorder = Recorder(url, token, spool="/var/spool/app-audit", policy="ledger.policy")
        recorder.record("user.role_changed", actor=("user", "u_1"), target=("user", "u_777"),
                        changes=diff(before, after))

    Safe from many threads, across forks, and for several processes on one spool folder. All of them
    must use the same ledger and token: each sends the events that another left behind.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        spool: "PathLike",
        policy: "AnyPolicy",
        mask: "Mask | None" = None,
        tls: "ssl.SSLContext | None" = None,
        **options: Unpack[RecorderKeywords],
    ) -> None:
        """Create the spool folder, read the policy, and adopt what a former process left there.

        `mask` takes the secrets out of each event, by the default rules when it is None.
        `RecorderOptions` explains the options and has their defaults.

        A spool folder that can't be made or written is logged, and raises nothing.

        Raises: TypeError for an unknown option; ValueError, MalformedError, VerificationError; and
        OSError for a policy that can't be read: here, so that a wrong setting stops the start of
        the application and nothing later.
        """
        # Imported with the first recorder, not with this module: TLS and HTTP take a while.
        from ledger_client.client import LedgerClient
        from ledger_client.fork_safe_masking import guarded, keyed_rules
        from ledger_client.recording.encoding import EventEncoder
        from ledger_client.recording.fallback import Fallback
        from ledger_client.recording.session import RecorderSession, has_orphans
        from ledger_client.retry import RetryPolicy

        self._options: Final = RecorderOptions(**options)
        folder = Path(spool)

        def client(state: Path | None) -> LedgerClient:
            return LedgerClient(
                url,
                token,
                policy=policy,
                state=state,
                timeout_s=self._options.timeout_s,
                # The sender tries again itself: it must learn of each failure, and of the end.
                retry=RetryPolicy(attempts_max=1),
                tls=tls,
            )

        def connect() -> LedgerClient:
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
        self._defaults: Final = self._options.default_scope()
        self._encoder: Final = EventEncoder(
            guarded(mask or keyed_rules(token).mask), self._defaults
        )
        self._new_session: Final[Callable[[], RecorderSession]] = lambda: RecorderSession(
            folder,
            self._options,
            connect=connect,
            on_unwritten=self._keep_unwritten,
            on_removed=self._replace_session,
        )
        self._new_fallback: Final[Callable[[], Fallback]] = lambda: Fallback(
            spool_event=self._spool_event, report_lost=self._report_lost, connect=connect
        )
        self._fallback = self._new_fallback()
        self._lock = threading.RLock()
        self._session: RecorderSession | None = None  # Set under _lock, at the first event.
        self._forking: RecorderSession | None = None  # Its locks are held across a fork.
        self._last_session: RecorderSession | None = None  # While the interpreter ends.
        self._is_refusing = False  # Whether the last wait for the disk was in vain.
        self._is_closed = False
        register(self)
        if has_orphans(folder):
            with suppress(OSError):
                self._start_session()

    def record(self, action: str, **arguments: Unpack[RecordArguments]) -> str | None:
        """Record one event; its id, or None when it is not in the spool.

        The default outcome is `success`. When this returns an id, the event outlives the process,
        and with fsync="each" the machine. None: it was dropped, is a dead letter, or the spool
        takes nothing and the event is in the fallback, which is memory and then standard error.

        Raises: EventError (a ValueError) for a mistake in the event, unless on_invalid is
        "dead-letter"; SpoolFullError when on_full is "raise"; ValueError after `close`.
        """
        return self._record(action, arguments, self._options.on_invalid)

    def record_quietly(self, action: str, **arguments: Unpack[RecordArguments]) -> str | None:
        """As `record`, but never raises: an event with a mistake becomes a dead letter.

        A full spool drops the event even where `record` would raise.
        """
        try:
            return self._record(action, arguments, "dead-letter")
        except SpoolFullError as error:
            _log.warning("event_dropped reason=%s", error)
        except Exception as error:  # noqa: BLE001 - the caller must not fail because of its event
            # The error's message may hold a value of the event.
            _log.error("event_not_recorded error=%s", type(error).__name__)
        return None

    def check(self, action: str, **arguments: Unpack[RecordArguments]) -> None:
        """Raise what `record` would raise for a mistake in this event, and record nothing."""
        if self._is_closed:
            raise ValueError("the recorder is closed")
        if self._options.on_invalid == "raise":
            self._encoder.encode(self._event(action, arguments))

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until all that was recorded before is in the ledger; False when time is up."""
        deadline_s = time.monotonic() + timeout_s
        is_empty = not self._fallback.waiting or self._fallback.flush(timeout_s)
        session = self._session
        left_s = max(0.0, deadline_s - time.monotonic())
        return is_empty and (session is None or session.flush(left_s))

    def close(self, timeout_s: float = 10.0) -> bool:
        """Flush, and end the threads; False when events stay in the spool for another recorder."""
        self._is_closed = True
        return self._end_session(timeout_s)

    @property
    def may_wait(self) -> bool:
        """Whether `record` may wait for the disk or for room, as an event loop must not."""
        session = self._session
        return self._options.fsync == "each" or session is None or session.may_wait

    @property
    def status(self) -> RecorderStatus:
        """Counts of the events so far, and the last failure to send."""
        session = self._session
        status = RecorderStatus() if session is None else session.status()
        return replace(status, in_memory=self._fallback.waiting)

    def before_fork(self) -> None:
        """Take every lock, so that the child finds consistent state. `fork_hooks` calls this."""
        self._lock.acquire()
        self._forking = self._session
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
        session, self._session, self._forking = self._session, None, None
        self._lock = threading.RLock()
        self._fallback = self._new_fallback()
        if session is not None:
            session.close_files()

    def at_exit(self) -> None:
        """Send what can be sent in time. Events recorded even later wait in the spool."""
        self._end_session(self._options.exit_flush_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Recorder(spool={str(self._folder)!r})"

    def _record(
        self, action: str, arguments: Mapping[str, Any], on_invalid: OnInvalid
    ) -> str | None:
        event: dict[str, Any] = {"action": action, **arguments}
        try:
            event = self._event(action, arguments)
            encoded = self._encoder.encode(event)
        except EventError as error:
            if on_invalid == "raise":
                raise
            self._dead_letter(event, error)
            return None
        return str(event["id"]) if self._append(encoded) else None

    def _event(self, action: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        scope = current_scope()
        if self._defaults:
            scope = merge(self._defaults, scope) if scope else self._defaults
        event = event_fields(scope, arguments)
        event["action"] = action
        event_time = arguments.get("time")
        event["time"] = format_time(unix_us()) if event_time is None else time_text(event_time)
        event["id"] = arguments.get("event_id") or new_event_id()
        return event

    def _append(self, event: "EncodedEvent") -> bool:
        if sys.is_finalizing():
            return self._append_at_the_end(event)
        deadline_s = time.monotonic() + self._options.block_s
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
                if is_blocking and time.monotonic() < deadline_s:
                    time.sleep(RETRY_S)
                    continue
                self._is_refusing = True
                self._fallback.keep(event, cause=cause)
                return False
            self._is_refusing = False
            return is_kept

    def _append_at_the_end(self, event: "EncodedEvent") -> bool:
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

    def _spool_event(self, event: "EncodedEvent") -> bool:
        """Spool one event; False when it was dropped. Raises: OSError, SpoolFullError."""
        while True:
            session = self._session or self._start_session()
            try:
                return session.append(event)
            except SpoolClosedError:
                # Window: the session ended after this thread had read it, as at the exit.
                with self._lock:
                    if self._session is session:
                        self._session = None
            except OSError:
                if not session.is_removed:
                    raise
                self._replace_session(session)

    def _replace_session(self, session: "RecorderSession") -> None:
        """Start a session in place of one whose directory was removed. Raises: OSError."""
        with self._lock:
            if self._session is not session:
                return
            self._session = None
            lost = session.abandon()
            if self._is_closed:
                return
            following = self._start_session()
        if lost is not None:
            following.report_lost(lost)

    def _report_lost(self, count: int) -> None:
        with suppress(SpoolClosedError):
            (self._session or self._start_session()).report_lost(count)

    def _keep_unwritten(self, event: "EncodedEvent", error: Exception) -> None:
        self._fallback.keep(event, cause=f"{self._folder}: {error}")

    def _dead_letter(self, event: dict[str, Any], error: EventError) -> None:
        letter = self._encoder.letter(event)
        is_kept = False
        with suppress(OSError):
            is_kept = (self._session or self._start_session()).dead_letter(letter, error)
        if not is_kept:
            self._fallback.write_letter(letter, error)

    def _start_session(self) -> "RecorderSession":
        with self._lock:
            return self._session or self._install(self._new_session())

    def _install(self, session: "RecorderSession") -> "RecorderSession":
        if self._session is not None:
            # Window: a signal handler recorded while this session was made, and installed one.
            session.end(0.0)
            return self._session
        self._session = session
        register_multiprocessing_exit()
        return session

    def _end_session(self, timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s
        is_empty = self._fallback.end(timeout_s)
        with self._lock:
            session, self._session = self._session, None
        left_s = max(0.0, deadline_s - time.monotonic())
        return (session is None or session.end(left_s)) and is_empty


_recorders: list[Recorder] = []


def use_recorder(recorder: Recorder) -> Recorder:
    """Make this the recorder of `@audited` and the integrations; it is returned."""
    _recorders[:] = [recorder]
    return recorder


def current_recorder() -> Recorder:
    """The recorder in use. Raises: RuntimeError when there is none."""
    if not _recorders:
        raise RuntimeError("there is no recorder: make one, and call use_recorder(recorder)")
    return _recorders[0]
