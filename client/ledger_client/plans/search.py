"""Searches, without I/O: pages of entries, each verified before it is returned.

Each entry is proven to be in the log at its index. The service claims, without proof, that the
entries match the query, that none is missing, and the counts. Pages are checked for their order, so
no entry comes twice.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Final, Literal, get_args
from urllib.parse import quote, urlencode

from ledger_client.messages import Plan, Request
from ledger_client.plans.heads import Heads
from ledger_client.plans.read import check_reference, make_entry, read_event
from ledger_client.responses import adding_evidence, check_same, decode_answer
from ledger_client.results import Entry, Facet, Histogram, Page, Seen
from ledger_core.api import FoundEvent, SearchAnswer, SeenAnswer
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.proof import parse_proof

PAGE_EVENTS: Final = 100
PAGE_EVENTS_MAX: Final = 1000
PAGE_BYTES_MAX: Final = 256 << 20
"""The size of a page of a thousand of the largest events, with escapes and proofs."""

Order = Literal["newest", "oldest"]
Parameters = Mapping[str, str | int | None]
"""The parameters of a query string; one with the value None is left out."""


def plan_page(
    path: str,
    parameters: Parameters,
    *,
    heads: Heads | None,
    after: int | None = None,
) -> Plan[Page]:
    """A page of the events found; `after` is the index of the last event of the page before.

    Raises: VerificationError, MalformedError, RejectedError.
    """
    given = {name: value for name, value in parameters.items() if value is not None}
    if heads is not None:
        given["proof"] = 1
    request = Request(target=f"{path}?{urlencode(given)}", answer_bytes_max=PAGE_BYTES_MAX)
    response = yield request
    answer = decode_answer(request, response, SearchAnswer)
    _check_order(answer, after)

    def evidence() -> dict[str, bytes]:
        return {"answer.json": response.body}

    # A cursor has an order of its own, which the caller need not repeat.
    if "order" in given and "cursor" not in given:
        check_same("order of a page", got=answer.order, want=given["order"], evidence=evidence)
    limit = given.get("limit", PAGE_EVENTS_MAX)
    if isinstance(limit, int) and len(answer.events) > limit:
        raise VerificationError(
            f"a page has {len(answer.events)} events, want {limit} at most", evidence=evidence()
        )
    with adding_evidence(evidence):
        entries: list[Entry] = []
        for found in answer.events:
            entry = yield from read_found(found, heads=heads)
            entries.append(entry)
    return Page(
        entries=tuple(entries),
        query=answer.query,
        order=answer.order,
        tree_size=answer.tree_size,
        total=answer.total,
        is_total_exact=answer.total_exact,
        scanned=answer.scanned,
        is_complete=answer.complete,
        took_ms=answer.took_ms,
        cursor=answer.cursor,
        facets=tuple(map(Facet.of, answer.facets)),
        histogram=None if answer.histogram is None else Histogram.of(answer.histogram),
        explanation=answer.explanation,
    )


def read_found(found: FoundEvent, *, heads: Heads | None) -> Plan[Entry]:
    """An event of an answer, verified when there are `heads`.

    Raises: VerificationError, MalformedError.
    """
    leaf = found.leaf.encode()
    if heads is None:
        return make_entry(found.index, leaf, head=None, proof=None, because=found.because)
    if found.proof is None:
        raise VerificationError(f"the event at {found.index} has no proof")
    proof = parse_proof(found.proof)
    check_same("index of a proof", got=proof.leaf_index, want=found.index, evidence=dict)
    head = yield from heads.check_proof(proof, leaf_hash=leaf_hash(leaf))
    return make_entry(found.index, leaf, head=head, proof=proof, because=found.because)


class Search:
    """Iterates over the events found, a page at a step.

    Mutable; owned by one reader. Call `next_page` while `is_open`.
    """

    def __init__(
        self,
        path: str,
        parameters: Parameters,
        *,
        limit: int | None,
        heads: Heads | None,
    ) -> None:
        """At most `limit` entries in all. Raises: ValueError."""
        if limit is not None and limit < 0:
            raise ValueError(f"want a limit that isn't negative, got {limit}")
        self._path: Final = path
        self._parameters: Final = dict(parameters)
        self._heads: Final = heads
        self._left = limit
        self._cursor: str | None = None
        self._after: int | None = None
        self.is_open = limit != 0

    def next_page(self) -> Plan[Page]:
        """The next page, which may be empty where a bound of the service was reached."""
        page = yield from plan_page(
            self._path,
            {
                **self._parameters,
                "limit": PAGE_EVENTS if self._left is None else min(self._left, PAGE_EVENTS),
                "cursor": self._cursor,
            },
            heads=self._heads,
            after=self._after,
        )
        if page.cursor is not None and page.cursor == self._cursor:
            raise MalformedError("the cursor does not go on")
        self._cursor = page.cursor
        if page.entries:
            self._after = page.entries[-1].index
        if self._left is not None:
            self._left -= len(page.entries)
        self.is_open = page.cursor is not None and self._left != 0
        return page


def around_path(reference: int | str) -> str:
    """The path of the events around an event. Raises: ValueError."""
    return f"/v1/events/{check_reference(reference)}/around"


def timeline_path(actor: str) -> str:
    """The path of an actor's timeline."""
    return f"/v1/actors/{quote(actor, safe='')}/timeline"


def plan_seen(source: str, *, heads: Heads | None) -> Plan[Seen]:
    """The first and the last event from an address or a network, verified with `heads`.

    Both are read again from the log, with their proofs.
    Raises: VerificationError, MalformedError, RejectedError.
    """
    request = Request(
        target=f"/v1/sources/{quote(source, safe='')}/seen", answer_bytes_max=PAGE_BYTES_MAX
    )
    response = yield request
    answer = decode_answer(request, response, SeenAnswer)
    ends: list[Entry | None] = []
    for found in (answer.first, answer.last):
        entry = None
        if found is not None:
            entry = yield from read_event(found.index, heads=heads)
            check_same(
                "event at an index",
                got=found.leaf,
                want=entry.leaf.decode(),
                evidence=lambda: {"answer.json": response.body},
            )
        ends.append(entry)
    first, last = ends
    return Seen(
        source=answer.source,
        tree_size=answer.tree_size,
        total=answer.total,
        is_total_exact=answer.total_exact,
        actions=Facet.of(answer.actions),
        first=first,
        last=last,
    )


def _check_order(answer: SearchAnswer, after: int | None) -> None:
    """Check that the events of a page are in its order and its tree. Raises: MalformedError."""
    if answer.order not in get_args(Order):
        raise MalformedError("the order of a page is neither newest nor oldest")
    indices = [event.index for event in answer.events]
    if any(index >= answer.tree_size for index in indices):
        raise MalformedError(f"an event past the tree of size {answer.tree_size} was found")
    whole = indices if after is None else [after, *indices]
    ascending = whole if answer.order == "oldest" else whole[::-1]
    if any(one >= next_ for one, next_ in pairwise(ascending)):
        raise MalformedError("the events found are not in their order, or one stands twice")
