"""One batch to the ledger, and a verified outcome for each of its events."""

from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec

from ledger_client.errors import RejectedError
from ledger_client.event_values import new_event_id
from ledger_client.recording.dead_letters import is_of_proxy, problem_of
from ledger_client.recording.frames import Frame
from ledger_client.results import Receipt, Rejected
from ledger_client.runtime.clock import unix_us
from ledger_core.api import Problem
from ledger_core.event.commitments import PrivateReader
from ledger_core.event.model import Event, EventError
from ledger_core.event.reader import ReadEvent
from ledger_core.tlog.errors import VerificationError

if TYPE_CHECKING:
    from ledger_client.client import LedgerClient


class Delivery:
    """Appends batches through a client, which `connect` makes for the first of them."""

    def __init__(self, connect: "Callable[[], LedgerClient]") -> None:
        self._connect: Final = connect
        self._client: LedgerClient | None = None

    def append(self, frames: list[Frame]) -> list[Receipt | Rejected]:
        """Send one request; a verified outcome for each frame.

        Raises: RejectedError, also where something in front of the ledger takes each event for too
        large; UnavailableError, MalformedError, VerificationError.
        """
        if self._client is None:
            self._client = self._connect()
        items = [_read(frame.sent_json) for frame in frames]
        events = [item for item in items if isinstance(item, ReadEvent)]
        appended = self._client.append_many(events)
        refused = [each.problem for each in appended if isinstance(each, Rejected)]
        if refused and len(refused) == len(appended) and all(map(is_of_proxy, refused)):
            # A proxy may refuse every request, whatever is in it.
            raise RejectedError(refused[0])
        outcomes = iter(appended)
        return [next(outcomes) if isinstance(item, ReadEvent) else item for item in items]

    def close(self) -> None:
        """Close the connection, if there is one. The next batch opens another."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(OSError):
                client.close()


def masked_by_ledger(error: VerificationError) -> Problem | None:
    """The reason if the ledger says that it logged the event without a value; None otherwise.

    The leaf then differs from the event that was sent, so its proof does not verify, and sending
    again would get the same answer for ever. The ledger does not lie about it.
    """
    try:
        answer = msgspec.json.decode(error.evidence.get("answer.json", b""), type=_MaskedAnswer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not answer.masked:
        return None
    first = answer.masked[0]
    problem = Problem(
        type=f"#{first.rule}",
        status=HTTPStatus.OK,
        field=first.path,
        detail="the ledger logged the event without this value",
    )
    return problem.printable(HTTPStatus.OK)


class _MaskedPlace(msgspec.Struct):
    path: str
    rule: str


class _MaskedAnswer(msgspec.Struct):
    masked: tuple[_MaskedPlace, ...] = ()


def _read(sent_json: bytes) -> ReadEvent | Rejected:
    """Read a frame's event, which was checked and made canonical before it was framed."""
    with suppress(msgspec.MsgspecError):
        return ReadEvent(_decode(sent_json), sent_json, b"", ())
    # It has private values, or another version of this program wrote it. The full check reads the
    # one and explains the other.
    try:
        return _READER.read(sent_json)
    except EventError as error:
        return Rejected(id=None, problem=problem_of(error), is_sent=False)


_decode = msgspec.json.Decoder(Event).decode
_READER: Final = PrivateReader(new_event_id, unix_us)
