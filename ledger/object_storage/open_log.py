"""Opens a log of which entries may have been released: they are read from the archive.

Each process and command that reads entries opens its log so. `LogStore.open` alone reads what is on
this disk, and says of released entries that it does not read them.
"""

from pathlib import Path

from ledger.object_storage.archived_bundles import ArchivedBundles
from ledger.store.environment import MAP_BYTES_DEFAULT
from ledger.store.log import LogStore
from ledger.store.writer import LogWriter


def open_log(
    path: Path,
    *,
    directory: Path | None = None,
    map_bytes: int = MAP_BYTES_DEFAULT,
    waits_on_loop: bool = True,
    caches: bool = False,
) -> LogStore:
    """Open a log to read it. `directory`: that of `archive.toml`, unless the log lies in it.

    The other options are those of `ArchivedBundles`. Raises: as `LogStore.open`.
    """
    elsewhere = ArchivedBundles(
        directory or path.parent, waits_on_loop=waits_on_loop, caches=caches
    )
    return LogStore.open(path, map_bytes=map_bytes, elsewhere=elsewhere)


def open_writer(
    path: Path,
    *,
    directory: Path | None = None,
    map_bytes: int = MAP_BYTES_DEFAULT,
    waits_on_loop: bool = True,
    caches: bool = False,
) -> LogWriter:
    """Open a log to write it. Raises: as `LogWriter.open`."""
    elsewhere = ArchivedBundles(
        directory or path.parent, waits_on_loop=waits_on_loop, caches=caches
    )
    return LogWriter.open(path, map_bytes=map_bytes, elsewhere=elsewhere)
