"""When a request is sent again, and after how long: one policy, no clock and no I/O of its own.

* Sent again: after connection errors and time-outs, and after 429, 502, 503 and 504. Never after
  any other answer: a 400 will be a 400 the next time too.
* An append may be sent again because its events carry ids which the client made before the first
  attempt: what was stored already comes back as a duplicate.
* The wait is drawn from [0, min(cap, base·2^n)] (full jitter), so that clients which failed
  together don't come back together. A Retry-After is waited for in full, up to a cap of its own,
  and the jitter is added to it.
* Attempts and total time are both bounded; the last failure is what the caller sees.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TypeVar

from ledger_client.messages import Plan, Request, Response, Turn
from ledger_client.runtime.backoff import exponential_s
from ledger_core.tlog.errors import UnavailableError

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
RETRY_AFTER_DIGITS_MAX = 9

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Bounds on trying again. `attempts_max` counts the first one too."""

    attempts_max: int = 6
    total_s: float = 60.0
    delay_base_s: float = 0.1
    delay_max_s: float = 5.0
    retry_after_max_s: float = 30.0

    def __post_init__(self) -> None:
        """Raises: ValueError for a bound that allows nothing."""
        if self.attempts_max < 1:
            raise ValueError(f"at least one attempt is needed, got {self.attempts_max}")
        bounds = (self.total_s, self.delay_base_s, self.delay_max_s, self.retry_after_max_s)
        if min(bounds) < 0:
            raise ValueError("times to wait can't be negative")

    def delay_s(
        self,
        *,
        attempts: int,
        elapsed_s: float,
        retry_after_s: float | None,
        draw: Callable[[], float],
    ) -> float | None:
        """The wait before the next attempt, or None when `attempts` of them were enough.

        `draw` gives a random number in [0, 1). Precondition: attempts >= 1.
        """
        if attempts >= self.attempts_max:
            return None
        spread_s = exponential_s(attempts, base_s=self.delay_base_s, limit_s=self.delay_max_s)
        delay_s = min(retry_after_s or 0.0, self.retry_after_max_s) + draw() * spread_s
        return delay_s if elapsed_s + delay_s <= self.total_s else None


@dataclass(frozen=True, slots=True)
class Sleep:
    """A step of `persist` that sends nothing: wait so long, then go on."""

    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the retry policy reads of the world."""

    monotonic_s: Callable[[], float]
    unix_s: Callable[[], float]
    draw: Callable[[], float]


Step = Request | Turn | Sleep
Steps = Generator[Step, Response | UnavailableError | None, T]


def persist(plan: Plan[T], *, retry: RetryPolicy, environment: Environment) -> Steps[T]:
    """Run a plan, sending each of its requests again as the policy allows.

    Yields a `Request`, to be answered with its `Response` or the `UnavailableError` it met; or a
    `Turn` or a `Sleep`, to be answered with None. The last failure of a request is thrown into the
    plan.
    """
    try:
        step = next(plan)
        while True:
            if isinstance(step, Turn):
                yield step
                step = next(plan)
                continue
            try:
                response = yield from _exchange(step, retry=retry, environment=environment)
            except UnavailableError as error:
                step = plan.throw(error)
            else:
                step = plan.send(response)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        plan.close()


def _exchange(request: Request, *, retry: RetryPolicy, environment: Environment) -> Steps[Response]:
    """One request, until it has an answer that isn't worth another attempt."""
    started_s = environment.monotonic_s()
    attempts = 0
    while True:
        answer = yield request
        attempts += 1
        if isinstance(answer, Response):
            if answer.status not in RETRIED_STATUSES:
                return answer
            failure = f"status {answer.status}"
            retry_after_s = parse_retry_after(answer.retry_after, unix_s=environment.unix_s())
        elif isinstance(answer, UnavailableError):
            failure, retry_after_s = str(answer), answer.retry_after_s
        else:
            raise TypeError("a request must be answered before the next step")
        elapsed_s = environment.monotonic_s() - started_s
        delay_s = retry.delay_s(
            attempts=attempts,
            elapsed_s=elapsed_s,
            retry_after_s=retry_after_s,
            draw=environment.draw,
        )
        if delay_s is None:
            path = request.target.partition("?")[0]
            raise UnavailableError(
                f"{request.method} {path}: {failure}"
                f" (attempt {attempts} of {retry.attempts_max}, {elapsed_s:.1f} s)",
                retry_after_s=retry_after_s,
            )
        yield Sleep(delay_s)


def parse_retry_after(text: str | None, *, unix_s: float) -> float | None:
    """The seconds that a Retry-After header asks to wait, None for none or one not understood.

    Source: RFC 9110 §10.2.3: a number of seconds, or an HTTP date, here against the clock `unix_s`.
    """
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:RETRY_AFTER_DIGITS_MAX])
    try:
        then = parsedate_to_datetime(text)
        return max(0.0, then.timestamp() - unix_s)
    except (ValueError, OverflowError):
        return None
