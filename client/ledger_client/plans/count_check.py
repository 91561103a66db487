"""Holds the groups of an answer against the question and against each other.

That the counts are those of the log is the service's claim: only their agreement is checked.
"""

from collections.abc import Iterator, Sequence

from ledger_core.asking import AskCount, CountAnswer, CountedValue
from ledger_core.query.counting import parse_count_field
from ledger_core.search_answers import SearchAnswer
from ledger_core.tlog.errors import VerificationError


def check_counts(answer: SearchAnswer, asked: Sequence[AskCount]) -> None:
    """Check the groups of an answer. Raises: VerificationError naming the first disagreement."""
    if len(answer.counts) != len(asked):
        raise VerificationError(f"counts of a page: got {len(answer.counts)}, want {len(asked)}")
    for found, ask in zip(answer.counts, asked, strict=True):
        for fault in _faults(found, ask, answer):
            raise VerificationError(f"the counts by {', '.join(ask.by)}: {fault}")


def _faults(found: CountAnswer, ask: AskCount, answer: SearchAnswer) -> Iterator[str]:
    if found.by != ask.by:
        yield f"they are by {', '.join(found.by)}"
    if len(found.values) > ask.top or (found.others and len(found.values) < ask.top):
        yield f"got {len(found.values)} groups and {found.others} others, want {ask.top} groups"
    if found.counted > answer.total:
        yield f"they are of {found.counted} events, more than the total of {answer.total}"
    if found.exact and not (answer.total_exact and found.counted == answer.total):
        yield f"they are exact, but of {found.counted} of {answer.total} events"
    weights = [each.count if ask.distinct is None else each.distinct or 0 for each in found.values]
    if weights != sorted(weights, reverse=not ask.rarest):
        yield "they are not in their order"
    if len({each.values for each in found.values}) != len(found.values):
        yield "a group stands twice"
    for each in found.values:
        yield from _group_faults(each, ask, found)
    if all(parse_count_field(name).is_single for name in ask.by):
        total = sum(each.count for each in found.values) + found.others
        if total > found.counted:
            yield f"got {total} events in all, want {found.counted} at most"


def _group_faults(each: CountedValue, ask: AskCount, found: CountAnswer) -> Iterator[str]:
    if len(each.values) != len(ask.by) or not 0 < each.count <= found.counted:
        yield f"a group has {len(each.values)} values and {each.count} events"
    if (each.distinct is None) != (ask.distinct is None):
        yield "the different values of a group are missing, or were not asked for"
    if None not in (each.least, each.average, each.most):
        least, average, most = each.least or 0, each.average or 0, each.most or 0
        # The average is rounded.
        slack = 1e-9 * max(abs(least), abs(most))
        if not least - slack <= average <= most + slack:
            yield f"an average of {average} is not between {least} and {most}"
