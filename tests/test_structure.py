"""The shape of the code: short files, maps that name every module, names that tell apart."""

import ast
import re
import tomllib
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
PACKAGES: Final = ("ledger", "client/ledger_core", "client/ledger_client", "bench")
FILE_LINES_MAX: Final = 400
STEM_CHARS_MIN: Final = 4
ENDING_CHARS_MAX: Final = 4


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def folders() -> list[Path]:
    return sorted({path.parent for path in sources() if path.name == "__init__.py"})


def modules_in(folder: Path) -> list[str]:
    packages = [path.parent.name for path in folder.glob("*/__init__.py")]
    return sorted([*(path.stem for path in folder.glob("[!_]*.py")), *packages])


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in sources()}
    assert [name for name, lines in lengths.items() if lines > FILE_LINES_MAX] == []
    assert lengths


@pytest.mark.parametrize("folder", folders(), ids=name_of)
def test_the_map_of_a_package_names_each_of_its_modules(folder: Path) -> None:
    described = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    named = set(re.findall(r"\w+", described))
    assert [module for module in modules_in(folder) if module not in named] == []


@pytest.mark.parametrize("folder", folders(), ids=name_of)
def test_no_two_modules_of_a_package_differ_by_an_ending_alone(folder: Path) -> None:
    assert list(pairs_alike(modules_in(folder))) == []


def test_search_and_searching_differ_by_an_ending() -> None:
    names = ["proofs", "proving", "search", "searching", "spool", "spool_dir"]
    assert list(pairs_alike(names)) == [("search", "searching")]
    assert list(pairs_alike(["erasable", "erasures"])) == [("erasable", "erasures")]


def pairs_alike(names: list[str]) -> Iterator[tuple[str, str]]:
    """Names that begin alike and end otherwise, within one word."""
    for one, other in combinations(names, 2):
        pairs = enumerate(zip(one, other, strict=False))
        stem = next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
        endings = one[stem:] + other[stem:]
        is_short = max(len(one), len(other)) - stem <= ENDING_CHARS_MAX
        if stem >= STEM_CHARS_MIN and is_short and "_" not in one[stem - 1 : stem] + endings:
            yield one, other


def test_patterns_of_values_match_whole_texts() -> None:
    """`$` matches before a newline at the end too, so `whole_text` alone has a pattern."""
    calls = [
        (name_of(path), node.lineno)
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("Meta")
        and any(keyword.arg == "pattern" for keyword in node.keywords)
    ]
    assert [name for name, _ in calls] == ["client/ledger_core/event/model.py"]


READS_OF_OUR_OWN: Final = (
    *("ledger/alarms/config.py", "ledger/demo/child_service.py", "ledger/demo/steps.py"),
    *("ledger/demo/data/company.py", "ledger/witness/page.py", "ledger/workers/cores.py"),
    "client/ledger_client/collect/importers/__init__.py",
)
"""Modules that read files of the package, of the kernel, or what the demo made itself."""


def test_a_file_that_somebody_else_may_have_written_is_read_up_to_a_limit() -> None:
    """`read_bytes` of a sparse file takes all memory: `read_limited` and `read_utf8` refuse it."""
    whole = {
        name_of(path)
        for path in sources()
        if name_of(path).startswith(("ledger/", "client/"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("read_bytes", "read_text")
    }
    assert whole == set(READS_OF_OUR_OWN)


def test_every_dependency_has_its_row_in_adr_0001() -> None:
    required: set[str] = set()
    for path in (ROOT / "pyproject.toml", ROOT / "client" / "pyproject.toml"):
        table = tomllib.loads(path.read_text())
        for names in (
            table["build-system"]["requires"],
            table["project"]["dependencies"],
            *table["project"]["optional-dependencies"].values(),
            *table.get("dependency-groups", {}).values(),
        ):
            required |= {re.split(r"[^\w-]", name)[0] for name in names}
    text = (ROOT / "docs/adr/0001-dependencies.md").read_text()
    rows = set(re.findall(r"^\|.*`([\w-]+)` \d[\d.]*.* \|", text, re.MULTILINE))
    assert required - rows == {"witnessed-ledger-client"}
