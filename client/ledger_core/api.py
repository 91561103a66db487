"""What goes over the wire as JSON: the types that answers are encoded and documented from.

Bytes are base64 in JSON: msgspec's encoder writes them so.
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ledger_core.event.commitments import Opening
from ledger_core.event.model import Event, Id, Reason, Received
from ledger_core.event.reader import Filled
from ledger_core.tlog.hashing import Hash

Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]
HashText = Annotated[Hash, Meta(description="32 bytes", extra_json_schema={"maxLength": 44})]

_RESULTS = {
    "items": {"oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("Result", "Refused")]}
}


TYPE_PREFIX: Final = "/v1/problems#"


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem document, and what stands in the place of a refused event in a list of results."""

    type: str
    title: str
    status: int
    detail: str
    field: str | UnsetType = UNSET
    limit: int | UnsetType = UNSET
    got: int | UnsetType = UNSET
    rule: str | UnsetType = UNSET
    position: int | UnsetType = UNSET
    length: int | UnsetType = UNSET
    expected: tuple[str, ...] | UnsetType = UNSET
    nearest: str | UnsetType = UNSET

    @property
    def slug(self) -> str:
        """Its name in the table."""
        return self.type.removeprefix(TYPE_PREFIX)

    def members(self) -> dict[str, Any]:
        """Its members, for a document that has more of them (RFC 9457 §3.2)."""
        return msgspec.structs.asdict(self)


class Envelope(Struct, forbid_unknown_fields=True):
    """An event whose private values are sent beside it, each opening a commitment in it."""

    event: Event
    private: tuple[Opening, ...]


class Batch(Struct, forbid_unknown_fields=True):
    """Several events in one request."""

    events: Annotated[
        list[Any],
        Meta(
            min_length=1,
            max_length=10_000,
            extra_json_schema={
                "items": {
                    "anyOf": [
                        {"$ref": f"#/components/schemas/{name}"} for name in ("Event", "Envelope")
                    ]
                }
            },
        ),
    ]


class Masked(Struct, frozen=True, kw_only=True):
    """Where a secret stood in an event, and the rule that it fits."""

    path: str
    rule: str


class Committed(Struct, frozen=True, kw_only=True):
    """Where the server put a commitment in the place of a value, and the salt it took."""

    path: str
    salt: str


class Result(Struct, kw_only=True, omit_defaults=True):
    """Where an event is. `filled` names what the server added, `time` is the one that it chose.

    `masked` says what the server took out, `committed` what it replaced: the event in the log is
    then not the one that was sent.
    """

    index: Size
    id: str
    received: Received
    leaf_hash: HashText
    duplicate: bool
    filled: tuple[Filled, ...] = ()
    time: str | UnsetType = UNSET
    masked: tuple[Masked, ...] = ()
    committed: tuple[Committed, ...] = ()
    proof: str | UnsetType = UNSET


class Refused(Struct, frozen=True):
    """Why an event is not in the log."""

    error: Problem


Results = Annotated[list[Any], Meta(extra_json_schema=_RESULTS)]


class Consistency(Struct, frozen=True, kw_only=True):
    """That the tree of size `to` begins with that of size `from`."""

    from_: Size = msgspec.field(name="from")
    to: Size
    hashes: tuple[HashText, ...]


class AppendAnswer(Struct, kw_only=True, omit_defaults=True):
    """The outcome of every event of a request, in its order."""

    results: Results
    range_proof: str | UnsetType = UNSET
    consistency: Consistency | UnsetType = UNSET
    witnessed: bool | UnsetType = UNSET


class AllRefused(Problem, frozen=True, kw_only=True):
    """A problem document that has the outcome of every event too."""

    results: Results


