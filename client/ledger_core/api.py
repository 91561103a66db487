"""The JSON that the service and its clients exchange: one type for each body, request or answer.

The answers of searches are in `search_answers`; those about the log itself, its problems and the
health of its service in `status`.
The service encodes answers from these types and prints its OpenAPI document from them; clients
decode with them. A decoder passes over members that it does not know, so a newer service may add
some. A member without a value is left out; it is never null. Hashes stay base64 text here, for
msgspec's decoder takes base64 that is not canonical: `parse_hash` does not.
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from ledger_core.asking import Size
from ledger_core.event.commitments import Opening
from ledger_core.event.model import Event, Id, Reason, Received
from ledger_core.event.reader import Filled
from ledger_core.tlog.text import parse_hash, printable
from ledger_core.tlog.trust import ConsistencyProof

TYPE_PREFIX: Final = "/v1/problems#"
SHOWN_CHARS_MAX: Final = 500

Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
HashText = Annotated[
    str,
    Meta(description="32 bytes", max_length=44, extra_json_schema={"contentEncoding": "base64"}),
]


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem document, and the reason in a list of results why an event was refused.

    The members from `field` on are the ledger's own. Source: RFC 9457 §3.1.
    """

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""
    field: str | None = None
    limit: Number | None = None
    got: Number | None = None
    rule: str | None = None
    position: Number | None = None
    length: Number | None = None
    expected: tuple[str, ...] = ()
    nearest: str | None = None

    @property
    def slug(self) -> str:
        """The name of the row in the service's table of problems."""
        return self.type.rpartition("#")[2]

    def members(self) -> dict[str, Any]:
        """The members, for a document that has more of them (RFC 9457 §3.2)."""
        return msgspec.structs.asdict(self)

    def printable(self, status: int) -> "Problem":
        """The problem as a terminal or a log may show it, with the status of the response."""
        shown: dict[str, Any] = {
            name: printable(value[:SHOWN_CHARS_MAX]) if isinstance(value, str) else value
            for name, value in self.members().items()
        }
        shown["expected"] = tuple(printable(each[:SHOWN_CHARS_MAX]) for each in self.expected)
        return Problem(**{**shown, "status": status})


class Envelope(Struct, forbid_unknown_fields=True):
    """An event with its private values beside it; each value opens a commitment in the event."""

    event: Event
    private: tuple[Opening, ...]


def _one_of(keyword: str, *names: str) -> dict[str, Any]:
    """The JSON Schema of a list whose items are of these types."""
    return {"items": {keyword: [{"$ref": f"#/components/schemas/{name}"} for name in names]}}


class Batch(Struct, forbid_unknown_fields=True):
    """Several events in one request."""

    events: Annotated[
        list[Any],
        Meta(
            min_length=1,
            max_length=10_000,
            extra_json_schema=_one_of("anyOf", "Event", "Envelope"),
        ),
    ]


class Masked(Struct, frozen=True, kw_only=True):
    """The place of a secret that the service took out of an event, and the rule that matched."""

    path: str
    rule: str


class Committed(Struct, frozen=True, kw_only=True):
    """The place of a value that the service replaced by a commitment, and the salt that it used."""

    path: str
    salt: str


class Result(Struct, kw_only=True, omit_defaults=True, gc=False):
    """The place of an event in the log.

    `filled` names the fields that the service added; `time` is the time that it chose. With
    `masked` or `committed` the logged event differs from the one that was sent.
    """

    index: Size
    id: str
    received: Received
    leaf_hash: HashText
    duplicate: bool
    filled: tuple[Filled, ...] = ()
    time: str | None = None
    masked: tuple[Masked, ...] = ()
    committed: tuple[Committed, ...] = ()
    proof: str | None = None


class Refused(Struct, frozen=True):
    """The reason why an event is not in the log."""

    error: Problem


Results = Annotated[list[Any], Meta(extra_json_schema=_one_of("oneOf", "Result", "Refused"))]
"""Encoded from `Result`s and `Refused`s; `read_results` makes these of what was decoded."""


