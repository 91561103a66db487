"""Settings of Sphinx, which `make docs` runs: the pages of docs/ become the folder site/.

The pages stay plain Markdown, without directives. `index.md` is the navigation: each of its lists
becomes the part of the table of contents under the heading above it.
"""

import os
import re
from pathlib import Path
from typing import Final

from sphinx.application import Sphinx

DOCS: Final = Path(__file__).parent
_SECTION: Final = re.compile(r"^## (.+)$", re.MULTILINE)
_PAGE: Final = re.compile(r"^\* \[[^\]]*\]\(([\w/.-]+?)\.md(?:#[\w-]*)?\)", re.MULTILINE)

project = "witnessed-ledger"
copyright = ""  # noqa: A001 - the name is Sphinx's
extensions = ["myst_parser"]
root_doc = "index"
exclude_patterns = ["_build", "**/.*"]
html_theme = "furo"
html_title = "witnessed-ledger"
html_show_copyright = False
html_show_sphinx = False
html_show_search_summary = False  # It loads whole pages, which browsers refuse for file://.
html_copy_source = False
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_theme_options = {
    "footer_icons": [],
    "top_of_page_buttons": [],
    "light_css_variables": {"font-stack": "system-ui, sans-serif"},
}
myst_heading_anchors = 4
myst_links_external_new_tab = False
highlight_language = "text"
nitpicky = True
suppress_warnings = ["misc.highlighting_failure"]  # An answer that is cut short by `…` is no JSON.


def add_contents(_app: Sphinx, page: str, source: list[str]) -> None:
    """Add the table of contents to `index.md`, and the list of decisions to `decisions.md`."""
    if page == "index":
        source[0] = _with_contents(source[0])
    elif page == "decisions":
        source[0] += _contents("", sorted(f"adr/{file.stem}" for file in DOCS.glob("adr/*.md")))


def link_folders(_app: Sphinx, page: str, source: list[str]) -> None:
    """Name a folder of the repository by its path: the site holds pages and files alone."""
    here = (DOCS / page).parent

    def text(link: re.Match[str]) -> str:
        path = here / link[2]
        if not path.is_dir():
            return link[0]
        return f"{link[1].strip('`')} (`{os.path.relpath(path, DOCS.parent)}/`)"

    source[0] = re.sub(r"\[([^\]]+)\]\(([\w./-]+/)\)", text, source[0])


def _with_contents(text: str) -> str:
    _, *sections = _SECTION.split(text)
    contents = [
        _contents(caption, list(dict.fromkeys(_PAGE.findall(body))))
        for caption, body in zip(sections[::2], sections[1::2], strict=True)
    ]
    return text + "".join(contents)


def _contents(caption: str, pages: list[str]) -> str:
    lines = [":hidden:", f":caption: {caption}"] if caption else [":maxdepth: 1"]
    return "\n\n```{toctree}\n" + "\n".join([*lines, "", *pages]) + "\n```\n"


def setup(app: Sphinx) -> None:
    """Connect the changes of the pages' text."""
    app.connect("source-read", add_contents)
    app.connect("source-read", link_folders)
