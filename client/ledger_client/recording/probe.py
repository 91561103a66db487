"""Finds out whether one event is refused on the way to the ledger, or any request would be.

A firewall or a proxy may refuse one event every time, and everything behind it would wait for ever.
It is the event if another one goes through and it is refused again. The other one is one that the
ledger took before, and knows by its id. In a process that has sent nothing yet, it is one behind it
in its directory, or the first one of another directory.
"""

import random
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Final

from ledger_client.errors import RejectedError
from ledger_client.recording.delivery import Delivery
from ledger_client.recording.frames import Frame, is_enveloped
from ledger_client.recording.spool_reader import SpoolReader
from ledger_client.results import Receipt, Rejected
from ledger_core.api import Problem
from ledger_core.tlog.errors import MalformedError

Refusal = RejectedError | MalformedError
"""A firewall answers with a status of its own, or with a page."""

REFUSALS: Final = (RejectedError, MalformedError)

ATTEMPTS: Final = 3
"""How often an event is answered with a page, and another one is not, before it is given up."""


class Probe:
    """Sends single events by `delivery`. For one thread."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery: Final = delivery
        self._taken: Frame | None = None

    def note_taken(self, frames: Iterable[Frame]) -> None:
        """Take note of events that the ledger has."""
        # Private values may have been erased since: they are not sent again.
        known = (frame for frame in frames if not is_enveloped(frame.sent_json))
        self._taken = min(known, key=_size, default=self._taken)

    def find_other(
        self,
        error: Refusal,
        behind: Sequence[Frame],
        reader: SpoolReader,
        readers: Iterable[SpoolReader],
    ) -> Frame | None:
        """An event to send beside the one that was refused; None for none.

        `behind` stand behind it in its segment; `reader` is that of its directory.

        Raises: OSError.
        """
        # A ledger might refuse all but what it has.
        is_of_ledger = isinstance(error, RejectedError) and "#" in error.problem.type
        if self._taken is not None and not is_of_ledger:
            return self._taken
        if behind:
            return random.choice(behind)  # noqa: S311 - any one: it may be refused itself
        firsts = (each.read(1) for each in readers if each is not reader)
        found = (batch.frames[0] for batch in firsts if batch is not None)
        return reader.read_following() or next(found, None)

    def decide(self, refused: Frame, other: Frame) -> list[Receipt | Rejected]:
        """The outcome for `refused` alone.

        Raises: as `Delivery.append`, when it may be any request that is refused.
        """
        for _ in range(ATTEMPTS):
            self._delivery.append([other])
            try:
                return self._delivery.append([refused])
            except RejectedError as error:
                return [_rejected(error.problem)]
            except MalformedError:
                # A proxy whose pages come and go must not cost an event.
                continue
        # The answer itself may show the event.
        detail = "the answer was none of a ledger's, each time"
        return [_rejected(Problem(status=HTTPStatus.BAD_GATEWAY, detail=detail))]


def _rejected(problem: Problem) -> Rejected:
    return Rejected(id=None, problem=problem, is_sent=True)


def _size(frame: Frame) -> int:
    return len(frame.sent_json)