def read_results(results: Results) -> list[Result | Refused]:
    """The typed outcomes of decoded `results`. Raises: msgspec.ValidationError."""
    if all(type(each) is dict and "error" not in each for each in results):
        return [*msgspec.convert(results, list[Result])]
    return [
        msgspec.convert(each, Refused)
        if isinstance(each, dict) and "error" in each
        else msgspec.convert(each, Result)
        for each in results
    ]


class Consistency(Struct, frozen=True, kw_only=True):
    """A proof that the tree of size `to` begins with the tree of size `from`."""

    from_: Size = msgspec.field(name="from")
    to: Size
    hashes: tuple[HashText, ...]

    def proof(self) -> ConsistencyProof:
        """The proof, which nothing has been checked against yet. Raises: MalformedError."""
        return ConsistencyProof(
            old_size=self.from_, new_size=self.to, hashes=tuple(map(parse_hash, self.hashes))
        )


class AppendAnswer(Struct, kw_only=True, omit_defaults=True):
    """The outcome of every event of a request, in the order of the request."""

    results: Results
    range_proof: str | None = None
    consistency: Consistency | None = None
    witnessed: bool | None = None


class AllRefused(Problem, frozen=True, kw_only=True):
    """A problem document with the outcome of every event."""

    results: Results


class Unproven(Problem, frozen=True, kw_only=True):
    """A problem document with the place of every event: they are durable, but not proven yet."""

    results: Results


class EventAnswer(Struct, kw_only=True, omit_defaults=True):
    """An event of the log. `leaf` is the exact text that the leaf hash covers.

    `late_s` marks an event whose own time is over an hour from that of its receipt: the seconds by
    which it was received later, negative for an event that was dated ahead. `private` opens
    commitments in the event, for tokens with the scope `private`, until the values are erased.
    """

    index: Size
    event: Annotated[msgspec.Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/Event"})]
    received: Received
    leaf_hash: HashText
    leaf: str
    late_s: int | None = None
    private: tuple[Opening, ...] = ()
    proof: str | None = None
    consistency: Consistency | None = None


MULTI_LEAVES_MAX: Final = 4096


class AskMulti(Struct, frozen=True, forbid_unknown_fields=True):
    """The ascending indices of leaves that a multi-proof is asked for, and the size of the tree."""

    tree_size: Size
    indices: Annotated[tuple[Size, ...], Meta(min_length=1, max_length=MULTI_LEAVES_MAX)]


class Erase(Struct, frozen=True, forbid_unknown_fields=True):
    """The subject whose private values are to be destroyed, and the reason."""

    subject: Id
    reason: Reason


class Erased(Struct, frozen=True, kw_only=True):
    """The number of destroyed values, and the event that records the erasure."""

    subject: str
    values: Size
    index: Size
    id: str


class InclusionAnswer(Struct, kw_only=True, omit_defaults=True):
    """An inclusion proof, and the signed checkpoint of its tree if one was published."""

    index: Size
    tree_size: Size
    leaf_hash: HashText
    hashes: tuple[HashText, ...]
    checkpoint: str | None = None
    consistency: Consistency | None = None


class ConsistencyAnswer(Consistency, frozen=True, kw_only=True, omit_defaults=True):
    """A consistency proof, and the signed checkpoint of the larger tree if one was published."""

    checkpoint: str | None = None


EVIDENCE_QUERY_CHARS_MAX: Final = 65_536
"""The log records the query, so it must fit into an event."""


class AskEvidence(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The request of a bundle of evidence: the question, and the reason.

    `disclose` lists JSON Pointers in which `*` is any key or position: private values at these
    places are put beside the events, for a token with the scope `private`.
    """

    query: Annotated[str, Meta(max_length=EVIDENCE_QUERY_CHARS_MAX)] = ""
    case: Id | None = None
    reason: Reason | None = None
    disclose: Annotated[tuple[Annotated[str, Meta(max_length=256)], ...], Meta(max_length=16)] = ()


class KeptCheckpoint(Struct, frozen=True, kw_only=True):
    """A published checkpoint, and the proof that the tree of `published` begins with its tree."""

    checkpoint: str
    hashes: tuple[HashText, ...]


class KeptCheckpoints(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Published checkpoints that are kept, the smallest first, and the latest of all.

    `next` is the size of the following one; without it there is none.
    """

    checkpoints: tuple[KeptCheckpoint, ...]
    published: str
    next: Size | None = None
