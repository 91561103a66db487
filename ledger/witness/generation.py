"""The marker of a witness: it shows that an older copy of the heads was put back.

    DIR/cosigned    the number of the last transaction in DIR/heads, and a checksum

It is written after each commit and not synced: after a crash an older number does no harm, and one
that can't be read counts as none. A copy of the whole folder has an older marker too, and passes.
"""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from ledger_client.runtime.files import OWNER_ONLY_MODE, read_limited
from ledger_core.tlog.errors import MalformedError

MARKER_BYTES_MAX: Final = 64

_parse = re.compile(rb"(\d{20}) ([0-9a-f]{16})\n").fullmatch


class Generation:
    """The marker of one witness, for the process that changes its heads."""

    def __init__(
        self, path: Path, last_transaction: Callable[[], int], *, signer: str = "witness"
    ) -> None:
        """Raises: MalformedError when the heads are older than the marker, OSError."""
        check_generation(path, last_transaction, signer=signer)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._descriptor: Final = os.open(path, flags, OWNER_ONLY_MODE)

    def note(self, last_transaction: int) -> None:
        """Write the number of a transaction that is durable. On a full disk the older one stays."""
        with suppress(OSError):
            os.pwrite(self._descriptor, _format(last_transaction), 0)

    def close(self) -> None:
        os.close(self._descriptor)


def check_generation(
    path: Path,
    last_transaction: Callable[[], int],
    *,
    is_strict: bool = False,
    signer: str = "witness",
) -> None:
    """Hold the heads against the marker. Raises: MalformedError when they are older.

    `is_strict`: also when the marker is no marker, as after a flipped bit. `signer`: what signs the
    heads, for messages. The marker is read before the number, which grows while the signer runs.
    """
    try:
        data = read_limited(path, MARKER_BYTES_MAX)
    except FileNotFoundError:
        return
    found = _parse(data)
    if found is None or _format(int(found[1])) != data:
        if is_strict and data:
            raise MalformedError(f"{path} is damaged: delete it, if the heads are the latest")
        return
    number = last_transaction()
    if int(found[1]) > number:
        raise MalformedError(
            f"the heads are of transaction {number}, {path} knows {int(found[1])}: an "
            f"older copy was put back, and this {signer} would sign a second history. Put the "
            f"latest heads back, or make a new {signer}"
        )


def _format(number: int) -> bytes:
    digits = b"%020d" % number
    return b"%b %b\n" % (digits, sha256(digits).hexdigest()[:16].encode())
