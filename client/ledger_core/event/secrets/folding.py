"""Other forms of the same letters: full width, styled, accented, look-alikes, with invisible
characters between them.

Each character is mapped by itself, so the work is linear. Normalising a whole text is not: it sorts
runs of combining marks.

Source: Unicode Standard Annex #15 (NFKD), of which this is the part that yields ASCII; the
characters without a width, DerivedCoreProperties.txt (Default_Ignorable_Code_Point).
"""

import sys
import unicodedata
from functools import lru_cache
from typing import Final

_RANGES: Final = (
    (0x00A0, 0x3400),
    (0xFB00, 0xFB07),
    (0xFE00, 0xFFF0),
    (0x1BCA0, 0x1BCB0),
    (0x1D150, 0x1D180),
    (0x1D400, 0x1D800),
    (0x1F100, 0x1F200),
)
"""Where Unicode has characters that stand for ASCII, and invisible ones."""
_INVISIBLE: Final = (
    *((0x115F, 0x1161), (0x17B4, 0x17B6), (0x2065, 0x2066), (0x3164, 0x3165), (0xFDD0, 0xFDF0)),
    *((0xFFA0, 0xFFA1), (0xFFF0, 0xFFFC), (0x16FE4, 0x16FE5), (0x1D159, 0x1D15A)),
    (0xE0000, 0xE1000),
)
"""Characters without a width whose category doesn't say so."""
_WITHOUT_WIDTH: Final = ("Cf", "Mn", "Me")
_LOOKALIKES: Final = (
    ("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-------"),
    ("АВЕНІЈКМОРСЅТХаеһіјкорсѕухԛԝӏ", "ABEHIJKMOPCSTXaehijkopcsyxqwl"),
    ("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧικνορυ", "ABEZHIKMNOPTYXikvopu"),
    ("օսհɑɡıᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ", "oshagiabcdefghijklmnoprstuvwyz"),
)
CONTROLS: Final = bytes({*range(0x20), 0x7F} - set(b"\t\n\v\f\r"))
"""ASCII's characters without a width."""


@lru_cache(maxsize=1)
def _table() -> dict[int, str]:
    to_ascii = dict.fromkeys((*CONTROLS, *range(0x80, 0xA0)), "")
    for start, end in _RANGES:
        for code in range(start, end):
            char = chr(code)
            category = unicodedata.category(char)
            if category in _WITHOUT_WIDTH:
                to_ascii[code] = ""
            elif category == "Nd":
                to_ascii[code] = str(unicodedata.decimal(char))
            elif unicodedata.decomposition(char):
                parts = unicodedata.normalize("NFKD", char)
                plain = "".join(part for part in parts if unicodedata.category(part) != "Mn")
                if plain.isascii():
                    to_ascii[code] = plain
    for start, end in _INVISIBLE:
        to_ascii |= dict.fromkeys(range(start, end), "")
    for last in range(0xFFFF, sys.maxunicode + 1, 0x10000):
        to_ascii[last - 1] = to_ascii[last] = ""  # Never a character.
    for forms, plain in _LOOKALIKES:
        to_ascii |= zip(map(ord, forms), plain, strict=True)
    return to_ascii


@lru_cache(maxsize=1)
def _invisible() -> frozenset[str]:
    return frozenset(chr(code) for code, plain in _table().items() if not plain)


def fold(text: str) -> str:
    """The text with ASCII in place of the characters that stand for it, without invisible ones.

    Cost: 10 ms the first time in a process, unless the text is printable ASCII.
    """
    return text if text.isascii() and text.isprintable() else text.translate(_table())


def has_invisible(text: str) -> bool:
    """Tell whether `fold` would leave out a character."""
    return not _invisible().isdisjoint(text)


def fold_with_places(text: str) -> tuple[str, list[int]]:
    """The folded text, and the place in `text` of each of its characters."""
    folded: list[str] = []
    places: list[int] = []
    table = _table()
    for place, char in enumerate(text):
        plain = table.get(ord(char), char)
        folded.append(plain)
        places += [place] * len(plain)
    return "".join(folded), places
