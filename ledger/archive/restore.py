"""Makes a ledger from an archive when the host of the old ledger is lost.

    DIR/restoring/   LMDB: the log, until it is there as a whole; a second run goes on with it
    DIR/log/         the same, once every entry is verified and the root is that of the head

The archive has the entries and the published head. It has no key, no token and no private value:
`key` is a copy of the signing key, tokens are made anew, and private values come from a backup
(`ledger restore` of a folder) or are gone. The service builds its index anew from the log.
"""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from ledger.archive.reader import ArchiveReader
from ledger.log.hold import HoldRecord, write_hold
from ledger.object_storage.object_store import Bucket
from ledger.object_storage.place import Place
from ledger.runtime.keys import KEY_FILE_BYTES_MAX
from ledger.service.data_dir import (
    DirectoryPaths,
    PromotionRecord,
    check_copied_key,
    write_promotion,
)
from ledger.service.settings import settings_template
from ledger.store.environment import DATA_FILE
from ledger.store.log import create_log
from ledger.store.tokens import create_access
from ledger.store.writer import LogWriter, Placement, entry_of
from ledger_client.runtime.files import create_file, read_limited, sync_directory
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.policy import VerifiedHead, parse_policy
from ledger_core.tlog.tile import TILE_WIDTH
from ledger_core.tlog.tiled_tree import TiledTree
from ledger_core.tlog.tree import TreeHead

RESTORING: Final = "restoring"
BUNDLES_AT_ONCE: Final = 32

Progress = Callable[[int, int], None]


class Restored(NamedTuple):
    """The result of a restoration: the head, and how many of its entries this run has read."""

    head: TreeHead
    entries: int


def restore_archive(
    place: Place,
    directory: Path,
    policy: bytes,
    *,
    key: Path | None = None,
    is_complete: bool = False,
    now: str,
    progress: Progress = lambda _done, _total: None,
) -> Restored:
    """Make a ledger in a new folder, or go on with an interrupted restoration.

    Unless the archive `is_complete`, the ledger takes no events until `ledger recover`: what was
    acknowledged after the last upload is missing. `now`: the time, as in events.
    Raises: FileExistsError when there is something else in the folder; VerificationError that names
    what is missing or damaged; UnavailableError.
    """
    paths = DirectoryPaths(directory)
    _clear_begun(paths)
    if directory.exists() and {each.name for each in directory.iterdir()} - {
        RESTORING,
        "lost+found",
    }:
        raise FileExistsError(f"{directory} is not empty; a ledger is restored into a new folder")
    check_copied_key(key, policy)  # Now, not after hours of downloads.
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    restored, head = asyncio.run(_restore_log(place, directory / RESTORING, policy, progress))
    create_access(paths.access)
    create_file(paths.policy, policy)
    create_file(paths.settings, settings_template().encode())
    record = PromotionRecord(
        log_url=place.url, tree_size=restored.head.tree_size, verifier_key=head.log_key
    )
    # The events about tokens up to here are of tokens that this folder does not have.
    write_promotion(paths, record)
    if not is_complete:
        reason = (
            f"restored from {place.url} with {restored.head.tree_size} entries; what was "
            "acknowledged after its last upload is missing"
        )
        write_hold(paths.hold, HoldRecord(reason, now))
    (directory / RESTORING).rename(paths.log)
    # Last, as in a new ledger: a folder without it was left half-made.
    if key is not None:
        create_file(paths.key, read_limited(key, KEY_FILE_BYTES_MAX))
    sync_directory(directory)
    return restored


def _clear_begun(paths: DirectoryPaths) -> None:
    """Remove the small parts that an interrupted run has left."""
    if (paths.root / RESTORING).is_dir():
        shutil.rmtree(paths.access, ignore_errors=True)
        for part in (paths.policy, paths.settings, paths.promoted, paths.hold):
            part.unlink(missing_ok=True)


async def _restore_log(
    place: Place, path: Path, policy: bytes, progress: Progress
) -> tuple[Restored, VerifiedHead]:
    """Restore the log alone, into `path`."""
    reader = ArchiveReader(Bucket(place), parse_policy(policy))
    head = await reader.head()
    if not (path / DATA_FILE).exists():
        create_log(path, origin=head.checkpoint.origin)
    with closing(LogWriter.open(path)) as writer:
        start = await _check_begun(reader, head, writer)
        await _append_all(reader, head, writer, progress)
        if writer.head != head.checkpoint.head:
            raise VerificationError("the entries of the archive do not have the root of its head")
        writer.commit([], checkpoints=[(writer.head.tree_size, head.note)])
        return Restored(writer.head, writer.head.tree_size - start), head


async def _check_begun(reader: ArchiveReader, head: VerifiedHead, writer: LogWriter) -> int:
    """Check that the entries of an interrupted run are of the head's tree; return their number."""
    start = writer.head.tree_size
    if start > head.checkpoint.tree_size or await reader.head_at(head, start) != writer.head:
        raise VerificationError(
            f"{writer.store.path} was begun from another archive: remove it, and run this again"
        )
    return start


async def _append_all(
    reader: ArchiveReader, head: VerifiedHead, writer: LogWriter, progress: Progress
) -> None:
    """Append the verified entries that are missing, and read the next ones meanwhile."""
    size = head.checkpoint.tree_size
    tree = TiledTree(head)
    end = -(-size // TILE_WIDTH)
    reading: asyncio.Task[list[bytes]] | None = None
    for first in range(writer.head.tree_size // TILE_WIDTH, end, BUNDLES_AT_ONCE):
        bundles = range(first, min(first + BUNDLES_AT_ONCE, end))
        leaves = await (reading or _read(reader, tree, bundles, size))
        following = range(bundles.stop, min(bundles.stop + BUNDLES_AT_ONCE, end))
        reading = asyncio.create_task(_read(reader, tree, following, size)) if following else None
        known = writer.head.tree_size - first * TILE_WIDTH
        await asyncio.sleep(0)  # So that the reading begins.
        _append(writer, leaves[known:])
        progress(writer.head.tree_size, size)


async def _read(
    reader: ArchiveReader, tree: TiledTree, bundles: Sequence[int], size: int
) -> list[bytes]:
    """The leaves of some bundles, verified."""
    await reader.load(tree, bundles)
    found = await asyncio.gather(*(reader.leaves(tree, index, tree_size=size) for index in bundles))
    return [leaf for leaves in found for leaf in leaves]


def _append(writer: LogWriter, leaves: Sequence[bytes]) -> None:
    try:
        placed = writer.commit([entry_of(leaf) for leaf in leaves])
    except MalformedError as error:
        raise VerificationError(
            f"an entry of the archive behind {writer.head.tree_size} is no event: {error}"
        ) from error
    if any(each.placement is not Placement.APPENDED for each in placed):
        raise VerificationError(f"an id stands twice in the log behind {writer.head.tree_size}")
