"""A data file that is made in a folder aside, and takes its place as a whole.

What root makes of an environment, as by sudo, belongs to the owner of the file that it replaces, or
of the folder: the service of another user could not open it any more.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

from ledger_client.runtime.files import keep_owner, sync_directory

DATA_FILE: Final = "data.mdb"
READERS_FILE: Final = "lock.mdb"


@contextmanager
def made_aside(path: Path, *, replaces: bool = False) -> Iterator[Path]:
    """A folder for a new environment, whose data file is put into `path` when the block ends."""
    if not replaces and (path / DATA_FILE).exists():
        raise FileExistsError(f"{path} already holds an environment")
    if not path.exists():
        path.mkdir(mode=0o700, parents=True)
        keep_owner(path)
    draft = Path(mkdtemp(prefix=".new-", dir=path))
    try:
        yield draft
        keep_owner(draft / DATA_FILE, like=path / DATA_FILE)
        if replaces:
            # The table of readers is of the old file, and names its transactions.
            (path / READERS_FILE).unlink(missing_ok=True)
        (draft / DATA_FILE).rename(path / DATA_FILE)
    finally:
        shutil.rmtree(draft)
    sync_directory(path)
    sync_directory(path.parent)


def remove_drafts(path: Path) -> None:
    """Delete what a crash left of copies that were not finished."""
    for draft in path.glob(".new-*"):
        shutil.rmtree(draft)
