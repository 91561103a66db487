"""Rebuilds a log's tree from its entries and checks each entry. No I/O.

Bundle after bundle is fetched and appended to a frontier. The frontier is compared with the tiles
of an accepted head, which were checked against its root. So the signed tree is the tree of exactly
these entries in this order, and a bundle that is not of it is named.

A `ReplayState` is all that is kept between runs: the frontier before the open bundle, at most 63
hashes however large the log. A full bundle is fetched once, the open one each time it has grown.

Each entry of the tree is then checked for what an honest log never commits to:

* It is a leaf: an event within its limits, in canonical form (`parse_batches`).
* It was not received before the entry in front of it.
* Its id differs from those of the same tenant among at least the last `ids_max` entries that this
  object has seen.

A log may say that it pruned entries that were not checked yet. They are passed over: the hashes of
their tree come from its tiles, which the signed root authenticates. The log must then show an event
of its own that records this pruning, among the entries of the next larger head, or it withholds.

An id that was used longer ago, or before a restart, is not noticed: that takes an index of all ids.
None of this shows that an event is true, or that every event reached the log.
"""

from collections.abc import Sequence
from itertools import pairwise
from operator import le
from typing import Final

import msgspec

from ledger_client.audit.recent_ids import RecentIds
from ledger_client.errors import RejectedError
from ledger_client.messages import Plan
from ledger_client.plans.read import fetch_bundle, fetch_tile
from ledger_client.responses import adding_evidence
from ledger_core.event.canonical import WholeLeaf
from ledger_core.event.leaf_batch import parse_batches
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.hashing import Hash, leaf_hashes
from ledger_core.tlog.policy import VerifiedHead
from ledger_core.tlog.tile import (
    TILE_WIDTH,
    TileRef,
    decode_bundle,
    tile_width,
)
from ledger_core.tlog.tiled_tree import TiledTree, bundles_under_tile, evidence_name
from ledger_core.tlog.tree import Frontier, Node, decompose

IDS_MAX = 100_000
TOKEN_REFUSED_STATUSES = frozenset({401, 403})
"""Refusals of the token, which show nothing about the entries."""


PRUNED_ACTION: Final = "ledger.retention.pruned"
SERVICE_NAME: Final = "ledger"
"""The principal of a log's own events, which no token has."""


