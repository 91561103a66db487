"""The client for programs with an event loop. See `AsyncLedgerClient`."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing

from ledger_client.async_downloads import AsyncDownloads
from ledger_client.async_transport import sleep
from ledger_client.plans.append import AnyEvent, plan_erase
from ledger_client.plans.kept_heads import read_kept_heads
from ledger_client.plans.question import Parameters, check_length
from ledger_client.plans.read import plan_walk, prove_inclusion, read_event
from ledger_client.plans.saved import (
    plan_delete,
    plan_names,
    plan_save,
    plan_saved,
)
from ledger_client.plans.search import (
    PAGE_EVENTS,
    Order,
    Search,
    plan_fields,
    plan_page,
    plan_seen,
    search_around,
    search_query,
    search_timeline,
)
from ledger_client.plans.stream import EventStream, LineSplitter
from ledger_client.plans.values import ValueList
from ledger_client.results import (
    Consistency,
    Entry,
    Fields,
    Inclusion,
    KeptHead,
    Page,
    Receipt,
    Rejected,
    Seen,
)
from ledger_core.api import Erased
from ledger_core.asking import AskCount, ValuesTrailer
from ledger_core.query.counting import Unit
from ledger_core.query.parser import QUERY_CHARS_MAX
from ledger_core.query.saved import DeletedQuery, SavedNames, SavedQuery
from ledger_core.search_answers import FacetValue
from ledger_core.tlog.errors import UnavailableError
from ledger_core.tlog.hashing import Hash
from ledger_core.tlog.policy import VerifiedHead


class AsyncLedgerClient(AsyncDownloads):
    """Appends events to a ledger and reads them back; every answer is verified.

        async with AsyncLedgerClient(url, token, policy="p.policy", state="p.state") as ledger:
            receipt = await ledger.append(
                {"action": "user.deleted", "actor": {"id": "u_1"}, "outcome": "success"}
            )

    Every method raises `RejectedError` for what the ledger refuses, `VerificationError` for an
    answer that is not true (with the evidence, saved beside the state file), `MalformedError` for
    one that is not the format, and `UnavailableError` when the retries are used up; an append
    raises its kind `UnsettledError`, which holds what to append again.

    Many tasks of one event loop may use it. Verifying runs on the loop, 20 µs an event:
    a batch of 10,000 holds the loop for a fifth of a second, a batch of 100 for 2 ms.
    """

    async def append(
        self, event: AnyEvent, *, verify: bool = True, wait_witnessed: bool = False
    ) -> Receipt:
        """Append one event; with `verify` check the proof that exactly this event is in the ledger.

        The client fills in id and time when the event has none. An event that is in the ledger
        already, with the same id, time and content, comes back as a duplicate. A policy with a
        quorum of witnesses implies `wait_witnessed`: no other head could meet it.
        """
        heads = self._base.heads_for(verify=verify)
        return await self._run(
            self._base.appender.append(event, heads=heads, wait_witnessed=wait_witnessed)
        )

    async def append_many(
        self, events: Iterable[AnyEvent], *, verify: bool = True, wait_witnessed: bool = False
    ) -> list[Receipt | Rejected]:
        """Append events, up to 10,000 in a request; the outcomes in the same order.

        An event that is refused is a `Rejected` in its place; the others are stored.
        """
        heads = self._base.heads_for(verify=verify)
        return await self._run(
            self._base.appender.append_many(events, heads=heads, wait_witnessed=wait_witnessed)
        )

    async def erase(self, subject: str, *, reason: str) -> Erased:
        """Destroy the private values of a subject, for good; the ledger logs the erasure."""
        return await self._run(plan_erase(subject, reason=reason))

    async def event(self, reference: int | str, *, verify: bool = True) -> Entry:
        """The event at an index, or with an id."""
        return await self._run(read_event(reference, heads=self._base.heads_for(verify=verify)))

    async def events(
        self, start: int = 0, end: int | None = None, *, verify: bool = True
    ) -> AsyncIterator[Entry]:
        """The entries [start, end) of the published tree, or all of them, 256 a request."""
        walk = await self._run(plan_walk(start, end, heads=self._base.heads_for(verify=verify)))
        while walk.is_open:
            for entry in await self._run(walk.next_entries()):
                yield entry

    async def search(
        self,
        query: str = "",
        *,
        limit: int = PAGE_EVENTS,
        cursor: str | None = None,
        order: Order = "newest",
        facets: Sequence[str] = (),
        histogram: Unit | None = None,
        zone: str | None = None,
        counts: Sequence[AskCount] = (),
        explain: bool = False,
        verify: bool = True,
    ) -> Page:
        """One page of the events that a query finds, with counts; `page.cursor` asks for the next.

        `limit` is 1,000 at most, and 0 only counts. The orders `newest` and `oldest` are by index,
        `time` and `time-newest` by when events happened. `pages` checks more: each page against
        those before it. `counts` are groups to count, as `AskCount(by=("source", "actor"))`. A
        histogram in a `zone` (`Europe/Berlin`, `UTC`) has its empty buckets too; its other units
        need one.
        """
        question = await self._ask(query, cursor=cursor, may_be_long=True, verify=verify)
        parameters: Parameters = {
            "q": question.text,
            "limit": limit,
            "cursor": cursor,
            "order": order,
            "facets": ",".join(facets) or None,
            "histogram": histogram,
            "explain": 1 if explain else None,
        }
        heads = self._base.heads_for(verify=verify)
        page, _ = await self._run(
            plan_page(
                "/v1/events",
                parameters,
                question=question,
                heads=heads,
                counts=counts,
                zone=zone,
            )
        )
        return page

    async def pages(
        self,
        query: str = "",
        *,
        order: Order = "newest",
        limit: int | None = None,
        page_events: int = PAGE_EVENTS,
        verify: bool = True,
    ) -> AsyncIterator[Page]:
        """The pages of a query, `limit` events in all, each held against those before it."""
        search = search_query(
            await self._ask(query, may_be_long=True, verify=verify),
            order=order,
            limit=limit,
            heads=self._base.heads_for(verify=verify),
            page_events=page_events,
        )
        while search.is_open:
            yield await self._run(search.next_page())

    async def query(
        self,
        query: str = "",
        *,
        order: Order = "newest",
        limit: int | None = None,
        verify: bool = True,
    ) -> AsyncIterator[Entry]:
        """The events that a query finds, at most `limit` of them, fetched page by page.

        All pages are of the tree as it was at the first page. Issues an IncompleteWarning when the
        ledger can't read some entries; so do `around` and `timeline`.
        """
        search = search_query(
            await self._ask(query, may_be_long=True, verify=verify),
            order=order,
            limit=limit,
            heads=self._base.heads_for(verify=verify),
        )
        async for entry in self._entries(search):
            yield entry

    def around(
        self,
        reference: int | str,
        *,
        minutes: int = 15,
        order: Order = "oldest",
        limit: int | None = None,
        verify: bool = True,
        on_page: Callable[[Page], object] | None = None,
    ) -> AsyncIterator[Entry]:
        """The events around an event with its actor, session, source or target.

        `on_page` gets each page before its events: it has the tree that was searched.
        """
        heads = self._base.heads_for(verify=verify)
        search = search_around(reference, minutes=minutes, order=order, limit=limit, heads=heads)
        return self._entries(search, on_page)

    def timeline(
        self,
        actor: str,
        *,
        order: Order = "newest",
        limit: int | None = None,
        verify: bool = True,
        on_page: Callable[[Page], object] | None = None,
    ) -> AsyncIterator[Entry]:
        """The events in which an actor acted or was the target; `because` says which.

        `on_page` is as for `around`.
        """
        heads = self._base.heads_for(verify=verify)
        search = search_timeline(actor, order=order, limit=limit, heads=heads)
        return self._entries(search, on_page)

    async def seen(self, source: str, *, verify: bool = True) -> Seen:
        """The first and the last event by time from an address or a network, and its actions."""
        return await self._run(plan_seen(source, heads=self._base.heads_for(verify=verify)))

    async def fields(self) -> Fields:
        """The fields and context keys that a query can name, with frequent values, unproven."""
        return await self._run(plan_fields())

    async def values(
        self, field: str, query: str = "", *, on_end: Callable[[ValuesTrailer], None] | None = None
    ) -> AsyncIterator[FacetValue]:
        """Every value of a field among the events that a query finds, with its count, unproven.

        They come in the order of the index, not of their counts, and are not held in memory.
        `on_end` gets the numbers of values and events at the end.
        """
        values = ValueList(field, await self._ask(query, may_be_long=True, verify=True))
        async with aclosing(self._transport.stream(values.request())) as pieces:
            lines = LineSplitter()
            async for piece in pieces:
                for line in lines.feed(piece):
                    found = values.read(line)
                    if found is not None:
                        yield found
        trailer = values.end()
        if on_end is not None:
            on_end(trailer)

    async def save_query(self, name: str, query: str) -> SavedQuery:
        """Save a query under a name, for `@name` in any query; the ledger logs it.

        All who may read the log, or its part of the token's tenant, share the names.
        """
        return await self._run(plan_save(name, query))

    async def saved_query(self, name: str, *, verify: bool = True) -> SavedQuery:
        """What a name stands for, with `verify` as the events say that saved it.

        That no later event changes it is the service's claim.
        """
        return await self._run(plan_saved(name, heads=self._base.heads_for(verify=verify)))

    async def saved_queries(self) -> SavedNames:
        """The saved queries by name, as the service says."""
        return await self._run(plan_names())

    async def delete_query(self, name: str) -> DeletedQuery:
        """Delete the name of a saved query; the events that saved it stay in the log."""
        return await self._run(plan_delete(name))

    async def tail(
        self, query: str = "", *, start: int | None = None, verify: bool = True
    ) -> AsyncIterator[Entry]:
        """The events that a query finds, as they come in, without an end; from index `start` on.

        When the connection breaks it continues from the same place, as often in a row as the retry
        policy allows. With `verify` it yields an event once it is published and proven.
        """
        stream = EventStream(
            check_length(await self._ask(query, verify=verify), QUERY_CHARS_MAX),
            start=start,
            heads=self._base.heads_for(verify=verify),
            retry=self._retry,
            environment=self._environment,
        )
        while True:
            failure = None
            try:
                async with aclosing(self._transport.stream(stream.request())) as pieces:
                    lines = LineSplitter()
                    async for piece in pieces:
                        for line in lines.feed(piece):
                            entry = await self._run(stream.read(line))
                            if entry is not None:
                                yield entry
            except UnavailableError as error:
                failure = error
            await sleep(stream.pause_s(failure))

    async def inclusion(
        self, index: int, *, tree_size: int | None = None, leaf_hash: Hash | None = None
    ) -> Inclusion:
        """The inclusion proof for the leaf at an index, which must have `leaf_hash` when given.

        It leads to the published head, or to the kept checkpoint of size `tree_size`.
        """
        heads = self._base.required_heads()
        return await self._run(
            prove_inclusion(index, tree_size=tree_size, expected=leaf_hash, heads=heads)
        )

    async def consistency(self, old: bytes | str, new: bytes | str | None = None) -> Consistency:
        """Check the proof that the tree of the signed head `old` is the beginning of that of `new`.

        Both are signed notes; `new` defaults to the published head.
        """
        return await self._run(self._base.required_heads().consistency(old, new))

    async def checkpoint(self) -> VerifiedHead:
        """The published head, checked against the policy and against all heads accepted before.

        Issues an OlderHeadWarning when a larger one was published before, or is in the state file.
        """
        return await self._run(self._base.required_heads().checkpoint())

    async def kept_heads(self, start: int = 0, end: int | None = None) -> AsyncIterator[KeptHead]:
        """The published heads that the log keeps, of the sizes [start, end), the smallest first.

        The log signed each, and the published head extends it.
        """
        heads = self._base.required_heads()
        following: int | None = start
        while following is not None and (end is None or following < end):
            found, following = await self._run(read_kept_heads(following, end=end, heads=heads))
            for head in found:
                yield head

    async def _entries(
        self, search: Search, on_page: Callable[[Page], object] | None = None
    ) -> AsyncIterator[Entry]:
        page = None
        while search.is_open:
            page = await self._run(search.next_page())
            if on_page is not None:
                on_page(page)
            for entry in page.entries:
                yield entry
        if page is not None:
            self._base.warn_of_damage(page)
