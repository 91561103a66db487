"""A bucket that holds what somebody may use at once, and fills evenly over a period."""

from typing import Final

from ledger.runtime.shared_counts import ALONE, Shared


class Bucket:
    """An amount that refills to `most` in `period_s`; it may be overdrawn.

    `name` is what other processes call it too.
    """

    def __init__(
        self, most: float, period_s: float, now_s: float, *, name: str = "", shared: Shared = ALONE
    ) -> None:
        self._name: Final = name
        self._shared: Final = shared
        self._seen = shared.of_others("spent", name)
        self.most: Final = most
        self._per_s: Final = most / period_s
        until_full_s = max(0.0, shared.latest_time(name) / 1e6 - now_s)
        self._left = most - until_full_s * self._per_s
        self._at_s = now_s

    def wait_s(self, now_s: float) -> float:
        """Seconds until one may be taken out; 0 if it may now."""
        self._refill(now_s)
        return 0.0 if self._left >= 1 else (1 - self._left) / self._per_s

    def is_full(self, now_s: float) -> bool:
        """Whether all may be taken out."""
        self._refill(now_s)
        return self._left >= self.most

    def spend(self, amount: int, now_s: float) -> None:
        """Take an amount out, whether the bucket holds so much or not."""
        self._refill(now_s)
        self._left -= amount
        self._shared.add("spent", self._name, amount)
        until_full_s = (self.most - self._left) / self._per_s
        self._shared.note_time(self._name, int((now_s + until_full_s) * 1e6))

    def _refill(self, now_s: float) -> None:
        self._left = min(self.most, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        of_others = self._shared.of_others("spent", self._name)
        self._left -= of_others - self._seen
        self._seen = of_others
