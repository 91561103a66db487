"""Counts what is in flight, in all and by token: bytes of bodies and answers, and requests.

A body counts from its first byte until its events are logged, a large answer until its last byte is
accepted. One that exceeds the limit is refused with 503 and Retry-After; one that is alone always
passes, for other settings bound its size. Callers without a token have a part of it together, so
they keep no token from its share. The processes of one service count together.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from ledger.runtime.shared_counts import ALONE, Shared
from ledger.service.http.problems import retry_later

STRANGERS: Final = "callers without a token"
STRANGERS_PART: Final = 4
"""They may have so many times less in flight than all callers."""


class InFlight:
    """A quantity in flight. Used on the event loop alone."""

    def __init__(
        self, unit: str, *, most: int, most_per_owner: int, shared: Shared = ALONE
    ) -> None:
        self._all: Final = shared.count("in_use", unit)
        self._unit: Final = unit
        self.most = most
        self.most_per_owner = most_per_owner
        self._by_owner: dict[str, int] = {}
        # Each request counts twice, and the same few owners come back.
        self._of_owner: Final = lru_cache(maxsize=1024)(
            lambda owner: shared.count("in_use", f"{unit} of {owner}")
        )
        self.used = 0
        self.total = 0
        """All that was ever in flight."""

    def lease(self, owner: str, *, may_exceed: bool = False, is_stranger: bool = False) -> "_Lease":
        """A block that yields a function which adds to what this owner has in flight until its end.

        The function raises ProblemError for more than the limits allow, unless `may_exceed`.
        `is_stranger`: the owner is a caller without a token.
        """
        owners = (owner, STRANGERS) if is_stranger else (owner,)
        return _Lease(self, owners, may_exceed=may_exceed)

    def add(self, owners: Sequence[str], count: int, *, taken: int, may_exceed: bool) -> None:
        """Count more of a lease that has `taken` so far."""
        if not may_exceed:
            self._check(self.used + self._all.of_others(), count, taken, self.most)
            for owner in owners:
                most = self.most_per_owner
                if owner == STRANGERS:
                    most = self.most // STRANGERS_PART
                used = self._by_owner.get(owner, 0) + self._of_owner(owner).of_others()
                self._check(used, count, taken, most)
        self.total += count
        self._count(owners, count)

    def remove(self, owners: Sequence[str], taken: int) -> None:
        """Count what a lease took no longer."""
        self._count(owners, -taken)

    def _count(self, owners: Sequence[str], change: int) -> None:
        self.used += change
        self._all.add(change)
        for owner in owners:
            left = self._by_owner.pop(owner, 0) + change
            if left:
                self._by_owner[owner] = left
            self._of_owner(owner).add(change)

    def _check(self, used: int, count: int, taken: int, most: int) -> None:
        if used > taken and used + count > most:
            what = f"more than {most} {self._unit} would be in flight"
            raise retry_later("too-busy", what, limit=most)


class _Lease:
    """One block of `InFlight.lease`: two in each request, so no generator."""

    __slots__ = ("_in_flight", "_may_exceed", "_owners", "_taken")

    def __init__(self, in_flight: InFlight, owners: Sequence[str], *, may_exceed: bool) -> None:
        self._in_flight = in_flight
        self._owners = owners
        self._may_exceed = may_exceed
        self._taken = 0

    def __enter__(self) -> Callable[[int], None]:
        return self._take

    def __exit__(self, *_: object) -> None:
        self._in_flight.remove(self._owners, self._taken)

    def _take(self, count: int) -> None:
        self._in_flight.add(self._owners, count, taken=self._taken, may_exceed=self._may_exceed)
        self._taken += count