class EventAnswer(Struct, kw_only=True, omit_defaults=True):
    """An event of the log. `leaf` is the exact text that the leaf hash covers.

    `private` opens commitments in it: for tokens with that scope, and as long as nobody erased it.
    """

    index: Size
    event: Annotated[msgspec.Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/Event"})]
    received: Received
    leaf_hash: HashText
    leaf: str
    private: tuple[Opening, ...] = ()
    proof: str | UnsetType = UNSET
    consistency: Consistency | UnsetType = UNSET


class FacetValue(Struct, frozen=True):
    """A value, and how many of the events found have it."""

    value: str
    count: Size


class FacetAnswer(Struct, frozen=True, kw_only=True):
    """The values of a field among the events found, the most frequent first.

    `others` values more were found and are cut off. Not `exact`: only `counted` events were looked
    at, a sample.
    """

    field: str
    values: tuple[FacetValue, ...]
    others: Size
    exact: bool
    counted: Size


class Bucket(Struct, frozen=True):
    """The start of an hour or a day, and how many of the events found happened in it."""

    start: str
    count: Size


class HistogramAnswer(Struct, frozen=True, kw_only=True):
    """The events found by the time at which they happened; what is empty is left out."""

    unit: str
    buckets: tuple[Bucket, ...]
    exact: bool
    counted: Size


class FoundEvent(EventAnswer, kw_only=True, omit_defaults=True):
    """An event that was searched for. `because` says by what a pivot found it."""

    because: tuple[str, ...] = ()


class SearchAnswer(Struct, kw_only=True, omit_defaults=True):
    """A page of what a search found in the tree of size `tree_size`.

    `total` is how many events it finds, or, not exact, the least that it finds. Not `complete`: a
    bound was reached before the page was full. `cursor` goes on; without one nothing is left.
    `scanned` is how many events had to be read to decide.
    """

    query: str
    order: str
    tree_size: Size
    total: Size
    total_exact: bool
    scanned: Size
    complete: bool
    took_ms: float
    events: tuple[FoundEvent, ...]
    cursor: str | UnsetType = UNSET
    facets: tuple[FacetAnswer, ...] | UnsetType = UNSET
    histogram: HistogramAnswer | UnsetType = UNSET
    explanation: str | UnsetType = UNSET
    consistency: Consistency | UnsetType = UNSET


class SeenAnswer(Struct, kw_only=True, omit_defaults=True):
    """The first and the last event from an address or a network, and what was done from there."""

    source: str
    tree_size: Size
    total: Size
    total_exact: bool
    actions: FacetAnswer
    first: FoundEvent | UnsetType = UNSET
    last: FoundEvent | UnsetType = UNSET


class StreamPosition(Struct, frozen=True, kw_only=True):
    """A line of a stream that is no event: all before `next` has been looked at."""

    next: Size
    tree_size: Size


class ExportTrailer(Struct, frozen=True, kw_only=True):
    """The end of an export: how many rows stand before it, and the SHA-256 of their bytes."""

    rows: Size
    sha256: str
    tree_size: Size


class Erase(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose private values are to be destroyed, and why."""

    subject: Id
    reason: Reason


class Erased(Struct, frozen=True, kw_only=True):
    """What was destroyed, and the event that says so."""

    subject: str
    values: int
    index: Size
    id: str


class InclusionAnswer(Struct, kw_only=True, omit_defaults=True):
    """An inclusion proof, and the signed checkpoint of its tree where one was published."""

    index: Size
    tree_size: Size
    leaf_hash: HashText
    hashes: tuple[HashText, ...]
    checkpoint: str | UnsetType = UNSET
    consistency: Consistency | UnsetType = UNSET


class ConsistencyAnswer(Consistency, frozen=True, kw_only=True, omit_defaults=True):
    """A consistency proof, and the signed checkpoint of the larger tree where one was published."""

    checkpoint: str | UnsetType = UNSET


class WitnessAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A witness of the policy: the last head that it cosigned here, and what went wrong since."""

    name: str
    verifier_key: str
    url: str | UnsetType = UNSET
    cosigned_size: Size | UnsetType = UNSET
    cosigned_at_unix_s: int | UnsetType = UNSET
    error: str | UnsetType = UNSET


class IndexAnswer(Struct, frozen=True, kw_only=True):
    """How far the index is: whole segments of 65,536 events that are sealed, of those there are.

    What is not sealed yet is searched too, only slower. Not `current`: it is made anew, by other
    rules of analysis.
    """

    sealed_segments: Size
    full_segments: Size
    current: bool


class LogAnswer(Struct, frozen=True, kw_only=True):
    """Which log this is, and how large. None of it is to be trusted: a verifier has its policy."""

    origin: str
    verifier_keys: tuple[str, ...]
    witnesses: tuple[WitnessAnswer, ...]
    policy: str
    tree_size: Size
    published_size: Size
    index: IndexAnswer


class Alive(Struct, frozen=True, kw_only=True):
    """The process answers."""

    status: str


class Ready(Struct, frozen=True, kw_only=True):
    """The service takes and proves events; `warnings` says what will stop it before long."""

    status: str
    warnings: tuple[str, ...]


class NotReady(Problem, frozen=True, kw_only=True):
    """A problem document that says what stands in the way."""

    reasons: tuple[str, ...]


class ProblemKind(Struct, frozen=True, kw_only=True):
    """A row of the table of problems."""

    type: str
    title: str
    status: int
    meaning: str


class ProblemKinds(Struct, frozen=True, kw_only=True):
    """The table of problems."""

    problems: tuple[ProblemKind, ...]
