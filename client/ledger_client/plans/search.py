"""Searches, without I/O: pages of entries, each verified before it is returned.

Each entry is proven to be in the log at its index, and held against the question, as are the
numbers of a page (`question`). That no event was withheld is the service's claim, without proof.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, cast, get_args
from urllib.parse import quote, urlencode

import msgspec

from ledger_client.messages import Plan, Request
from ledger_client.plans.count_check import check_counts
from ledger_client.plans.heads import Heads
from ledger_client.plans.page_check import PagesBefore, check_numbers, check_seen
from ledger_client.plans.question import CURSOR_MARK, Parameters, Question, ask_around, ask_timeline
from ledger_client.plans.read import answered_entry, check_reference, read_event
from ledger_client.responses import adding_evidence, check_same, decode_answer
from ledger_client.results import Entry, Fields, Page, Seen
from ledger_core.asking import AskCount, AskSearch
from ledger_core.query.order import Order as Order
from ledger_core.query.order import Place, place_in
from ledger_core.search_answers import FieldsAnswer, FoundEvent, SearchAnswer, SeenAnswer
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.proof import parse_proof
from ledger_core.tlog.text import excerpt

PAGE_EVENTS: Final = 100
PAGE_EVENTS_MAX: Final = 1000
PAGE_BYTES_MAX: Final = 256 << 20
"""The size of a page of a thousand of the largest events, with escapes and proofs."""

EMPTY_PAGES_MAX: Final = 10_000
"""Pages in a row without an event: by default a page ends after 200,000 rows, so this is a search
of 2 billion. A service that always names another page must not hold its client for ever."""

STALLED_PAGES_MAX: Final = 5
"""Pages in a row for which the service had no time at all, before the search is given up."""

CURSOR_CHARS_MAX: Final = 1024


def plan_page(
    path: str,
    parameters: Parameters,
    *,
    question: Question,
    heads: Heads | None,
    before: PagesBefore | None = None,
    counts: Sequence[AskCount] = (),
    zone: str | None = None,
) -> Plan[tuple[Page, PagesBefore]]:
    """A page of the events found, and the pages so far, of which `before` are those before it.

    `parameters` has limit and order. With `counts` or a `zone` of the histogram the request is a
    POST to /v1/search. Raises: VerificationError, MalformedError, RejectedError.
    """
    given = {name: value for name, value in parameters.items() if value is not None}
    cursor = given.get("cursor")
    if cursor is None:
        before = PagesBefore()
    else:
        given["cursor"] = str(cursor).partition(CURSOR_MARK)[0]
    if heads is not None:
        given["proof"] = 1
    request = Request(target=f"{path}?{urlencode(given)}", answer_bytes_max=PAGE_BYTES_MAX)
    if counts or zone is not None or question.is_long:
        request = _search_request(given, counts, zone)
    response = yield request
    answer = decode_answer(request, response, SearchAnswer)
    _check_tree(answer)
    if answer.cursor is not None and len(answer.cursor) > CURSOR_CHARS_MAX:
        raise MalformedError(f"a cursor has more than {CURSOR_CHARS_MAX} characters")

    def evidence() -> dict[str, bytes]:
        asked = request.body or request.target.encode()
        return {"request.txt": asked, "answer.json": response.body}

    check_same("order of a page", got=answer.order, want=given["order"], evidence=evidence)
    _check_order(answer, None if before is None else before.last_place)
    limit = given["limit"]
    if isinstance(limit, int) and len(answer.events) > limit:
        raise VerificationError(
            f"a page has {len(answer.events)} events, want {limit} at most", evidence=evidence()
        )
    with adding_evidence(evidence):
        entries: list[Entry] = []
        for found in answer.events:
            entry = yield from read_found(found, heads=heads, question=question)
            entries.append(entry)
        head = None
        if heads is not None:
            question.check_query(answer.query)
            check_numbers(answer, parameters, before=before, zone=zone)
            check_counts(answer, counts)
            # Without an event no proof brought a head along.
            head = heads.latest if entries else (yield from heads.checkpoint())
    if answer.cursor is not None and question.now_unix_us is not None:
        answer.cursor += f"{CURSOR_MARK}{question.now_unix_us}"
    page = Page(
        entries=tuple(entries),
        query=answer.query,
        order=answer.order,
        tree_size=answer.tree_size,
        head=head,
        total=answer.total,
        is_total_exact=answer.total_exact,
        scanned=answer.scanned,
        is_complete=answer.complete,
        took_ms=answer.took_ms,
        cursor=answer.cursor,
        facets=answer.facets,
        histogram=answer.histogram,
        explanation=answer.explanation,
        unpublished=answer.unpublished,
        quorum_missing=answer.quorum_missing and excerpt(answer.quorum_missing),
        unreadable=answer.unreadable,
        hints=answer.hints,
        minimum_index=answer.minimum_index,
        counts=answer.counts,
    )
    return page, (before or PagesBefore()).and_page(answer)


def _search_request(
    given: Mapping[str, str | int | None], counts: Sequence[AskCount], zone: str | None
) -> Request:
    if "facets" in given or "explain" in given:
        raise ValueError("use counts instead of facets, and no explain, with a query in a body")
    unit = given.get("histogram")
    asked = {
        "query": given.get("q", ""),
        "limit": given["limit"],
        "order": given["order"],
        "cursor": given.get("cursor"),
        "counts": tuple(counts),
        "proof": "proof" in given,
        "histogram": unit and {"unit": unit, "zone": zone or "UTC"},
    }
    return Request(
        method="POST",
        target="/v1/search",
        content_type="application/json",
        body=msgspec.json.encode(msgspec.convert(asked, AskSearch)),
        answer_bytes_max=PAGE_BYTES_MAX,
    )


def read_found(found: FoundEvent, *, heads: Heads | None, question: Question) -> Plan[Entry]:
    """An event of an answer; with `heads` it is verified and held against the question.

    Raises: VerificationError, MalformedError.
    """
    if heads is None:
        return answered_entry(found, head=None, proof=None, because=found.because)
    if found.proof is None:
        raise VerificationError(f"the event at {found.index} has no proof")
    proof = parse_proof(found.proof)
    check_same("index of a proof", got=proof.leaf_index, want=found.index, evidence=dict)
    leaf = found.leaf.encode()
    head = yield from heads.check_proof(proof, leaf_hash=leaf_hash(leaf))
    entry = answered_entry(found, head=head, proof=proof, because=found.because)
    question.check_event(found.index, leaf, because=found.because)
    return entry


class Search:
    """Iterates over the events found, a page at a step.

    Mutable; owned by one reader. Call `next_page` while `is_open`.
    """

    def __init__(
        self,
        path: str,
        parameters: Parameters,
        *,
        question: Question | Plan[Question],
        limit: int | None,
        heads: Heads | None,
        page_events: int = PAGE_EVENTS,
    ) -> None:
        """At most `limit` entries in all. Raises: ValueError."""
        if limit is not None and limit < 0:
            raise ValueError(f"want a limit that isn't negative, got {limit}")
        self._path: Final = path
        self._parameters: Final = dict(parameters)
        self._question = question
        self._heads: Final = heads
        self._page_events: Final = page_events
        self._left = limit
        self._cursor: str | None = None
        self._before = PagesBefore()
        self._empty_pages = self._stalled_pages = 0  # In a row.
        self.is_open = limit != 0

    def next_page(self) -> Plan[Page]:
        """The next page, which may be empty where a bound of the service was reached."""
        if not isinstance(self._question, Question):
            self._question = yield from self._question
        left = self._page_events if self._left is None else self._left
        page, self._before = yield from plan_page(
            self._path,
            {
                **self._parameters,
                "limit": min(left, self._page_events),
                "cursor": self._cursor,
            },
            question=self._question,
            heads=self._heads,
            before=self._before,
        )
        self._empty_pages = 0 if page.entries else self._empty_pages + 1
        self._check_cursor(page)
        self._cursor = page.cursor
        if self._left is not None:
            self._left -= len(page.entries)
        self.is_open = page.cursor is not None and self._left != 0
        return page

    def _check_cursor(self, page: Page) -> None:
        """Raises: MalformedError, UnavailableError where the service gets no further."""
        if page.cursor is None or page.cursor != self._cursor:
            self._stalled_pages = 0
        elif page.entries or page.is_complete:
            raise MalformedError("the cursor does not go on")
        else:
            # A service on a busy machine had no time for a part of the log; it says so.
            self._stalled_pages += 1
        if self._stalled_pages >= STALLED_PAGES_MAX:
            raise UnavailableError(
                "the service had no time for the next part of the search,"
                f" {STALLED_PAGES_MAX} times in a row: ask again later or for a shorter range of"
                " time, or have its operator raise `query_time_s`"
            )
        if page.cursor is not None and self._empty_pages >= EMPTY_PAGES_MAX:
            raise MalformedError(
                f"{EMPTY_PAGES_MAX:,} pages in a row have no event, and there is another one"
            )


def search_query(
    question: Question,
    *,
    order: Order,
    limit: int | None,
    heads: Heads | None,
    page_events: int = PAGE_EVENTS,
) -> Search:
    """The pages of a query."""
    return Search(
        "/v1/events",
        {"q": question.text, "order": order},
        question=question,
        limit=limit,
        heads=heads,
        page_events=page_events,
    )


def search_around(
    reference: int | str, *, minutes: int, order: Order, limit: int | None, heads: Heads | None
) -> Search:
    """The pages of the events around an event, which is read first. Raises: ValueError."""

    def ask() -> Plan[Question]:
        entry = yield from read_event(reference, heads=heads)
        return ask_around(entry.leaf, minutes=minutes)

    return Search(
        f"/v1/events/{check_reference(reference)}/around",
        {"minutes": minutes, "order": order},
        question=ask(),
        limit=limit,
        heads=heads,
    )


def search_timeline(actor: str, *, order: Order, limit: int | None, heads: Heads | None) -> Search:
    """The pages of an actor's timeline."""
    return Search(
        f"/v1/actors/{quote(actor, safe='')}/timeline",
        {"order": order},
        question=ask_timeline(actor),
        limit=limit,
        heads=heads,
    )


