"""Retries of a request: after which failures, and after how long.

Clocks and random numbers are passed in.

* Sent again: after connection errors and time-outs, and after 429, 502, 503 and 504. Never after
  any other answer: a 400 will be a 400 the next time too.
* An append may be sent again: the client made the ids of its events before the first attempt, so an
  event that is stored already comes back as a duplicate.
* The wait is drawn from [0, min(cap, base·2^n)] (full jitter), so clients that failed together do
  not come back together. A Retry-After is waited for in full, up to a cap of its own, and the
  jitter is added to it.
* Attempts and total time are both bounded. The caller sees the last failure.
* A log that publishes each ten minutes says so in the Retry-After of `not-yet-published`. It is
  waited for as long as an hour, beside the total time: the events of an append are durable, and
  only a published head proves them.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ledger_client.messages import Response
from ledger_client.responses import decode_problem, describe_failure
from ledger_client.runtime.backoff import exponential_s, parse_retry_after
from ledger_core.tlog.errors import UnavailableError

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
NOT_YET_PUBLISHED: Final = "#not-yet-published"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Bounds on trying again. `attempts_max` counts the first one too.

    `unpublished_max_s`: how long a request waits for a head, as the log asks it to, in all.
    """

    attempts_max: int = 6
    total_s: float = 60.0
    delay_base_s: float = 0.1
    delay_max_s: float = 5.0
    retry_after_max_s: float = 30.0
    unpublished_max_s: float = 3_600.0

    def __post_init__(self) -> None:
        """Raises: ValueError for a bound that allows nothing."""
        if self.attempts_max < 1:
            raise ValueError(f"at least one attempt is needed, got {self.attempts_max}")
        bounds = (
            *(self.total_s, self.delay_base_s, self.delay_max_s),
            *(self.retry_after_max_s, self.unpublished_max_s),
        )
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

        A server that asks for more than `retry_after_max_s` is not asked again: a held log and a
        mirror do so, because only a person can change their answer.
        `draw` gives a random number in [0, 1). Precondition: attempts >= 1.
        """
        asked_s = retry_after_s or 0.0
        if attempts >= self.attempts_max or asked_s > self.retry_after_max_s:
            return None
        spread_s = exponential_s(attempts, base_s=self.delay_base_s, limit_s=self.delay_max_s)
        delay_s = asked_s + draw() * spread_s
        return delay_s if elapsed_s + delay_s <= self.total_s else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The clocks and the random numbers that retries use; by default those of the system."""

    monotonic_s: Callable[[], float] = time.monotonic
    unix_s: Callable[[], float] = time.time
    draw: Callable[[], float] = secrets.SystemRandom().random


class UnpublishedError(UnavailableError):
    """The head that an answer needs is not published yet."""


class Attempts:
    """Counts the failed attempts at one request. Mutable; owned by the caller that makes them."""

    def __init__(self, retry: RetryPolicy, environment: Environment) -> None:
        """The total time of the policy begins now."""
        self._retry: Final = retry
        self._environment: Final = environment
        self._started_s: Final = environment.monotonic_s()
        self._count = 0
        self._unpublished_s = 0.0

    def pause_s(self, failure: UnavailableError, *, name: str) -> float:
        """The wait between this failure and the next attempt; `name` is the request in messages.

        Raises: UnavailableError when the policy allows no further attempt.
        """
        asked_s = failure.retry_after_s or 0.0
        is_long = isinstance(failure, UnpublishedError) and asked_s > self._retry.delay_max_s
        if is_long and self._unpublished_s + asked_s <= self._retry.unpublished_max_s:
            self._unpublished_s += asked_s
            return asked_s
        self._count += 1
        elapsed_s = self._environment.monotonic_s() - self._started_s
        delay_s = self._retry.delay_s(
            attempts=self._count,
            elapsed_s=elapsed_s - self._unpublished_s,
            retry_after_s=failure.retry_after_s,
            draw=self._environment.draw,
        )
        if delay_s is None:
            raise UnavailableError(
                f"{name}: {failure}"
                f" (attempt {self._count} of {self._retry.attempts_max}, {elapsed_s:.1f} s)",
                retry_after_s=failure.retry_after_s,
            ) from failure
        return delay_s


def retried_failure(response: Response, *, unix_s: float) -> UnavailableError | None:
    """The failure that a response stands for when its request is sent again, else None."""
    if response.status not in RETRIED_STATUSES:
        return None
    retry_after_s = parse_retry_after(response.retry_after, unix_s=unix_s)
    is_unpublished = decode_problem(response).type.endswith(NOT_YET_PUBLISHED)
    kind = UnpublishedError if is_unpublished else UnavailableError
    return kind(describe_failure(response), retry_after_s=retry_after_s)
