"""The response of a request decides the outcome of its audited view.

Each integration opens a `ViewRequest` around a request. If the view that the framework has chosen
is decorated with `@audited`, its event is kept until the status of the response is known, and
recorded before the response is sent: a view that returns well may still end in an error, as when
the transaction around it fails to commit. If the response is a refusal or an error, and the view
was never called (a decorator, a permission class or a dependency refused), the event is recorded
too. Weak point: if the process dies after the view and before its response, the event is lost.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from ledger_client.recording.exception_outcomes import Outcome, outcome_of, outcome_of_status

_REDIRECT_STATUSES: Final = range(300, 400)
_WRONG_METHOD: Final = 405
_log = logging.getLogger("ledger_client.integrations")

_view_request: ContextVar["ViewRequest | None"] = ContextVar("ledger_view_request", default=None)


class ResponseOutcome(NamedTuple):
    """The outcome that a response stands for; the status is None when there was no response."""

    outcome: Outcome
    status: int | None


class ViewAudit(Protocol):
    """What `@audited` keeps of a decorated function."""

    def record_refusal(self, arguments: Mapping[str, Any], response: ResponseOutcome) -> None:
        """Record that the function was to be called with these arguments, and was not."""


class ChosenView(NamedTuple):
    """The audited view that a framework has chosen for a request."""

    audit: ViewAudit
    arguments: Mapping[str, Any]
    """Those that the path of the request has, and `request`."""


class ViewRequest:
    """One request, of which the response isn't known yet."""

    def __init__(
        self, choose: Callable[[], ChosenView | None], is_login: Callable[[str], bool]
    ) -> None:
        """`choose` gives the view once the framework has chosen it, and None before that.

        `is_login` tells whether a redirect to this address leads to the login page.
        """
        self._choose: Final = choose
        self._is_login: Final = is_login
        self._held: Final[list[Callable[[ResponseOutcome], None]]] = []
        self._is_view_called = False
        self._response: ResponseOutcome | None = None

    def begins(self, audit: ViewAudit) -> bool:
        """Whether a call that begins now is the call of the view of this request."""
        chosen = self._chosen()
        is_view = chosen is not None and chosen.audit is audit and not self._is_view_called
        self._is_view_called |= is_view
        return is_view

    def end_call(self, record: Callable[[ResponseOutcome], None]) -> None:
        """Record the call of the view, as soon as the response is known."""
        if self._response is None:
            self._held.append(record)
        else:
            _quietly(record, self._response)

    def respond(self, status: int, location: str | None = None) -> None:
        """Tell the status of the response, before it is sent; `location` is where it redirects."""
        self._decide(ResponseOutcome(self.outcome(status, location), status))

    def fail(self, error: BaseException) -> None:
        """Tell that the request ended with this exception, and without a response."""
        self._decide(ResponseOutcome(outcome_of(error), None))

    def end(self) -> None:
        """Tell that the request ended without an exception, and perhaps without a response."""
        self._decide(ResponseOutcome("unknown", None))

    def outcome(self, status: int, location: str | None) -> Outcome:
        """The outcome that a response stands for."""
        if status in _REDIRECT_STATUSES and location is not None and self._leads_to_login(location):
            return "denied"
        return outcome_of_status(status)

    def _leads_to_login(self, location: str) -> bool:
        try:
            return self._is_login(location)
        except Exception as error:  # noqa: BLE001 - settings of the application, whose answer must go out
            _log.error("login_page_not_found error=%s", type(error).__name__)
            return False

    def _decide(self, response: ResponseOutcome) -> None:
        if self._response is not None:
            return  # The status is sent; what fails later is no other response.
        self._response = response
        held = [*self._held]
        self._held.clear()
        for record in held:
            _quietly(record, response)
        is_refusal = response.outcome in {"denied", "failure"} and response.status != _WRONG_METHOD
        chosen = self._chosen() if is_refusal and not self._is_view_called else None
        if chosen is not None:
            _quietly(partial(chosen.audit.record_refusal, chosen.arguments), response)

    def _chosen(self) -> ChosenView | None:
        try:
            return self._choose()
        except Exception as error:  # noqa: BLE001 - the application's objects, and its answer must go out
            _log.error("audited_function_failed what=view error=%s", type(error).__name__)
            return None


def _quietly(record: Callable[[ResponseOutcome], None], response: ResponseOutcome) -> None:
    try:
        record(response)
    except Exception as error:  # noqa: BLE001 - the application's answer must go out
        _log.error("event_lost reason=%s", type(error).__name__)


@contextmanager
def view_request(request: ViewRequest | None) -> Iterator[None]:
    """Make this the request whose view is called in the block; None where there is no request."""
    token = _view_request.set(request)
    try:
        yield
    except BaseException as error:
        if request is not None:
            request.fail(error)
        raise
    finally:
        _view_request.reset(token)


def current_view_request() -> ViewRequest | None:
    """The request whose view is called here."""
    return _view_request.get()
