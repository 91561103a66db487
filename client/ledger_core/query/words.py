"""Text -> its words, folded, in order: what a search for words compares.

* A word is a run of letters and digits, with the marks that belong to them (vowel signs of Indic
  scripts, accents that have no letter of their own). Case is folded; text that isn't ASCII is first
  normalised to NFKC.
* Chinese, Japanese, Thai, Lao, Khmer and Burmese are written without blanks between words. A run of
  these is every pair of neighbours in it, and then its last character: `東京都` is `東京`, `京都`
  and `都`. So any part of a run is found, whatever its words are, and a part of one character too.
* `phrase_of` gives the words of what somebody searches for. A run at its end may go on in the text,
  so the last character alone is left out there; of a run of one character it becomes a prefix.
* An id that only counts (`u_5`, `r_0000123`, `INV-17`) or is random (a UUID, hexadecimal digits)
  has no words: a search compares it as a whole. Other ids have: `alice@example.com`, ARNs, paths.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Final

_MARKS = (
    "\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u0610-\u061a"
    "\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u0711\u0730-\u074a"
    "\u07a6-\u07b0\u0900-\u0963\u0966-\u0dff\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc"
    "\u0ec8-\u0ecd\u0f18\u0f19\u0f35\u0f37\u0f39\u0f3e\u0f3f\u0f71-\u0f84\u0f86\u0f87\u0f90-\u0fbc"
    "\u102b-\u103e\u1056-\u1059\u1712-\u1714\u1732-\u1734\u17b4-\u17d3\u180b-\u180d"
)
_WITHOUT_BLANKS = (
    "\u0e01-\u0e3a\u0e40-\u0e4e"  # Thai
    "\u0e81-\u0ecd\u0edc-\u0edf"  # Lao
    "\u1000-\u103f\u1050-\u109f"  # Burmese
    "\u1780-\u17d3"  # Khmer
    "\u3005-\u3007\u3041-\u309f\u30a1-\u30ff\u3105-\u312f\u31f0-\u31ff"  # kana, bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Han
)

_CACHED_CHARS_MAX: Final = 256

_ORDERED_CHARS: Final = 256
"""Longer texts have their marks put in order before they are normalised."""
_MARKS_OF: Final = str.maketrans(
    {
        "\u0340": "\u0300",
        "\u0341": "\u0301",
        "\u0343": "\u0313",
        "\u0344": "\u0308\u0301",
        "\u0f73": "\u0f71\u0f72",
        "\u0f75": "\u0f71\u0f74",
        "\u0f81": "\u0f71\u0f80",
        "\uff9e": "\u3099",
        "\uff9f": "\u309a",
    }
)
"""The marks that NFKC decomposes, with the marks that they become."""

_find_ascii: Final = re.compile("[a-z0-9]+").findall
_find_runs: Final = re.compile(rf"[^\W_](?:[^\W_]|[{_MARKS}])*").findall
_is_without_blanks: Final = re.compile(f"[{_WITHOUT_BLANKS}]").match
_has_run_without_blanks: Final = re.compile(f"[{_WITHOUT_BLANKS}]").search
_find_parts: Final = re.compile(f"[{_WITHOUT_BLANKS}]+|[^{_WITHOUT_BLANKS}]+").findall
_find_long_runs: Final = re.compile(rb"[^\0]{16,}").finditer
_only_counts: Final = re.compile(
    r"(?:[A-Za-z]{1,12}[^\w\s]?_?)?[0-9]+|[0-9A-Fa-f-]{16,}|[A-Za-z]{1,12}[_-]?[0-9A-Fa-f]{12,}"
).fullmatch


def words_of(text: str) -> list[str]:
    """The words of a text in order."""
    if text.isascii():
        return _find_ascii(text.lower())
    runs: list[str] = _find_runs(_fold(text))
    if not any(map(_has_run_without_blanks, runs)):
        return runs
    return [word for run in runs for part in _find_parts(run) for word in _pairs(part)]


def phrase_of(text: str, *, is_prefix: bool = False) -> tuple[tuple[str, ...], bool]:
    """The words that must stand side by side, and whether the last one is a prefix."""
    # A text of a body may have megabytes, and is not asked for again.
    is_short = len(text) <= _CACHED_CHARS_MAX
    return _cached_phrase_of(text, is_prefix) if is_short else _phrase_of(text, is_prefix)


def _phrase_of(text: str, is_prefix: bool) -> tuple[tuple[str, ...], bool]:  # noqa: FBT001 - keys
    words = words_of(text)
    if not text.isascii():
        runs = _find_runs(_fold(text))
        last = _find_parts(runs[-1])[-1] if runs else ""
        if _is_without_blanks(last):
            return (tuple(words), True) if len(last) == 1 else (tuple(words[:-1]), False)
    return tuple(words), is_prefix


_cached_phrase_of = lru_cache(maxsize=1024)(_phrase_of)


def words_of_id(text: str) -> list[str]:
    """The words of an id; none if the id only counts or is random."""
    return [] if _only_counts(text) else words_of(text)


def _pairs(part: str) -> list[str]:
    if not _is_without_blanks(part):
        return [part]
    return [part[at : at + 2] for at in range(len(part))]


def _fold(text: str) -> str:
    if len(text) > _ORDERED_CHARS:
        text = in_canonical_order(text)
    return unicodedata.normalize("NFKC", text).casefold()


def in_canonical_order(text: str) -> str:
    """The text with each run of combining marks sorted; its NFKC is that of the text.

    `unicodedata.normalize` sorts by insertion: 32,000 marks in the worst order take it a second, a
    body of marks hours, in which no other thread runs. Sorted marks take it no time.
    Source: Unicode Standard section 3.11, D108 and D109.
    """
    text = text.translate(_MARKS_OF)
    classes = bytes(map(unicodedata.combining, text))
    parts: list[str] = []
    end = 0
    for run in _find_long_runs(classes):
        parts.append(text[end : run.start()])
        end = run.end()
        order = sorted(range(run.start(), end), key=classes.__getitem__)
        parts.append("".join(map(text.__getitem__, order)))
    return "".join((*parts, text[end:]))
