"""Tessera's programs: its fsck, which reads a whole log, and a POSIX log that asks witnesses."""

import re
import subprocess
from pathlib import Path

from tests.peers.witnesses import BIN_DIR

FSCK_MAX_S = 120.0
"""It can hang where a log is damaged, so its time is limited."""

_find_verdict = re.compile(r"Successfully fsck'd log with size (\d+) and root (\S+) ").search


class FsckError(Exception):
    """fsck did not say that the log is whole; the message is its output."""


def fsck(
    url: str,
    vkey: str,
    folder: Path,
    *,
    token: str | None = None,
    limit_s: float = FSCK_MAX_S,
) -> tuple[int, str]:
    """The size and the root (base64) of the log that fsck read, entries and all tiles.

    It exits 0 whatever it finds, so its closing line is the verdict. Raises: FsckError.
    """
    key = folder / "log.vkey"
    key.write_text(vkey, encoding="utf-8")
    command = [str(BIN_DIR / "fsck"), "-ui=false", f"-storage_url={url}/", f"-public_key={key}"]
    if token is not None:
        command.append(f"-bearer_token={token}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)
    except subprocess.TimeoutExpired as error:
        raise FsckError(f"no verdict within {limit_s:.0f} s") from error
    verdict = _find_verdict(done.stderr)
    if verdict is None:
        raise FsckError(done.stderr)
    return int(verdict[1]), verdict[2]


def grow_posix_log(folder: Path, *, key: str, policy: Path, entries: int) -> None:
    """Add entries to a POSIX log until a checkpoint with the policy's cosignatures covers them."""
    key_file = folder.with_suffix(".key")
    key_file.write_text(key, encoding="utf-8")
    command = [str(BIN_DIR / "tesseralog"), "-dir", str(folder), "-key", str(key_file)]
    command += ["-policy", str(policy), "-entries", str(entries)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise AssertionError(done.stderr)