def plan_seen(source: str, *, heads: Heads | None) -> Plan[Seen]:
    """The first and the last event from an address or a network by time, verified with `heads`.

    Both are read again from the log, with their proofs.
    Raises: VerificationError, MalformedError, RejectedError.
    """
    request = Request(
        target=f"/v1/sources/{quote(source, safe='')}/seen", answer_bytes_max=PAGE_BYTES_MAX
    )
    response = yield request
    answer = decode_answer(request, response, SeenAnswer)

    def evidence() -> dict[str, bytes]:
        return {"request.txt": request.target.encode(), "answer.json": response.body}

    ends: list[Entry | None] = []
    for found in (answer.first, answer.last):
        entry = None
        if found is not None:
            entry = yield from read_event(found.index, heads=heads)
            check_same(
                "event at an index",
                got=found.leaf,
                want=entry.leaf.decode(),
                evidence=evidence,
            )
        ends.append(entry)
    if heads is not None:
        with adding_evidence(evidence):
            check_seen(answer, source)
    # Without an event no proof brought a head along.
    head = None if heads is None else heads.latest if any(ends) else (yield from heads.checkpoint())
    first, last = ends
    return Seen(
        source=answer.source,
        tree_size=answer.tree_size,
        head=head,
        total=answer.total,
        is_total_exact=answer.total_exact,
        actions=answer.actions,
        first=first,
        last=last,
        unpublished=answer.unpublished,
        quorum_missing=answer.quorum_missing and excerpt(answer.quorum_missing),
    )


