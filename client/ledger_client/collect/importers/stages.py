"""Requests that a source records in several stages: only the last stage becomes an event.

The audit log of Kubernetes has a record when a request is received and one when it was answered,
Vault one for a request and one for its response. Each later record repeats the earlier one. A
record that is not the last is held until the last one comes. If none comes, it becomes the event.

The order of the records decides, so a second import of the same files holds and drops the same.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ledger_client.collect.importers.record_reader import Record

HELD_BYTES_MAX = 64 * 1024 * 1024
"""Records that wait for a later stage. Beyond that the oldest becomes an event."""
ENDED_MAX = 100_000
"""Requests whose last stage was seen, so that an earlier one that comes late is dropped too."""


class Stage(NamedTuple):
    """The request that a record is about, and whether the record is its last stage."""

    request: str
    is_last: bool


class LastStages:
    """Selects the last record of each request, over all files of an import."""

    def __init__(
        self,
        stage_of: Callable[[bytes], Stage | None] | None,
        *,
        held_bytes_max: int = HELD_BYTES_MAX,
    ) -> None:
        """`stage_of` is that of a `Format`; without it each record is selected."""
        self._stage_of = stage_of
        self._held: dict[str, Record] = {}
        self._held_bytes = 0
        self._held_bytes_max = held_bytes_max
        self._ended: dict[str, None] = {}
        self.dropped = 0
        """Records that made no event, because a later stage of their request did."""

    def select(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield the records that make events; those held at the end come with `held`."""
        for record in records:
            stage = self._stage_of(record.raw) if self._stage_of else None
            if stage is None:
                yield record
            elif stage.is_last:
                self._drop(stage.request)
                self._ended[stage.request] = None
                if len(self._ended) > ENDED_MAX:
                    del self._ended[next(iter(self._ended))]
                yield record
            elif stage.request in self._ended:
                self.dropped += 1
            else:
                self._drop(stage.request)
                self._held[stage.request] = record
                self._held_bytes += len(record.raw)
                while self._held_bytes > self._held_bytes_max:
                    yield self._take(next(iter(self._held)))

    def held(self) -> Iterator[Record]:
        """Yield the records whose request has no later stage in any file, in their order."""
        while self._held:
            yield self._take(next(iter(self._held)))

    def _drop(self, request: str) -> None:
        if request in self._held:
            self._take(request)
            self.dropped += 1

    def _take(self, request: str) -> Record:
        record = self._held.pop(request)
        self._held_bytes -= len(record.raw)
        return record
