"""How many front ends a machine should have.

On two cores two of them answered 1.5 times as many single events as one process at 32 connections
and 2.1 times at 256, at one connection 0.92 times (docs/benchmarks.md). Each takes some 60 MB.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

CGROUP: Final = Path("/sys/fs/cgroup")
MOST: Final = 8
"""The sequencer's process is busy before so many front ends are."""


def choose_workers(cores: int) -> int:
    """The number of front ends for so many cores; 0 for one process that does all."""
    if cores < 2:  # noqa: PLR2004 - a second process needs a second core
        return 0
    return min(max(2, cores - 1), MOST)


def usable_cores(cgroup: Path = CGROUP) -> int:
    """The cores that this process may use, by its affinity and by the quota of its container."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _quota(cgroup)
    return cores if quota is None else max(1, min(cores, int(quota)))


def _quota(cgroup: Path) -> float | None:
    """The cores that the container may use at once, None without a limit."""
    # The first file is of cgroup v2, the others are of v1.
    with suppress(OSError, ValueError):
        quota, period = (cgroup / "cpu.max").read_text().split()
        return int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota_us = int((cgroup / "cpu/cpu.cfs_quota_us").read_text())
        period_us = int((cgroup / "cpu/cpu.cfs_period_us").read_text())
        return quota_us / period_us if quota_us > 0 else None
    return None
