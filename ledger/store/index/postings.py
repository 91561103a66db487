"""One dimension of one segment: its values, and for each value the offsets of its entries.

While a segment grows, `TermsBuilder` numbers the values as they come and stores the first entry of
each. Every further entry is a member of one roaring bitmap, `number << 16 | offset`. Such a bitmap
keeps the members of each upper half in a container of their own, so it *is* the posting lists, and
C builds it. Sealing sorts the containers by value.

    values "b" "a" "b" "c"    numbers b=0 a=1 c=2    firsts 0 1 3    again 0 << 16 | 2
    sealed                    a: {1}  b: {0, 2}  c: {3}
"""

import itertools
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from sys import getsizeof
from typing import Final, TypeAlias

from pyroaring import BitMap

from ledger.store.index.roaring_containers import (
    FORM_BITSET,
    SEGMENT_ENTRIES_MAX,
    Container,
    assemble,
    container_at,
    encode_bitmap,
    loose_container,
    payload_bytes,
    read_containers,
    read_slots,
    to_little_endian,
)
from ledger_core.query.analyzer import ABSENT

NO_PLACE: Final = 0xFFFF

Derived: TypeAlias = tuple[Iterable[str], Container]

_VALUE_BYTES = 130
"""What a value takes in memory beside its text: its place in a dictionary and in order, its number,
and where several entries have it, their container."""

_MEMBER_BYTES = 4
"""What an entry of a value takes until it is in a bitmap, and half of it then."""

_TAKEN_SINGLY = 64
_SORTED_AT_ONCE = 2048
_OFFSETS: Final = array("H", range(SEGMENT_ENTRIES_MAX))


@dataclass(frozen=True, slots=True)
class Postings:
    """The terms of one dimension, ascending: value i has `counts[i] + 1` offsets in `forms[i]`.

    `payload` is the payloads of their containers, joined.
    """

    values: Sequence[str]
    counts: "array[int]" = field(kw_only=True)
    forms: "array[int]" = field(kw_only=True)
    payload: bytes = field(kw_only=True)

    def __iter__(self) -> Iterator[tuple[str, Container]]:
        at = 0
        for value, count, form in zip(self.values, self.counts, self.forms, strict=True):
            container = container_at(self.payload, at, cardinality=count + 1, form=form)
            at += len(container.payload)
            yield value, container

    def pieces(self, terms: int) -> Iterator["Postings"]:
        """The same in pieces of so many terms."""
        if len(self.values) <= terms:
            yield self
            return
        at = 0
        for start in range(0, len(self.values), terms):
            counts, forms = self.counts[start : start + terms], self.forms[start : start + terms]
            size = sum(
                payload_bytes(cardinality=count + 1, form=form)
                for count, form in zip(counts, forms, strict=True)
            )
            yield Postings(
                self.values[start : start + terms],
                counts=counts,
                forms=forms,
                payload=self.payload[at : at + size],
            )
            at += size

    def with_derived(self, derive: Callable[[str], Iterable[str]]) -> Iterator[Derived]:
        """What `derive` makes of each value, with its list; lists of values with nothing stay."""
        at = 0
        for value, count, form in zip(self.values, self.counts, self.forms, strict=True):
            derived = derive(value)
            if derived:
                container = container_at(self.payload, at, cardinality=count + 1, form=form)
                yield derived, container
            at += payload_bytes(cardinality=count + 1, form=form)


def join(terms: Iterable[tuple[str, Container]]) -> Postings:
    """The postings of terms that are in order."""
    values: list[str] = []
    payloads: list[bytes] = []
    counts, forms = array("H"), array("H")
    for value, (cardinality, form, payload) in terms:
        values.append(value)
        counts.append(cardinality - 1)
        forms.append(form)
        payloads.append(payload)
    return Postings(values, counts=counts, forms=forms, payload=b"".join(payloads))


