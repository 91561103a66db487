"""Removes from this disk the entries that an archive was shown to have, a segment at a time.

`ledger.object_storage.releasable` says in which order, and what a crash leaves. A segment whose
index isn't here yet stays until it is, since building it reads every entry.
"""

import asyncio
from typing import Final

import structlog

from ledger.log.sequencer import Sequencer
from ledger.object_storage.config import archives_path, is_releasing, read_archives
from ledger.object_storage.releasable import allowed_end, lock_releases, read_releasable
from ledger.service.data_dir import DirectoryPaths
from ledger.store.bundle_removal import PreparedRelease, prepare_release
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.log import LogStore
from ledger_client.runtime.files import FileLock
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError

POLL_S: Final = 2.0

_log = structlog.get_logger("ledger.service")


class Releasing:
    """Releases the segments of the log of one sequencer."""

    def __init__(
        self, paths: DirectoryPaths, sequencer: Sequencer, *, poll_s: float = POLL_S
    ) -> None:
        self._paths: Final = paths
        self._sequencer: Final = sequencer
        self._poll_s: Final = poll_s
        self._error = ""
        self._releasing: asyncio.Task[bool] | None = None

    async def run(self) -> None:
        """Release what may go, until cancelled. A failure is logged once, and tried again."""
        while True:
            try:
                while await self._release_next():
                    pass
            except (MalformedError, UnavailableError, VerificationError, OSError) as error:
                if str(error) != self._error:
                    self._error = str(error)
                    _log.warning("release_failed", reason=self._error)
            else:
                self._error = ""
            await asyncio.sleep(self._poll_s)

    async def _release_next(self) -> bool:
        """Let the next segment go; False when none may."""
        if not archives_path(self._paths.root).exists():
            return False
        self._releasing = asyncio.create_task(self._release_locked(lock_releases(self._paths.root)))
        # Whoever cancels this leaves the commit to the writer's thread, and the lock until then.
        return await asyncio.shield(self._releasing)

    async def _release_locked(self, lock: FileLock) -> bool:
        with lock:
            prepared = await asyncio.to_thread(self._prepare)
            if prepared is None:
                return False
            await self._sequencer.release(prepared)
            _log.info("entries_released", archive=prepared.archive, end=prepared.end)
            return True

    def _prepare(self) -> PreparedRelease | None:
        return next_release(self._paths, self._sequencer.store)


def next_release(paths: DirectoryPaths, log: LogStore) -> PreparedRelease | None:
    """The next segment that may leave this disk; None when none may.

    When another archive was chosen, and was shown to have as much as was released, that one is
    noted. Precondition: `lock_releases`. Raises: MalformedError, OSError; as `prepare_release`.
    """
    archives = read_archives(paths.root)
    name = next((name for name, each in archives.items() if is_releasing(each)), None)
    if name is None:
        return None
    record = read_releasable(paths.root, name, log, archives[name].place())
    if record is None:
        return None
    start, release = log.local_start(), log.release()
    allowed = min(record.end, allowed_end(archives[name], log.head().tree_size))
    if release is not None and release.archive != name:
        return prepare_release(log, end=start, archive=name) if record.end >= start else None
    segment = start // SEGMENT_ENTRIES_MAX
    end = (segment + 1) * SEGMENT_ENTRIES_MAX
    if end > allowed or not (paths.index / f"{segment:08d}.segment").exists():
        return None
    return prepare_release(log, end=end, archive=name)
