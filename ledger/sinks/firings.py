"""The firings of a mirror's alarms as the records of a sink.

They are no entries of the log, so their records have an origin of their own, `ORIGIN/alarms@HOST`,
and the number in the mirror's outbox as index. A sink sends them if its query finds them; one
without a query has the entries of the log alone, since it is a copy of it.
"""

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ledger.follow.entries import Entry
from ledger.follow.firings import is_mirror, read_firings
from ledger.follow.position import Cursor, FollowerPaths
from ledger.sinks.config import KIND, SinkConfig
from ledger.sinks.kinds import format_record
from ledger.sinks.record import Record
from ledger.store.tokens import AccessStore
from ledger_core.event.canonical import decode_event, encode_event, format_leaf
from ledger_core.event.times import format_time, parse_time
from ledger_core.query.predicate import Matcher
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import leaf_hash

RECEIVED_BY: Final = "ledger"


def firing_paths(directory: Path, name: str) -> FollowerPaths:
    """The folder in a sink's folder with its position among the firings, and its dead letters."""
    return FollowerPaths(directory, KIND, f"{name}/firings")


class FiringSource:
    """The firings that one sink of a mirror sends."""

    def __init__(
        self, directory: Path, name: str, config: SinkConfig, origin: str, matches: Matcher
    ) -> None:
        """Precondition: the folder is that of a mirror. Raises: MalformedError, OSError."""
        self.paths: Final = firing_paths(directory, name)
        self.paths.make()
        self._access: Final = AccessStore.open(directory / "access")
        self._cursor: Final = Cursor(self.paths)
        self._form: Final = config.form
        self._most: Final = config.batch_events
        self._origin: Final = f"{origin}/alarms@{socket.gethostname()}"
        self._matches: Final = matches

    def close(self) -> None:
        """Close the outbox."""
        self._access.close()

    def read(self) -> tuple[Sequence[Record], Callable[[], None]]:
        """The next firings for one batch, and the function that moves the position past them."""
        firings = read_firings(self._access, self._cursor.position.next_index)[: self._most]
        records = [self._record(number, event) for number, event in firings]

        def move() -> None:
            if firings:
                self._cursor.move(firings[-1].number + 1, "")

        return [record for record in records if self._matches(record.index, record.leaf)], move

    def record(self, number: int) -> Record:
        """The record of one firing. Raises: MalformedError when it was removed."""
        firing = next(iter(read_firings(self._access, number)), None)
        if firing is None or firing.number != number:
            raise MalformedError(f"firing {number} is kept no more")
        return self._record(*firing)

    def _record(self, number: int, event: bytes) -> Record:
        read, _ = decode_event(event)
        leaf = format_leaf(
            event_json=encode_event(read),
            by=RECEIVED_BY,
            received_time=format_time(parse_time(str(read.time))),
        )
        return format_record(Entry(number, leaf, leaf_hash(leaf)), self._origin, self._form)


def open_firings(
    directory: Path, name: str, config: SinkConfig, *, origin: str, matches: Matcher | None
) -> FiringSource | None:
    """The firings that a sink sends; None if it sends none."""
    if matches is None or not is_mirror(directory):
        return None
    return FiringSource(directory, name, config, origin, matches)
