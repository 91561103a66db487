"""What the clients return."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ledger_client.problem_details import Problem
from ledger_core.event.model import Event, Received
from ledger_core.tlog.hashing import Hash
from ledger_core.tlog.policy import VerifiedHead
from ledger_core.tlog.proof import Proof, RangeProof
from ledger_core.tlog.trust import ConsistencyProof


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """An event is in the ledger, at `index`.

    `leaf` is what the client itself rebuilt from what it sent and `received`. With `head` that leaf
    was checked to be in the tree of that accepted head, by `proof`: a tlog-proof, or the range
    proof that the new events of one request share. Without (verify=False) all but the leaf is only
    the server's word. `is_duplicate` says that the same event was there before; `is_witnessed` that
    a published checkpoint covered it when the server answered (False: not asked for, or not yet).
    """

    index: int
    id: str
    received: Received
    leaf: bytes
    leaf_hash: Hash
    is_duplicate: bool
    is_witnessed: bool
    head: VerifiedHead | None
    proof: Proof | RangeProof | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """An event is not in the ledger, and why; it was not even sent when the client found out."""

    id: str | None
    problem: Problem
    is_sent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An event as the ledger holds it: what `leaf`, the exact bytes, say.

    With `head` the leaf was checked to be at `index` in the tree of that accepted head; `proof`
    shows it to others, and is None for what was read from a bundle. `because` says by what a pivot
    found it: actor, session, source or target. `private` has the values of erasable fields by
    their JSON Pointers, each checked against its commitment in the leaf: for a single event, a
    token with the scope `private`, and as long as nobody erased them.
    """

    index: int
    event: Event
    received: Received
    leaf: bytes
    head: VerifiedHead | None
    proof: Proof | None
    because: tuple[str, ...] = ()
    private: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What is private of a subject was destroyed; the event at `index` says so."""

    subject: str
    values: int
    index: int
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facet:
    """How often each value of a field is among what was found, the most frequent first.

    `others` values more are cut off. Not exact: only `counted` events were looked at.
    """

    field: str
    counts: tuple[tuple[str, int], ...]
    others: int
    is_exact: bool
    counted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How much of what was found happened in each hour or day; empty ones are left out."""

    unit: str
    buckets: tuple[tuple[str, int], ...]
    is_exact: bool
    counted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A part of what a search finds in the tree of size `tree_size`.

    The entries are verified, if that was asked for; the numbers are the service's word. `total` is
    the least that there is unless `is_total_exact`. Without a `cursor` nothing is left; with one
    and not `is_complete`, a bound of the service ended the page early.
    """

    entries: tuple[Entry, ...]
    query: str
    order: str
    tree_size: int
    total: int
    is_total_exact: bool
    scanned: int
    is_complete: bool
    took_ms: float
    cursor: str | None
    facets: tuple[Facet, ...]
    histogram: Histogram | None
    explanation: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The first and the last event from an address or a network, and what was done from there."""

    source: str
    tree_size: int
    total: int
    is_total_exact: bool
    actions: Facet
    first: Entry | None
    last: Entry | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A file that is whole: its rows, and the SHA-256 of what stands before its trailer.

    Evidence has no trailer but a manifest of its own, which `ledger verify` holds it against:
    `rows` and `tree_size` are None for it, and the SHA-256 is that of the file.
    """

    rows: int | None
    tree_size: int | None
    sha256: str
    bytes_written: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inclusion:
    """The leaf with this hash is at `proof.leaf_index` in the tree of `head`."""

    leaf_hash: Hash
    proof: Proof
    head: VerifiedHead


@dataclass(frozen=True, slots=True, kw_only=True)
class Consistency:
    """The tree of `old` is the beginning of the tree of `new`; both were accepted."""

    old: VerifiedHead
    new: VerifiedHead
    proof: ConsistencyProof
