"""`Recorder`: what an application uses."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypedDict, Unpack, get_args

from ledger_client.ids import new_event_id
from ledger_client.recording.arguments import Changes, Principal, Source, Time, event_of, time_text
from ledger_client.recording.context import AuditContext, current_scope, merge
from ledger_client.recording.encoding import split_event
from ledger_client.recording.fork_hooks import watch, watch_multiprocessing
from ledger_client.recording.options import (
    Fsync,
    OnFull,
    OnInvalid,
    SpoolClosedError,
    SpoolFullError,
)
from ledger_client.runtime.clock import unix_us
from ledger_core.event.canonical import format_time
from ledger_core.event.model import EventError

if TYPE_CHECKING:
    import ssl

    from ledger_client.base_client import AnyPolicy, PathLike
    from ledger_client.recording.session import RecorderSession

Mask = Callable[[dict[str, Any]], dict[str, Any]]
"""Gives the event to record, without what must not be in it. It must not change what it is given:
parts of that are the application's."""

SPOOL_BYTES_MAX: Final = 1 << 30
SPOOL_BYTES_MIN: Final = 1 << 18
MASKING_FAILED: Final = "left out but for action and outcome, since masking failed"

_log = logging.getLogger("ledger_client.recorder")


class RecordArguments(TypedDict, total=False):
    """What `record` may be told beside the action."""

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
    """How a recorder of this process does."""

    instance: str | None
    recorded: int
    sent: int
    rejected: int
    spooled_bytes: int
    failures: int
    last_failure: str | None


