"""Holds the numbers of a page against each other, its events and the pages before.

The totals, facets and histograms of an answer are the service's claim. What can be checked is
whether they agree with the events at hand, with the total, and from page to page.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, pairwise
from typing import Final, cast
from zoneinfo import ZoneInfo

from ledger_client.plans.question import Parameters, ask_seen
from ledger_core.query.analyzer import cut, decode_view
from ledger_core.query.counting import Unit, bucket_of, parse_zone
from ledger_core.query.fields import FIELDS
from ledger_core.query.order import Order, Place, place_in
from ledger_core.query.predicate import values_of
from ledger_core.search_answers import Facet, Histogram, SearchAnswer, SeenAnswer
from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.text import excerpt

_ALWAYS_ONE: Final = frozenset({"action", "actor", "outcome"})
"""The fields of which every event has exactly one value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PagesBefore:
    """The pages of a search before one: their rows, last place, tree size, and total if exact."""

    rows: int = 0
    last_place: Place | None = None
    tree_size: int | None = None
    total: int | None = None

    def and_page(self, answer: SearchAnswer) -> "PagesBefore":
        """These pages and the next one, whose order was checked."""
        last = self.last_place
        if answer.events:
            event = answer.events[-1]
            last = place_in(cast("Order", answer.order), event.index, event.leaf.encode())
        return PagesBefore(
            rows=self.rows + len(answer.events),
            last_place=last,
            tree_size=answer.tree_size,
            total=answer.total if answer.total_exact else self.total,
        )


def check_numbers(
    answer: SearchAnswer,
    parameters: Parameters,
    *,
    before: PagesBefore | None,
    zone: str | None = None,
) -> None:
    """Hold the numbers of a page against each other, its events and the pages before.

    `before` is None when the caller brought the cursor: then the number of rows so far is unknown.
    Raises: VerificationError naming the first disagreement.
    """
    # The first fault alone: those behind it expect that there is none before.
    for fault in chain(_page_faults(answer, parameters, before), _count_faults(answer, parameters)):
        raise VerificationError(fault)
    want_zone = zone or "UTC"
    if answer.histogram is not None and answer.histogram.zone != want_zone:
        raise VerificationError(
            f"time zone of the histogram: got {answer.histogram.zone}, want {want_zone}"
        )
    leaves = [event.leaf.encode() for event in answer.events]
    is_whole = before == PagesBefore() and answer.cursor is None and parameters["limit"] != 0
    # What is not exact counts a sample, which need not hold the events at hand.
    for facet in answer.facets:
        if not facet.is_exact:
            continue
        found = _values_in(leaves, facet.field)
        counts = {each.value: each.count for each in facet.values}
        _check_counted(f"values of {facet.field}", counts, found, is_whole=is_whole)
        left_out = found.keys() - counts.keys()
        if len(left_out) > facet.others or (is_whole and facet.others != len(left_out)):
            raise VerificationError(
                f"further values of {facet.field}: got {facet.others}, want {len(left_out)}"
            )
        least = min(counts.values(), default=0)
        if any(found[value] > least for value in left_out):
            raise VerificationError(f"the facet {facet.field} leaves out a more frequent value")
    if answer.histogram is not None and answer.histogram.is_exact:
        unit = cast("Unit", answer.histogram.unit)
        found = _times_in(leaves, unit, parse_zone(want_zone))
        # Buckets without an event are there too if a zone was named.
        counts = {each.start: each.count for each in answer.histogram.buckets if each.count}
        _check_counted("times of the histogram", counts, found, is_whole=is_whole)
        if not found.keys() <= counts.keys():
            raise VerificationError("the histogram leaves out events of its own page")


def _page_faults(
    answer: SearchAnswer, parameters: Parameters, before: PagesBefore | None
) -> Iterator[str]:
    rows, limit = len(answer.events), parameters["limit"]
    has_next = answer.cursor is not None
    if limit == 0 and has_next:
        yield "a page of counts alone has a next page"
    elif has_next and answer.complete and rows != limit:
        yield f"a full page has {rows} events, want {limit}"
    if rows > answer.total:
        yield f"a page has {rows} events, more than the total of {answer.total}"
    if before is None:
        return
    if before.tree_size not in (None, answer.tree_size):
        yield f"tree size of a page: got {answer.tree_size}, the page before has {before.tree_size}"
    if not answer.total_exact:
        # On a later page, and where a bound of the service was reached, the total may be a part.
        if before.tree_size is None and answer.complete and not has_next and limit != 0:
            yield "nothing is left to find, but the total is not exact"
        return
    if before.total not in (None, answer.total):
        yield f"total of a page: got {answer.total}, the page before has {before.total}"
    rows += before.rows
    if has_next and rows >= answer.total:
        yield f"the total is {answer.total}, but {rows} events were found and more are promised"
    if not has_next and limit != 0 and rows != answer.total:
        yield f"the total is {answer.total}, but {rows} events were found and none is left"


