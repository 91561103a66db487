"""The erasures that a ledger, a backup or a file records, done again in an older copy.

A backup that was made before an erasure still holds the values. `backup` and `recovery` read here
what was erased since, and destroy it in the copy too.
"""

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from ledger.object_storage.open_log import open_log
from ledger.service.data_dir import DirectoryPaths
from ledger.store.environment import DATA_FILE
from ledger.store.erasable_values import KEY_BYTES, PrivateStore
from ledger.store.log import LogStore
from ledger_core.event.canonical import parse_leaf
from ledger_core.search_answers import parse_trailer
from ledger_core.tlog.errors import MalformedError

ERASED_ACTION: Final = "ledger.private.erased"
LINE_BYTES_MAX: Final = 1 << 20
_NO_EVENT: Final = (
    *(msgspec.MsgspecError, UnicodeDecodeError, RecursionError),
    *(LookupError, TypeError, AttributeError),
)
PRUNED_ADVICE: Final = (
    "what was erased by pruned events can't be destroyed in this backup: delete the backup, and "
    "use one that was made after the pruning"
)
"""What to do with a backup that is older than the first entry of its ledger."""
NO_KEY: Final = bytes(KEY_BYTES)
"""Stands for the wrapping key where values are erased and none is opened."""


class Erasure(NamedTuple):
    """An erasure that a log records: its subject, and the event."""

    subject: str
    event_json: bytes


def read_erasures(source: Path, start: int) -> list[Erasure]:
    """The erasures that a ledger, a backup or the file of an export records from an index on.

    Raises: UnavailableError, MalformedError for a line that is no event, or a file that is cut
    short or changed; PrunedError where erasures after the index may have been pruned.
    """
    if not source.is_dir():
        return _read_file(source, start)
    with closing(open_log(DirectoryPaths(source).log)) as log:
        return list(erasures_of(log, start))


def _read_file(source: Path, start: int) -> list[Erasure]:
    """The erasures in the file of an export, which must be whole: a cut one would lack some."""
    found: list[Erasure] = []
    rows, sha256, trailer = 0, hashlib.sha256(), None
    for number, line in enumerate(_lines(source), 1):
        if trailer is not None:
            raise MalformedError(f"{source}, line {number}: it goes on behind its trailer")
        if line.startswith(b'{"trailer":'):
            trailer = parse_trailer(line)
            if trailer is None:
                raise MalformedError(f"{source}, line {number}: not a trailer")
            continue
        rows += 1
        sha256.update(line)
        try:
            row: dict[str, Any] = msgspec.json.decode(line, type=dict)
            event = row.get("event", row)
            if event["action"] == ERASED_ACTION and row.get("index", start) >= start:
                subject = msgspec.convert(event["targets"][0]["id"], str)
                found.append(Erasure(subject, msgspec.json.encode(event)))
        except _NO_EVENT as error:
            raise MalformedError(f"{source}, line {number}: not an event: {error}") from None
    if trailer is None:
        raise MalformedError(
            f"{source} has no trailer as its last line, as ledger export writes it: it is cut "
            "short, or something else"
        )
    if (trailer.rows, trailer.sha256) != (rows, sha256.hexdigest()):
        raise MalformedError(
            f"{source} has {rows} rows, its trailer says {trailer.rows}; or they were changed"
        )
    return found


def _lines(source: Path) -> Iterator[bytes]:
    """The lines of a file, none of them longer than a line of an export can be."""
    with source.open("rb") as file:
        while line := file.readline(LINE_BYTES_MAX + 1):
            if len(line) > LINE_BYTES_MAX:
                raise MalformedError(f"{source} has a line of more than {LINE_BYTES_MAX} bytes")
            yield line


def erasures_of(log: LogStore, start: int) -> Iterator[Erasure]:
    """The erasures that a log records from an index on."""
    needle = f'"action":"{ERASED_ACTION}"'.encode()
    with log.environment.read() as snapshot:
        for leaves in log.leaves_between(snapshot, start, log.head().tree_size):
            for leaf in leaves:
                if needle in leaf:
                    parsed = parse_leaf(leaf)
                    if parsed.event.action == ERASED_ACTION and parsed.event.targets:
                        yield Erasure(parsed.event.targets[0].id, parsed.event_json)


def erase_subjects(private: Path, erasures: Iterator[Erasure] | list[Erasure]) -> int:
    """Destroy the values of the subjects of erasures; returns how many values that were."""
    if not (private / DATA_FILE).exists():
        return 0
    values = 0
    with closing(PrivateStore.open(private, NO_KEY)) as store:
        for subject, event_json in erasures:
            values += store.count(subject)
            # The row of the erasure stays: the service logs its event when it opens the store.
            store.erase(subject, event_json=event_json)
    return values