class TermsBuilder:
    """A dimension of a segment while it grows. Not thread-safe.

    Values are added for entries in ascending order; a value that an entry has twice counts once.
    `in_runs`: neighbours share values, so even short lists are smaller as runs.
    `in_column`: every entry gets its value by `add`, and `column` returns their ranks.
    """

    def __init__(self, *, in_runs: bool = False, in_column: bool = False) -> None:
        self._in_runs = in_runs
        self._column = array("I") if in_column else None
        # The dictionary numbers new values in C, without a Python frame for each.
        self._numbers: dict[str, int] = defaultdict(itertools.count().__next__)
        self._firsts = array("H")
        self._again_numbers = array("I")
        self._again_offsets = array("H")
        self._repeats: list[BitMap] = []
        # Replaced as a whole; complete if it has as many values as there are.
        self._in_order: list[str] = []
        self._members = 0
        self._measured = 0
        self._text_bytes = 0

    @property
    def values(self) -> Collection[str]:
        """All values in the order in which they came; ABSENT may be among them."""
        return self._numbers.keys()

    def newest(self, count: int) -> Iterator[str]:
        """The values that came last, the last one first."""
        return islice(reversed(self._numbers), count)

    @property
    def size(self) -> int:
        """About the bytes that it takes in memory. Cost: 0.05 µs a value since the last call."""
        new = len(self._numbers) - self._measured
        if new:
            self._text_bytes += sum(map(getsizeof, self.newest(new)))
            self._measured += new
        return self._text_bytes + _VALUE_BYTES * self._measured + _MEMBER_BYTES * self._members

    def add(self, values: Iterable[str], first: int) -> None:
        """Add the values of consecutive entries, one each. Cost: 0.05 to 0.1 µs each."""
        known = len(self._firsts)
        numbers = list(map(self._numbers.__getitem__, values))
        self._members += len(numbers)
        if self._column is not None:
            self._column.fromlist(numbers)
        offsets = _OFFSETS[first : first + len(numbers)]
        new = len(self._numbers) - known
        if new == len(numbers):
            self._firsts.extend(offsets)
        elif not new:
            self._again_numbers.fromlist(numbers)
            self._again_offsets.extend(offsets)
        else:
            self._add_mixed(numbers, offsets)

    def add_several(self, terms: Sequence[tuple[str, int]]) -> None:
        """Add values with the offsets of their entries."""
        if not terms:
            return
        values, offsets = zip(*terms, strict=True)
        self._members += len(values)
        self._add_mixed(list(map(self._numbers.__getitem__, values)), offsets)

    def _add_mixed(self, numbers: Iterable[int], offsets: Iterable[int]) -> None:
        firsts, again, again_offsets = self._firsts, self._again_numbers, self._again_offsets
        known = len(firsts)
        for number, offset in zip(numbers, offsets, strict=True):
            if number == known:
                firsts.append(offset)
                known += 1
            else:
                again.append(number)
                again_offsets.append(offset)

    def find(self, value: str) -> Container | None:
        """The posting list of a value."""
        number = self._numbers.get(value)
        return None if number is None else self._container(number)

    def between(self, low: str, high: str) -> list[Container]:
        """The posting lists of the values `low <= value < high`; many of them as one loose list.

        Cost: the first time since a value was added, that of sorting all values.
        """
        return self.within(((low, high),))

    def within(self, ranges: Iterable[tuple[str, str]]) -> list[Container]:
        """As `between`, for ranges that ascend."""
        values = self._in_order
        if len(values) < len(self._numbers):
            values = self._in_order = list(_sorted_in_pieces(list(self._numbers)))
        places: list[int] = []
        end = 0
        for low, high in ranges:
            start = bisect_left(values, low, end)
            end = bisect_left(values, high, start)
            places += range(start, end)
        chosen = [values[place] for place in places]
        return self._containers([self._numbers[value] for value in chosen if value != ABSENT])

    def _containers(self, numbers: list[int]) -> list[Container]:
        if len(numbers) <= _TAKEN_SINGLY:
            return [self._container(number) for number in numbers]
        self.flush()
        offsets = array("H", map(self._firsts.__getitem__, numbers))
        for place, bitmap in enumerate(self._repeats):
            wanted = BitMap()
            for number in numbers:
                if number >> 16 == place:
                    key = number & 0xFFFF
                    wanted.add_range(key << 16, (key + 1) << 16)
            offsets.extend([key & 0xFFFF for key in (bitmap & wanted).to_array()])
        return [loose_container(to_little_endian(offsets).tobytes())]

    def seal(self, *, in_order: bool = True) -> Postings:
        """The terms, in order unless nobody needs it: sorting holds up all other threads.

        Cost: 0.4 µs a value, however many entries it has.
        """
        values = list(self._numbers)
        order = list(range(len(values)))
        if in_order:
            order.sort(key=values.__getitem__)
        if ABSENT in self._numbers:
            order.remove(self._numbers[ABSENT])
        values = list(map(values.__getitem__, order))
        counts = array("H", bytes(2 * len(values)))
        forms = counts[:]
        singles = to_little_endian(array("H", list(map(self._firsts.__getitem__, order)))).tobytes()
        repeats = self._all_repeats()
        payloads: list[bytes] = []
        start = 0
        for rank in [rank for rank, number in enumerate(order) if number in repeats]:
            counts[rank], forms[rank], payload = repeats[order[rank]]
            payloads += (singles[start : 2 * rank], payload)
            start = 2 * rank + 2
        payloads.append(singles[start:])
        return Postings(values, counts=counts, forms=forms, payload=b"".join(payloads))

    def column(self, postings: Postings) -> "array[int] | None":
        """The rank of each entry's value in the sealed postings, NO_PLACE for none.

        None if no column was asked for, or if a rank does not fit into 16 bits.
        """
        if self._column is None or len(postings.values) >= NO_PLACE:
            return None
        places = [NO_PLACE] * len(self._numbers)
        for place, number in enumerate(map(self._numbers.__getitem__, postings.values)):
            places[number] = place
        return array("H", list(map(places.__getitem__, self._column)))

    def _all_repeats(self) -> dict[int, tuple[int, int, bytes]]:
        """Count − 1, form and payload of every value that several entries have, by its number."""
        self.flush()
        repeats: dict[int, tuple[int, int, bytes]] = {}
        for place, bitmap in enumerate(self._repeats):
            base = place << 16
            numbers = list(read_slots(bitmap))
            firsts = array("H", [self._firsts[base + number] for number in numbers])
            whole = bitmap | BitMap(_join_halves(array("I", numbers), firsts))
            if self._in_runs:
                whole.run_optimize()
            for number, count, form, payload in zip(*read_containers(whole), strict=True):
                repeats[base + number] = (count, form, payload)
                if form == FORM_BITSET:
                    bits = assemble([(0, Container(count + 1, form, payload))])
                    repeats[base + number] = (count, *encode_bitmap(bits)[1:])
        return repeats

    def flush(self) -> None:
        """Move repeated values into the bitmaps, of which each holds 65,536 values."""
        while len(self._numbers) > len(self._repeats) << 16:
            self._repeats.append(BitMap())
        numbers, offsets = self._again_numbers, self._again_offsets
        if not numbers:
            return
        if len(self._repeats) == 1:
            self._repeats[0].update(_join_halves(numbers, offsets))
        else:
            for place, bitmap in enumerate(self._repeats):
                keys = [
                    (number & 0xFFFF) << 16 | offset
                    for number, offset in zip(numbers, offsets, strict=True)
                    if number >> 16 == place
                ]
                bitmap.update(array("I", keys))
        self._again_numbers, self._again_offsets = array("I"), array("H")

    def _container(self, number: int) -> Container:
        self.flush()
        found = BitMap([self._firsts[number]])
        place, key = divmod(number, 1 << 16)
        if place < len(self._repeats):
            whole = BitMap(range(key << 16, (key + 1) << 16))
            found |= (self._repeats[place] & whole).shift(-(key << 16))
        return encode_bitmap(found)


def _sorted_in_pieces(values: Sequence[str]) -> Iterator[str]:
    """The values in order. Sorting all in one call would hold up all other threads for as long."""
    starts = range(0, len(values), _SORTED_AT_ONCE)
    return merge(*[sorted(values[start : start + _SORTED_AT_ONCE]) for start in starts])


def _join_halves(upper: "array[int]", lower: "array[int]") -> "array[int]":
    """`upper << 16 | lower` of each pair, joined as bytes, so no number becomes an object."""
    keys = bytearray(to_little_endian(upper[:]).tobytes())
    halves = to_little_endian(lower[:]).tobytes()
    keys[3::4] = keys[1::4]
    keys[2::4] = keys[0::4]
    keys[1::4] = halves[1::2]
    keys[0::4] = halves[0::2]
    return to_little_endian(array("I", bytes(keys)))
