"""Terms of entries whose texts would take too much memory: hashes, which name candidates.

A slice of the open segment holds the text of every value. One client can send 65,536 entries of 32
targets that nobody else has, and each takes some 300 bytes so. In place of the texts of a dimension
this holds eight bytes a value, `hash << 16 | offset`, in sorted runs. Whatever has the hash of a
term may have the term, and the rows decide.

The hash is that of Python, another one in every process: nobody can choose values that share one.
It is never stored.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from pyroaring import BitMap

from ledger.query.term_sources import DERIVED, HELD, IN_MEMORY
from ledger.store.index.postings import Postings
from ledger.store.index.roaring_containers import Container
from ledger_core.query.analyzer import ABSENT

RUN_PAIRS: Final = 1 << 13
"""Pairs that are sorted at once, in a few milliseconds."""

_PAIR_BYTES = 8
_HASH_MASK = (1 << 47) - 1
_SEARCHED_SINGLY = 8

_NOTHING: Final = Postings((), counts=array("H"), forms=array("H"), payload=b"")


class LeftOut(NamedTuple):
    """The dimensions whose texts a slice does not hold, and those of which it holds no hashes."""

    hashed: frozenset[str] = frozenset()
    unheld: frozenset[str] = frozenset()


NOTHING_LEFT_OUT: Final = LeftOut()


def all_but(dimensions: Iterable[str]) -> LeftOut:
    """What is left out where nothing but the terms of some dimensions is wanted."""
    wanted = set(dimensions)
    wanted |= {source for name in wanted & DERIVED.keys() for source, _ in DERIVED[name]}
    return LeftOut(frozenset(HELD) - wanted, frozenset((*HELD, *DERIVED)))


class Sink(NamedTuple):
    """A dimension that is derived from another one."""

    terms: "HashedTerms"
    derive: Callable[[str], Iterable[str]]


class HashedTerms:
    """A dimension of a slice by the hashes of its values. Not thread-safe before `flush`.

    It stands where a `TermsBuilder` does: nothing is found in it for certain, and it has no
    postings.
    """

    values: Final = ()

    def __init__(self, start: int, *, is_held: bool, sinks: Sequence[Sink] = ()) -> None:
        """`start`: the first offset of the slice. Unless `is_held`, every entry is a candidate."""
        self.is_held: Final = is_held
        self._start = start
        self._sinks = [sink for sink in sinks if sink.terms.is_held]
        self._waiting: list[int] = []
        self._runs: list[array[int]] = []

    @property
    def is_used(self) -> bool:
        """Whether anything is held of the values that are added."""
        return self.is_held or bool(self._sinks)

    def add(self, values: Iterable[str], first: int) -> None:
        """Add the values of consecutive entries, one each; ABSENT is none."""
        if not self.is_used:
            return
        self.add_several([(value, o) for o, value in enumerate(values, first) if value != ABSENT])

    def add_several(self, terms: Sequence[tuple[str, int]]) -> None:
        """Add values with the offsets of their entries."""
        if self.is_held:
            self._waiting += [(hash(value) & _HASH_MASK) << 16 | o for value, o in terms]
            if len(self._waiting) >= RUN_PAIRS:
                self.flush()
        for sink in self._sinks:
            for value, o in terms:
                sink.terms.add_several([(term, o) for term in sink.derive(value)])

    @property
    def size(self) -> int:
        """The bytes that it takes in memory."""
        return _PAIR_BYTES * (sum(map(len, self._runs)) + len(self._waiting))

    def flush(self) -> None:
        """Sort what was added."""
        pairs = sorted(set(self._waiting))
        self._waiting = []
        for at in range(0, len(pairs), RUN_PAIRS):
            self._runs.append(array("Q", pairs[at : at + RUN_PAIRS]))

    def candidates(self, values: Sequence[str], end: int) -> BitMap:
        """The entries, of those below `end`, that may have any of some values."""
        if not self.is_held:
            return BitMap(range(self._start, end))
        wanted = {hash(value) & _HASH_MASK for value in values}
        found = BitMap()
        for run in self._runs:
            if len(wanted) * _SEARCHED_SINGLY > len(run):
                found.update([pair & 0xFFFF for pair in run if pair >> 16 in wanted])
                continue
            for each in wanted:
                low = bisect_left(run, each << 16)
                high = bisect_left(run, (each + 1) << 16, low)
                found.update([pair & 0xFFFF for pair in run[low:high]])
        return found

    def newest(self, _count: int) -> Iterator[str]:
        """No values: their texts are not held."""
        return iter(())

    def find(self, _value: str) -> Container | None:
        """None: nothing is certain."""
        return None

    def between(self, _low: str, _high: str) -> list[Container]:
        """Nothing: nothing is certain."""
        return []

    def within(self, _ranges: Iterable[tuple[str, str]]) -> list[Container]:
        """Nothing: nothing is certain."""
        return []

    def seal(self, *, in_order: bool = True) -> Postings:  # noqa: ARG002 - as TermsBuilder
        """No terms: their texts are not held."""
        return _NOTHING

    def column(self, _postings: Postings) -> None:
        """None: a column names the texts."""
        return


def hashed_terms(start: int, left_out: LeftOut) -> dict[str, HashedTerms]:
    """The dimensions that are held as hashes, and those that are derived from them."""
    derived = {
        name: HashedTerms(start, is_held=name not in left_out.unheld)
        for name, sources in DERIVED.items()
        if any(source in left_out.hashed for source, _ in sources)
    }
    return derived | {
        name: HashedTerms(
            start,
            is_held=name not in left_out.unheld and name not in IN_MEMORY,
            sinks=[
                Sink(hashed, terms_of_value)
                for dimension, hashed in derived.items()
                for source, terms_of_value in DERIVED[dimension]
                if source == name
            ],
        )
        for name in left_out.hashed
    }
