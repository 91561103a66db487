"""The proof that this log had another history, written to a folder of its own."""

import time
from pathlib import Path

import structlog

from ledger_client.runtime.files import create_file, sync_directory
from ledger_core.tlog.errors import VerificationError

_log = structlog.get_logger("ledger.log.evidence")


def save_evidence(folder: Path, error: VerificationError, *, time_unix_s: int) -> Path | None:
    """Write an error's evidence to a new folder; None when there is none or it can't be written."""
    if not error.evidence:
        return None
    place = folder / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time_unix_s))
    draft = folder / f"{place.name}.draft"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)  # Versions before this one made it readable to all.
        draft.mkdir(mode=0o700)
        for name, content in {"reason": f"{error}\n".encode(), **error.evidence}.items():
            create_file(draft / name, content)
        # A reader who finds the folder under its final name finds all of it.
        draft.rename(place)
        sync_directory(folder)
    except OSError as failure:
        _log.error("evidence_not_saved", reason=str(failure))
        return None
    return place
