"""Appending and erasing, without I/O: what is sent.

One event is sent as a JSON object, several as NDJSON, at most 10,000 and 32 MiB a request.
`receipts` checks the answers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import msgspec

from ledger_client.errors import RejectedError, UnsettledError
from ledger_client.messages import Plan, Request
from ledger_client.plans.heads import Heads
from ledger_client.plans.receipts import check_appended
from ledger_client.responses import TOO_LARGE, check_same, decode_answer, decode_problem
from ledger_client.results import Receipt, Rejected
from ledger_core.api import Erase, Erased, Problem
from ledger_core.event.commitments import (
    Opening,
    PrivateEvent,
    commit_private,
    format_envelope,
    holds_private,
)
from ledger_core.event.model import Event, EventError
from ledger_core.event.reader import Reader, ReadEvent
from ledger_core.tlog.errors import UnavailableError
from ledger_core.tlog.policy import VerifiedHead

BATCH_EVENTS_MAX = 10_000
BATCH_BYTES_MAX = 32 * 1024 * 1024
ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""The longest honest answer: 10,000 duplicates, each with its own proof and signed head."""

EVENTS_AT_ONCE: Final = 25
"""Events that are looked at for secrets together."""

AnyEvent = Event | ReadEvent | Mapping[str, Any]
"""A `ReadEvent` was checked before and is sent as it is, so it must have its id and time."""

Mask = Callable[[dict[str, Any]], dict[str, Any]]
"""Gives an event without its secrets; `ledger_core.event.secrets.mask` is one."""


class Appender:
    """Plans appends. Holds no state of its own: threads may share it."""

    def __init__(
        self,
        *,
        reader: Reader,
        mask: Mask | None,
        make_salt: Callable[[], bytes],
        are_clean: Callable[[Sequence[bytes]], bool] | None = None,
    ) -> None:
        """Without `mask` secrets are sent. `make_salt` gives 32 random bytes.

        `are_clean`: whether `mask` would change none of some events, given as JSON. One look at
        some dozens of them costs a third of a look at each.
        """
        self._reader: Final = reader
        self._make_salt: Final = make_salt
        self._mask: Final = mask
        self._are_clean: Final = are_clean

    def append(
        self, event: AnyEvent, *, heads: Heads | None, wait_witnessed: bool
    ) -> Plan[Receipt]:
        """Append one event. Raises: RejectedError, and what `append_many` raises."""
        (result,) = yield from self.append_many([event], heads=heads, wait_witnessed=wait_witnessed)
        if isinstance(result, Rejected):
            raise RejectedError(result.problem)
        return result

    def append_many(
        self, events: Iterable[AnyEvent], *, heads: Heads | None, wait_witnessed: bool
    ) -> Plan[list[Receipt | Rejected]]:
        """Append events in as few requests as the limits allow; the outcomes in the same order.

        Events are verified against `heads`, when given.

        Raises: UnsettledError, VerificationError, MalformedError; RejectedError when a whole
        request is refused, as for a token that isn't valid.
        """
        results: list[Receipt | Rejected] = []
        for batch in self._batches(events):
            sent = [item for item in batch if isinstance(item, ReadEvent)]
            try:
                outcomes = iter(
                    (yield from _append(sent, heads=heads, wait_witnessed=wait_witnessed))
                )
            except UnavailableError as error:
                raise UnsettledError(
                    error,
                    results=tuple(results),
                    unsettled=tuple(
                        event if isinstance(event, PrivateEvent) else event.event for event in sent
                    ),
                ) from error
            results += (next(outcomes) if isinstance(i, ReadEvent) else i for i in batch)
        return results

    def _batches(self, events: Iterable[AnyEvent]) -> Iterator[list[ReadEvent | Rejected]]:
        batch: list[ReadEvent | Rejected] = []
        bytes_gathered = 0
        for item in self._read_all(events):
            item_bytes = len(_wire_bytes(item)) + 1 if isinstance(item, ReadEvent) else 0
            if len(batch) == BATCH_EVENTS_MAX or bytes_gathered + item_bytes > BATCH_BYTES_MAX:
                yield batch
                batch, bytes_gathered = [], 0
            batch.append(item)
            bytes_gathered += item_bytes
        if batch:
            yield batch

    def _read_all(self, events: Iterable[AnyEvent]) -> Iterator[ReadEvent | Rejected]:
        remaining = iter(events)
        while some := list(islice(remaining, EVENTS_AT_ONCE)):
            yield from self._read_clean(some) or map(self._read, some)

    def _read_clean(self, events: Sequence[AnyEvent]) -> list[ReadEvent] | None:
        """The events, if none has anything to mask; None where one may."""
        if self._are_clean is None or len(events) == 1:
            return None
        reads = []
        for event in events:
            if type(event) is not dict or holds_private(event):
                return None
            try:
                reads.append(self._reader.read_object(event))
            except EventError:
                return None
        return reads if self._are_clean([read.event_json for read in reads]) else None

    def _read(self, event: AnyEvent) -> ReadEvent | Rejected:
        if isinstance(event, ReadEvent):
            return event
        value = msgspec.to_builtins(event) if isinstance(event, Event) else event
        openings: tuple[Opening, ...] = ()
        try:
            if isinstance(value, dict) and holds_private(value):
                value, openings = commit_private(value, self._make_salt)
            if self._mask is not None and isinstance(value, Mapping):
                value = self._mask(dict(value))
            read = self._reader.read_object(value)
        except EventError as error:
            return Rejected(id=None, problem=_problem(error), is_sent=False)
        if not openings:
            return read
        return PrivateEvent(read.event, read.event_json, read.id_bytes, read.filled, openings)


