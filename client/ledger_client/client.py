"""The client for programs with threads. See `LedgerClient`."""

import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from types import TracebackType
from typing import Literal, Self, TypeVar

from ledger_client.base_client import TIMEOUT_S, AnyPolicy, BaseClient, PathLike
from ledger_client.messages import Plan, Request, Response, Turn
from ledger_client.plans.append import AnyEvent, Mask
from ledger_client.plans.export import ExportVerifier, Format, export_request, replacing
from ledger_client.plans.search import PAGE_EVENTS, Order, Search
from ledger_client.plans.stream import LineSplitter
from ledger_client.results import (
    Consistency,
    Entry,
    Erased,
    Exported,
    Inclusion,
    Page,
    Receipt,
    Rejected,
    Seen,
)
from ledger_client.retry import RetryPolicy, Sleep
from ledger_client.transport import Transport
from ledger_core.event.secrets import mask as mask_secrets
from ledger_core.tlog.errors import UnavailableError, VerificationError
from ledger_core.tlog.hashing import Hash
from ledger_core.tlog.policy import VerifiedHead

T = TypeVar("T")


class LedgerClient:
    """Appends events to a ledger and reads them back, believing nothing that isn't proven.

        with LedgerClient(url, token, policy="ledger.policy", state="ledger.state") as ledger:
            receipt = ledger.append(
                {"action": "user.deleted", "actor": {"id": "u_1"}, "outcome": "success"}
            )

    Safe from many threads. Every method raises `RejectedError` for what the ledger refuses,
    `VerificationError` for an answer that is not true (with the evidence, saved beside the state
    file), `MalformedError` for one that is not the format, and `UnavailableError` when the retries
    are used up; an append raises its kind `UnsettledError`, which holds what to append again.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        policy: AnyPolicy | None = None,
        state: PathLike | None = None,
        timeout_s: float = TIMEOUT_S,
        retry: RetryPolicy | None = None,
        tls: ssl.SSLContext | None = None,
        mask: Mask | None = mask_secrets,
    ) -> None:
        """Open nothing yet; read the policy (its bytes, or the file at a path) and the state file.

        `timeout_s` bounds one attempt, `retry` their number and the time for all of them. Without
        `state` the first head of each process is taken on trust in the policy alone. `mask` takes
        the secrets out of each event before it is sent: by the rules of the house when it is left
        out, by `parse_rules(text).mask` with those of a file too, not at all with None.

        Raises: ValueError, MalformedError, VerificationError, OSError.
        """
        self._shared = BaseClient(
            url,
            token,
            policy=policy,
            state=state,
            timeout_s=timeout_s,
            retry=retry or RetryPolicy(),
            mask=mask,
        )
        self._transport = Transport(self._shared.endpoint, tls=tls)
        self._turn = threading.Lock()

    def append(
        self, event: AnyEvent, *, verify: bool = True, wait_witnessed: bool = False
    ) -> Receipt:
        """Append one event; with `verify` prove that it, and nothing else, is in the ledger.

        The id and the time are filled in when the event has none. An event whose id is in the
        ledger already comes back as a duplicate when it is the same, its time included. A policy
        with a quorum of witnesses implies `wait_witnessed`: no other head could meet it.
        """
        return self._run(self._shared.append(event, verify=verify, wait_witnessed=wait_witnessed))

    def append_many(
        self, events: Iterable[AnyEvent], *, verify: bool = True, wait_witnessed: bool = False
    ) -> list[Receipt | Rejected]:
        """Append events, up to 10,000 in a request; the outcomes in the same order.

        An event that is refused is a `Rejected` in its place; the others are stored.
        """
        return self._run(
            self._shared.append_many(events, verify=verify, wait_witnessed=wait_witnessed)
        )

    def erase(self, subject: str, *, reason: str) -> Erased:
        """Destroy what is private of a subject, for good; the ledger logs that it was done."""
        return self._run(self._shared.erase(subject, reason=reason))

    def event(self, reference: int | str, *, verify: bool = True) -> Entry:
        """The event at an index, or with an id."""
        return self._run(self._shared.event(reference, verify=verify))

    def events(
        self, start: int = 0, end: int | None = None, *, verify: bool = True
    ) -> Iterator[Entry]:
        """The entries [start, end) of the published tree, or all of them, 256 a request."""
        walk = self._run(self._shared.walk(start, end, verify=verify))
        while walk.is_open:
            yield from self._run(walk.next_entries())

    def search(
        self,
        query: str = "",
        *,
        limit: int = PAGE_EVENTS,
        cursor: str | None = None,
        order: Order = "newest",
        facets: Sequence[str] = (),
        histogram: Literal["hour", "day"] | None = None,
        explain: bool = False,
        verify: bool = True,
    ) -> Page:
        """One page of what a query finds, with its numbers; `page.cursor` goes on.

        `limit` is 1,000 at most, and 0 only counts.
        """
        return self._run(
            self._shared.page(
                query,
                limit=limit,
                cursor=cursor,
                order=order,
                facets=facets,
                histogram=histogram,
                explain=explain,
                verify=verify,
            )
        )

    def query(
        self,
        query: str = "",
        *,
        order: Order = "newest",
        limit: int | None = None,
        verify: bool = True,
    ) -> Iterator[Entry]:
        """All that a query finds, or so many, page by page as they are asked for.

        They are those of the tree as it is at the first page, whatever comes in meanwhile.
        """
        return self._walk(self._shared.search(query, order=order, limit=limit, verify=verify))

    def around(
        self,
        reference: int | str,
        *,
        minutes: int = 15,
        limit: int | None = None,
        verify: bool = True,
    ) -> Iterator[Entry]:
        """What happened around an event: same actor, session, source or target; oldest first."""
        return self._walk(
            self._shared.around(reference, minutes=minutes, limit=limit, verify=verify)
        )

    def timeline(
        self, actor: str, *, order: Order = "newest", limit: int | None = None, verify: bool = True
    ) -> Iterator[Entry]:
        """All that an actor did, that was done for it and to it; `because` says which."""
        return self._walk(self._shared.timeline(actor, order=order, limit=limit, verify=verify))

    def seen(self, source: str, *, verify: bool = True) -> Seen:
        """When an address or a network was first and last seen, and what was done from there."""
        return self._run(self._shared.seen(source, verify=verify))

    def tail(
        self, query: str = "", *, start: int | None = None, verify: bool = True
    ) -> Iterator[Entry]:
        """What a query finds, as it comes in, without an end; from the index `start` on.

        Goes on where it was when the connection breaks, as often as the retry policy allows in a
        row. With `verify` an event is shown when it is published and proven.
        """
        tail = self._shared.tail(query, start=start, verify=verify)
        while True:
            failure = None
            try:
                with closing(self._transport.stream(tail.request())) as pieces:
                    lines = LineSplitter()
                    for piece in pieces:
                        for line in lines.feed(piece):
                            entry = self._run(tail.read(line))
                            if entry is not None:
                                yield entry
            except UnavailableError as error:
                failure = error
            time.sleep(tail.pause_s(failure))

    def export(
        self,
        query: str,
        to: PathLike,
        *,
        format: Format = "jsonl",  # noqa: A002 - what it is called over the wire too
        order: Order = "oldest",
    ) -> Exported:
        """Write all that a query finds to a file, which is there only when it is whole.

        `evidence` is a .zip with a proof for each event; `ledger verify` checks it offline.
        """
        taking = ExportVerifier(format)
        with replacing(to) as file:
            request = export_request(query, format=format, order=order)
            with closing(self._transport.stream(request)) as pieces:
                for piece in pieces:
                    taking.feed(piece)
                    file.write(piece)
            return taking.finish()

    def inclusion(
        self, index: int, *, tree_size: int | None = None, leaf_hash: Hash | None = None
    ) -> Inclusion:
        """The proof for the leaf at an index, to keep or hand on; of this very leaf when given.

        It is against the published head, or against the checkpoint kept for `tree_size`.
        """
        return self._run(self._shared.inclusion(index, tree_size=tree_size, leaf_hash=leaf_hash))

    def consistency(self, old: bytes | str, new: bytes | str | None = None) -> Consistency:
        """Prove that the tree of the signed head `old` is the beginning of that of `new`.

        Both are notes as they were signed; `new` is the published head when it is left out.
        """
        return self._run(self._shared.consistency(old, new))

    def checkpoint(self) -> VerifiedHead:
        """The published head, checked against the policy and against all heads seen before."""
        return self._run(self._shared.checkpoint())

    @property
    def latest(self) -> VerifiedHead | None:
        """The largest head accepted so far, without asking."""
        return self._shared.latest

    def close(self) -> None:
        """Write the state file and close the connections. Raises: OSError."""
        self._transport.close()
        self._shared.save()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LedgerClient({self._shared.endpoint.address!r})"

    def _walk(self, search: Search) -> Iterator[Entry]:
        while search.is_open:
            yield from self._run(search.next_page()).entries

    def _run(self, plan: Plan[T]) -> T:
        steps = self._shared.steps(plan)
        answer: Response | UnavailableError | None = None
        has_turn = False
        try:
            while True:
                step = steps.send(answer)
                answer = None
                match step:
                    case Request():
                        answer = self._send(step)
                    case Sleep():
                        time.sleep(step.delay_s)
                    case Turn.TAKE:
                        self._turn.acquire()
                        has_turn = True
                    case Turn.GIVE:
                        self._turn.release()
                        has_turn = False
        except StopIteration as done:
            result: T = done.value
            return result
        except VerificationError as error:
            raise self._shared.with_evidence_saved(error) from error
        finally:
            if has_turn:
                self._turn.release()
            steps.close()
            self._shared.save_due()

    def _send(self, request: Request) -> Response | UnavailableError:
        try:
            return self._transport.send(request)
        except UnavailableError as error:
            return error
