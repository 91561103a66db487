"""Appending, without I/O: what is sent, and what an answer must prove before it is believed.

The client fills in ids and times itself and sends the very bytes it hashes, so the leaf of an event
is known but for `received`, which the ledger tells. A ledger that altered an event after taking it,
answered for another one, left one out or put it elsewhere, can't prove the leaf that the client
rebuilds from its own bytes:

    leaf = {"event": what was sent, "received": what was answered, "v": 1}

One event goes out as a JSON object and comes back with a tlog-proof. Several go out as NDJSON, at
most 10,000 and 32 MiB a request, and the new ones among them come back with one range proof; each
duplicate, being anywhere in the log, has a tlog-proof of its own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Annotated, Any, Final

import msgspec

from ledger_client.errors import RejectedError, UnsettledError
from ledger_client.messages import Plan, Request, Response
from ledger_client.plans.heads import Heads, WireConsistency
from ledger_client.problem_details import Problem
from ledger_client.responses import (
    adding_evidence,
    check_same,
    decode_answer,
    decode_json,
    decode_problem,
)
from ledger_client.results import Receipt, Rejected
from ledger_core.event.canonical import decode_event_object, format_leaf, format_time, parse_time
from ledger_core.event.commitments import (
    Opening,
    PrivateEvent,
    commit_private,
    commitment_to,
    decode_salt,
    find_values,
    format_envelope,
    holds_private,
    replace_at,
)
from ledger_core.event.model import Event, EventError, Received
from ledger_core.event.reader import Reader, ReadEvent
from ledger_core.tlog.errors import NO_EVIDENCE, MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.hashing import Hash, leaf_hash
from ledger_core.tlog.policy import VerifiedHead
from ledger_core.tlog.proof import Proof, RangeProof, parse_proof, parse_range_proof
from ledger_core.tlog.text import excerpt, format_base64
from ledger_core.tlog.trust import ConsistencyProof

BATCH_EVENTS_MAX = 10_000
BATCH_BYTES_MAX = 32 * 1024 * 1024
ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""The longest honest answer: 10,000 duplicates, each with its own proof and signed head."""

AnyEvent = Event | ReadEvent | Mapping[str, Any]
"""A `ReadEvent` was checked before and is sent as it is, so it must have its id and time."""

Mask = Callable[[dict[str, Any]], dict[str, Any]]
"""Gives an event without its secrets; `ledger_core.event.secrets.mask` is one."""


