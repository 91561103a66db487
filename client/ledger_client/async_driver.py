"""The driver of plans for programs with an event loop. See `AsyncDriver`."""

import asyncio
from typing import Final, TypeVar

from ledger_client.async_transport import Send, Sleep
from ledger_client.messages import NOT_SENT, Plan, Request, Response
from ledger_client.retry import Attempts, Environment, RetryPolicy, retried_failure
from ledger_core.tlog.errors import UnavailableError

T = TypeVar("T")


class AsyncDriver:
    """Runs plans: sends each request, and sends it again as the retry policy allows."""

    def __init__(
        self, send: Send, *, sleep: Sleep, retry: RetryPolicy, environment: Environment
    ) -> None:
        """`send` makes one attempt and raises UnavailableError when there is no answer."""
        self._send: Final = send
        self._sleep: Final = sleep
        self._retry: Final = retry
        self._environment: Final = environment
        self._lock: Final = asyncio.Lock()

    async def run(self, plan: Plan[T]) -> T:
        """The result of a plan. The last failure of a request is thrown into the plan.

        Raises: what the plan and `send` raise.
        """
        try:
            request = next(plan)
            while True:
                try:
                    response = await self._exchange(request)
                except UnavailableError as error:
                    request = plan.throw(error)
                else:
                    request = plan.send(response)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            plan.close()

    async def _exchange(self, request: Request) -> Response:
        """The first answer that is not worth another attempt. Raises: UnavailableError."""
        attempts = Attempts(self._retry, self._environment)
        while True:
            try:
                response = await self._attempt(request)
                failure = retried_failure(response, unix_s=self._environment.unix_s())
                if failure is None:
                    return response
            except UnavailableError as error:
                failure = error
            await self._sleep(attempts.pause_s(failure, name=request.name))

    async def _attempt(self, request: Request) -> Response:
        if request.unless is None:
            return await self._send(request)
        async with self._lock:
            return NOT_SENT if request.unless() else await self._send(request)
