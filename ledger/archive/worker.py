"""The process of one archive: `python -m ledger.archive.worker DIR NAME`.

It uploads a full segment as soon as it is published, and the rest at an interval.
"""

import asyncio
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from ledger.archive.object_lock import LockState, read_lock
from ledger.follow.entries import check_position
from ledger.follow.position import Cursor, FollowerPaths
from ledger.follow.tables import check_name
from ledger.follow.worker import Waits, keep_following, run_worker, until_stopped
from ledger.object_storage.config import KIND, ArchiveConfig, read_archive
from ledger.object_storage.objects import CHECKPOINT, PROBE
from ledger.object_storage.open_log import open_log
from ledger.runtime.records import read_record, write_record
from ledger.runtime.tasks import wait_set
from ledger.sinks.delivery import Health
from ledger_client.runtime.process_end import end_process
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError

if TYPE_CHECKING:  # It needs the extra `archive`.
    from ledger.archive.release_check import ReleaseCheck

POLL_S: Final = 0.5

_log = structlog.get_logger("ledger.archive")


def lock_path(paths: FollowerPaths) -> Path:
    """The file with the lock of the bucket that was read last: a `LockState`."""
    return paths.root / "lock.json"


def read_kept_lock(paths: FollowerPaths) -> LockState | None:
    """The lock of the bucket that was read last. Raises: MalformedError, OSError."""
    return read_record(lock_path(paths), LockState)


async def follow(
    directory: Path, name: str, config: ArchiveConfig, health: Health, stop: asyncio.Event
) -> None:
    """Upload until `stop` is set. Raises: MalformedError, VerificationError, UnavailableError,
    OSError.
    """
    # Here, so that an extra that isn't installed is a fault of this archive.
    from ledger.archive.release_check import ReleaseCheck
    from ledger.archive.uploader import Uploader
    from ledger.object_storage.object_store import Bucket

    paths = FollowerPaths(directory, KIND, name)
    with closing(open_log(directory / "log")) as log:
        cursor = Cursor(paths)
        if paths.rewind.exists():
            paths.place.unlink(missing_ok=True)  # So no rewind leads past what the bucket has.
        cursor.take_rewind()
        check_position(log, cursor.position, mend="ledger archive rewind")
        bucket = Bucket(config.place())
        uploader = Uploader(directory, log, bucket, cursor, requests_max=config.requests_max)
        await uploader.prepare()
        await _keep_lock(paths, config, PROBE)
        check = ReleaseCheck(directory, name, log, bucket, config)
        refusal, check_s = "", 0.0
        uploaded_s = -config.interval_s
        is_first = True
        while not stop.is_set():
            is_late = time.monotonic() - uploaded_s >= config.interval_s
            if uploader.has_full_segment() or (is_late and uploader.is_due()):
                uploaded_s = time.monotonic()
                await uploader.upload()
                if is_first:
                    await _keep_lock(paths, config, CHECKPOINT)
                    is_first = False
            if time.monotonic() >= check_s and check.is_due():
                refusal = await _refusal(check)
                check_s = time.monotonic() + (config.retry_max_s if refusal else 0.0)
            health.set(error=refusal)
            if paths.rewind.exists():
                return
            await wait_set(stop, min(POLL_S, config.interval_s))


async def _refusal(check: "ReleaseCheck") -> str:
    """Check the next segment that may leave the disk; why it may not. Uploads go on either way."""
    try:
        await check.check_next()
    except (MalformedError, VerificationError, UnavailableError) as error:
        return str(error)
    return ""


async def _keep_lock(paths: FollowerPaths, config: ArchiveConfig, name: str) -> None:
    """Read the lock of the bucket and of an object, store it, and log it if it has changed."""
    found = await asyncio.to_thread(read_lock, config.place(), name)
    if found.mode and not found.until_unix_s and name == PROBE:
        return  # An old probe's time may be over: the next checkpoint tells.
    before = read_kept_lock(paths)
    if before is None or str(before) != str(found):
        log = _log.info if found.is_safe else _log.warning
        log("archive_lock", url=config.url, lock=str(found))
        write_record(lock_path(paths), found)


async def run(directory: Path, name: str, stop: asyncio.Event) -> None:
    """Upload until `stop` is set or the archive is removed; what fails is tried again."""
    check_name(name)
    paths = FollowerPaths(directory, KIND, name)
    health = Health(name, paths, kind=KIND)
    waits = Waits()

    async def upload() -> None:
        while not stop.is_set():  # `follow` returns for a rewind, which it takes at its start.
            waits.begin()
            config = read_archive(directory, name)
            if config is None:
                return
            waits.longest_s, health.expected_lag_s = config.retry_max_s, config.interval_s
            await until_stopped(stop, follow(directory, name, config, health, stop))

    def note_failure(error: str) -> float:
        health.set(error=error)
        return waits.after_failure()

    await keep_following(paths, stop, upload, on_failure=note_failure)


def main() -> None:
    """Run the archive that the command line names."""
    directory, name = Path(sys.argv[1]), sys.argv[2]
    run_worker(partial(run, directory, name))
    end_process(0)


if __name__ == "__main__":
    main()
