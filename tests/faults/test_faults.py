"""A few cases of each kind of fault, the same in each run. `make faults` takes many."""

import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from tests.faults.clocks import set_clocks
from tests.faults.damage import damages
from tests.faults.damage_subjects import EXAMINERS, Examiner
from tests.faults.full_disks import full_disks
from tests.faults.images import power_failures
from tests.faults.injected import injected
from tests.faults.outcome import Outcome
from tests.faults.subjects import SUBJECTS, Subject

SEED = 4711
CASES = 4
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
    outcomes = list(islice((each for each in cases if each.has_fired), CASES))
    assert len(outcomes) == CASES
    check(outcomes)


@pytest.mark.strace
def test_a_power_failure_loses_nothing(subject: Subject, tmp_path: Path) -> None:
    cases = power_failures(subject, tmp_path / "prepared", tmp_path, rng=random.Random(SEED))
    check(list(islice(cases, IMAGES)))


def check(outcomes: list[Outcome]) -> None:
    assert [str(each) for each in outcomes if each.problems] == []


@pytest.mark.faketime
def test_a_clock_that_is_set_loses_nothing(subject: Subject, tmp_path: Path) -> None:
    cases = set_clocks(subject, tmp_path / "prepared", tmp_path, rng=random.Random(SEED))
    check(list(islice(cases, 1)))


def test_a_full_disk_loses_nothing(subject: Subject, tmp_path: Path) -> None:
    cases = full_disks(subject, tmp_path / "prepared", tmp_path, rng=random.Random(SEED))
    check(list(islice(cases, 1)))


@pytest.mark.parametrize("make", EXAMINERS, ids=lambda each: str(each.name))
def test_a_damaged_file_is_named_or_has_no_effect(
    make: Callable[[], Examiner], tmp_path: Path
) -> None:
    cases = list(islice(damages(make(), tmp_path, random.Random(SEED)), DAMAGES))
    wrong = [each for each in cases if each.problems or (each.differs and not each.is_named)]
    assert [str(each) for each in wrong] == []
