"""Programs whose disk gets full while they work, and has room again later: real ENOSPC.

The disk is a tmpfs in a mount namespace of the program. Its folder is copied as it is at a moment
at which the program stands still, as after a kill.
"""

import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from tests.faults.disks import ON_TMPFS, Filler
from tests.faults.outcome import Case, Outcome
from tests.faults.subjects import Subject, judge
from tests.files import files_below

ROOM_BYTES: Final = 4 << 20
_MOUNT_AND_WAIT: Final = ON_TMPFS.replace("exec", "echo mounted; read -r _ || :; exec")
_COPIED: Final = shutil.ignore_patterns("index", "filler-*")


def full_disks(
    subject: Subject, prepared: Path, _scratch: Path, *, rng: random.Random
) -> Iterator[Case]:
    """Runs without end whose disk is full for a while."""
    while True:
        pause_s, full_s = rng.uniform(0.0, 1.0), rng.uniform(0.05, 1.0)
        yield partial(_fill_disk, subject, prepared, pause_s, full_s)


def _fill_disk(
    subject: Subject, prepared: Path, pause_s: float, full_s: float, scratch: Path
) -> Outcome:
    mounted, folder = scratch / "tmpfs", scratch / "copied"
    mounted.mkdir()
    size = ROOM_BYTES + sum(each.stat().st_size for each in files_below(prepared))
    process = subprocess.Popen(
        [
            *("unshare", "--mount", "--map-root-user", "sh", "-c", _MOUNT_AND_WAIT, "sh"),
            *(str(size), str(mounted), str(prepared), *subject.command(mounted)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "mounted\n"
    disk = os.open(f"/proc/{process.pid}/root{mounted}", os.O_RDONLY | os.O_DIRECTORY)
    process.stdin.close()  # Now the program begins.
    # By this path the disk is there even when its program has ended.
    seen = Path(f"/proc/self/fd/{disk}")
    done = threading.Event()
    filler = threading.Thread(target=_fill, args=(seen, pause_s, full_s, done))
    filler.start()
    try:
        acknowledged = subject.work(mounted, iter(process.stdout))
        process.send_signal(signal.SIGSTOP)
        shutil.copytree(seen, folder, ignore=_COPIED)
    finally:
        done.set()
        filler.join()
        process.kill()
        process.wait()
        process.stdout.close()
        os.close(disk)
    problems = judge(subject, folder, acknowledged)
    case = f"from {pause_s:.2f} s on, for {full_s:.2f} s"
    return Outcome(subject.name, "disk full", case, True, problems)


def _fill(seen: Path, pause_s: float, full_s: float, done: threading.Event) -> None:
    done.wait(pause_s)
    filler = Filler(seen)
    filler.fill()
    done.wait(full_s)
    filler.free()
