"""The trailers of exports that have ended, for readers that ask for them."""

from collections import Counter, OrderedDict
from threading import Lock
from typing import Final

from ledger_core.api import ExportTrailer

KEPT_MAX: Final = 1024


class ExportTrailers:
    """The latest trailers by token and by the id that the reader chose. Threads may share it."""

    def __init__(self) -> None:
        self._lock: Final = Lock()
        self._kept: OrderedDict[tuple[str, str], ExportTrailer] = OrderedDict()

    def keep(self, token: str, export_id: str | None, trailer: ExportTrailer) -> None:
        """Keep a trailer; without an id do nothing.

        Beyond KEPT_MAX the oldest of the token with the most is dropped.
        """
        if export_id is None:
            return
        with self._lock:
            self._kept[token, export_id] = trailer
            self._kept.move_to_end((token, export_id))
            if len(self._kept) > KEPT_MAX:
                ((most, _),) = Counter(name for name, _ in self._kept).most_common(1)
                del self._kept[next(key for key in self._kept if key[0] == most)]

    def find(self, token: str, export_id: str) -> ExportTrailer | None:
        """The trailer of an export of this token, if it has ended."""
        with self._lock:
            return self._kept.get((token, export_id))