def _count_faults(answer: SearchAnswer, parameters: Parameters) -> Iterator[str]:
    """Disagreements of facets and histogram with the question and with the total."""
    fields = sorted(str(parameters.get("facets") or "").split(","))
    if (got := sorted(facet.field for facet in answer.facets)) != [f for f in fields if f]:
        yield f"facets of a page: got {got}, want {[f for f in fields if f]}"
    unit = parameters.get("histogram")
    if (got_unit := answer.histogram and answer.histogram.unit) != unit:
        yield f"histogram of a page: got {got_unit}, want {unit}"
    for facet in answer.facets:
        yield from facet_faults(facet, total=answer.total, is_total_exact=answer.total_exact)
    if (histogram := answer.histogram) is not None:
        yield from _sample_faults(
            "histogram", histogram, total=answer.total, is_total_exact=answer.total_exact
        )
        if (got_sum := sum(each.count for each in histogram.buckets)) != histogram.counted:
            yield f"sum of the histogram: got {got_sum}, want {histogram.counted}"
        starts = [each.start for each in histogram.buckets]
        if unit in ("minute", "hour", "day") and not _ascend(starts):
            yield "the times of the histogram do not ascend"


def _ascend(starts: Sequence[str]) -> bool:
    try:
        return all(one < other for one, other in pairwise(map(datetime.fromisoformat, starts)))
    except (ValueError, TypeError):  # No times, or some without a zone.
        return False


def facet_faults(facet: Facet, *, total: int, is_total_exact: bool) -> Iterator[str]:
    """Disagreements of a facet with the total, and of its counts with each other."""
    name = f"facet {facet.field}"
    yield from _sample_faults(name, facet, total=total, is_total_exact=is_total_exact)
    counts = [each.count for each in facet.values]
    if counts != sorted(counts, reverse=True) or 0 in counts:
        yield f"the counts of the {name} do not descend"
    if len({each.value for each in facet.values}) != len(counts):
        yield f"a value of the {name} stands twice"
    most = sum(counts) + facet.others if FIELDS[facet.field].attribute else max(counts, default=0)
    if most > facet.counted:
        yield f"counts of the {name}: got {most} in all, want {facet.counted} at most"
    if facet.field in _ALWAYS_ONE and not facet.others and most != facet.counted:
        yield f"counts of the {name}: got {most} in all, want {facet.counted}"


def _sample_faults(
    name: str, counts: Facet | Histogram, *, total: int, is_total_exact: bool
) -> Iterator[str]:
    if counts.counted > total:
        yield f"the {name} counts {counts.counted} events, more than the total of {total}"
    if counts.is_exact and not (is_total_exact and counts.counted == total):
        yield f"the {name} is exact, but counts {counts.counted} of {total} events"


def _check_counted(
    what: str, counts: Mapping[str, int], found: Mapping[str, int], *, is_whole: bool
) -> None:
    """Hold counts against those of the events at hand, which are all of them if `is_whole`."""
    for value, count in counts.items():
        at_hand = found.get(value, 0)
        if count < at_hand or (is_whole and count != at_hand):
            raise VerificationError(
                f"{what}: got {count} of {excerpt(value)}, but the events have {at_hand}"
            )


def _values_in(leaves: Sequence[bytes], field: str) -> Counter[str]:
    """The number of events that have each value of a field, cut as the index cuts values."""
    values = (set(values_of(field, decode_view(leaf))) for leaf in leaves)
    if FIELDS[field].is_whole:
        return Counter(value for each in values for value in each)
    return Counter(value for each in values for value in set(map(cut, each)))


def _times_in(leaves: Sequence[bytes], unit: Unit, zone: ZoneInfo | None) -> Counter[str]:
    return Counter(bucket_of(decode_view(leaf).event.time, unit, zone) for leaf in leaves)


def check_seen(answer: SeenAnswer, source: str) -> None:
    """Hold the numbers of a source against each other, and its events against the source.

    Precondition: the leaves were parsed. Raises: VerificationError naming the first disagreement.
    """
    question = ask_seen(source)
    for found in (answer.first, answer.last):
        if found is not None:
            question.check_event(found.index, found.leaf.encode(), because=found.because)
    for fault in _seen_faults(answer, source):
        raise VerificationError(fault)


def _seen_faults(answer: SeenAnswer, source: str) -> Iterator[str]:
    if answer.source != source:
        yield f"source of an answer: got {excerpt(answer.source)}, want {excerpt(source)}"
    if answer.actions.field != "action":
        yield f"facet of a source: got {excerpt(answer.actions.field)}, want 'action'"
        return
    yield from facet_faults(answer.actions, total=answer.total, is_total_exact=answer.total_exact)
    if answer.first is None or answer.last is None:
        # A bound of the service may keep it from finding them; the total is no longer exact then.
        if answer.total_exact and (answer.first or answer.last or answer.total):
            yield f"the total is {answer.total}, but the first or the last event is missing"
        return
    first, last = answer.first.index, answer.last.index
    places = [place_in("time", end.index, end.leaf.encode()) for end in (answer.first, answer.last)]
    if max(first, last) >= answer.tree_size:
        yield f"events of a source: got {first} to {last} in a tree of size {answer.tree_size}"
    if places[0] > places[1]:
        yield f"the first event of a source, {first}, happened after the last, {last}"
    if (first == last) != (answer.total == 1) and answer.total_exact:
        yield f"the total is {answer.total}, but the first event is {first} and the last {last}"
