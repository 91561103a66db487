"""`Recorder`, which applications use, and the one recorder of an application."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderStatus:
    """Counts of a recorder's events in this process, and the last failure to send."""

    instance: str | None = None
    recorded: int = 0
    sent: int = 0
    rejected: int = 0
    spooled_bytes: int = 0
    failures: int = 0
    last_failure: str | None = None


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

        Raises: TypeError for an unknown option; ValueError, MalformedError, VerificationError,
        OSError: here, so that a wrong setting stops the start of the application and nothing later.
        """
        # Imported with the first recorder, not with this module: TLS and HTTP take a while.
        from ledger_client.client import LedgerClient
        from ledger_client.fork_safe_masking import guarded
        from ledger_client.recording.encoding import EventEncoder
        from ledger_client.recording.session import RecorderSession, has_orphans
        from ledger_client.retry import RetryPolicy
        from ledger_core.event.secrets import default_rules

        self._options: Final = RecorderOptions(**options)
        folder = Path(spool)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

        def connect() -> LedgerClient:
            return LedgerClient(
                url,
                token,
                policy=policy,
                state=folder / "state",
                timeout_s=self._options.timeout_s,
                # The sender tries again itself: it must learn of each failure, and of the end.
                retry=RetryPolicy(attempts_max=1),
                tls=tls,
            )

        connect().close()
        self._folder: Final = folder
        self._defaults: Final = self._options.default_scope()
        self._encoder: Final = EventEncoder(guarded(mask or default_rules().mask), self._defaults)
        self._new_session: Final[Callable[[], RecorderSession]] = lambda: RecorderSession(
            folder, self._options, connect=connect
        )
        self._lock = threading.RLock()
        self._session: RecorderSession | None = None  # Set under _lock, at the first event.
        self._forking: RecorderSession | None = None  # Its locks are held across a fork.
        self._is_closed = False
        register(self)
        if has_orphans(folder):
            self._start_session()

    def record(self, action: str, **arguments: Unpack[RecordArguments]) -> str | None:
        """Record one event; its id, or None when it was dropped or is a dead letter.

        The default outcome is `success`. When this returns, the event outlives the process, and
        with fsync="each" the machine.

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
        session = self._session
        return session is None or session.sender.flush(timeout_s)

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
        if session is None:
            return RecorderStatus()
        counts = session.sender.counts
        return RecorderStatus(
            instance=session.instance,
            recorded=session.spool.appended,
            sent=counts.sent,
            rejected=counts.rejected,
            spooled_bytes=session.spool.bytes_held,
            failures=counts.failures,
            last_failure=counts.last_failure,
        )

    def before_fork(self) -> None:
        """Take every lock, so that the child finds consistent state. `fork_hooks` calls this."""
        self._lock.acquire()
        self._forking = self._session
        if self._forking is not None:
            self._forking.sender.file_lock.acquire()
            self._forking.spool.lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Release the locks."""
        if self._forking is not None:
            self._forking.spool.lock.release()
            self._forking.sender.file_lock.release()
            self._forking = None
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Close the copies of the parent's files; the next event starts a session of our own."""
        session, self._session, self._forking = self._session, None, None
        self._lock = threading.RLock()
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
        while True:
            try:
                session = self._session or self._start_session()
                return session.append(event)
            except SpoolClosedError:
                # Window: the session ended after this thread had read it, as at the exit.
                with self._lock:
                    if self._session is session:
                        self._session = None
            except OSError as error:
                # Not even a directory can be made. No number was given out yet, so no gap will show
                # the loss, and the application's log is the only place to report it.
                if self._options.on_full == "raise":
                    raise SpoolFullError(f"there is no spool: {error.strerror}") from error
                _log.error("event_lost reason=%s", error.strerror)
                return False

    def _dead_letter(self, event: dict[str, Any], error: EventError) -> None:
        from ledger_client.recording.jsonable import jsonable

        shown = self._encoder.masked(jsonable(event), keep=("id", "time"))
        try:
            (self._session or self._start_session()).dead_letter(shown, error)
        except OSError as failure:
            _log.error("event_lost reason=%s", failure.strerror)

    def _start_session(self) -> "RecorderSession":
        with self._lock:
            if self._is_closed:
                raise ValueError("the recorder is closed")
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
        with self._lock:
            session, self._session = self._session, None
        return session is None or session.end(timeout_s)


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
