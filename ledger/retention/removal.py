"""Removes the entries of a decided pruning from every file of a ledger's folder.

    1. everything is checked again: the event, the published head, the policy, the holds
    2. a log without the entries is made beside the log, and checked
    3. `DIR/pruning.json` says that bytes are removed from now on, and no service starts
    4. private values that stand in these entries alone are removed, and the new log takes its place
    5. segments of the index and of Parquet that have any of them are deleted
    6. the files of private values and of tokens are written anew, without deleted rows
    7. the event `ledger.retention.removed` waits in the outbox, and `DIR/pruning.json` is deleted

Whatever fails before 3, such as a full disk or a damaged entry, leaves a ledger that starts. Each
step may be repeated, so after a crash the same command does the rest. The service must not run:
LMDB keeps deleted rows in free pages, so the files themselves are replaced.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from ledger.object_storage.archived_bundles import ArchivedBundles
from ledger.object_storage.open_log import open_log
from ledger.query.segment_builder import first_whole
from ledger.retention.decision import read_stage
from ledger.retention.legal_holds import LegalHold, check_known, check_not_held, read_holds
from ledger.retention.planning import make_plan
from ledger.service.data_dir import DirectoryPaths
from ledger.service.operator_events import record_act
from ledger.service.pruning_journal import (
    PruningRecord,
    begin_removal,
    end_decision,
    write_decision,
)
from ledger.store.compaction import check_unused, compact
from ledger.store.environment import DATA_FILE, Environment
from ledger.store.erasable_values import DATABASES as PRIVATE_DATABASES
from ledger.store.erasable_values import MAP_BYTES
from ledger.store.index.group_filter import GROUP_SEGMENTS
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.minimum_index import Pruning
from ledger.store.pruning import Removed, forget_values, prune_log
from ledger.store.tokens import AccessStore
from ledger_client.runtime.files import sync_directory
from ledger_core.tlog.errors import UnavailableError

REMOVED: Final = "ledger.retention.removed"
Progress = Callable[[int, int], None]

_INDEX_NAME: Final = re.compile(r"(\d{8,10})\.(segment|damaged|filter)").fullmatch
_PARQUET_NAME: Final = re.compile(r"(\d{8,10})\..*").fullmatch


class RemovedFiles(NamedTuple):
    """The result of a removal: the new minimum index, and the bytes that the folder is smaller."""

    minimum_index: int
    event_index: int
    freed_bytes: int


def remove_entries(
    paths: DirectoryPaths,
    *,
    now_unix_us: int,
    progress: Progress = lambda _done, _total: None,
) -> RemovedFiles:
    """Carry out the decision of a ledger, or go on after a crash.

    Raises: UnavailableError, with every entry still there, when nothing is decided, when its event
    is not covered yet, when the policy or a hold no longer allows it, or while the service runs.
    """
    decision = read_stage(paths)
    if decision is None:
        raise UnavailableError("no pruning is decided: see ledger retention plan, then apply")
    record, event_index = decision.record, decision.event_index
    if event_index is None or decision.stage != "covered":
        raise UnavailableError(
            "no published head of a quorum covers the event of the pruning yet: keep the service "
            "running until ledger retention status says that one does"
        )
    for path in (paths.log, paths.access, paths.private):
        if path.exists():
            check_unused(path)
    holds: tuple[LegalHold, ...] = ()
    if not record.has_begun:
        # Before the plan reads them: one that comes since then is noticed at the end.
        holds = read_holds(paths)
        _check_still_allowed(paths, record.minimum_index, now_unix_us)
    else:
        _check_not_held(paths, record, now_unix_us)
    before_bytes = _stored_bytes(paths)

    def forget(removed: Removed) -> None:
        if not record.has_begun:
            _begin(paths, record, holds)
        if (paths.private / DATA_FILE).exists():
            with closing(_open_private(paths)) as private:
                forget_values(private, removed)

    pruning = Pruning(record.minimum_index, event_index)
    prune_log(
        paths.log,
        pruning,
        before=forget,
        elsewhere=ArchivedBundles(paths.root),
        progress=progress,
    )
    delete_segments(paths)
    if (paths.private / DATA_FILE).exists():
        with closing(_open_private(paths)) as private:
            compact(private, check=_check_private)
    # What another command writes into the old file would be lost.
    check_unused(paths.access)
    with closing(AccessStore.open(paths.access)) as access:
        compact(access.environment, check=_check_access)
    freed = max(0, before_bytes - _stored_bytes(paths))
    record_act(
        paths,
        REMOVED,
        targets=[("ledger.event", record.event_id)],
        context={"minimum_index": record.minimum_index, "freed_bytes": freed},
    )
    end_decision(paths)
    return RemovedFiles(record.minimum_index, event_index, freed)


def _begin(paths: DirectoryPaths, record: PruningRecord, holds: tuple[LegalHold, ...]) -> None:
    """Record that the removal begins, unless a hold was added while the copy was made.

    The note is first: a hold that is added after this look finds it, and is refused.
    """
    begin_removal(paths, record)
    if read_holds(paths) != holds:
        write_decision(paths, record)
        raise UnavailableError(
            "the legal holds changed meanwhile, and nothing was removed: run the command again"
        )


def _check_not_held(paths: DirectoryPaths, record: PruningRecord, now_unix_us: int) -> None:
    """Check that no hold names an entry of a removal that began, while all are still there.

    A hold is refused from its beginning on, so there is none, unless somebody wrote into the file
    that the removal began. Raises: UnavailableError, VerificationError.
    """
    with closing(open_log(paths.log)) as log:
        if log.minimum_index >= record.minimum_index:
            return
        holds = read_holds(paths)
        check_known(log, holds)
        check, index = check_not_held(holds, now_unix_us), log.minimum_index
        with log.environment.read() as snapshot:
            for leaves in log.leaves_between(snapshot, index, record.minimum_index):
                for leaf in leaves:
                    check(index, leaf)
                    index += 1


def _check_still_allowed(paths: DirectoryPaths, minimum_index: int, now_unix_us: int) -> None:
    kept = sorted(each.name for each in paths.root.glob("log.before-*"))
    if kept:
        raise UnavailableError(
            f"{', '.join(kept)} in {paths.root} is an old log that ledger recover kept, with the "
            "entries in it: move it away or delete it first"
        )
    plan = make_plan(paths, now_unix_us=now_unix_us)
    if plan.minimum_after < minimum_index:
        what = ", ".join(
            f"{bound.rule} keeps entry {bound.first_kept}"
            for bound in plan.bounds
            if bound.first_kept < minimum_index
        )
        raise UnavailableError(
            f"entries below {minimum_index} may not be pruned any more: {what}; ledger retention "
            "cancel takes the decision back"
        )


def _open_private(paths: DirectoryPaths) -> Environment:
    return Environment.open(paths.private, PRIVATE_DATABASES, readonly=False, map_bytes=MAP_BYTES)


def _check_private(draft: Path) -> None:
    Environment.open(draft, PRIVATE_DATABASES, readonly=True, map_bytes=MAP_BYTES).close()


def _check_access(draft: Path) -> None:
    AccessStore.open(draft).close()


def delete_segments(paths: DirectoryPaths) -> None:
    """Delete every file of a segment that has a pruned entry."""
    with closing(open_log(paths.log)) as log:
        first = first_whole(log, SEGMENT_ENTRIES_MAX)
    for name in ("index.new", "index.old"):
        shutil.rmtree(paths.index.with_name(name), ignore_errors=True)
    for path, number, kind in _numbered(paths.index, _INDEX_NAME):
        # A filter has the terms of all segments of its group.
        if number * (GROUP_SEGMENTS if kind == "filter" else 1) < first:
            path.unlink()
    for path, number, _ in _numbered(paths.parquet, _PARQUET_NAME):
        if number < first:
            path.unlink()
    for left in paths.parquet.glob(".making-*"):
        shutil.rmtree(left)
    for folder in (paths.index, paths.parquet):
        if folder.exists():
            sync_directory(folder)


def _numbered(
    folder: Path, match_name: Callable[[str], re.Match[str] | None]
) -> Iterator[tuple[Path, int, str]]:
    """The files of a folder whose names match: the first group, a number, and the second."""
    for path in sorted(folder.glob("*")):
        if (match := match_name(path.name)) is not None:
            yield path, int(match[1]), match[2] if match.re.groups > 1 else ""


def _stored_bytes(paths: DirectoryPaths) -> int:
    return sum(path.stat().st_size for path in paths.root.rglob("*") if path.is_file())
