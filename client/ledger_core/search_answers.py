"""The JSON that answers a search, a stream, an export, and a question about the fields.

As `api`, whose events these answers have; `asking` has the request of a search.
"""

import msgspec
from msgspec import Struct

from ledger_core.api import Consistency, EventAnswer
from ledger_core.asking import CountAnswer, Size


class FacetValue(Struct, frozen=True):
    """A value, and the number of found events that have it."""

    value: str
    count: Size


class Facet(Struct, frozen=True, kw_only=True):
    """The values of a field among the events found, the most frequent first.

    `others` counts the further values, which are cut off. Unless `is_exact`, the counts are of a
    sample of `counted` events.
    """

    field: str
    values: tuple[FacetValue, ...]
    others: Size
    is_exact: bool = msgspec.field(name="exact")
    counted: Size

    @property
    def counts(self) -> tuple[tuple[str, int], ...]:
        """Each value with its count."""
        return tuple((each.value, each.count) for each in self.values)


class Bucket(Struct, frozen=True):
    """The start of an hour or a day, and the number of found events that happened in it."""

    start: str
    count: Size


class Histogram(Struct, frozen=True, kw_only=True):
    """The events found by the time at which they happened, in an IANA time zone."""

    unit: str
    buckets: tuple[Bucket, ...]
    is_exact: bool = msgspec.field(name="exact")
    counted: Size
    zone: str = "UTC"

    @property
    def counts(self) -> tuple[tuple[str, int], ...]:
        """The start of each bucket with its count."""
        return tuple((each.start, each.count) for each in self.buckets)


class FoundEvent(EventAnswer, kw_only=True, omit_defaults=True):
    """An event that a search found. `because` names the relations by which a pivot found it."""

    because: tuple[str, ...] = ()


class Hint(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a search may have found nothing: a sentence, and what to ask instead.

    `nearest` is a condition or a query that finds `count` events. `kind` is for programs: `empty`,
    `key`, `case`, `near`, `value`, `words`, `field`, `time`, `together`, `condition`, `pruned` or
    `searched`.
    """

    kind: str
    text: str
    nearest: str | None = None
    count: Size | None = None


class SearchAnswer(Struct, kw_only=True, omit_defaults=True):
    """A page of what a search found in the tree of size `tree_size`.

    `total` is the number of events found, or at least found unless `total_exact`. Unless
    `complete`, a bound ended the page or the counts. `cursor` gets the next page; without one
    nothing is left. `scanned` is the number of events that had to be read to decide.
    `unpublished` newest entries of the log are not in this tree, because the cosignatures of a
    quorum are missing: `quorum_missing` says which. The service could not read the entries of the
    bundles `unreadable`, 256 in each, so it left out their events. `hints` says why nothing was
    found. The entries below `minimum_index` were pruned, so the answer is of the others alone.
    """

    query: str
    order: str
    tree_size: Size
    total: Size
    total_exact: bool
    scanned: Size
    complete: bool
    took_ms: float
    events: tuple[FoundEvent, ...]
    cursor: str | None = None
    facets: tuple[Facet, ...] = ()
    histogram: Histogram | None = None
    counts: tuple[CountAnswer, ...] = ()
    explanation: str | None = None
    consistency: Consistency | None = None
    unpublished: Size = 0
    quorum_missing: str | None = None
    unreadable: tuple[Size, ...] = ()
    hints: tuple[Hint, ...] = ()
    minimum_index: Size = 0


class SeenAnswer(Struct, kw_only=True, omit_defaults=True):
    """The first and the last event from an address or a network, and the actions from there.

    First and last by the time at which they happened, the index second. `unpublished` and
    `quorum_missing` are as in a SearchAnswer.
    """

    source: str
    tree_size: Size
    total: Size
    total_exact: bool
    actions: Facet
    first: FoundEvent | None = None
    last: FoundEvent | None = None
    unpublished: Size = 0
    quorum_missing: str | None = None


class FieldAnswer(Struct, kw_only=True, omit_defaults=True):
    """A field of the query language, and its most frequent values.

    `ordered`: values compare as more or less. `facet`: a search can count its values. `count` is
    the number of its values among the events that were counted; left out where none are counted.
    """

    name: str
    meaning: str
    example: str
    ordered: bool
    facet: bool
    count: Size | None = None
    values: tuple[FacetValue, ...] = ()


class ContextKeyAnswer(Struct, kw_only=True, omit_defaults=True):
    """A key of the context by its path: the types and the most frequent of its values.

    Types are `text`, `number`, `boolean` and `null`, as found in the newest events that have it.
    `count` is the number of values among the events that were counted.
    """

    path: str
    types: tuple[str, ...]
    count: Size
    values: tuple[FacetValue, ...] = ()


class FieldsAnswer(Struct, kw_only=True, omit_defaults=True):
    """The names that a query can use, and values that the events which the token may read have.

    Values were counted in the `counted` newest events; if `exact`, in all of them.
    """

    tree_size: Size
    counted: Size
    exact: bool
    fields: tuple[FieldAnswer, ...]
    context: tuple[ContextKeyAnswer, ...]


class StreamPosition(Struct, frozen=True, kw_only=True):
    """A line of a stream without an event: all entries before `next` have been scanned."""

    next: Size
    tree_size: Size


class _StreamLine(Struct):
    index: Size | None = None


_decode_stream_line = msgspec.json.Decoder(_StreamLine).decode
_decode_found_event = msgspec.json.Decoder(FoundEvent).decode
_decode_stream_position = msgspec.json.Decoder(StreamPosition).decode


def decode_stream_line(line: bytes) -> FoundEvent | StreamPosition:
    """A line of a stream, as JSON without its newline. Raises: msgspec.DecodeError."""
    is_event = _decode_stream_line(line).index is not None
    return _decode_found_event(line) if is_event else _decode_stream_position(line)


class ExportTrailer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The end of an export: the number of rows before it, and the SHA-256 of their bytes."""

    rows: Size
    sha256: str
    tree_size: Size


class TrailerLine(Struct, frozen=True, forbid_unknown_fields=True):
    """The last line of an export as JSON lines. No proof covers it, so it is nothing else too."""

    trailer: ExportTrailer


def parse_trailer(line: bytes) -> ExportTrailer | None:
    """The trailer that a line of JSON is, or None. A name that stands twice makes it none."""
    try:
        found = msgspec.json.decode(line, type=TrailerLine)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return found.trailer if msgspec.json.encode(found) == line.removesuffix(b"\n") else None
