"""The results that the clients return."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ledger_core.api import Problem
from ledger_core.asking import CountAnswer
from ledger_core.event.model import Event, Received
from ledger_core.evidence.findings import Evidence
from ledger_core.search_answers import ContextKeyAnswer, Facet, FieldAnswer, Hint, Histogram
from ledger_core.tlog.checkpoint import Checkpoint
from ledger_core.tlog.hashing import Hash
from ledger_core.tlog.policy import VerifiedHead
from ledger_core.tlog.proof import Proof, RangeProof
from ledger_core.tlog.tile import TILE_WIDTH
from ledger_core.tlog.trust import ConsistencyProof


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """An event that is in the ledger, at `index`.

    The client itself rebuilt `leaf` from the event that it sent and `received`. With `head`,
    `proof` shows that the leaf is in the tree of that accepted head: a tlog-proof, or the range
    proof that the new events of one request share. Without (verify=False) everything but the leaf
    is the server's claim. `is_duplicate`: the same event was there before. `is_witnessed`: a
    published checkpoint covered it when the server answered (False: not asked for, or not yet).
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
    """An event that is not in the ledger, and why; not `is_sent` when the client refused it."""

    id: str | None
    problem: Problem
    is_sent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An event as the ledger holds it; `leaf` has its exact bytes.

    With `head` the leaf was verified to be at `index` in the tree of that accepted head. `proof`
    shows that to others; it is None for an entry that was read from a bundle. `because` names the
    relations by which a pivot found the event: actor, session, source or target. `private` maps
    JSON Pointers to the values of erasable fields, each checked against its commitment in the
    leaf: for a single event, for a token with the scope `private`, until the values are erased.
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
class Page:
    """A page of the events that a search finds in the tree of size `tree_size`.

    Unless verify=False the entries are verified and meet the query, and the numbers agree with each
    other and with them; that no event was withheld is the service's claim. `query` has no relative
    times: the client resolved them. `head` is the latest accepted head: if its size is another than
    `tree_size`, the page is of an older tree, or of entries that are not published yet. `total` is
    a lower bound unless `is_total_exact`. Without a `cursor` nothing is left; with one and not
    `is_complete`, a bound of the service ended the page early. `unpublished` newest entries of the
    log are left out, as the service says, because they await the cosignatures of `quorum_missing`.
    The service could not read the entries of the bundles `unreadable`, 256 in each: its data is
    damaged, and their events are left out. `hints` are the service's reasons why it found nothing.
    The entries below `minimum_index` were pruned, and are in no answer.
    """

    entries: tuple[Entry, ...]
    query: str
    order: str
    tree_size: int
    head: VerifiedHead | None
    total: int
    is_total_exact: bool
    scanned: int
    is_complete: bool
    took_ms: float
    cursor: str | None
    facets: tuple[Facet, ...]
    histogram: Histogram | None
    explanation: str | None
    unpublished: int
    quorum_missing: str | None
    unreadable: tuple[int, ...] = ()
    hints: tuple[Hint, ...] = ()
    minimum_index: int = 0
    counts: tuple[CountAnswer, ...] = ()

    @property
    def damage(self) -> str:
        """The message about damaged data, for people; empty without `unreadable`."""
        if not self.unreadable:
            return ""
        return (
            f"the ledger's data is damaged; {len(self.unreadable) * TILE_WIDTH:,} events can't be"
            f" read, the first from {self.unreadable[0] * TILE_WIDTH:,} on"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """The names that a query can use, as the service says: fields, and keys of the context by path.

    Values and counts are of the `counted` newest events; if `is_exact`, of all of them.
    """

    tree_size: int
    counted: int
    is_exact: bool
    fields: tuple[FieldAnswer, ...]
    context: tuple[ContextKeyAnswer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The first and the last event by time from an address or a network, and its actions.

    `tree_size`, `head`, `unpublished` and `quorum_missing` are as in a Page.
    """

    source: str
    tree_size: int
    head: VerifiedHead | None
    total: int
    is_total_exact: bool
    actions: Facet
    first: Entry | None
    last: Entry | None
    unpublished: int = 0
    quorum_missing: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A complete export: its rows, and the SHA-256 of their bytes; of Parquet, that of the file.

    The first `tree_size` entries were searched, as the service says. Each row is in the tree of
    `head`; None when rows were not verified.
    """

    rows: int
    tree_size: int
    sha256: str
    bytes_written: int
    head: VerifiedHead | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceFile:
    """A bundle of evidence that was written and verified, and the SHA-256 of the whole file."""

    evidence: Evidence
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


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptHead:
    """A checkpoint that the log signed and published, whose tree the accepted head extends.

    `head` is None where the cosignatures do not meet the policy, and `missing` says why: the head
    may be older than a witness of the policy.
    """

    checkpoint: Checkpoint
    note: str
    head: VerifiedHead | None
    missing: str | None = None
