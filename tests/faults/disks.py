"""A served folder on a disk of its own that gets full, or whose writes fail while a block runs.

The disk is a tmpfs in a mount namespace of the service, so no rights on this machine are needed.
Writes fail because strace is attached to the running process and ended again.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SPARED_BYTES: Final = 1 << 14
SYNCS: Final = "fdatasync,fsync"
ON_TMPFS: Final = """
set -e
mount -t tmpfs -o size="$1",mode=700 tmpfs "$2"
cp -a "$3/." "$2"
shift 3
exec "$@"
"""


class Filler:
    """Takes the space of the small disk that a folder is on, and gives it back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: list[Path] = []

    def fill(self) -> None:
        """Take all space of the disk."""
        path = self._folder / f"filler-{len(self._paths)}"
        with path.open("wb", buffering=0) as file:
            self._paths.append(path)
            for size in (1 << 20, 1 << 12):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue

    def free(self) -> None:
        """Give it back."""
        while self._paths:
            self._paths.pop().unlink()


@dataclass
class Served:
    """A command that serves a folder; `folder` as this process reaches it."""

    process: "subprocess.Popen[str]"
    folder: Path
    url: str
    _log: Path
    _filler: "Filler"

    @property
    def log(self) -> str:
        """What it logged until now."""
        return self._log.read_text(encoding="utf-8")

    def fill(self) -> None:
        """Take all space of the disk."""
        self._filler.fill()

    def free(self) -> None:
        """Give it back."""
        self._filler.free()

    @contextmanager
    def failing(self, *paths: Path, calls: str = SYNCS) -> Iterator[None]:
        """Make calls on some files fail with EIO while the block runs."""
        strace = shutil.which("strace")
        assert strace, "the tests of failing disks need strace"
        options = [part for path in paths for part in ("-P", str(path))]
        tracer = subprocess.Popen(
            [
                *(strace, "-f", "-o", os.devnull, *options, "-e", f"trace={calls}"),
                *("-e", f"inject={calls}:error=EIO", "-p", str(self.process.pid)),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert tracer.stderr is not None
        try:
            for line in tracer.stderr:
                if "attached" in line:
                    break
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait()
            tracer.stderr.close()


@contextmanager
def served(
    prepared: Path,
    scratch: Path,
    *,
    tmpfs_bytes: int | None = None,
    command: Sequence[str] = ("serve",),
    flags: Sequence[str] = (),
    limits: Any = None,
) -> Iterator[Served]:
    """Serve a folder in a process, on a disk of its own if that has a size.

    `limits` runs in the child before the command does.
    """
    folder = prepared if tmpfs_bytes is None else scratch / "tmpfs"
    folder.mkdir(exist_ok=True)
    program: list[str] = [
        *(sys.executable, "-P", "-m", "ledger", *command, str(folder)),
        *("--listen", "127.0.0.1:0", *flags),
    ]
    if tmpfs_bytes is not None:
        mounting = ["sh", "-c", ON_TMPFS, "sh", str(tmpfs_bytes), str(folder), str(prepared)]
        program = ["unshare", "--mount", "--map-root-user", *mounting, *program]
    log = scratch / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            program,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=limits,  # noqa: PLW1509 - it sets limits and takes no lock
        )
    assert process.stdout is not None
    try:
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found, log.read_text(encoding="utf-8")
        seen = Path(f"/proc/{process.pid}/root{folder}") if tmpfs_bytes is not None else folder
        yield Served(process, seen, found[0], log, Filler(seen))
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            process.stdout.close()