class Recorder:
    """Records events from an application: checked, on the disk, and sent by a thread of its own.

        recorder = Recorder(url, token, spool="/var/spool/app-audit", policy="ledger.policy")
        recorder.record("user.role_changed", actor=("user", "u_1"), target=("user", "u_777"),
                        changes=diff(before, after))

    Safe from many threads, across forks, and for several processes on one spool folder. All of them
    must use the same ledger and token: each sends what another left behind.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        spool: "PathLike",
        policy: "AnyPolicy",
        service: str | None = None,
        actor: Principal | None = None,
        tenant: str | None = None,
        mask: Mask | None = None,
        fsync: Fsync = "interval",
        fsync_interval_s: float = 1.0,
        on_full: OnFull = "block",
        block_s: float = 1.0,
        on_invalid: OnInvalid = "raise",
        spool_bytes_max: int = SPOOL_BYTES_MAX,
        linger_s: float = 0.1,
        batch_events_max: int = 1_000,
        exit_flush_s: float = 5.0,
        timeout_s: float = 30.0,
        tls: "ssl.SSLContext | None" = None,
    ) -> None:
        """Make the spool folder, read the policy, and take up what a former process left there.

        `service`, `actor` and `tenant` hold for events that say nothing else. `mask` takes the
        secrets out of each event, by the rules of the house when it is left out.

        Raises: ValueError, MalformedError, VerificationError, OSError: here, so that a wrong
        setting stops the start of the application and nothing later.
        """
        # Loaded with the first recorder, not with the module: TLS and HTTP take a while.
        from ledger_client.client import LedgerClient
        from ledger_client.fork_safe_masking import guarded
        from ledger_client.recording import erasable
        from ledger_client.recording import session as life
        from ledger_client.recording import truncation as fit
        from ledger_client.retry import RetryPolicy
        from ledger_core.event.secrets import default_rules

        _check_choice("fsync", fsync, Fsync)
        _check_choice("on_full", on_full, OnFull)
        _check_choice("on_invalid", on_invalid, OnInvalid)
        if spool_bytes_max < SPOOL_BYTES_MIN:
            raise ValueError(f"want a limit of {SPOOL_BYTES_MIN} bytes or more for the spool")
        folder = Path(spool)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._connect: Final[Callable[[], LedgerClient]] = lambda: LedgerClient(
            url,
            token,
            policy=policy,
            state=folder / "state",
            timeout_s=timeout_s,
            # Trying again is the sender's: it must hear of a failure, and of the end.
            retry=RetryPolicy(attempts_max=1),
            tls=tls,
        )
        self._connect().close()
        self._fit: Final = fit
        self._erasable: Final = erasable
        self._new_life: Final[Callable[[], RecorderSession]] = lambda: life.RecorderSession(
            self._settings, connect=self._connect, defaults=self._defaults
        )
        self._defaults: Final[AuditContext] = _defaults(service=service, actor=actor, tenant=tenant)
        self._mask: Final[Mask] = guarded(mask or default_rules().mask)
        self._on_invalid: Final[OnInvalid] = on_invalid
        self._settings: Final = life.Settings(
            folder=folder,
            fsync=fsync,
            fsync_interval_s=fsync_interval_s,
            on_full=on_full,
            block_s=block_s,
            bytes_max=spool_bytes_max,
            linger_s=linger_s,
            batch_events_max=batch_events_max,
        )
        self._exit_flush_s: Final = exit_flush_s
        self._lock = threading.RLock()
        self._life: RecorderSession | None = (
            None  # Begun under _lock, when there is something to do.
        )
        self._resting: RecorderSession | None = None  # The one whose locks are held across a fork.
        self._is_closed = False
        watch(self)
        if life.has_left_overs(folder):
            self._begin()

    def record(self, action: str, **said: Unpack[RecordArguments]) -> str | None:
        """Record one event; its id, or None when it was dropped or is a dead letter.

        The outcome is `success` unless told otherwise. When this returns, the event outlives the
        process, and with fsync="each" the machine.

        Raises: EventError (a ValueError) for a mistake in the event, unless on_invalid is
        "dead-letter"; SpoolFullError when on_full is "raise"; ValueError after `close`.
        """
        return self._record(action, said, self._on_invalid)

    def record_quietly(self, action: str, **said: Unpack[RecordArguments]) -> str | None:
        """As `record`, for code that must not fail at it: a mistake becomes a dead letter.

        A full spool drops the event even where `record` would raise.
        """
        try:
            return self._record(action, said, "dead-letter")
        except SpoolFullError as error:
            _log.warning("event_dropped reason=%s", error)
        except Exception as error:  # noqa: BLE001 - whoever calls this must not fail at it
            # Its message may hold a value of the event.
            _log.error("event_not_recorded error=%s", type(error).__name__)
        return None

    def check(self, action: str, **said: Unpack[RecordArguments]) -> None:
        """Raise what `record` would raise for a mistake in this event, and record nothing."""
        if self._is_closed:
            raise ValueError("the recorder is closed")
        if self._on_invalid == "raise":
            self._encode(self._event(action, said))

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until all that was recorded before is in the ledger; False when time is up."""
        life = self._life
        return life is None or life.sender.flush(timeout_s)

    def close(self, timeout_s: float = 10.0) -> bool:
        """Flush, and end the thread; False when something stays in the spool for another time."""
        self._is_closed = True
        return self._end(timeout_s)

    @property
    def may_wait(self) -> bool:
        """Tell that `record` may wait for the disk or for room, as an event loop must not."""
        life = self._life
        return self._settings.fsync == "each" or life is None or life.overflow.would_wait

    @property
    def status(self) -> RecorderStatus:
        """What became of the events so far."""
        life = self._life
        if life is None:
            return RecorderStatus(
                instance=None,
                recorded=0,
                sent=0,
                rejected=0,
                spooled_bytes=0,
                failures=0,
                last_failure=None,
            )
        counts = life.sender.counts
        return RecorderStatus(
            instance=life.spool.home.instance,
            recorded=life.spool.appended,
            sent=counts.sent,
            rejected=counts.rejected,
            spooled_bytes=life.spool.bytes_held,
            failures=counts.failures,
            last_failure=counts.last_failure,
        )

    def before_fork(self) -> None:
        """Take every lock, so that the child finds all in order. Called by `process`."""
        self._lock.acquire()
        self._resting = self._life
        if self._resting is not None:
            self._resting.sender.file_lock.acquire()
            self._resting.spool.lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Give the locks back."""
        if self._resting is not None:
            self._resting.spool.lock.release()
            self._resting.sender.file_lock.release()
            self._resting = None
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Let go of the parent's files; a life of our own begins with the next event."""
        life, self._life, self._resting = self._life, None, None
        self._lock = threading.RLock()
        if life is not None:
            life.abandon()

    def at_exit(self) -> None:
        """Send what can be sent in time. What is recorded even later waits in the spool."""
        self._end(self._exit_flush_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Recorder(spool={str(self._settings.folder)!r})"

    def _record(self, action: str, said: Mapping[str, Any], on_invalid: OnInvalid) -> str | None:
        try:
            event = self._event(action, said)
        except EventError as error:
            if on_invalid == "raise":
                raise
            self._bury({"action": action, **said}, error)
            return None
        try:
            head, tail = self._encode(event)
        except EventError as error:
            if on_invalid == "raise":
                raise
            self._bury(event, error)
            return None
        return str(event["id"]) if self._keep(head, tail) else None

    def _event(self, action: str, said: Mapping[str, Any]) -> dict[str, Any]:
        scope = current_scope()
        if self._defaults:
            scope = merge(self._defaults, scope) if scope else self._defaults
        event = event_of(scope, said)
        event["action"] = action
        event_time = said.get("time")
        event["time"] = format_time(unix_us()) if event_time is None else time_text(event_time)
        event["id"] = said.get("event_id") or new_event_id()
        return event

    def _encode(self, event: dict[str, Any]) -> tuple[bytes, bytes]:
        """What is sent before and after the event's number. Raises: EventError."""
        if not self._erasable.holds_private(event):
            return self._encode_plain(event)
        hidden, openings = self._erasable.hide_private(event)
        head, tail = self._encode_plain(hidden)
        return self._erasable.envelope(head, tail, openings)

    def _encode_plain(self, event: dict[str, Any]) -> tuple[bytes, bytes]:
        try:
            return split_event(self._mask(event))
        except Exception:  # noqa: BLE001 - the mask is foreign code, and is asked once more below
            # Slow from here: values of other types, texts too long, addresses that are none.
            masked = self._masked(
                self._fit.plain_event(event), but_for=("id", "time", "action", "outcome")
            )
            fitted = self._fit.fit_event(masked)
            for make in (fitted.copy, lambda: self._fit.shrink_event(fitted)):
                try:
                    return split_event(make())
                except EventError as error:
                    if error.rule != "leaf-too-large":
                        raise
            return split_event(self._fit.bare_event(fitted))

    def _masked(self, event: dict[str, Any], *, but_for: tuple[str, ...]) -> dict[str, Any]:
        """The event masked; the members `but_for` alone when masking fails."""
        try:
            return self._mask(event)
        except Exception as error:  # noqa: BLE001 - foreign code
            # Its message and its traceback may hold what it was to mask.
            _log.error("masking_failed error=%s", type(error).__name__)
        kept = {name: event[name] for name in but_for if name in event}
        kept |= {
            name: self._defaults[name] for name in ("source", "tenant") if name in self._defaults
        }
        return {**kept, "actor": {"id": "unknown"}, "context": {"altered": [MASKING_FAILED]}}

    def _keep(self, head: bytes, tail: bytes) -> bool:
        while True:
            try:
                life = self._life or self._begin()
                return life.keep(head, tail)
            except SpoolClosedError:
                with self._lock:
                    if self._life is life:
                        self._life = None
            except OSError as error:
                # Not even a directory can be made: nothing has a number yet, so nobody will see a
                # gap. The application's log is the only place to say so.
                if self._settings.on_full == "raise":
                    raise SpoolFullError(f"there is no spool: {error.strerror}") from error
                _log.error("event_lost reason=%s", error.strerror)
                return False

    def _begin(self) -> "RecorderSession":
        with self._lock:
            if self._is_closed:
                raise ValueError("the recorder is closed")
            return self._life or self._take_up(self._new_life())

    def _take_up(self, life: "RecorderSession") -> "RecorderSession":
        if self._life is not None:
            # A signal handler recorded in between, and began one.
            life.end(0.0)
            return self._life
        self._life = life
        watch_multiprocessing(self)
        return life

    def _end(self, timeout_s: float) -> bool:
        with self._lock:
            life, self._life = self._life, None
        return life is None or life.end(timeout_s)

    def _bury(self, event: dict[str, Any], error: EventError) -> None:
        shown = self._masked(self._fit.plain_value(event), but_for=("id", "time"))
        try:
            (self._life or self._begin()).bury(shown, error)
        except OSError as failure:
            _log.error("event_lost reason=%s", failure.strerror)


def _defaults(*, service: str | None, actor: Principal | None, tenant: str | None) -> AuditContext:
    said: dict[str, Any] = {"actor": actor, "tenant": tenant}
    if service is not None:
        said["source"] = {"service": service}
    return {name: value for name, value in said.items() if value is not None}


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name} is one of {', '.join(get_args(choices))}, got {value!r}")
