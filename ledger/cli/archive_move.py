"""`ledger archive move-released`: entries that left the disk for one bucket are read from another.

1. `retain_local_segments` moves from one table of archive.toml to the other, in one write. A crash
   before it has changed nothing. After it nothing more leaves for the old archive.
2. The whole log is uploaded to the new archive, released entries from the old one. A crash repeats
   what was not confirmed; what is there is compared.
3. Each bundle is read back from the new one, and held against the tiles on this disk. A crash
   repeats that. Then `archive/NAME/releasable.json` says so: a crash after it leaves step 4 to do.
4. The log notes the name of the new archive, in one transaction. A crash before it leaves reads at
   the old one, and after it at the new one, which was shown to have every entry.

Before step 4 the table of the old archive must stay, and `ledger archive remove` refuses it. A
running service does steps 2 to 4 by itself; without one the command does them.
"""

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from ledger.cli.archive_changes import LOCK_WAIT_S
from ledger.cli.folders import LEDGER, MIRROR, directory_of
from ledger.cli.followers import find_follower, record_follower, report_act
from ledger.follow.position import Cursor, FollowerPaths
from ledger.object_storage.config import (
    KIND,
    ArchiveConfig,
    archives_path,
    change_archives,
    is_releasing,
    read_archives,
)
from ledger.object_storage.open_log import open_log, open_writer
from ledger.object_storage.releasable import lock_releases
from ledger.service.data_dir import DirectoryPaths
from ledger.service.releasing import next_release
from ledger.service.start_record import changing_files
from ledger.store.environment import lock_for_writing
from ledger.store.log import LogStore
from ledger_client.cli.console import json_option, note
from ledger_client.runtime.files import FileLock
from ledger_core.tlog.errors import UnavailableError

RETAIN_MAX: Final = 1 << 32
"""Segments that stay here: so many that no more leave."""


@click.command("move-released")
@directory_of(LEDGER, MIRROR)
@click.argument("old", metavar="FROM")
@click.argument("new", metavar="TO")
@click.option(
    "--allow-unlocked",
    is_flag=True,
    help="Move them although the new bucket has no object lock in the mode COMPLIANCE.",
)
@json_option
def move_released(directory: Path, old: str, new: str, allow_unlocked: bool, as_json: bool) -> None:
    """Have entries that left the disk for the archive FROM read from the archive TO.

    TO was added before. It gets the whole log, each entry is read back from it and verified, and
    only then is it noted. FROM keeps what it has. Run the command again after an interruption.
    """
    archives = read_archives(directory)
    configs = {name: find_follower(KIND, archives, name) for name in (old, new)}
    if old == new:
        raise click.UsageError("FROM and TO are the same archive")
    with closing(open_log(directory / "log")) as log:
        release = log.release()
    if release is None or release.archive not in configs:
        raise click.UsageError(f"no entry that left this disk is in the archive {old!r}")
    is_moved = release.archive == new
    changed = _moved_settings(configs[old], configs[new], allow_unlocked=allow_unlocked)
    if not is_moved and changed != (configs[old], configs[new]):
        _check_lock(directory, new, changed[1])
        with changing_files(DirectoryPaths(directory), archives_path(directory).name):
            change_archives(directory, {old: changed[0], new: changed[1]})
        record_follower(directory, KIND, "released_moved", old, to=new)
    if not is_moved:
        is_moved = _move_here(directory, new, changed[1])
    said = (
        f"the entries below {release.end:,} are read from the archive {new!r}"
        if is_moved
        else f"the service moves the entries below {release.end:,}: ledger archive status shows "
        f"when they are in the archive {new!r}"
    )
    report_act(said, as_json, name=new, moved=is_moved, released_end=release.end)


def _moved_settings(
    old: ArchiveConfig, new: ArchiveConfig, *, allow_unlocked: bool
) -> tuple[ArchiveConfig, ArchiveConfig]:
    """The tables after the move: what stays on this disk is said for the new archive alone."""
    replace = msgspec.structs.replace
    values: dict[str, Any] = {"allow_unlocked": allow_unlocked or new.allow_unlocked}
    if not is_releasing(new):
        retained = old.retain_local_segments
        # An archive without the key keeps what has left; nothing more may leave for the other one.
        values["retain_local_segments"] = RETAIN_MAX if retained is None else retained
        values["cache_bytes"] = old.cache_bytes
    return replace(old, retain_local_segments=None, allow_unlocked=False), replace(new, **values)


def _check_lock(directory: Path, name: str, config: ArchiveConfig) -> None:
    """Check the bucket before anything changes. Raises: UsageError for one without a lock."""
    from ledger.archive.trial import try_bucket

    found = try_bucket(directory, name, config)
    if not config.allow_unlocked and found.lock.mode != "compliance":
        raise click.UsageError(
            f"the bucket of {name!r} may hold the only copy, and its lock is {found.lock}; with "
            "--allow-unlocked it may hold it all the same"
        )


def _move_here(directory: Path, name: str, config: ArchiveConfig) -> bool:
    """Upload, read back, and note the new archive; False where a service does so."""
    from ledger.archive.uploader import Uploader
    from ledger.object_storage.object_store import Bucket

    paths = DirectoryPaths(directory)
    try:
        lock_for_writing(paths.log).release()
    except UnavailableError as error:
        note(str(error).partition(";")[0])
        return False
    follower = FollowerPaths(directory, KIND, name)
    follower.make()
    with closing(open_writer(paths.log)) as writer, FileLock(follower.lock):
        log = writer.store

        async def upload() -> None:
            bucket = Bucket(config.place())
            uploader = Uploader(
                directory, log, bucket, Cursor(follower), requests_max=config.requests_max
            )
            await uploader.prepare()
            await uploader.upload()
            await read_back(directory, name, log, config)

        asyncio.run(upload())
        with lock_releases(directory, wait_s=LOCK_WAIT_S):
            prepared = next_release(paths, log)
            if prepared is not None:
                writer.release(prepared)
        release = log.release()
        return release is not None and release.archive == name


async def read_back(directory: Path, name: str, log: LogStore, config: ArchiveConfig) -> None:
    """Read from a bucket all that may leave this disk, and all that has left it.

    Raises: as `ReleaseCheck.check_next`.
    """
    from ledger.archive.release_check import ReleaseCheck
    from ledger.object_storage.object_store import Bucket

    check = ReleaseCheck(directory, name, log, Bucket(config.place()), config)
    end = -1
    while check.is_due() and (checked := await check.check_next()) != end:
        end = checked
