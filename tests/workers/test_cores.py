"""The number of front ends that is chosen from the cores."""

import os
from pathlib import Path

import pytest

from ledger.service.settings import Settings
from ledger.workers.cores import choose_workers, usable_cores


@pytest.mark.parametrize(
    ("cores", "workers"), [(1, 0), (2, 2), (3, 2), (4, 3), (8, 7), (9, 8), (64, 8)]
)
def test_one_core_has_one_process_and_more_have_front_ends(cores: int, workers: int) -> None:
    assert choose_workers(cores) == workers
    assert Settings().workers == -1


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_the_quota_of_a_container_limits_the_cores(
    tmp_path: Path, files: dict[str, str], cores: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == cores or len(os.sched_getaffinity(0))
