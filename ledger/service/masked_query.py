"""Masks the secrets in the text of a query, and nothing beside them.

The filter masks a short text as a whole. In the event about a read this would let a reader hide
what was asked, by a word such as 4111111111111111 in the query.
"""

import re
from collections.abc import Callable
from typing import Any, Final

Mask = Callable[[dict[str, Any]], dict[str, Any]]
"""An event without its secrets."""

SCANS_MAX: Final = 200
"""Some 10 ms: scans of runs of words. A secret of one word takes two, one of several some dozen."""

_split_words: Final = re.compile(r'"(?:[^"\\]|\\.)*"?|[^\s"()]+|[\s()]+').findall
_find_rule: Final = re.compile(r"masked\.([a-z0-9-]+)").search


def mask_words(query: str, mask: Mask) -> str:
    """The query with `masked.<rule>` for each run of words that is a secret.

    When there are too many, `masked.scan-limit` stands for the rest.
    """
    words = _Words(_split_words(query), mask)
    at, shown = 0, list[str]()
    while (end := words.secret_end(at)) is not None:
        if words.scans > SCANS_MAX:
            return "".join([*shown, "masked.scan-limit"])
        start = words.secret_start(at, end)
        shown += [*words.words[at:start], f"masked.{words.rule(start, end)}"]
        at = end
    return "".join([*shown, *words.words[at:]])


class _Words:
    """The words of a query, and how many runs of them were scanned."""

    def __init__(self, words: list[str], mask: Mask) -> None:
        self.words: Final = words
        self.scans = 0
        self._mask: Final = mask

    def rule(self, start: int, end: int) -> str | None:
        """The rule by which a run of words is a secret, if it is one."""
        self.scans += 1
        text = "".join(self.words[start:end])
        masked = self._mask({"context": {"query": text}})["context"]["query"]
        if masked == text:
            return None
        if isinstance(masked, dict):
            return str(masked.get("masked"))
        found = _find_rule(masked)
        return "secret" if found is None else found[1]

    def secret_end(self, at: int) -> int | None:
        """The end of the first secret behind a place; None without one."""
        # There is none in [at, low).
        low, step = at, 1
        while low < len(self.words):
            high = min(low + step, len(self.words))
            if self.rule(at, high) is not None:
                while high - low > 1:
                    middle = (low + high) // 2
                    low, high = (middle, high) if self.rule(at, middle) is None else (low, middle)
                return high
            low, step = high, step * 2
        return None

    def secret_start(self, at: int, end: int) -> int:
        """The last place from which the words up to an end are a secret."""
        low, high = at, end
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.rule(middle, end) is None else (middle, high)
        return low
