"""Legal holds: `DIR/legal-holds.json`, which commands write. What a hold names is not pruned.

A hold names events by a query, or entries by a range of indices. The minimum index never passes the
first entry that a hold names, so everything behind it stays too.

Each hold is an event when it is added and when it is released, so the file is held against the log:
a hold that was added and not released must be in it, and hold what it held then, or nothing is
pruned. Somebody who only deletes or changes the file releases nothing. The log remembers it also
when its event was pruned.

The index answers quickly which entry a hold names first, but somebody may have written into its
files. So before entries go, each is read and held against every hold (`check_not_held`).
"""

from collections.abc import Callable, Iterator
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from ledger.query.engine import QueryEngine
from ledger.runtime.records import CheckedRecord, read_record, write_record
from ledger.service.data_dir import DirectoryPaths
from ledger.service.start_record import missing_files
from ledger.store.hold_events import (
    HOLD_ACTION,
    HoldEvent,
    HoldsInForce,
    hash_held,
    holds_in_force,
    pruned_holds,
    read_hold_event,
)
from ledger.store.log import LogStore
from ledger_core.query.ast import Or, resolve
from ledger_core.query.parser import parse_query
from ledger_core.query.predicate import make_matcher
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError

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
        """The entries that it holds, as text for people."""
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


def check_known(log: LogStore, holds: tuple[LegalHold, ...]) -> None:
    """Check that the file has every hold that the log says was added and not released.

    Cost: reads every entry that was not pruned.
    Raises: UnavailableError that names those that it lacks, or that hold something else.
    """
    in_force = known_holds(log)
    found = {hold.name: hash_held(hold.target) for hold in holds}
    if lost := sorted(in_force.keys() - found.keys()):
        raise UnavailableError(
            f"the log says that these legal holds were added, and not released, but they are not "
            f"in the file: {', '.join(lost)}; put the file back, or release them by their names"
        )
    changed = [name for name, held in in_force.items() if held - {found[name]}]
    if changed:
        raise UnavailableError(
            f"these legal holds are not in the file as the log says that they were added: "
            f"{', '.join(sorted(changed))}; put the file back, or release them by their names"
        )


def known_holds(log: LogStore) -> HoldsInForce:
    """The holds that the log says were added, and not released.

    Cost: reads every entry that was not pruned.
    """
    return holds_in_force(pruned_holds(log), _hold_events(log))


def check_not_held(holds: tuple[LegalHold, ...], now_unix_us: int) -> Callable[[int, bytes], None]:
    """A check that no hold names an entry, by its leaf alone: no index says so.

    It raises: VerificationError. Cost: 2 to 5 µs for an entry and a query.
    """
    queries = {hold.name: parse_query(hold.query, is_long=True) for hold in holds if hold.query}
    matchers = {name: make_matcher(resolve(each, now_unix_us)) for name, each in queries.items()}
    ranges = [(hold.start, hold.end) for hold in holds if not hold.query]
    any_query = make_matcher(resolve(Or(tuple(queries.values())), now_unix_us)) if queries else None

    def check(index: int, leaf: bytes) -> None:
        if any(start <= index < end for start, end in ranges):
            raise VerificationError(f"a legal hold names entry {index}, which is to go")
        if any_query is not None and any_query(index, leaf):
            names = [name for name, matches in matchers.items() if matches(index, leaf)]
            raise VerificationError(
                f"the legal hold {', '.join(names)} names entry {index}, and the index hides it: "
                "somebody has written into the index; ledger reindex makes it anew from the log"
            )

    return check


def first_held(engine: QueryEngine, hold: LegalHold, end: int, *, now_unix_us: int) -> int | None:
    """The first entry below `end` that a hold names; None when there is none."""
    if not hold.query:
        first = max(hold.start, engine.minimum_index)
        return first if first < min(hold.end, end) else None
    batches = engine.row_batches(
        parse_query(hold.query, is_long=True), tenant=None, now_unix_us=now_unix_us, tree_size=end
    )
    return next((row.index for rows in batches for row in rows), None)


def _hold_events(log: LogStore) -> Iterator[HoldEvent]:
    """The events about holds that were not pruned, in order. No index says which they are."""
    with log.environment.read() as snapshot:
        for leaves in log.leaves_between(snapshot, log.minimum_index, log.head().tree_size):
            for leaf in leaves:
                if HOLD_ACTION in leaf and (event := read_hold_event(leaf)) is not None:
                    yield event
