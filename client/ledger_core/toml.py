"""Parses TOML, by Python's parser and with limits that it lacks.

What nests too deep ends Python's parser with a RecursionError, and a key of many parts,
`a.a.a. … = 1`, takes memory by the square of their number: 200 KB of text took gigabytes. A number
of thousands of digits is an error only when it is printed.
"""

import re
import tomllib
from typing import Any, Final

CHARS_MAX: Final = 4 << 20
KEY_PARTS_MAX: Final = 64
DIGITS_MAX: Final = 64

_PART: Final = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*"""
# It begins at the beginning of a word alone, so a long word is read once.
_find_long_key = re.compile(rf"(?<![A-Za-z0-9_-])(?:{_PART}){{{KEY_PARTS_MAX}}}").search
_find_long_number = re.compile(rf"\b0[xob][0-9A-Fa-f_]{{{DIGITS_MAX + 1}}}").search


def parse_toml(text: str) -> dict[str, Any]:
    """The tables and values of a text.

    Weak: a text with so many words that are joined by dots is refused also within a string.
    Raises: tomllib.TOMLDecodeError, which is a ValueError.
    """
    if len(text) > CHARS_MAX:
        raise tomllib.TOMLDecodeError(f"more than {CHARS_MAX} characters")
    if _find_long_key(text):
        raise tomllib.TOMLDecodeError(f"a key has {KEY_PARTS_MAX} parts or more")
    if _find_long_number(text):
        raise tomllib.TOMLDecodeError(f"a number has more than {DIGITS_MAX} digits")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        raise tomllib.TOMLDecodeError("it nests too deep") from None
    except ValueError:  # Of Python's `int`, which names a setting of its own.
        raise tomllib.TOMLDecodeError("a number has thousands of digits") from None
