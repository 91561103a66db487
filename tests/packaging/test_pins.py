"""Each package of pyproject.toml has a pin that it accepts, with the hashes of its files."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from requirements.compile import find_faults, read_requirements

FOLDER = Path(__file__).resolve().parents[2] / "requirements"


def test_pins_and_pyproject_agree() -> None:
    assert find_faults(read_requirements()) == []


def test_a_missing_pin_and_one_below_the_range_are_named() -> None:
    wanted = {"server": [Requirement("lmdb>=999"), Requirement("no-such-package>=1")]}
    below, missing = find_faults(wanted)
    assert re.fullmatch(
        r"requirements/server\.txt pins [0-9.]+ of lmdb>=999: run `make pins`", below
    )
    assert "pins no version of no-such-package>=1" in missing


@pytest.mark.parametrize("name", ["development", "fuzz", "mutants", "peers", "server"])
def test_each_line_of_pins_has_hashes_and_names_no_host(name: str) -> None:
    text = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index-url" not in text
    for pinned in text.replace("\\\n", " ").splitlines():
        assert pinned.startswith("#") or re.search(r"==\S+.* --hash=sha256:[0-9a-f]{64}", pinned), (
            pinned
        )
