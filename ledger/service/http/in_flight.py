"""Counts what is in flight, in all and by token: bytes of bodies and answers, and requests.

A body counts from its first byte until its events are logged, a large answer until its last byte is
accepted. One that exceeds the limit is refused with 503 and Retry-After; one that is alone always
passes, for other settings bound its size.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from ledger.service.http.problems import retry_later


class InFlight:
    """A quantity in flight. Used on the event loop alone."""

    def __init__(self, unit: str, *, most: int, most_per_owner: int) -> None:
        self._unit: Final = unit
        self._most: Final = most
        self._most_per_owner: Final = most_per_owner
        self._by_owner: Counter[str] = Counter()
        self.used = 0

    @contextmanager
    def lease(self, owner: str, *, may_exceed: bool = False) -> Iterator[Callable[[int], None]]:
        """Yield a function that adds to what this owner has in flight, until the block ends.

        The function raises ProblemError for more than the limits allow, unless `may_exceed`.
        """
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            own = self._by_owner[owner]
            for most, used in ((self._most, self.used), (self._most_per_owner, own)):
                if used > taken and used + count > most and not may_exceed:
                    what = f"more than {most} {self._unit} would be in flight"
                    raise retry_later("too-busy", what, limit=most)
            self.used += count
            self._by_owner[owner] += count
            taken += count

        try:
            yield take
        finally:
            self.used -= taken
            self._by_owner[owner] -= taken
            if not self._by_owner[owner]:
                del self._by_owner[owner]
