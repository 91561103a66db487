"""The messages between a front end and the sequencer's process, as MessagePack.

A message is an array that begins with its tag. A request has a number, which its answer repeats.

At an upgrade a front end may be of another version than the sequencer's process. Each end names the
versions of the messages that it speaks, in `Hello` and in `Start`, and both speak the newest that
they share. Without a change of the version, a message may get a field at its end that has a
default: who does not know the field leaves it out. All else is a new version: a new message, which
is sent to those alone who know it; and what old code can't read, for which `oldest` rises.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from ledger.log.append_request import Appended, AppendRequest
from ledger.log.group_commit import QueueFullError, StalledError
from ledger.log.hold import HeldError, HoldRecord
from ledger.log.signing import SignerUnavailableError
from ledger.service.loaded_files import LoadedFiles
from ledger.service.metrics import Counter
from ledger.service.report import Report
from ledger.store.commit_errors import CommitFailedError, CommitUndoneError, StorageFullError
from ledger_core.search_answers import ExportTrailer
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError


class Versions(NamedTuple):
    """The versions of the messages that a process speaks, from the oldest to the newest.

    A process that was made before there were versions has none: 0 to 0.
    """

    oldest: int = 0
    newest: int = 0

    def __str__(self) -> str:
        return str(self.newest) if self.oldest == self.newest else f"{self.oldest} to {self.newest}"


VERSIONS: Final = Versions(1, 1)

LAST: Final = -1
"""The number of a report that nobody asked for, when a front end ends."""


def shared_version(worker: Versions, sequencer: Versions) -> int:
    """The newest version that both ends speak. Raises: UnavailableError when there is none."""
    newest = min(worker.newest, sequencer.newest)
    if newest < max(worker.oldest, sequencer.oldest):
        raise UnavailableError(
            f"the worker speaks the messages of version {worker}, the sequencer those of version "
            f"{sequencer}: restart the service, so that both are of one installation"
        )
    return newest


class Append(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Append the events of the requests that waited."""

    number: int
    requests: Sequence[AppendRequest]


class Sign(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Sign the newest durable head."""

    number: int


class Show(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Take a checkpoint that somebody has."""

    number: int
    note: bytes
    by: str


class Watch(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Say when the log is larger than `tree_size`. The answer is `Grown`, without a number."""

    tree_size: int


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The front end takes connections."""


class AskReports(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Gather the reports of all other processes. `counters`: those of the front end that asks."""

    number: int
    counters: Sequence[Counter] = ()


class OwnReport(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The answer of a front end to `AskReport`; with the number `LAST` its last message."""

    number: int
    report: Report


class StoreTrailer(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Keep the trailer of an export, which any front end may be asked for."""

    number: int
    token: str
    export_id: str
    trailer: ExportTrailer


class FindTrailer(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Find the trailer of an export."""

    number: int
    token: str
    export_id: str


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """The versions that a front end speaks: its first message, the same in every version."""

    oldest: int
    newest: int


Request = Append | Sign | Show | AskReports | StoreTrailer | FindTrailer
ToSequencer = Request | Watch | Ready | OwnReport | Hello


class AllAppended(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """The outcomes of an `Append`, once they are durable."""

    number: int
    outcomes: Sequence[Appended]


class Signed(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The answer to `Sign`."""

    number: int
    note: str


class Shown(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The answer to `Show`: whether the store has its head."""

    number: int
    is_known: bool


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The answer to a request that raised an error, by the class of the error in `ERRORS`."""

    number: int
    error: str
    message: str
    retry_after_s: float | None = None


class Grown(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The log is larger than a `Watch` said."""


class State(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """What every front end knows of the sequencer's process, sent when it changes.

    `published_size` only wakes those that wait: heads are read from the store.
    """

    published_size: int = 0
    quorum_missing: str | None = None
    signing_failure: str | None = None
    failure: str | None = None
    hold: HoldRecord | None = None


class AskReport(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Ask a front end for its report."""

    number: int


class Reported(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """The answer to `AskReports`."""

    number: int
    reports: Sequence[Report]


class Trailer(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """The answer to `StoreTrailer` and `FindTrailer`: the trailer that is kept, if there is one."""

    number: int
    trailer: ExportTrailer | None


class NewSettings(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """The settings were read again: take those that a running service can take.

    `settings`: for `settings_of`. `files`: those beside them; None from a sequencer that was made
    before it sent them.
    """

    settings: dict[str, Any]
    files: LoadedFiles | None = None


ToFrontEnd = (
    AllAppended
    | Signed
    | Shown
    | Failed
    | Grown
    | State
    | AskReport
    | Reported
    | Trailer
    | NewSettings
)

_UNAVAILABLE: Final = {
    error.__name__: error
    for error in (
        QueueFullError,
        StalledError,
        StorageFullError,
        CommitUndoneError,
        CommitFailedError,
        HeldError,
        SignerUnavailableError,
        UnavailableError,
    )
}
_OTHERS: Final = {error.__name__: error for error in (VerificationError, MalformedError)}
ERRORS: Final = frozenset(_UNAVAILABLE | _OTHERS)
"""The errors that cross the socket. Any other one is an UnavailableError there, and is logged."""

encode = msgspec.msgpack.Encoder().encode
decode_to_sequencer = msgspec.msgpack.Decoder(ToSequencer).decode
decode_to_front_end = msgspec.msgpack.Decoder(ToFrontEnd).decode


def failed(number: int, error: Exception) -> Failed:
    """The answer that carries an error."""
    name = type(error).__name__ if type(error).__name__ in ERRORS else "UnavailableError"
    return Failed(number, name, str(error), getattr(error, "retry_after_s", None))


def error_of(answer: Failed) -> Exception:
    """The error that an answer carries."""
    if answer.error in _OTHERS:
        return _OTHERS[answer.error](answer.message)
    return _UNAVAILABLE[answer.error](answer.message, retry_after_s=answer.retry_after_s)
