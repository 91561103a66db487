"""Counts what is in flight, in all and by token: bytes of bodies and answers, and requests.

A body counts from its first byte until its events are logged, a large answer until its last byte is
accepted. One that exceeds the limit is refused with 503 and Retry-After; one that is alone always
passes, for other settings bound its size. The processes of one service count together.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from ledger.runtime.shared_counts import ALONE, Shared
from ledger.service.http.problems import retry_later


class InFlight:
    """A quantity in flight. Used on the event loop alone."""

    def __init__(
        self, unit: str, *, most: int, most_per_owner: int, shared: Shared = ALONE
    ) -> None:
        self._shared: Final = shared
        self._unit: Final = unit
        self.most = most
        self.most_per_owner = most_per_owner
        self._by_owner: dict[str, int] = {}
        self._name: Final = lru_cache(maxsize=1024)(lambda owner: f"{unit} of {owner}")
        self.used = 0
        self.total = 0
        """All that was ever in flight."""

    def lease(self, owner: str, *, may_exceed: bool = False) -> "_Lease":
        """A block that yields a function which adds to what this owner has in flight until its end.

        The function raises ProblemError for more than the limits allow, unless `may_exceed`.
        """
        return _Lease(self, owner, may_exceed=may_exceed)

    def add(self, owner: str, count: int, *, taken: int, may_exceed: bool) -> None:
        """Count more of a lease that has `taken` so far."""
        own = self._by_owner.get(owner, 0)
        if not may_exceed:
            for most, name, here in (
                (self.most, self._unit, self.used),
                (self.most_per_owner, self._name(owner), own),
            ):
                used = here + self._shared.of_others("in_use", name)
                if used > taken and used + count > most:
                    what = f"more than {most} {self._unit} would be in flight"
                    raise retry_later("too-busy", what, limit=most)
        self.used += count
        self.total += count
        self._by_owner[owner] = own + count
        self._share(owner, count)

    def remove(self, owner: str, taken: int) -> None:
        """Count what a lease took no longer."""
        self.used -= taken
        left = self._by_owner.pop(owner, 0) - taken
        if left:
            self._by_owner[owner] = left
        self._share(owner, -taken)

    def _share(self, owner: str, count: int) -> None:
        self._shared.add("in_use", self._unit, count)
        self._shared.add("in_use", self._name(owner), count)


class _Lease:
    """One block of `InFlight.lease`: two in each request, so no generator."""

    __slots__ = ("_in_flight", "_may_exceed", "_owner", "_taken")

    def __init__(self, in_flight: InFlight, owner: str, *, may_exceed: bool) -> None:
        self._in_flight = in_flight
        self._owner = owner
        self._may_exceed = may_exceed
        self._taken = 0

    def __enter__(self) -> Callable[[int], None]:
        return self._take

    def __exit__(self, *_: object) -> None:
        self._in_flight.remove(self._owner, self._taken)

    def _take(self, count: int) -> None:
        self._in_flight.add(self._owner, count, taken=self._taken, may_exceed=self._may_exceed)
        self._taken += count