class PruningClaim(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The log says that it pruned the entries below an index, and no event was seen that says so.

    `until`: the size below which that event must be, 0 until a head larger than `size_then` came.
    """

    minimum_index: int
    size_then: int
    until: int = 0


class ReplayState(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """The state of a tree that was rebuilt up to the bundle that is still open."""

    size: int = 0
    """The entries before that bundle: a multiple of 256."""
    hashes: tuple[bytes, ...] = ()
    """The hashes of the nodes `decompose(0, size)`."""
    received_time: str = ""
    """The receipt time of the last of these entries."""
    entries_checked: int = 0
    """The number of entries checked; those from `size` on are fetched again with their bundle."""
    unseen: int = 0
    """How many of them were passed over, as they were pruned before they were checked."""
    claim: PruningClaim | None = None

    def frontier(self) -> Frontier:
        """The frontier. Raises: ValueError when size, hashes and count don't fit each other."""
        if self.size % TILE_WIDTH or not 0 <= self.entries_checked - self.size < TILE_WIDTH:
            raise ValueError(
                f"{self.entries_checked} entries can't have been checked with"
                f" {self.size} before the open bundle"
            )
        return Frontier(self.size, self.hashes)


class TreeReplay:
    """Rebuilds the tree of one log, a bundle at a time. Mutable; one reader's."""

    def __init__(self, state: ReplayState, *, ids_max: int = IDS_MAX) -> None:
        """Continue from a saved state. Raises: ValueError for an inconsistent one."""
        self._frontier = state.frontier()  # Of the full bundles.
        self._received_time = state.received_time
        self._entries_checked = state.entries_checked
        self._unseen = state.unseen
        self._claim = state.claim
        self._is_start_checked = False  # Whether the loaded frontier was compared with a head.
        self._ids: Final = RecentIds(ids_max)
        self._tree: _Tree | None = None

    @property
    def entries_checked(self) -> int:
        """The entries [0, entries_checked) are in the tree."""
        return self._entries_checked

    @property
    def unseen(self) -> int:
        """How many of them were pruned before they were checked."""
        return self._unseen

    @property
    def state(self) -> ReplayState:
        """The state from which another replay can continue."""
        return ReplayState(
            size=self._frontier.size,
            hashes=self._frontier.hashes,
            received_time=self._received_time,
            entries_checked=self._entries_checked,
            unseen=self._unseen,
            claim=self._claim,
        )

    def check_next(self, head: VerifiedHead) -> Plan[str | None]:
        """Fetch and check the next bundle that has unchecked entries.

        Returns a notice when the log says that it pruned them, which are then passed over.
        Preconditions: `head` was accepted, as was every head given before, and its tree has entries
        that are not checked. Raises: VerificationError with the head, the tiles and the bundle;
        MalformedError when the loaded state is not of this tree; RejectedError for a refused token.
        """
        first = self._frontier.size
        index = first // TILE_WIDTH
        width = tile_width(level=0, index=index, tree_size=head.checkpoint.tree_size)
        tree = yield from self._reach(head, index)
        ref = TileRef(None, index, width)
        try:
            bundle = yield from tree.fetch(ref)
        except _PrunedError as error:
            return (yield from self._pass_over(head, tree, ref, error))
        with adding_evidence(lambda: {evidence_name(ref): bundle, **tree.evidence()}):
            leaves = _decode(ref, bundle)
            hashes = leaf_hashes(leaves)
            frontier = self._frontier.copy()
            frontier.extend(hashes)
            if not tree.has(frontier):
                raise VerificationError((yield from _explain(tree, first, hashes)))
            received_time = self._check_leaves(first, leaves)
            self._check_claim(head.checkpoint.tree_size, first + width)
        self._entries_checked = first + width
        if width == TILE_WIDTH:
            self._frontier, self._received_time = frontier, received_time
        return None

    def _pass_over(
        self, head: VerifiedHead, tree: "_Tree", ref: TileRef, error: "_PrunedError"
    ) -> Plan[str]:
        """Go on behind entries that the log says it pruned; a notice.

        Raises: VerificationError for a claim that can't be true.
        """
        minimum, size = error.minimum_index, head.checkpoint.tree_size
        if minimum % TILE_WIDTH or not self._frontier.size < minimum < size:
            raise VerificationError(
                f"the log withholds {ref.path}, which its head of size {size} covers: it says that "
                f"the entries below {minimum} were pruned",
                evidence=tree.evidence(),
            ) from error
        known = _Tree(head, minimum // TILE_WIDTH, known=tree.tiles)
        self._frontier = yield from known.start(minimum)
        seen, self._entries_checked = self._entries_checked, minimum
        self._unseen += minimum - seen
        self._received_time, self._tree = "", None
        self._claim = PruningClaim(minimum_index=minimum, size_then=size)
        return (
            f"it pruned the entries {seen} to {minimum - 1} before this monitor had checked them; "
            "an event of the log must say so"
        )

    def _check_claim(self, tree_size: int, checked: int) -> None:
        """Check that the event of a pruning came in time. Raises: VerificationError."""
        claim = self._claim
        if claim is None:
            return
        if not claim.until and tree_size > claim.size_then:
            # Entries go only when a published head covers the event; this head was asked for later.
            claim = self._claim = msgspec.structs.replace(claim, until=tree_size)
        if claim.until and checked >= claim.until:
            raise VerificationError(
                f"the log withholds the entries below {claim.minimum_index}: it says that they were"
                f" pruned, and none of its entries up to {checked - 1} records that"
            )

    def _reach(self, head: VerifiedHead, index: int) -> Plan["_Tree"]:
        """The tree of a head, with its tiles for a bundle and for those after it."""
        tree = self._tree
        if tree is None or not tree.reaches(head, index):
            tree = _Tree(head, index, known={} if tree is None else tree.tiles)
            yield from tree.load(self._frontier)
            self._tree = tree
        if not self._is_start_checked and not tree.has(self._frontier):
            raise MalformedError(
                f"the hashes kept of the first {self._frontier.size} entries are not of this log:"
                " the files of the state were damaged or mixed up; begin again with new ones"
            )
        self._is_start_checked = True
        return tree

    def _check_leaves(self, first: int, leaves: Sequence[bytes]) -> str:
        """Check entries that are in the tree. Returns the receipt time of the last."""
        before, leaf_index = self._received_time, first
        try:
            for batch in parse_batches(leaves):
                times = [before, *(leaf.received.time for leaf in batch)]
                # Both times are canonical text, which sorts as the times do.
                if not all(map(le, times, times[1:])):
                    raise VerificationError(_backwards(leaf_index, times))
                self._ids.add(leaf_index, [leaf.event for leaf in batch])
                if self._claim is not None and any(map(self._is_record, batch)):
                    self._claim = None
                before = times[-1]
                leaf_index += len(batch)
        except MalformedError as error:
            raise VerificationError(f"the log committed to entry {leaf_index}: {error}") from error
        return before

    def _is_record(self, leaf: WholeLeaf) -> bool:
        """Whether a leaf is the log's own event about the pruning that it claims."""
        event = leaf.event
        if event.action != PRUNED_ACTION or leaf.received.by != SERVICE_NAME:
            return False
        recorded = event.context.get("minimum_index") if event.context else None
        return (
            self._claim is not None
            and isinstance(recorded, int)
            and recorded >= self._claim.minimum_index
        )


class _PrunedError(Exception):
    """The log says that it pruned a bundle, and all entries below an index."""

    def __init__(self, minimum_index: int) -> None:
        super().__init__(f"the entries below {minimum_index} were pruned")
        self.minimum_index = minimum_index


class _Tree:
    """The tree of one head, as far as its tiles were fetched and authenticated."""

    def __init__(self, head: VerifiedHead, index: int, *, known: dict[TileRef, bytes]) -> None:
        """For the bundles from `index` on that lie under the same tile of level 1.

        `known` are tiles of a smaller tree that this one extends: what they hold doesn't change.
        """
        self._head: Final = head
        self._size: Final = head.checkpoint.tree_size
        self._bundles: Final = bundles_under_tile(index, leaves_end=self._size)
        self._tree: Final = TiledTree(head, tiles=known)

    @property
    def tiles(self) -> dict[TileRef, bytes]:
        """The tiles that were fetched and authenticated."""
        return self._tree.tiles

    def reaches(self, head: VerifiedHead, index: int) -> bool:
        """Whether the loaded tiles suffice to check a bundle against this head."""
        return head.checkpoint == self._head.checkpoint and index in self._bundles

    def load(self, frontier: Frontier) -> Plan[None]:
        """Fetch the tiles for the frontier as it is, and as it is after each of the bundles."""
        nodes = dict.fromkeys(decompose(0, frontier.size))
        for index in self._bundles:
            nodes |= dict.fromkeys(decompose(0, min((index + 1) * TILE_WIDTH, self._size)))
        yield from self._authenticate(tuple(nodes))

    def has(self, frontier: Frontier) -> bool:
        """Whether the tree begins with these leaves. Precondition: `load` covered the size."""
        nodes = decompose(0, frontier.size)
        return frontier.hashes == tuple(self._tree.hash(node) for node in nodes)

    def load_leaves(self, start: int, end: int) -> Plan[tuple[Hash, ...]]:
        """The leaf hashes [start, end). Raises: VerificationError when the log shows none."""
        nodes = tuple(Node(0, index) for index in range(start, end))
        yield from self._authenticate(nodes)
        return tuple(self._tree.hash(node) for node in nodes)

    def start(self, size: int) -> Plan[Frontier]:
        """The frontier of the first `size` leaves, from tiles alone."""
        nodes = tuple(decompose(0, size))
        yield from self._authenticate(nodes)
        return Frontier(size, [self._tree.hash(node) for node in nodes])

    def fetch(self, ref: TileRef) -> Plan[bytes]:
        """A tile or a bundle, which the log must have: it signed a head that covers it.

        Raises: VerificationError when the log says that it hasn't, RejectedError for the token,
        _PrunedError when the log says that it pruned a bundle.
        """
        try:
            return (yield from (fetch_bundle(ref) if ref.level is None else fetch_tile(ref)))
        except RejectedError as error:
            if error.problem.status in TOKEN_REFUSED_STATUSES:
                raise
            problem = error.problem
            if ref.level is None and problem.slug == "pruned" and problem.limit is not None:
                raise _PrunedError(problem.limit) from error
            raise VerificationError(
                f"the log withholds {ref.path}, which its head of size {self._size} covers:"
                f" {error}",
                evidence=self.evidence(),
            ) from error

    def evidence(self) -> dict[str, bytes]:
        """The signed head and the tiles under its root."""
        return self._tree.evidence()

    def _authenticate(self, nodes: Sequence[Node]) -> Plan[None]:
        tiles = {}
        for ref in self._tree.plan(nodes):
            tiles[ref] = yield from self.fetch(ref)
        try:
            self._tree.finish(nodes, tiles)
        except MalformedError as error:
            raise VerificationError(
                f"a tile of the log is none: {error}", evidence=self.evidence()
            ) from error


def _decode(ref: TileRef, bundle: bytes) -> list[bytes]:
    """The entries of a bundle, cut to its width, for a log may send the full one instead."""
    try:
        leaves = decode_bundle(bundle)[: ref.width]
    except MalformedError as error:
        raise VerificationError(f"{ref.path} is no bundle: {error}") from error
    if len(leaves) != ref.width:
        raise VerificationError(f"{ref.path} has {len(leaves)} entries, want {ref.width}")
    return leaves


def _backwards(first: int, times: Sequence[str]) -> str:
    """The message about the first entry that was received before the one in front of it."""
    at = next(at for at, (before, time) in enumerate(pairwise(times)) if time < before)
    return (
        f"entry {first + at} was received at {times[at + 1]}, and the one before it at"
        f" {times[at]}: the log's clock ran backwards"
    )


def _explain(tree: _Tree, first: int, hashes: Sequence[Hash]) -> Plan[str]:
    """The message that names the entry to which the log did not commit.

    This fetches one more tile. The verdict stands even if the log withholds that tile.
    """
    end = first + len(hashes)
    try:
        wanted = yield from tree.load_leaves(first, end)
    except (VerificationError, RejectedError, UnavailableError, MalformedError):
        return f"the entries [{first}, {end}) as they were served are not in the tree"
    for leaf_index, (got, want) in enumerate(zip(hashes, wanted, strict=True), first):
        if got != want:
            return (
                f"entry {leaf_index} as it was served is not in the tree: its leaf hash is"
                f" {got.hex()}, the tree has {want.hex()}"
            )
    return f"the entries [{first}, {end}) do not follow those before them in the tree"
