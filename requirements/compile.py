"""Pins every package that the Makefile installs, with its hashes, from the two pyproject.toml.

    python -m requirements.compile             write the pins anew; needs uv
    python -m requirements.compile --check     fail when they and pyproject.toml disagree

The tests run with the pins; an installed wheel accepts the ranges of its pyproject.toml. One file
serves every version of Python and every platform: a line has a marker where they differ.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

HERE: Final = Path(__file__).parent
EXTRAS_OF_SERVER: Final = ("async", "importers", "ml-dsa")
PYTHON: Final = "3.11"
PYTHON_OF_PEERS: Final = "3.12"
"""What the group `peers` asks for; it is installed with that check off."""

HEAD: Final = "# Written by `make pins` from pyproject.toml and client/pyproject.toml.\n"
_PIN: Final = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)", re.MULTILINE)


def main() -> None:
    """Write or check the files of pins."""
    parser = argparse.ArgumentParser(prog="requirements.compile", description=__doc__)
    parser.add_argument("--check", action="store_true")
    wanted = read_requirements()
    if parser.parse_args().check:
        sys.exit("\n".join(find_faults(wanted)) or None)
    for name, requirements in wanted.items():
        _write(name, requirements)


def read_requirements() -> dict[str, list[Requirement]]:
    """The packages of others that each file must pin, by the name of the file."""
    client, server = (
        tomllib.loads((HERE.parent / folder / "pyproject.toml").read_text(encoding="utf-8"))
        for folder in ("client", ".")
    )
    groups = server["dependency-groups"]
    extras = client["project"]["optional-dependencies"]
    served = [
        *groups["build"],
        *client["project"]["dependencies"],
        *(each for extra in EXTRAS_OF_SERVER for each in extras[extra]),
        *server["project"]["dependencies"],
    ]
    all_extras = [*extras.values(), *server["project"]["optional-dependencies"].values()]
    developed = [*served, *(each for extra in all_extras for each in extra)]
    files = {
        "development": [*developed, *groups["test"], *groups["check"]],
        "server": served,
        "peers": groups["peers"],
        "mutants": groups["mutants"],
        "fuzz": groups["fuzz"],
    }
    ours = {client["project"]["name"], server["project"]["name"]}
    parsed = {name: map(Requirement, sorted(set(given))) for name, given in files.items()}
    return {name: [each for each in all_ if each.name not in ours] for name, all_ in parsed.items()}


def find_faults(wanted: dict[str, list[Requirement]]) -> list[str]:
    """What makes the files of pins differ from the requirements."""
    faults = []
    for name, requirements in wanted.items():
        pins: dict[str, list[Version]] = {}
        for package, version in _PIN.findall(_path(name).read_text(encoding="utf-8")):
            pins.setdefault(canonicalize_name(package), []).append(Version(version))
        for each in requirements:
            versions = pins.get(canonicalize_name(each.name), [])
            if not versions or not all(each.specifier.contains(version) for version in versions):
                have = ", ".join(map(str, versions)) or "no version"
                faults.append(f"requirements/{name}.txt pins {have} of {each}: run `make pins`")
    return faults


def _path(name: str) -> Path:
    return HERE / f"{name}.txt"


def _write(name: str, requirements: list[Requirement]) -> None:
    """Resolve the requirements of a file, in agreement with those of `development`."""
    given = "".join(f"{each}\n" for each in requirements)
    command: list[Any] = [
        *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal"),
        *("--generate-hashes", "--no-header", "--no-annotate"),
        *("--python-version", PYTHON_OF_PEERS if name == "peers" else PYTHON),
    ]
    if name != "development":
        command += ["--constraints", _path("development")]
    done = subprocess.run(  # noqa: S603 - uv, of this environment
        [*command, "-"], input=given, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"requirements/{name}.txt: {done.stderr}")
    _path(name).write_text(HEAD + done.stdout, encoding="utf-8")


if __name__ == "__main__":
    main()
