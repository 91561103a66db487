"""The words of a growing segment: each with the values that it is derived from.

Words are derived when they are asked for first, and then for the values that came since.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import islice
from sys import getsizeof
from typing import Final

from ledger.query.hashed_terms import HashedTerms
from ledger.query.term_sources import WORDS
from ledger.store.index.postings import TermsBuilder
from ledger.store.index.roaring_containers import Container
from ledger_core.query.analyzer import ABSENT

_WORD_BYTES = 170
"""What a word takes in memory beside its text: its place in a dictionary, and a list of values."""

_VALUE_BYTES = 80
"""What a value takes that has words: a pair of it and its dimension, and its place in lists."""

_PLACE_BYTES = 8


class WordTexts:
    """The terms of `WORDS`, and the values of which they are terms. Not thread-safe."""

    def __init__(self, terms: Mapping[str, TermsBuilder | HashedTerms]) -> None:
        """`terms`: the values, by dimension, as they grow."""
        self._terms = terms
        # By dimension and term: the values that the term is derived from, with their dimensions.
        self._texts: Final[dict[str, dict[str, list[tuple[str, str]]]]] = {
            name: defaultdict(list) for name in WORDS
        }
        self._read: Final[dict[tuple[str, str], int]] = defaultdict(int)
        self.sizes: Final[dict[str, int]] = defaultdict(int)
        """About the bytes that words take in memory, by the dimension of their values."""

    def find(self, dimension: str, term: str) -> list[Container]:
        """Posting lists whose union is that of a term."""
        return self._with(dimension, (term,))

    def between(self, dimension: str, low: str, high: str) -> list[Container]:
        """The posting lists of the terms `low <= term < high`."""
        self.read_new()
        return self._with(
            dimension, [term for term in self._texts[dimension] if low <= term < high]
        )

    def read_new(self) -> None:
        """Derive terms from the values that were added since the last call."""
        for dimension, sources in WORDS.items():
            found = self._texts[dimension]
            for name, terms_of_value in sources:
                place, values = (dimension, name), self._terms[name].values
                # To pass by those that were read would take as long as to read them.
                new, known, places = len(values) - self._read[place], len(found), 0
                if not new:
                    continue
                for text in self._terms[name].newest(new):
                    entry = (name, text)
                    for term in terms_of_value(text) if text != ABSENT else ():
                        found[term].append(entry)
                        places += 1
                self._read[place] = len(values)
                words = len(found) - known
                self.sizes[name] += (
                    sum(map(getsizeof, islice(reversed(found), words)))
                    + words * _WORD_BYTES
                    + places * _PLACE_BYTES
                    + (new * _VALUE_BYTES if places else 0)
                )

    def _with(self, dimension: str, terms: Iterable[str]) -> list[Container]:
        self.read_new()
        texts = {place for term in terms for place in self._texts[dimension].get(term, ())}
        found = [self._terms[name].find(text) for name, text in texts]
        return [container for container in found if container is not None]
