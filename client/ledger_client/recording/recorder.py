"""`Recorder`, which applications use, and the one recorder of an application."""

import logging
from collections.abc import Callable, Mapping
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
from ledger_client.recording.context import LOST, current_scope, find_loss, merge
from ledger_client.recording.memory import MemorySink, RecordedEvents, is_test_run, outbox
from ledger_client.recording.options import (
    OnInvalid,
    RecorderKeywords,
    RecorderOptions,
    RecorderStatus,
    SpoolFullError,
)
from ledger_client.runtime.clock import unix_us
from ledger_core.event.model import EventError
from ledger_core.event.times import format_time

if TYPE_CHECKING:
    import ssl

    from ledger_client.base_client import AnyPolicy, PathLike
    from ledger_client.recording.encoding import Mask
    from ledger_client.recording.sink import Sink

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

    _is_disabled = False

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
        from ledger_client.recording.sink import SpoolSink
        from ledger_client.retry import RetryPolicy

        chosen = RecorderOptions(**options)

        def client(state: Path | None) -> LedgerClient:
            return LedgerClient(
                url,
                token,
                policy=policy,
                state=state,
                timeout_s=chosen.timeout_s,
                # The sender tries again itself: it must learn of each failure, and of the end.
                retry=RetryPolicy(attempts_max=1),
                tls=tls,
                insecure=chosen.insecure,
            )

        is_test = is_test_run()
        if is_test:
            _log.warning("events_stay_in_memory: tests run here; LEDGER_RECORDER=real sends them")
        sink = MemorySink(outbox) if is_test else SpoolSink(Path(spool), chosen, client)
        self._set_up(sink, chosen, mask, token)

    @classmethod
    def disabled(cls) -> "Recorder":
        """A recorder that does nothing: it checks no event, records none, and raises nothing."""
        recorder = cls.__new__(cls)
        recorder._set_up(MemorySink(RecordedEvents()), RecorderOptions(), None, None)  # noqa: SLF001 - its own
        recorder._is_disabled = True  # noqa: SLF001 - its own
        return recorder

    def _set_up(
        self, sink: "Sink", options: RecorderOptions, mask: "Mask | None", token: str | None
    ) -> None:
        from ledger_client.fork_safe_masking import guarded, keyed_rules
        from ledger_client.recording.encoding import EventEncoder

        self._sink = sink
        self._options = options
        self._defaults = options.default_scope()
        rules = None if mask else keyed_rules(token)
        self._encoder = EventEncoder(
            guarded(mask or keyed_rules(token).mask),
            self._defaults,
            is_clean=None if rules is None else guarded(rules.is_clean),
        )
        self._is_closed = False

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
        if self._is_disabled:
            return
        if self._is_closed:
            raise ValueError("the recorder is closed")
        if self._options.on_invalid == "raise":
            self._encoder.encode(self._event(action, arguments))

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until all that was recorded before is in the ledger; False when time is up."""
        return self._sink.flush(timeout_s)

    def close(self, timeout_s: float = 10.0) -> bool:
        """Flush, and end the threads; False when events stay in the spool for another recorder."""
        self._is_closed = True
        return self._sink.close(timeout_s)

    @property
    def may_wait(self) -> bool:
        """Whether `record` may wait for the disk or for room, as an event loop must not."""
        return self._sink.may_wait

    @property
    def status(self) -> RecorderStatus:
        """Counts of the events so far, and the last failure to send."""
        return self._sink.status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        what = "disabled" if self._is_disabled else repr(self._sink)
        return f"{type(self).__name__}({what})"

    def _record(
        self, action: str, arguments: Mapping[str, Any], on_invalid: OnInvalid
    ) -> str | None:
        if self._is_disabled:
            return None
        event: dict[str, Any] = {"action": action, **arguments}
        try:
            event = self._event(action, arguments)
            encoded = self._encoder.encode(event)
        except EventError as error:
            if on_invalid == "raise":
                raise
            self._sink.dead_letter(self._encoder.letter(event), error)
            return None
        except Exception as error:
            # The application's object where a text belongs, as a lazy one whose database is gone.
            message = f"a value raised {type(error).__name__} when it was read"
            unreadable = EventError(message, rule="wrong-type")
            if on_invalid == "raise":
                raise unreadable from error
            self._sink.dead_letter(self._encoder.letter(event), unreadable)
            return None
        return str(event["id"]) if self._sink.append(encoded) else None

    def _event(self, action: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        scope = current_scope()
        if self._defaults:
            scope = merge(self._defaults, scope) if scope else self._defaults
        event = event_fields(scope, arguments)
        event["action"] = action
        if "actor" not in arguments or arguments["actor"] is None:
            lost = find_loss()
            if lost is not None:
                event.setdefault("context", {})[LOST] = lost
        elif LOST in scope.get("context", ()):
            del event["context"][LOST]  # Of `with_loss`: the event has its own actor.
        event_time = event_id = None
        if "time" in arguments:
            event_time = arguments["time"]
        if "event_id" in arguments:
            event_id = arguments["event_id"]
        event["time"] = format_time(unix_us()) if event_time is None else time_text(event_time)
        event["id"] = event_id or new_event_id()
        return event


_recorders: list[Recorder] = []
_providers: list[Callable[[], Recorder]] = []


def use_recorder(recorder: Recorder) -> Recorder:
    """Make this the recorder of `@audited` and the integrations; it is returned."""
    _recorders[:] = [recorder]
    return recorder


def provide_recorder(provide: Callable[[], Recorder]) -> None:
    """Let this function make the recorder in use, when one is needed and there is none.

    An integration gives one that reads the settings of its framework.
    """
    _providers[:] = [provide]


def recorder_in_use() -> Recorder | None:
    """The recorder of `use_recorder`."""
    return _recorders[0] if _recorders else None


def current_recorder() -> Recorder:
    """The recorder in use, which is made from the settings of the framework if there is none.

    Raises: RuntimeError when there is none; what the making of one raises.
    """
    if not _recorders and _providers:
        return _providers[0]()
    if not _recorders:
        raise RuntimeError("there is no recorder: make one, and call use_recorder(recorder)")
    return _recorders[0]
