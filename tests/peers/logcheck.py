"""Our program on Go's libraries, which reads a log from its URL and says what it verified."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.peers.witnesses import BIN_DIR

_NO_LEAVES: Mapping[int, str] = {}


class LogCheckError(Exception):
    """The program refused a log; the message says why."""


def logcheck(
    url: str,
    policy: Path,
    *,
    leaves: Mapping[int, str] = _NO_LEAVES,
    old: Path | None = None,
    reads_entries: bool = False,
) -> dict[str, Any]:
    """Verify a log with tests/peers/go/logcheck/main.go; return its report.

    `leaves` are leaf hashes in base64 by index, `old` is a file with an older checkpoint.
    Raises: LogCheckError.
    """
    command = [str(BIN_DIR / "logcheck"), "-policy", str(policy)]
    for index, leaf_hash in leaves.items():
        command += ["-leaf", f"{index}={leaf_hash}"]
    if old is not None:
        command += ["-old", str(old)]
    if reads_entries:
        command.append("-entries")
    done = subprocess.run([*command, url], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LogCheckError(done.stderr)
    report: dict[str, Any] = json.loads(done.stdout)
    return report
