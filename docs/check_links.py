"""Find links of the pages that lead nowhere, and pages that `index.md` does not list.

    python -m docs.check_links

It takes a moment, so `make check` runs it. `make docs` checks headings too, as Sphinx reads them.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

DOCS: Final = Path(__file__).parent
ROOT: Final = DOCS.parent
_LINK: Final = re.compile(r"\]\(([^)\s#]+)[^)]*\)")
_FENCE: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def main() -> int:
    """Print each finding; exit code 1 when there is one."""
    findings = [*_broken_links(), *_unlisted_pages()]
    for finding in findings:
        sys.stderr.write(f"{finding}\n")
    return 1 if findings else 0


def links_of(page: Path) -> list[str]:
    """The local targets of a page's links, without their headings; code has none."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [target for target in _LINK.findall(text) if ":" not in target]


def _broken_links() -> Iterator[str]:
    for page in (ROOT / "README.md", *DOCS.rglob("*.md")):
        for target in links_of(page):
            if not (page.parent / target).exists():
                yield f"{page.relative_to(ROOT)}: there is no {target}"


def _unlisted_pages() -> Iterator[str]:
    listed = set(links_of(DOCS / "index.md"))
    for page in DOCS.glob("*.md"):
        if page.name not in {*listed, "index.md"}:
            yield f"docs/{page.name}: docs/index.md does not list it"


if __name__ == "__main__":
    sys.exit(main())
