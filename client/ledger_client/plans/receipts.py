"""Checks the answer to an append and makes receipts of it, without I/O.

The client fills in ids and times itself and sends the very bytes that it hashes, so it knows the
leaf of an event but for `received`, which the ledger answers:

    leaf = {"event": what was sent, "received": what was answered, "v": 1}

If a ledger alters an event after taking it, answers for another one, leaves one out or puts it
elsewhere, it can't prove the leaf that the client rebuilds from its own bytes.

The answer for one event has a tlog-proof. The new events of a batch share one range proof; each
duplicate may be anywhere in the log and has a tlog-proof of its own.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus

import msgspec

from ledger_client.errors import RejectedError
from ledger_client.messages import Plan, Request, Response
from ledger_client.plans.heads import Heads, show_head
from ledger_client.responses import (
    adding_evidence,
    check_same,
    decode_answer,
    decode_json,
    decode_problem,
    malformed_as,
)
from ledger_client.results import Receipt, Rejected
from ledger_core.api import (
    AppendAnswer,
    Committed,
    Consistency,
    Refused,
    Result,
    read_results,
)
from ledger_core.event.canonical import decode_event_object, format_leaf, leaf_format
from ledger_core.event.commitments import commitment_to, decode_salt, find_at, replace_at
from ledger_core.event.model import Received
from ledger_core.event.reader import ReadEvent
from ledger_core.event.times import format_time, parse_time
from ledger_core.tlog.errors import NO_EVIDENCE, MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.hashing import Hash, leaf_hash, leaf_hashes
from ledger_core.tlog.policy import VerifiedHead
from ledger_core.tlog.proof import Proof, RangeProof, parse_proof, parse_range_proof
from ledger_core.tlog.text import excerpt, format_base64
from ledger_core.tlog.trust import ConsistencyProof


def check_appended(
    sent: Sequence[ReadEvent],
    request: Request,
    response: Response,
    *,
    heads: Heads | None,
    latest: VerifiedHead | None,
) -> Plan[list[Receipt | Rejected]]:
    """The outcome of each event sent, in order; verified when there are `heads`.

    `latest` is the head that the request named. Raises: VerificationError, MalformedError,
    UnavailableError when no checkpoint meets the policy yet, RejectedError.
    """
    answer = yield from _decode(request, response, latest=latest)
    if isinstance(answer, _AllStored):
        results: Sequence[Result | Refused] = answer.results
    else:
        with malformed_as(request):
            results = read_results(answer.results)
    check_same(
        "results of an append", got=len(results), want=len(sent), evidence=lambda: NO_EVIDENCE
    )
    outcomes: Sequence[_Stored | Rejected] | None = _check_alike(sent, results)
    if outcomes is None:
        outcomes = [
            _check_result(event, result) for event, result in zip(sent, results, strict=True)
        ]
    stored = [outcome for outcome in outcomes if isinstance(outcome, _Stored)]
    is_witnessed = bool(answer.witnessed)
    proven: dict[int, _Proven] = {}
    if heads is not None and stored:
        if heads.policy.quorum is not None and not is_witnessed:
            raise UnavailableError(
                "no checkpoint with the witnesses of the policy covers the events yet"
            )
        proven = yield from _prove(stored, answer, heads=heads, is_batch=len(sent) > 1)
    return [
        outcome
        if isinstance(outcome, Rejected)
        else _receipt(outcome, proven.get(id(outcome)), is_witnessed=is_witnessed)
        for outcome in outcomes
    ]


class _AllStored(msgspec.Struct, kw_only=True):
    """An `AppendAnswer` without a refusal, decoded in one step."""

    results: list[Result]
    range_proof: str | None = None
    consistency: Consistency | None = None
    witnessed: bool | None = None


_decode_stored = msgspec.json.Decoder(_AllStored).decode


class _Stored(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event that the ledger claims to hold, and the leaf rebuilt from what was sent."""

    sent: ReadEvent
    result: Result
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


def _decode(
    request: Request, response: Response, *, latest: VerifiedHead | None
) -> Plan[AppendAnswer | _AllStored]:
    """The answer: results for each event, or the error for the whole request.

    When every event is refused the status is a 4xx, and the results say why.
    """
    if response.status == HTTPStatus.OK and b'"error"' not in response.body:
        # What has another form is decoded again, by what says why.
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            return _decode_stored(response.body)
    if not HTTPStatus.BAD_REQUEST <= response.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return decode_answer(request, response, AppendAnswer)
    try:
        return decode_json(request, response.body, AppendAnswer)
    except MalformedError:
        problem = decode_problem(response)
    if latest is not None and problem.field == "from_size":
        yield from show_head(latest.note)
        raise VerificationError(
            "the log was rewritten: it says that it is smaller than the accepted head of size"
            f" {latest.checkpoint.tree_size} ({problem.detail})",
            evidence={"accepted.note": latest.note.encode(), "answer.json": response.body},
        )
    raise RejectedError(problem)


