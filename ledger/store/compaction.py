"""Removes rows for good: by a copy without them, which takes the place of the data file.

LMDB keeps deleted rows in its free pages and in the gaps of its pages. So what must be gone is not
deleted. The rows that stay are written to a new file beside the old one. The new file is checked,
and then renamed over the old one: after a crash the one or the other is there, whole.

No other process may have the environment open. It would go on with the old file, which the file
system keeps for it, and what it writes would be lost.
"""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from ledger.store.drafts import remove_drafts
from ledger.store.environment import ChangeRows, Environment
from ledger_core.tlog.errors import UnavailableError


def check_unused(path: Path) -> None:
    """Refuse an environment that another process has open. Raises: UnavailableError.

    LMDB holds a lock on the first byte of its file of locks for as long as it is open.
    Precondition: this process doesn't have it open, since it would lose its own lock.
    """
    try:
        file = os.open(path / "lock.mdb", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
    except OSError:
        raise UnavailableError(
            f"another process has {path} open: stop the service, and other commands on this folder"
        ) from None
    finally:
        os.close(file)


def compact(
    environment: Environment,
    *,
    check: Callable[[Path], None],
    change: ChangeRows = lambda _name, rows: rows,
) -> None:
    """Replace the data file of an environment by a copy, in which no deleted row is left.

    `check` gets the folder of the copy before that, and raises if it is unfit. Nothing else may be
    done with this environment then: it still has the old file.
    Raises: as `Environment.copy_snapshot`.
    """
    remove_drafts(environment.path)
    with environment.read() as snapshot:
        environment.copy_snapshot(snapshot, environment.path, change=change, check=check)
