"""Legal holds: `DIR/legal-holds.json`, which commands write. What a hold names is not pruned.

A hold names events by a query, or entries by a range of indices. The minimum index never passes the
first entry that a hold names, so everything behind it stays too.

Each hold is an event when it is added and when it is released, so the file is held against the log:
a hold that was added and not released must be in it, or nothing is pruned. Somebody who only
deletes the file releases nothing. The log remembers it also when its event was pruned.
"""

from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from ledger.query.engine import QueryEngine
from ledger.runtime.records import CheckedRecord, read_record, write_record
from ledger.service.data_dir import DirectoryPaths, missing_files
from ledger.store.hold_events import HoldEvent, holds_in_force, pruned_holds, read_hold_event
from ledger.store.log import LogStore
from ledger_core.query.parser import parse_query
from ledger_core.tlog.errors import MalformedError, UnavailableError

HOLDS_MAX: Final = 1000
HOLD_TYPE: Final = "ledger.legal_hold"
NAME_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"

Index = Annotated[int, Meta(ge=0)]


class LegalHold(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One hold. `query`: its times are absolute; empty for a hold of the entries `[start, end)`."""

    name: str
    reason: str
    added: str
    by: str
    query: str = ""
    start: Index = 0
    end: Index = 0

    @property
    def target(self) -> str:
        """What it holds, as people read it."""
        return self.query or f"entries {self.start} to {self.end - 1}"


class HoldsRecord(CheckedRecord, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `legal-holds.json`."""

    v: Literal[1] = 1
    holds: tuple[LegalHold, ...] = ()


def read_holds(paths: DirectoryPaths) -> tuple[LegalHold, ...]:
    """The holds of a ledger.

    Raises: UnavailableError when the file was there at the last start and is gone, MalformedError.
    """
    if paths.legal_holds.name in missing_files(paths) and not paths.legal_holds.exists():
        raise UnavailableError(
            f"{paths.legal_holds} was there when the ledger was last started, and is gone: put it "
            "back"
        )
    record = read_record(paths.legal_holds, HoldsRecord)
    return () if record is None else record.holds


def write_holds(paths: DirectoryPaths, holds: tuple[LegalHold, ...]) -> None:
    """Replace the holds, durably. Raises: MalformedError for too many, OSError."""
    if len(holds) > HOLDS_MAX:
        raise MalformedError(f"a ledger has at most {HOLDS_MAX} legal holds, got {len(holds)}")
    write_record(paths.legal_holds, HoldsRecord(holds=holds))


def check_known(
    log: LogStore, engine: QueryEngine, holds: tuple[LegalHold, ...], *, now_unix_us: int
) -> None:
    """Check that the file has every hold that the log says was added and not released.

    Raises: UnavailableError that names those that it lacks.
    """
    in_force = holds_in_force(pruned_holds(log), _hold_events(engine, now_unix_us))
    if lost := sorted(in_force - {hold.name for hold in holds}):
        raise UnavailableError(
            f"the log says that these legal holds were added, and not released, but they are not "
            f"in the file: {', '.join(lost)}; put the file back, or release them by their names"
        )


def first_held(engine: QueryEngine, hold: LegalHold, end: int, *, now_unix_us: int) -> int | None:
    """The first entry below `end` that a hold names; None when there is none."""
    if not hold.query:
        first = max(hold.start, engine.minimum_index)
        return first if first < min(hold.end, end) else None
    batches = engine.row_batches(
        parse_query(hold.query, is_long=True), tenant=None, now_unix_us=now_unix_us, tree_size=end
    )
    return next((row.index for rows in batches for row in rows), None)


def _hold_events(engine: QueryEngine, now_unix_us: int) -> Iterator[HoldEvent]:
    """The events about holds that were not pruned, in order."""
    query = parse_query("action:ledger.retention.*")
    for rows in engine.row_batches(query, tenant=None, now_unix_us=now_unix_us):
        for row in rows:
            if (event := read_hold_event(row.leaf)) is not None:
                yield event
