"""Limits of each token in a time: requests, bytes, and bytes stored in the log.

Each limit is a bucket that holds what the token may use at once, and fills evenly over its period.
A request is taken while one request or byte is left, and may overdraw the bucket; the next waits
until the debt is paid. So a request that is larger than the whole limit passes too, but rarely.
Buckets are kept in memory and are full after a start. Each process of a service has its own, from
which it takes out what the others spend, too. A process that did not have the bucket of a token yet
begins with what the others have left: when a bucket is full again is known to all processes, for
they have one monotonic clock.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from ledger.runtime.bucket import Bucket
from ledger.runtime.shared_counts import ALONE, Shared
from ledger.service.http.problems import retry_later
from ledger.service.settings import Settings
from ledger.store.tokens import TokenLimits, TokenRecord

NAMES_MAX: Final = 10_000
"""Tokens and principals whose buckets are kept though they are full."""

MINUTE_S: Final = 60.0
DAY_S: Final = 86_400.0


class _Buckets(NamedTuple):
    """The buckets of one token; None without a limit."""

    requests: Bucket | None
    bytes_: Bucket | None
    stored: Bucket | None

    @property
    def is_empty(self) -> bool:
        """Whether the token has no limit."""
        return self.requests is None and self.bytes_ is None and self.stored is None

    def are_full(self, now_s: float) -> bool:
        """Whether the token may use all of its limits."""
        return all(bucket is None or bucket.is_full(now_s) for bucket in self)


class Quotas:
    """The buckets of all tokens. Used on the event loop alone."""

    def __init__(
        self,
        settings: Settings,
        *,
        shared: Shared = ALONE,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shared: Final = shared
        self._defaults = _default_limits(settings)
        self._monotonic_s: Final = monotonic_s
        # By name and the time of making: after a rotation two tokens of a name are in use.
        self._buckets: dict[str, dict[str, _Buckets]] = {}
        self._names_most = NAMES_MAX

    def begin(self, token: TokenRecord, *, stores: bool) -> None:
        """Count a request, which `stores` bytes or not.

        Raises: ProblemError when the token has used up one of its limits.
        """
        buckets = self._of(token)
        if buckets.is_empty:
            return
        now_s = self._monotonic_s()
        checked = [
            (buckets.requests, "requests a minute"),
            (buckets.bytes_, "bytes a minute, of bodies and answers"),
        ]
        if stores:
            checked.append((buckets.stored, "bytes stored a day"))
        for bucket, what in checked:
            if bucket is not None and (wait_s := bucket.wait_s(now_s)) > 0:
                raise retry_later(
                    "rate-exceeded",
                    f"the token may use {bucket.most} {what}",
                    after_s=math.ceil(wait_s),
                    limit=round(bucket.most),
                )
        if buckets.requests is not None:
            buckets.requests.spend(1, now_s)

    def take_settings(self, settings: Settings) -> None:
        """Take the limits for all tokens from these settings; changed, each is whole again."""
        defaults = _default_limits(settings)
        if defaults != self._defaults:
            self._defaults = defaults
            self._buckets.clear()

    def use_bytes(self, token: TokenRecord, count: int) -> None:
        """Count bytes of a body and its answer."""
        bucket = self._of(token).bytes_
        if bucket is not None:
            bucket.spend(count, self._monotonic_s())

    def use_stored(self, name: str, count: int) -> None:
        """Count bytes of new leaves and private values of a principal, or caused by it.

        All tokens of its name count them. The service itself has no limit.
        """
        for buckets in self._buckets.get(name, {}).values():
            if buckets.stored is not None:
                buckets.stored.spend(count, self._monotonic_s())

    def _of(self, token: TokenRecord) -> _Buckets:
        # A token of a revoked one's name has limits of its own.
        found = self._buckets.get(token.name, {}).get(token.created)
        if found is None:
            own, defaults = token.limits or TokenLimits(), self._defaults
            make = partial(self._make, token, self._monotonic_s())
            self._forget_full()
            found = _Buckets(
                make("requests", own.requests_per_minute, defaults.requests_per_minute, MINUTE_S),
                make("bytes", own.bytes_per_minute, defaults.bytes_per_minute, MINUTE_S),
                make("stored", own.stored_bytes_per_day, defaults.stored_bytes_per_day, DAY_S),
            )
            self._buckets.setdefault(token.name, {})[token.created] = found
        return found

    def _forget_full(self) -> None:
        """Forget the buckets that are full, when there are many: made anew they are full too."""
        if len(self._buckets) < self._names_most:
            return
        now_s = self._monotonic_s()
        self._buckets = {
            name: of_name
            for name, of_name in self._buckets.items()
            if not all(buckets.are_full(now_s) for buckets in of_name.values())
        }
        self._names_most = max(NAMES_MAX, 2 * len(self._buckets))

    def _make(
        self,
        token: TokenRecord,
        now_s: float,
        what: str,
        own: int | None,
        default: int | None,
        period_s: float,
    ) -> Bucket | None:
        most = default if own is None else own
        name = f"{what} of {token.name} of {token.created}"
        return Bucket(most, period_s, now_s, name=name, shared=self._shared) if most else None


def _default_limits(settings: Settings) -> TokenLimits:
    return TokenLimits(
        requests_per_minute=settings.token_requests_per_minute_max,
        bytes_per_minute=settings.token_bytes_per_minute_max,
        stored_bytes_per_day=settings.token_stored_bytes_per_day_max,
    )
