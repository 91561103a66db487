"""Ledgers of which entries left the disk for a bucket."""

from contextlib import closing
from pathlib import Path

from ledger.object_storage.config import archives_path
from ledger.object_storage.object_store import Bucket
from ledger.object_storage.open_log import open_log, open_writer
from ledger.object_storage.place import Place
from ledger.store.bundle_removal import prepare_release
from tests.archive.archiving import ArchivedFolder

NAME = "cold"


def configure(directory: Path, place: Place, *, keys: str = "", name: str = NAME) -> None:
    """Write `archive.toml` with one archive."""
    archives_path(directory).write_text(
        f'[{name}]\nurl = "{place.url}"\nendpoint = "{place.endpoint}"\ntimeout_s = 5\n{keys}',
        encoding="utf-8",
    )


def release(folder: ArchivedFolder, place: Place, end: int) -> None:
    """Upload a log, and remove its first entries from the disk."""
    folder.upload(Bucket(place), name=NAME)
    configure(folder.directory, place)
    with closing(open_writer(folder.directory / "log")) as writer:
        writer.release(prepare_release(writer.store, end=end, archive=NAME))


def leaves_of(folder: ArchivedFolder) -> list[bytes]:
    """All leaves of a log, one read each."""
    with closing(open_log(folder.directory / "log")) as log:
        found = [log.leaf(index) for index in range(log.head().tree_size)]
    assert None not in found
    return [leaf for leaf in found if leaf is not None]