def _append(
    sent: Sequence[ReadEvent], *, heads: Heads | None, wait_witnessed: bool
) -> Plan[list[Receipt | Rejected]]:
    """One request; its outcomes are one for each event sent, in order.

    A body that is too large, for a proxy perhaps, is sent in halves.
    """
    if not sent:
        return []
    # A head that was signed for one commit has no cosignature yet, so it can't meet a quorum.
    needs_witnesses = heads is not None and heads.policy.quorum is not None
    latest = None if heads is None else heads.latest
    request = _request(
        sent,
        proof=heads is not None,
        latest=latest,
        wait_witnessed=wait_witnessed or needs_witnesses,
    )
    response = yield request
    if response.status == TOO_LARGE:
        if len(sent) == 1:
            problem = decode_problem(response)
            return [Rejected(id=str(sent[0].event.id), problem=problem, is_sent=True)]
        middle = len(sent) // 2
        halves: list[Receipt | Rejected] = []
        for half in (sent[:middle], sent[middle:]):
            halves += yield from _append(half, heads=heads, wait_witnessed=wait_witnessed)
        return halves
    return (yield from check_appended(sent, request, response, heads=heads, latest=latest))


def _request(
    sent: Sequence[ReadEvent], *, proof: bool, latest: VerifiedHead | None, wait_witnessed: bool
) -> Request:
    parameters = []
    if proof:
        parameters.append("proof=1")
    if latest is not None:
        # The proof from here comes along, so that one round trip is enough.
        parameters.append(f"from_size={latest.checkpoint.tree_size}")
    if wait_witnessed:
        parameters.append("wait=witnessed")
    query = f"?{'&'.join(parameters)}" if parameters else ""
    is_batch = len(sent) > 1
    return Request(
        method="POST",
        target=f"/v1/events{query}",
        content_type="application/x-ndjson" if is_batch else "application/json",
        body=b"\n".join(map(_wire_bytes, sent)),
        answer_bytes_max=ANSWER_BYTES_MAX,
    )


def _wire_bytes(event: ReadEvent) -> bytes:
    """An event as it is sent: its canonical JSON, and what opens its commitments beside it."""
    if isinstance(event, PrivateEvent):
        return format_envelope(event.event_json, event.openings)
    return event.event_json


def plan_erase(subject: str, *, reason: str) -> Plan[Erased]:
    """Destroy the key, salts and values of a subject.

    Raises: RejectedError, MalformedError; VerificationError when the answer is about another one.
    """
    request = Request(
        method="POST",
        target="/v1/private/erasures",
        content_type="application/json",
        body=msgspec.json.encode(Erase(subject=subject, reason=reason)),
    )
    response = yield request
    erased = decode_answer(request, response, Erased)
    check_same(
        "subject of an erasure",
        got=erased.subject,
        want=subject,
        evidence=lambda: {"answer.json": response.body},
    )
    return erased


def _problem(error: EventError) -> Problem:
    """The ledger's answer to an invalid event, made without sending the event."""
    return Problem(
        type=f"/v1/problems#{error.rule}",
        title="the event is not valid",
        status=413 if error.rule == "leaf-too-large" else 422,
        detail=error.message,
        field=error.field or None,
        limit=error.limit,
        got=error.got,
    )