class _Masked(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger took out of an event: where, and by which rule."""

    path: str
    rule: str


class _Committed(msgspec.Struct, frozen=True, kw_only=True):
    """Where the ledger put a commitment in the place of a value, and the salt it took."""

    path: str
    salt: str


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    """The answer for one event: where it is, or why not."""

    index: Annotated[int, msgspec.Meta(ge=0)] = 0
    id: str = ""
    received: Received | None = None
    leaf_hash: str = ""
    duplicate: bool = False
    filled: tuple[str, ...] = ()
    masked: tuple[_Masked, ...] = ()
    committed: tuple[_Committed, ...] = ()
    proof: str | None = None
    error: Problem | None = None


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    results: list[_Result]
    range_proof: str | None = None
    consistency: WireConsistency | None = None
    witnessed: bool = False


class Appender:
    """Plans appends. Holds no state of its own: threads may share it."""

    def __init__(
        self,
        *,
        reader: Reader,
        mask: Mask | None,
        make_salt: Callable[[], bytes],
    ) -> None:
        """Without `mask` secrets are sent. `make_salt` gives 32 random bytes."""
        self._reader: Final = reader
        self._make_salt: Final = make_salt
        self._mask: Final = mask

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
        for event in events:
            item = self._read(event)
            item_bytes = len(_wire_bytes(item)) + 1 if isinstance(item, ReadEvent) else 0
            if len(batch) == BATCH_EVENTS_MAX or bytes_gathered + item_bytes > BATCH_BYTES_MAX:
                yield batch
                batch, bytes_gathered = [], 0
            batch.append(item)
            bytes_gathered += item_bytes
        if batch:
            yield batch

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    """An event that the ledger says it holds, and the leaf that this would make."""

    sent: ReadEvent
    result: _Result
    received: Received
    leaf: bytes
    leaf_hash: Hash

    def evidence(self) -> dict[str, bytes]:
        return {
            "sent.json": self.sent.event_json,
            "leaf.json": self.leaf,
            "answer.json": msgspec.json.encode(self.result),
        }


@dataclass(frozen=True, slots=True)
class _Proven:
    head: VerifiedHead
    proof: Proof | RangeProof


def _append(
    sent: Sequence[ReadEvent], *, heads: Heads | None, wait_witnessed: bool
) -> Plan[list[Receipt | Rejected]]:
    """One request; its outcomes are one for each event sent, in order."""
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
    answer = _decode(request, (yield request), latest=latest)
    check_same(
        "results of an append",
        got=len(answer.results),
        want=len(sent),
        evidence=lambda: NO_EVIDENCE,
    )
    outcomes = [_place(event, result) for event, result in zip(sent, answer.results, strict=True)]
    placed = [outcome for outcome in outcomes if isinstance(outcome, _Placed)]
    proven: dict[int, _Proven] = {}
    if heads is not None and placed:
        if needs_witnesses and not answer.witnessed:
            raise UnavailableError(
                "no checkpoint with the witnesses of the policy covers the events yet"
            )
        proven = yield from _prove(placed, answer, heads=heads, is_batch=len(sent) > 1)
    return [
        outcome
        if isinstance(outcome, Rejected)
        else _receipt(outcome, proven.get(id(outcome)), is_witnessed=answer.witnessed)
        for outcome in outcomes
    ]


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


def _decode(request: Request, response: Response, *, latest: VerifiedHead | None) -> _Answer:
    """The answer: results for each event, or the error for the whole request.

    When every event is refused the status is a 4xx, and the results say why.
    """
    if not HTTPStatus.BAD_REQUEST <= response.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return decode_answer(request, response, _Answer)
    try:
        return decode_json(request, response.body, _Answer)
    except MalformedError:
        problem = decode_problem(response)
    if latest is not None and problem.field == "from_size":
        raise VerificationError(
            "the log was rewritten: it says that it is smaller than the accepted head of size"
            f" {latest.checkpoint.tree_size} ({problem.detail})",
            evidence={"accepted.note": latest.note.encode(), "answer.json": response.body},
        )
    raise RejectedError(problem)


def _place(sent: ReadEvent, result: _Result) -> _Placed | Rejected:
    """What the answer means for one event. Raises: VerificationError, MalformedError."""
    event_id = str(sent.event.id)
    if result.error is not None:
        problem = result.error.printable(result.error.status)
        return Rejected(id=event_id, problem=problem, is_sent=True)
    if result.received is None:
        raise MalformedError("a result of an append has neither received nor error")

    def evidence() -> dict[str, bytes]:
        return {"sent.json": sent.event_json, "answer.json": msgspec.json.encode(result)}

    check_same("id of a result", got=result.id, want=event_id, evidence=evidence)
    if result.masked:
        path, rule = (excerpt(text) for text in (result.masked[0].path, result.masked[0].rule))
        raise VerificationError(
            f"the ledger masked {path} by its rule {rule}, so what it logged is not what was sent:"
            " mask by the same rules before sending",
            # Not what was sent: evidence is saved, and the secret with it.
            evidence={"answer.json": msgspec.json.encode(result)},
        )
    if result.committed:
        sent = _with_commitments(sent, result.committed)
    check_same("fields filled in by the ledger", got=result.filled, want=(), evidence=evidence)
    received = result.received
    # The time is spliced into the leaf as it is: in another form it would be another leaf.
    if not _is_canonical_time(received.time):
        raise MalformedError("received.time is not in canonical form")
    leaf = format_leaf(event_json=sent.event_json, by=received.by, received_time=received.time)
    rebuilt = leaf_hash(leaf)
    check_same(
        "leaf hash of what was sent",
        got=result.leaf_hash,
        want=format_base64(rebuilt),
        evidence=lambda: {**evidence(), "leaf.json": leaf},
    )
    return _Placed(sent=sent, result=result, received=received, leaf=leaf, leaf_hash=rebuilt)


def _with_commitments(sent: ReadEvent, committed: Sequence[_Committed]) -> ReadEvent:
    """What was sent, with the commitments that the ledger says it put in the place of values.

    The client computes them from its own values and the salts that it is told, so the ledger can't
    have logged commitments to anything else.
    """
    event = msgspec.json.decode(sent.event_json)
    try:
        for each in committed:
            for path, _, value in list(find_values(event, each.path)):
                replace_at(
                    event, path, commitment_to(salt=decode_salt(each.salt), path=path, value=value)
                )
        hidden, event_json = decode_event_object(event)
    except ValueError as error:
        raise MalformedError(f"the ledger's commitments fit no event: {error}") from None
    return ReadEvent(hidden, event_json, sent.id_bytes, sent.filled)


# The events of one commit have one time, or a few.
@lru_cache(maxsize=64)
def _is_canonical_time(text: str) -> bool:
    return format_time(parse_time(text, field="received.time")) == text


def _prove(
    placed: Sequence[_Placed], answer: _Answer, *, heads: Heads, is_batch: bool
) -> Plan[dict[int, _Proven]]:
    """Check that each event is in the tree of an accepted head, by id() of the `_Placed`.

    Raises: VerificationError for the first one that isn't, with its evidence.
    """
    offered = None if answer.consistency is None else answer.consistency.parse()
    proven: dict[int, _Proven] = {}
    new = [item for item in placed if is_batch and not item.result.duplicate]
    if new:
        shared = yield from _prove_range(new, answer.range_proof, heads=heads, offered=offered)
        proven = {id(item): shared for item in new}
    for item in placed:
        if id(item) not in proven:
            proven[id(item)] = yield from _prove_one(item, heads=heads, offered=offered)
    return proven


def _prove_range(
    new: Sequence[_Placed], text: str | None, *, heads: Heads, offered: ConsistencyProof | None
) -> Plan[_Proven]:
    first = new[0].result.index
    if text is None:
        raise VerificationError("the answer has no range proof", evidence=new[0].evidence())
    for position, item in enumerate(new):
        check_same(
            f"index of new event {position} of a request",
            got=item.result.index,
            want=first + position,
            evidence=item.evidence,
        )
    proof = parse_range_proof(text)

    def evidence() -> dict[str, bytes]:
        hashes = "".join(f"{format_base64(item.leaf_hash)}\n" for item in new)
        return {"range-proof.txt": text.encode(), "leaf-hashes.txt": hashes.encode()}

    check_same(
        "range of a range proof",
        got=(proof.start, proof.end),
        want=(first, first + len(new)),
        evidence=evidence,
    )
    with adding_evidence(evidence):
        head = yield from heads.check_range_proof(
            proof, leaf_hashes=[item.leaf_hash for item in new], offered=offered
        )
    return _Proven(head, proof)


def _prove_one(item: _Placed, *, heads: Heads, offered: ConsistencyProof | None) -> Plan[_Proven]:
    if item.result.proof is None:
        raise VerificationError("the answer has no proof", evidence=item.evidence())
    proof = parse_proof(item.result.proof)
    check_same(
        "index of a proof",
        got=proof.leaf_index,
        want=item.result.index,
        evidence=item.evidence,
    )
    with adding_evidence(item.evidence):
        head = yield from heads.check_proof(proof, leaf_hash=item.leaf_hash, offered=offered)
    return _Proven(head, proof)


def _receipt(item: _Placed, proven: _Proven | None, *, is_witnessed: bool) -> Receipt:
    return Receipt(
        index=item.result.index,
        id=item.result.id,
        received=item.received,
        leaf=item.leaf,
        leaf_hash=item.leaf_hash,
        is_duplicate=item.result.duplicate,
        is_witnessed=is_witnessed,
        head=None if proven is None else proven.head,
        proof=None if proven is None else proven.proof,
    )


def _problem(error: EventError) -> Problem:
    """What the ledger would have answered to an event that wasn't sent."""
    return Problem(
        type=f"/v1/problems#{error.rule}",
        title="the event is not valid",
        status=413 if error.rule == "leaf-too-large" else 422,
        detail=error.message,
        field=error.field or None,
        limit=error.limit,
        got=error.got,
    )
