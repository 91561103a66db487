"""The body of `POST /v1/search`, and the counts in its answer.

As `api`, whose `SearchAnswer` holds these counts.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from ledger_core.query.order import Order

Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]
CountedName = Annotated[str, Meta(min_length=1, max_length=300)]


class AskCount(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A request to count the events found by one field or two.

    A field is one of the language, `context.KEY`, `before.PATH`, `after.PATH`, or `source/24` for
    networks. `distinct` counts the different values of another field in each group, and orders the
    groups by it. `numbers` adds up the numbers of a field. `top` groups are given, the most
    frequent first, or the least with `rarest`. `new_since` is a time: the groups that no event
    found before it has.
    """

    by: Annotated[tuple[CountedName, ...], Meta(min_length=1, max_length=2)]
    distinct: CountedName | None = None
    numbers: CountedName | None = None
    top: Annotated[int, Meta(ge=1, le=10_000)] = 10
    rarest: bool = False
    new_since: Annotated[str, Meta(max_length=64)] | None = None


class CountedValue(Struct, kw_only=True, omit_defaults=True):
    """A group: its values in the order of the fields, and the number of its events.

    `sum`, `least`, `most` and `average` are of its numbers, and left out if it has none.
    """

    values: tuple[str, ...]
    count: Size
    distinct: Size | None = None
    sum: float | None = None
    least: float | None = None
    most: float | None = None
    average: float | None = None


class CountAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Groups of the events found. `others` further groups are cut off.

    Unless `exact`, the counts are lower bounds, of the `counted` events at least.
    """

    by: tuple[str, ...]
    values: tuple[CountedValue, ...]
    others: Size
    exact: bool
    counted: Size


class AskValues(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A request for all values of a field among the events that a query finds."""

    field: CountedName
    query: Annotated[str, Meta(max_length=1 << 22)] = ""


class ValuesTrailer(Struct, frozen=True, kw_only=True):
    """The end of a list of values: how many there are, and of how many events.

    Unless `exact`, some events or values are missing: the ledger's data is damaged, or an event has
    more values of its context than the index holds.
    """

    values: Size
    total: Size
    exact: bool
    tree_size: Size


class ValuesTrailerLine(Struct, frozen=True):
    """The last line of a list of values."""

    trailer: ValuesTrailer


class AskHistogram(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A histogram by the time at which events happened, in an IANA time zone."""

    unit: Literal["minute", "hour", "day", "weekday", "hour-of-day"]
    zone: Annotated[str, Meta(max_length=64)] = "UTC"


class AskSearch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A search, with counts of all that it finds."""

    query: Annotated[str, Meta(max_length=1 << 22)] = ""
    limit: Annotated[int, Meta(ge=0, le=1000)] = 100
    cursor: Annotated[str, Meta(max_length=1024)] | None = None
    order: Order = "newest"
    counts: Annotated[tuple[AskCount, ...], Meta(max_length=8)] = ()
    histogram: AskHistogram | None = None
    proof: bool = False
    from_size: Size | None = None
