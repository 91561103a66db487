"""The options of a recorder, and the errors of a spool that refuses an event."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict, get_args

from ledger_client.recording.arguments import Principal

Fsync = Literal["each", "interval", "none"]
"""When an event outlives the machine: before `record` returns, within an interval, some time."""

OnFull = Literal["block", "raise", "drop"]
"""What happens to an event when the spool is full."""

OnInvalid = Literal["raise", "dead-letter"]
"""What happens to an event with a mistake in it."""

SPOOL_BYTES_MAX: Final = 1 << 30
SPOOL_BYTES_MIN: Final = 1 << 18

_CHOICES: Final = {"fsync": Fsync, "on_full": OnFull, "on_invalid": OnInvalid}


class RecorderKeywords(TypedDict, total=False):
    """The options as keyword arguments of `Recorder`; `RecorderOptions` explains each."""

    service: str | None
    actor: Principal | None
    tenant: str | None
    fsync: Fsync
    fsync_interval_s: float
    on_full: OnFull
    block_s: float
    on_invalid: OnInvalid
    spool_bytes_max: int
    linger_s: float
    batch_events_max: int
    exit_flush_s: float
    timeout_s: float
    insecure: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderOptions:
    """Options of a recorder: labels of its events, the spool, sending.

    Raises: ValueError for a choice that does not exist, and for a spool that is too small.
    """

    service: str | None = None
    """`source.service` of events that name none."""
    actor: Principal | None = None
    """The actor of events that name none, outside of an audit context."""
    tenant: str | None = None
    """The tenant of events that name none."""
    fsync: Fsync = "interval"
    """When an event outlives the machine: `each` before `record` returns, `interval` within
    `fsync_interval_s`, `none` when the system writes it."""
    fsync_interval_s: float = 1.0
    """Seconds between two syncs of the spool."""
    on_full: OnFull = "block"
    """What happens to an event when the spool is full: `block` waits for `block_s` and then drops,
    `raise` raises `SpoolFullError`, `drop` drops at once."""
    block_s: float = 1.0
    """Seconds that `record` waits for room once, before it drops events until there is room."""
    on_invalid: OnInvalid = "raise"
    """What happens to an event with a mistake: `raise` raises `EventError`, `dead-letter` sets the
    event aside."""
    spool_bytes_max: int = SPOOL_BYTES_MAX
    """Bytes of the whole spool folder, those of other recorders on it included."""
    linger_s: float = 0.1
    """Seconds that the sender waits for more events after a small batch."""
    batch_events_max: int = 1_000
    """Events in one request."""
    exit_flush_s: float = 5.0
    """Seconds that the exit of the process waits for events to be sent."""
    timeout_s: float = 30.0
    """Seconds that one request to the ledger may take."""
    insecure: bool = False
    """Sends the token over plain HTTP to another host, readable to everybody on the way."""

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                known = ", ".join(get_args(choices))
                raise ValueError(f"{name} is one of {known}, got {getattr(self, name)!r}")
        if self.spool_bytes_max < SPOOL_BYTES_MIN:
            raise ValueError(f"want a limit of {SPOOL_BYTES_MIN} bytes or more for the spool")

    def default_scope(self) -> Mapping[str, Any]:
        """The audit context of events that have no other."""
        source = None if self.service is None else {"service": self.service}
        defaults = {"actor": self.actor, "tenant": self.tenant, "source": source}
        return {name: value for name, value in defaults.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderStatus:
    """Counts of a recorder's events in this process, and the last failure to send."""

    instance: str | None = None
    recorded: int = 0
    sent: int = 0
    rejected: int = 0
    spooled_bytes: int = 0
    in_memory: int = 0
    """Events that the spool does not take: see `fallback`."""
    failures: int = 0
    last_failure: str | None = None


class SpoolFullError(Exception):
    """The event was not recorded: the spool is full, and `on_full` is "raise"."""


class SpoolClosedError(Exception):
    """The spool was closed; a new event belongs to a new spool."""
