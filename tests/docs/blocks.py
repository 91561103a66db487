"""The fenced blocks of the pages: where each stands, its language and its text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tests.docs.messages import ROOT

DOCS: Final = ROOT / "docs"
PAGES: Final = (
    ROOT / "README.md",
    *sorted(DOCS.glob("*.md")),
    DOCS / "examples" / "README.md",
)
RUNNABLE: Final = frozenset({"sh", "python", "console"})
"""Languages of programs. Others show data, configurations of other programs, or layouts."""


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    heading: str
    language: str
    text: str

    @property
    def first_line(self) -> str:
        return self.text.split("\n", 1)[0]


def blocks_of(path: Path) -> Iterator[Block]:
    """The blocks of a page, in their order."""
    page, heading, language = path.relative_to(ROOT).as_posix(), "", None
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if language is not None:
            if line == "```":
                yield Block(page, heading, language, "\n".join(lines) + "\n")
                language, lines = None, []
            else:
                lines.append(line)
        elif line.startswith("```"):
            language = line.removeprefix("```")
        elif line.startswith("#"):
            heading = line.lstrip("#").strip()
    assert language is None, f"{page}: a block has no end"


def all_blocks() -> list[Block]:
    return [block for path in PAGES for block in blocks_of(path)]
