"""The trailers of exports that have ended, for readers that ask for them."""

from collections import Counter, OrderedDict
from typing import Final, Protocol

from ledger_core.search_answers import ExportTrailer

KEPT_MAX: Final = 1024


class Trailers(Protocol):
    """Where trailers are kept: in this process, or in the sequencer's."""

    async def store(self, token: str, export_id: str, trailer: ExportTrailer) -> None:
        """Keep a trailer, which any process finds when this returns."""
        ...

    async def find(self, token: str, export_id: str) -> ExportTrailer | None:
        """The trailer of an export of this token, if it has ended."""
        ...


class ExportTrailers:
    """The latest trailers by token and by the id that the reader chose. Used on one event loop."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], ExportTrailer] = OrderedDict()

    async def store(self, token: str, export_id: str, trailer: ExportTrailer) -> None:
        """Keep a trailer. Beyond KEPT_MAX the oldest of the token with the most is dropped."""
        self._kept[token, export_id] = trailer
        self._kept.move_to_end((token, export_id))
        if len(self._kept) > KEPT_MAX:
            ((most, _),) = Counter(name for name, _ in self._kept).most_common(1)
            del self._kept[next(key for key in self._kept if key[0] == most)]

    async def find(self, token: str, export_id: str) -> ExportTrailer | None:
        """The trailer of an export of this token, if it has ended."""
        return self._kept.get((token, export_id))