def plan_fields() -> Plan[Fields]:
    """The names that a query can use: the service's claim, of which nothing is proven."""
    request = Request(target="/v1/fields", answer_bytes_max=PAGE_BYTES_MAX)
    response = yield request
    answer = decode_answer(request, response, FieldsAnswer)
    return Fields(
        tree_size=answer.tree_size,
        counted=answer.counted,
        is_exact=answer.exact,
        fields=answer.fields,
        context=answer.context,
    )


def _check_tree(answer: SearchAnswer) -> None:
    """Check that the events of a page are of its tree, in a known order. Raises: MalformedError."""
    if answer.order not in get_args(Order):
        raise MalformedError(f"the order of a page is none of {', '.join(get_args(Order))}")
    if any(event.index >= answer.tree_size for event in answer.events):
        raise MalformedError(f"an event past the tree of size {answer.tree_size} was found")


def _check_order(answer: SearchAnswer, after: Place | None) -> None:
    """Check that the events of a page are in its order. Raises: MalformedError."""
    order = cast("Order", answer.order)
    try:
        # Nothing is known of the leaves yet; orders by time read them.
        places = [place_in(order, event.index, event.leaf.encode()) for event in answer.events]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedError(f"a page has an event that is no leaf: {error}") from None
    whole = places if after is None else [after, *places]
    if any(one >= next_ for one, next_ in pairwise(whole)):
        raise MalformedError("the events found are not in their order, or one stands twice")
