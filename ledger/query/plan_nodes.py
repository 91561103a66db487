"""The steps of a plan (`plan`): reads of the index, spans, and what joins them."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Find:
    """Read one term."""

    dimension: str
    value: str

    def __str__(self) -> str:
        return f"{self.dimension} = {self.value}"


@dataclass(frozen=True, slots=True)
class Range:
    """Read the terms `low <= value < high`."""

    dimension: str
    low: str
    high: str

    def __str__(self) -> str:
        return f"{self.dimension} from {self.low or 'the first'} to {self.high}"


@dataclass(frozen=True, slots=True)
class RangeSet:
    """Read the terms in any of the ranges `low <= value < high`, which ascend and do not touch."""

    dimension: str
    ranges: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"{self.dimension} in {len(self.ranges):,} values or ranges"


Read: TypeAlias = Find | Range | RangeSet


@dataclass(frozen=True, slots=True)
class Lookup:
    """Must match where a term of `must` stands; may match where one of `must` or `hints` does."""

    must: tuple[Read, ...]
    hints: tuple[Read, ...] = ()


@dataclass(frozen=True, slots=True)
class TimeRange:
    """An event time `start <= time < end`, as text; `across` is for segments partly inside."""

    start: str
    end: str
    across: Lookup


@dataclass(frozen=True, slots=True)
class Span:
    """The entries `[start, end)`."""

    start: int
    end: int

    def behind(self, index: int) -> "Span":
        """The entries of this span from an index on."""
        return Span(max(self.start, index), max(self.end, index))


@dataclass(frozen=True, slots=True)
class Entries:
    """These entries, ascending."""

    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unknown:
    """Every entry may match and none must: the rows decide."""


@dataclass(frozen=True, slots=True)
class Intersection:
    """The entries of all parts, the cheapest part first."""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Union:
    """The entries of any part."""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class Complement:
    """The entries outside the part."""

    part: "Node"


Node: TypeAlias = Lookup | TimeRange | Span | Entries | Unknown | Intersection | Union | Complement
