"""User agent -> its family: the browser or the tool, in lower case, without its version.

A tool names itself at the beginning of the text, so its family is that name: `curl/8.5.0` is
`curl`, `python-requests/2.32` is `python-requests`. Browsers all begin with `Mozilla/5.0` and name
each other. The table below has the marks of the common ones in the order in which they must be
looked for, because Edge and Opera also say `Chrome`, and Chrome also says `Safari`.

Weak: a user agent says what its sender wants. The family sorts honest ones, and proves nothing.
"""

import re
from functools import lru_cache
from typing import Final

_BROWSERS: Final = (
    ("googlebot", "googlebot"),
    ("bingbot", "bingbot"),
    ("headlesschrome", "headless-chrome"),
    ("electron/", "electron"),
    ("edg/", "edge"),
    ("edga/", "edge"),
    ("edgios/", "edge"),
    ("edge/", "edge"),
    ("opr/", "opera"),
    ("opera", "opera"),
    ("vivaldi/", "vivaldi"),
    ("yabrowser/", "yandex-browser"),
    ("samsungbrowser/", "samsung-browser"),
    ("fxios/", "firefox"),
    ("firefox/", "firefox"),
    ("crios/", "chrome"),
    ("chrome/", "chrome"),
    ("chromium/", "chrome"),
    ("msie ", "internet-explorer"),
    ("trident/", "internet-explorer"),
    ("powershell/", "powershell"),
    ("safari/", "safari"),
)
_match_product: Final = re.compile(r"\s*([!#$%&'*+.^_`|~0-9a-z-]{1,64})").match


@lru_cache(maxsize=4096)
def family_of(user_agent: str) -> str:
    """The family of a user agent; empty if the text does not begin with a name."""
    folded = user_agent.lower()
    found = _match_product(folded)
    product = found[1] if found else ""
    if product not in ("mozilla", "opera"):
        return product
    return next((family for mark, family in _BROWSERS if mark in folded), product)