def _check_alike(
    sent: Sequence[ReadEvent], results: Sequence[Result | Refused]
) -> list[_Stored] | None:
    """The results of events that were received together and logged as they were sent.

    None when one isn't so: then `_check_result` says what each is. Cost: half of that for each.
    """
    received = next((each.received for each in results if isinstance(each, Result)), None)
    if received is None or not _is_canonical_time(received.time):
        return None
    form = leaf_format(received.by, received.time)
    leaves = []
    for event, result in zip(sent, results, strict=True):
        if (
            not isinstance(result, Result)
            or result.id != event.event.id
            or result.received != received
            or (result.masked or result.committed or result.filled)
        ):
            return None
        form.check(event.event_json)
        leaves.append(form.leaf(event.event_json))
    hashes = leaf_hashes(leaves)
    texts: list[str] = msgspec.to_builtins(hashes)  # In base64: all in one call.
    stored = []
    for event, result, leaf, hashed, text in zip(sent, results, leaves, hashes, texts, strict=True):
        if not isinstance(result, Result) or result.leaf_hash != text:
            return None
        stored.append(
            _Stored(sent=event, result=result, received=received, leaf=leaf, leaf_hash=hashed)
        )
    return stored


def _check_result(sent: ReadEvent, result: Result | Refused) -> _Stored | Rejected:
    """Check the result for one event. Raises: VerificationError, MalformedError."""
    if (
        isinstance(result, Result)
        and result.id == sent.event.id
        and not (result.masked or result.committed or result.filled)
        and _is_canonical_time(result.received.time)
    ):
        stored = _rebuild(sent, result)
        if result.leaf_hash == format_base64(stored.leaf_hash):
            return stored
    return _check_closely(sent, result)


def _rebuild(sent: ReadEvent, result: Result) -> _Stored:
    """The leaf that the ledger should store. Precondition: the time of receipt is canonical."""
    received = result.received
    leaf = format_leaf(event_json=sent.event_json, by=received.by, received_time=received.time)
    return _Stored(
        sent=sent, result=result, received=received, leaf=leaf, leaf_hash=leaf_hash(leaf)
    )


def _check_closely(sent: ReadEvent, result: Result | Refused) -> _Stored | Rejected:
    """As `_check_result`, for a result that is not as usual: says what is wrong with it."""
    event_id = str(sent.event.id)
    if isinstance(result, Refused):
        problem = result.error.printable(result.error.status)
        return Rejected(id=event_id, problem=problem, is_sent=True)

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
    # The time is spliced into the leaf as it is: in another form it would be another leaf.
    if not _is_canonical_time(result.received.time):
        raise MalformedError("received.time is not in canonical form")
    stored = _rebuild(sent, result)
    check_same(
        "leaf hash of what was sent",
        got=result.leaf_hash,
        want=format_base64(stored.leaf_hash),
        evidence=lambda: {**evidence(), "leaf.json": stored.leaf},
    )
    return stored


def _with_commitments(sent: ReadEvent, committed: Sequence[Committed]) -> ReadEvent:
    """The sent event, with the commitments by which the ledger says it replaced values.

    The client computes them from its own values and the salts that it is told, so the ledger can't
    have logged commitments to anything else.
    """
    event = msgspec.json.decode(sent.event_json)
    try:
        for each in committed:
            for path, _, value in list(find_at(event, each.path)):
                commitment = commitment_to(salt=decode_salt(each.salt), path=path, value=value)
                replace_at(event, path, commitment)
        hidden, event_json = decode_event_object(event)
    except ValueError as error:
        raise MalformedError(f"the ledger's commitments fit no event: {error}") from None
    return ReadEvent(hidden, event_json, sent.id_bytes, sent.filled)


# The events of one commit have one time, or a few.
@lru_cache(maxsize=64)
def _is_canonical_time(text: str) -> bool:
    return format_time(parse_time(text, field="received.time")) == text


def _prove(
    stored: Sequence[_Stored], answer: AppendAnswer | _AllStored, *, heads: Heads, is_batch: bool
) -> Plan[dict[int, _Proven]]:
    """Check that each event is in the tree of an accepted head, by id() of the `_Stored`.

    Raises: VerificationError for the first one that isn't, with its evidence.
    """
    offered = None if answer.consistency is None else answer.consistency.proof()
    proven: dict[int, _Proven] = {}
    new = [item for item in stored if is_batch and not item.result.duplicate]
    if new:
        shared = yield from _prove_range(new, answer.range_proof, heads=heads, offered=offered)
        proven = {id(item): shared for item in new}
    for item in stored:
        if id(item) not in proven:
            proven[id(item)] = yield from _prove_one(item, heads=heads, offered=offered)
    return proven


def _prove_range(
    new: Sequence[_Stored], text: str | None, *, heads: Heads, offered: ConsistencyProof | None
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


def _prove_one(item: _Stored, *, heads: Heads, offered: ConsistencyProof | None) -> Plan[_Proven]:
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


def _receipt(item: _Stored, proven: _Proven | None, *, is_witnessed: bool) -> Receipt:
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
