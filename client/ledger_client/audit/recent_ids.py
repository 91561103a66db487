"""The ids of the entries that were checked last, to notice one that two events have."""

from collections.abc import Sequence
from typing import Final

from ledger_core.event.model import Event
from ledger_core.tlog.errors import VerificationError

UUID_CHARS = 36


class RecentIds:
    """The ids of the last entries, at least `most` and at most twice as many.

    Ids are a tenant's own. They are compared and forgotten many at once: one by one this would cost
    a third of all that is done with an entry.
    """

    __slots__ = ("_most", "_newer", "_older")

    def __init__(self, most: int) -> None:
        self._most: Final = most
        # By id, of 36 characters, and tenant as one text: the collector reads pairs, and no texts.
        self._newer: dict[str, int] = {}
        self._older: dict[str, int] = {}

    def add(self, first: int, events: Sequence[Event]) -> None:
        """Add the ids of consecutive entries, the first of this index.

        Raises: VerificationError for an id that another entry has.
        """
        keys = [f"{event.id}{event.tenant or ''}" for event in events]
        added = dict(zip(keys, range(first, first + len(keys)), strict=True))
        is_new = self._newer.keys().isdisjoint(added) and self._older.keys().isdisjoint(added)
        if len(added) != len(keys) or not is_new:
            self._compare(first, keys)
        if len(self._newer) >= self._most:
            self._older, self._newer = self._newer, {}
        self._newer |= added

    def _compare(self, first: int, keys: Sequence[str]) -> None:
        """Name the first of these entries with the id of another; the open bundle comes again."""
        known: dict[str, int] = {}
        for leaf_index, key in enumerate(keys, first):
            other = self._newer.get(key, self._older.get(key, known.setdefault(key, leaf_index)))
            if other != leaf_index:
                raise VerificationError(
                    f"the entries {other} and {leaf_index} have the same id, {key[:UUID_CHARS]}"
                )
