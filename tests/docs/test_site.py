"""The site of the docs: it builds without a warning, loads nothing from elsewhere, has a search."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import pytest

from tests.docs.messages import ROOT

DOCS: Final = ROOT / "docs"
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
LOADING: Final = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}


class Loaded(HTMLParser):
    """Collects the addresses that a browser loads for a page, without a click."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(LOADING.get(tag, ""))
        if address:
            self.addresses.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it, where a broken link or a page in no list is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = (sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet")
    options = ("-d", str(folder / "doctrees"), "docs", str(folder / "html"))
    done = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_each_page_of_the_docs_is_a_page_of_the_site(site: Path) -> None:
    pages = [path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")]
    assert len(pages) > 90
    assert [str(page) for page in pages if not (site / page).is_file()] == []
    # A page of this name would be overwritten by the page of search results.
    assert not {"search.md", "genindex.md"} & {path.name for path in DOCS.glob("*.md")}


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert loaded.addresses, page
        assert [each for each in loaded.addresses if re.match(r"(\w+:)?//", each)] == [], page
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:@import|url\()\s*[\"']?(?:\w+:)?//", styles) == []


def test_the_search_is_a_file_of_the_site(site: Path) -> None:
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert '"troubleshooting"' in index
    assert '"cosignatur' in index
    assert "search.html" in (site / "index.html").read_text(encoding="utf-8")


def test_the_links_of_the_readme_lead_to_pages_and_their_headings() -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    local = [link for link in links if "://" not in link]
    assert len(local) > 20
    for link in local:
        path, _, anchor = link.partition("#")
        target = ROOT / path if path else ROOT / "README.md"
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
            assert anchor in slugs, link
