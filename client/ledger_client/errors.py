"""The errors that calls raise, by whose fault it is.

RejectedError       the ledger refuses the request: the caller's mistake (a ValueError)
MalformedError      the answer is not the format (ledger_core.tlog.errors)
VerificationError   the answer is well-formed and untrue (ledger_core.tlog.errors)
UnavailableError    no answer now; worth trying again (ledger_core.tlog.errors)
UnsettledError      the same for an append, with the events to append again
OlderHeadError      the published head is older than the one that it should extend
OlderHeadWarning    no error: the ledger shows an older head than one that it showed before
IncompleteWarning   no error: the ledger's data is damaged, and events of an answer may be missing
"""

from ledger_client.results import Receipt, Rejected
from ledger_core.api import Problem
from ledger_core.event.commitments import PrivateEvent
from ledger_core.event.model import Event
from ledger_core.tlog.errors import UnavailableError


class RejectedError(ValueError):
    """The ledger, or the check before sending, refuses a request; retrying does not help."""

    def __init__(self, problem: Problem) -> None:
        """The message has field and detail; `problem` has the whole document."""
        said = problem.detail or problem.title or f"status {problem.status}"
        super().__init__(f"{problem.field}: {said}" if problem.field else said)
        self.problem = problem


class OlderHeadError(ValueError):
    """The tree that should be the longer one is the beginning of the other: nothing was false."""


class OlderHeadWarning(UserWarning):
    """The ledger shows an older head than one that it showed before, or than the state file has.

    Nothing contradicts that head: newer entries are withheld, or not published yet.
    """


class IncompleteWarning(UserWarning):
    """The ledger can't read some of the entries that it searched, so their events are left out."""


class UnsettledError(UnavailableError):
    """An append got no answer, so some events may be in the ledger or not.

    `results` are the outcomes of the requests before. `unsettled` are the events of the failed
    request, without those that the client itself refused, with their ids and times. Appending them
    again is safe: stored ones come back as duplicates. Events after these were not read.
    """

    def __init__(
        self,
        cause: UnavailableError,
        *,
        results: tuple[Receipt | Rejected, ...],
        unsettled: tuple[Event | PrivateEvent, ...],
    ) -> None:
        """Precondition: at least one event is unsettled."""
        first = unsettled[0]
        event_id = first.event.id if isinstance(first, PrivateEvent) else first.id
        many = (
            f"these {len(unsettled)} events, from id {event_id} on," if unsettled[1:] else event_id
        )
        super().__init__(
            f"{cause}; append {many} again with the same id{'s' * bool(unsettled[1:])}:"
            " what the ledger has already comes back as a duplicate",
            retry_after_s=cause.retry_after_s,
        )
        self.cause = cause
        self.results = results
        self.unsettled = unsettled
