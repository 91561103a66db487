"""`ledger parquet`, and the events of a ledger's folder for `ledger sql`."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import click

from ledger.cli.folders import LEDGER, MIRROR, READER, check_kind, directory_of
from ledger.cli.options import progress_bar
from ledger.object_storage.open_log import open_log
from ledger.query.parquet_segments import DAMAGED_FILE, seal_missing, sealed_files, write_lines
from ledger.query.segment_builder import first_whole
from ledger.service.data_dir import DirectoryPaths
from ledger.store.environment import DATA_FILE
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.log import LogStore
from ledger.store.stored_log import StoredLog
from ledger_client.cli.console import counted, json_option, note, print_json, print_line
from ledger_client.sql.database import Sources
from ledger_core.tlog.errors import UnavailableError, VerificationError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.policy import Policy, VerifiedHead
from ledger_core.tlog.proof import Proof, check_leaf
from ledger_core.tlog.prove import plan_inclusion
from ledger_core.tlog.tree import Node, TreeHead

UNSEALED_MAX: Final = 8
"""Full segments that a query reads from the log itself, each 65,536 events."""


@click.command("parquet")
@directory_of(LEDGER, MIRROR)
@json_option
def command(directory: Path, as_json: bool) -> None:
    """Write each full segment of the log of DIRECTORY as Parquet, for `ledger sql`.

    Segments that have a file keep it, so a second run makes what is new. The log is only read: the
    service may run. With the setting `parquet` a service does this by itself.
    """
    paths = DirectoryPaths(directory)
    with closing(_open_log(paths)) as log:
        with progress_bar("segments", is_quiet=as_json) as progress:
            made = seal_missing(log, paths.parquet, progress)
        size = log.head().tree_size
        found = sealed_files(log, paths.parquet, size)
    if as_json:
        print_json(
            {"made": made, "files": len(found.files), "missing": found.missing, "tree_size": size}
        )
        return
    print_line(f"{counted(made, 'segment')} written, {counted(len(found.files), 'file')} in all")
    for segment in found.missing:
        note(f"segment {segment} can't be read: see ledger fsck {directory}")


class LocalEvents:
    """The events of a ledger or a mirror on this machine, as of one size of its log."""

    def __init__(self, log: StoredLog, sources: Sources, tree_size: int, unsealed: int) -> None:
        self._log: Final = log
        self.sources: Final = sources
        self.tree_size: Final = tree_size
        self.unsealed: Final = unsealed
        """Full segments that were read from the log, since they have no file."""

    def head(self, policy: Policy) -> VerifiedHead:
        """The head that the log published last. Raises: VerificationError, UnavailableError."""
        published = self._log.published()
        if published is None:
            raise UnavailableError("the log has published no head yet")
        return policy.check(published.note)

    def verified_leaf(self, index: int, head: VerifiedHead) -> bytes:
        """The leaf at an index, once the tree of `head` is proven to have it.

        Raises: VerificationError, also for an event that is newer than the head.
        """
        tree = TreeHead(head.checkpoint.tree_size, head.checkpoint.root_hash)
        if index >= tree.tree_size:
            raise VerificationError(
                f"entry {index} is not covered yet: the published head has size {tree.tree_size}"
            )
        leaf = self._log.leaf(index)
        if leaf is None:
            raise VerificationError(f"the log has no entry {index}")
        plan = plan_inclusion(leaf_index=index, tree_size=tree.tree_size)
        hashes = self._log.prove(plan, (Node(0, index),), tree)
        proof = Proof(leaf_index=index, hashes=hashes, checkpoint=head.note)
        check_leaf(proof, leaf_hash(leaf), head)
        return leaf


@contextmanager
def open_events(directory: Path, scratch: Path) -> Iterator[LocalEvents]:
    """The events of a folder, the open segment included; what isn't sealed is put into `scratch`.

    Raises: UnavailableError without a ledger there, or with too much that isn't sealed; UsageError
    for another kind of folder.
    """
    check_kind(directory, (LEDGER, MIRROR, READER), "ledger sql")
    paths = DirectoryPaths(directory)
    if paths.reader.exists():
        from ledger.reader.parquet_files import open_archived  # Needs the extra `archive`.

        with open_archived(directory, scratch / "cache") as archived:
            size = archived.log.head().tree_size
            _check_few(archived.missing, "the ledger's setting parquet has them uploaded")
            lines = _write_unsealed(archived.log, scratch, archived.missing, size)
            sources = Sources(
                lines=[lines], addresses=archived.addresses, filesystem=archived.filesystem
            )
            yield LocalEvents(archived.log, sources, size, len(archived.missing))
        return
    with closing(_open_log(paths)) as log:
        size = log.head().tree_size
        found = sealed_files(log, paths.parquet, size)
        _check_few(found.missing, f"run ledger parquet {directory}")
        for path in found.damaged:
            note(f"{path} {DAMAGED_FILE}")
        lines = _write_unsealed(log, scratch, found.missing, size)
        sources = Sources(parquet=found.files, lines=[lines])
        yield LocalEvents(log, sources, size, len(found.missing))


def _check_few(missing: Sequence[int], mend: str) -> None:
    if len(missing) > UNSEALED_MAX:
        raise UnavailableError(
            f"{len(missing)} full segments have no Parquet yet, and at most {UNSEALED_MAX} are read"
            f" from the log: {mend}"
        )


def _write_unsealed(log: StoredLog, scratch: Path, missing: Sequence[int], size: int) -> Path:
    """Write the events of segments without Parquet, and of the open one, as lines."""
    lines = scratch / "unsealed.jsonl"
    open_start = size - size % SEGMENT_ENTRIES_MAX
    first = first_whole(log, SEGMENT_ENTRIES_MAX) * SEGMENT_ENTRIES_MAX
    with lines.open("wb") as file:
        for segment in missing:
            start = segment * SEGMENT_ENTRIES_MAX
            write_lines(log, start, start + SEGMENT_ENTRIES_MAX, file)
        # What stays of the segment that was pruned in part.
        write_lines(log, log.minimum_index, min(first, open_start), file)
        write_lines(log, max(log.minimum_index, open_start), size, file)
    return lines


def _open_log(paths: DirectoryPaths) -> LogStore:
    if not (paths.log / DATA_FILE).exists():
        raise UnavailableError(f"there is no ledger in {paths.root}: {paths.log} holds no data")
    return open_log(paths.log)
