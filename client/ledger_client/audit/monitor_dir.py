"""A monitor's directory: its state for the next start, and the evidence that it saved.

    STATE/head.json       the head accepted last, as every client keeps it (`state`)
    STATE/progress.json   how far the entries were checked, and when the log last grew
    STATE/evidence/NAME/  both signed heads and the proof, or the head, the tiles and the bundle,
                          and the verdict as text
    STATE/lock            held while a monitor runs: two would overwrite each other's progress

    {"version": 1,
     "progress": {"published_size": 600, "grown_at_unix_s": 1764036216,
                  "rebuilt": {"size": 512, "hashes": ["…"], "received_time": "…",
                              "entries_checked": 600}}}

Each file is replaced as a whole. The head is written first: a crash between the two leaves a
progress that is behind the head, and the entries between them are checked again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import msgspec

from ledger_client.audit.monitor import Progress
from ledger_client.runtime.files import FileLock, FileLockedError, write_atomically
from ledger_client.state_file import STATE_BYTES_MAX, StateFile
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.policy import Policy

PROGRESS_VERSION = 1


class _ProgressFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    version: int
    progress: Progress


class MonitorDir:
    """The directory of one monitor, locked for as long as this is open."""

    def __init__(self, path: Path, *, policy: Policy) -> None:
        """The directory need not exist. Raises: UnavailableError when it is in use, OSError."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path: Final = path
        self._progress: Final = path / "progress.json"
        self._head: Final = StateFile(
            path / "head.json", policy=policy, monotonic_s=lambda: 0.0, evidence=path / "evidence"
        )
        self._saved: tuple[str, Progress] | None = None
        try:
            self._lock: Final = FileLock(path / "lock")
        except FileLockedError:
            raise UnavailableError(f"another monitor is using {path}") from None

    def load(self) -> tuple[str | None, Progress]:
        """The note of the head accepted last, and the progress; None and nothing at first.

        Raises: as `StateFile.load`; MalformedError for a progress file that no monitor wrote.
        """
        anchor = self._head.load()
        try:
            with self._progress.open("rb") as file:
                data = file.read(STATE_BYTES_MAX + 1)
        except FileNotFoundError:
            return anchor, Progress()
        try:
            saved = msgspec.json.decode(data, type=_ProgressFile)
            saved.progress.rebuilt.frontier()
        except ValueError as error:  # msgspec's errors are ValueErrors.
            raise MalformedError(f"{self._progress} is not what a monitor wrote: {error}") from None
        if saved.version != PROGRESS_VERSION:
            raise MalformedError(
                f"{self._progress} has version {saved.version}, want {PROGRESS_VERSION}"
            )
        if anchor is None:
            raise MalformedError(f"{self._progress} is there, and no head.json beside it")
        return anchor, saved.progress

    def save(self, note: str, progress: Progress) -> None:
        """Save a head and the progress under it. Raises: OSError."""
        if (note, progress) == self._saved:
            return
        self._head.save(note)
        saved = _ProgressFile(version=PROGRESS_VERSION, progress=progress)
        write_atomically(self._progress, msgspec.json.format(msgspec.json.encode(saved)) + b"\n")
        self._saved = note, progress

    def save_evidence(self, evidence: Mapping[str, bytes]) -> Path | None:
        """Save evidence. Returns its folder, or None when there are too many.

        Raises: OSError.
        """
        return self._head.save_evidence(evidence)

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
