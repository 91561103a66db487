# Generated from async_driver.py by client/generate_sync.py: edit that file, not this one.
"""The driver of plans for programs with threads. See `Driver`."""

import threading
from typing import Final, TypeVar

from ledger_client.messages import NOT_SENT, Plan, Request, Response
from ledger_client.retry import Attempts, Environment, RetryPolicy, retried_failure
from ledger_client.transport import Send, Sleep
from ledger_core.tlog.errors import UnavailableError

T = TypeVar("T")


class Driver:
    """Runs plans: sends each request, and sends it again as the retry policy allows."""

    def __init__(
        self, send: Send, *, sleep: Sleep, retry: RetryPolicy, environment: Environment
    ) -> None:
        """`send` makes one attempt and raises UnavailableError when there is no answer."""
        self._send: Final = send
        self._sleep: Final = sleep
        self._retry: Final = retry
        self._environment: Final = environment
        self._lock: Final = threading.Lock()

    def run(self, plan: Plan[T]) -> T:
        """The result of a plan. The last failure of a request is thrown into the plan.

        Raises: what the plan and `send` raise.
        """
        try:
            request = next(plan)
            while True:
                try:
                    response = self._exchange(request)
                except UnavailableError as error:
                    request = plan.throw(error)
                else:
                    request = plan.send(response)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            plan.close()

    def _exchange(self, request: Request) -> Response:
        """The first answer that is not worth another attempt. Raises: UnavailableError."""
        attempts = Attempts(self._retry, self._environment)
        while True:
            try:
                response = self._attempt(request)
                failure = retried_failure(response, unix_s=self._environment.unix_s())
                if failure is None:
                    return response
            except UnavailableError as error:
                failure = error
            self._sleep(attempts.pause_s(failure, name=request.name))

    def _attempt(self, request: Request) -> Response:
        if request.unless is None:
            return self._send(request)
        with self._lock:
            return NOT_SENT if request.unless() else self._send(request)
