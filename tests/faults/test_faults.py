"""A few cases of each kind of fault, the same in each run. `make faults` takes many."""

import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.clocks import set_clocks
from tests.faults.damage import damages
from tests.faults.damage_subjects import EXAMINERS, Examiner
from tests.faults.full_disks import full_disks
from tests.faults.images import kills, power_failures
from tests.faults.injected import injected
from tests.faults.outcome import Case, Outcome
from tests.faults.processes import kill_processes
from tests.faults.subjects import SUBJECTS, Subject

SEED = 4711
CASES = 3
IMAGES = 2
DAMAGES = 4


@pytest.fixture(params=SUBJECTS, ids=lambda each: str(each.name))
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    made: Subject = request.param()
    made.prepare(tmp_path / "prepared")
    return made


@pytest.mark.strace
def test_a_failed_or_killed_system_call_loses_nothing(subject: Subject, tmp_path: Path) -> None:
    cases = injected(subject, tmp_path / "prepared", tmp_path, rng=random.Random(SEED))
    outcomes = taken(cases, CASES, tmp_path)
    assert len(outcomes) == CASES
    check(outcomes)


@pytest.mark.strace
def test_a_power_failure_loses_nothing(subject: Subject, tmp_path: Path) -> None:
    cases = power_failures(subject, tmp_path / "prepared", tmp_path, rng=random.Random(SEED))
    check(taken(cases, IMAGES, tmp_path))


@pytest.mark.strace
def test_a_kill_loses_nothing(subject: Subject, tmp_path: Path) -> None:
    cases = kills(subject, tmp_path / "prepared", tmp_path, rng=random.Random(SEED))
    check(taken(cases, IMAGES, tmp_path))


def test_a_service_goes_on_when_one_of_its_processes_is_killed(
    subject: Subject, tmp_path: Path
) -> None:
    cases = kill_processes(subject, tmp_path / "prepared", tmp_path, rng=random.Random(SEED))
    check(taken(cases, IMAGES, tmp_path))


def taken(cases: Iterator[Case], count: int, scratch: Path) -> list[Any]:
    """The first results that took effect, each in a folder of its own."""
    results: list[Any] = []
    while len(results) < count and (case := next(cases, None)) is not None:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            result = case(Path(folder))
        if result is not None and getattr(result, "has_fired", True):
            results.append(result)
    return results


def check(outcomes: list[Outcome]) -> None:
    assert [str(each) for each in outcomes if each.problems] == []


@pytest.mark.faketime
def test_a_clock_that_is_set_loses_nothing(subject: Subject, tmp_path: Path) -> None:
    cases = set_clocks(subject, tmp_path / "prepared", tmp_path, rng=random.Random(SEED))
    check(taken(cases, 1, tmp_path))


def test_a_full_disk_loses_nothing(subject: Subject, tmp_path: Path) -> None:
    cases = full_disks(subject, tmp_path / "prepared", tmp_path, rng=random.Random(SEED))
    check(taken(cases, 1, tmp_path))


@pytest.mark.parametrize("make", EXAMINERS, ids=lambda each: str(each.name))
def test_a_damaged_file_is_named_or_has_no_effect(
    make: Callable[[], Examiner], tmp_path: Path
) -> None:
    cases = taken(damages(make(), tmp_path, random.Random(SEED), rounds=1), DAMAGES, tmp_path)
    wrong = [each for each in cases if each.problems or (each.differs and not each.is_named)]
    assert [str(each) for each in wrong] == []
