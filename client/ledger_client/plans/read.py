"""Reads entries, without I/O. With `heads`, an entry is returned once its leaf is proven.

A single event has a tlog-proof. Ranges are read as entry bundles of the published tree, 256
entries a request (`BundleIterator`). The tree's tiles are checked against the root of the accepted
head, and the leaves of each bundle against the tiles (`ledger_core.tlog.tiled_tree`).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from ledger_client.messages import Plan, Request
from ledger_client.plans.heads import CHECKPOINT_REQUEST, Heads
from ledger_client.responses import adding_evidence, check_same, check_status, decode_answer
from ledger_client.results import Entry, Inclusion
from ledger_core.api import EventAnswer, InclusionAnswer
from ledger_core.event.canonical import parse_leaf
from ledger_core.event.commitments import Opening, check_openings
from ledger_core.event.ids import is_uuid
from ledger_core.event.model import EventError
from ledger_core.event.times import late_s
from ledger_core.tlog.checkpoint import parse_checkpoint
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import HASH_BYTES, Hash, leaf_hash
from ledger_core.tlog.note import parse_note
from ledger_core.tlog.policy import VerifiedHead
from ledger_core.tlog.proof import Proof, parse_proof
from ledger_core.tlog.text import format_base64, from_wire, parse_hash
from ledger_core.tlog.tile import (
    LEAF_BYTES_MAX,
    TILE_WIDTH,
    TileRef,
    decode_bundle,
    tile_width,
)
from ledger_core.tlog.tiled_tree import TiledTree, bundles_under_tile

BUNDLE_BYTES_MAX = TILE_WIDTH * (2 + LEAF_BYTES_MAX)
NOT_FOUND = 404


def read_event(reference: int | str, *, heads: Heads | None) -> Plan[Entry]:
    """The event at an index, or with an id; verified when there are `heads`.

    Raises: ValueError for another form; VerificationError, MalformedError, RejectedError.
    """
    reference = check_reference(reference)
    request = Request(target=f"/v1/events/{reference}{'' if heads is None else '?proof=1'}")
    response = yield request
    answer = decode_answer(request, response, EventAnswer)
    leaf = answer.leaf.encode()

    def evidence() -> dict[str, bytes]:
        if answer.private:
            # Evidence is saved and given to others, so it must hold no private values.
            return {"answer.json": msgspec.json.encode(replace(answer, private=()))}
        return {"answer.json": response.body}

    head, proof = None, None
    if heads is not None:
        if answer.proof is None:
            raise VerificationError("the answer has no proof", evidence=evidence())
        proof = parse_proof(answer.proof)
        check_same("index of a proof", got=proof.leaf_index, want=answer.index, evidence=evidence)
        offered = None if answer.consistency is None else answer.consistency.proof()
        with adding_evidence(evidence):
            head = yield from heads.check_proof(proof, leaf_hash=leaf_hash(leaf), offered=offered)
    with adding_evidence(evidence):
        entry = answered_entry(answer, head=head, proof=proof)
    got = entry.index if isinstance(reference, int) else entry.event.id
    check_same("event asked for", got=got, want=reference, evidence=evidence)
    if answer.private:
        return dataclasses.replace(entry, private=_private_values(leaf, answer.private))
    return entry


def _private_values(leaf: bytes, openings: Sequence[Opening]) -> dict[str, Any]:
    """The values by path, checked against the commitments in a leaf. Raises: VerificationError."""
    try:
        check_openings(msgspec.json.decode(parse_leaf(leaf).event_json), openings)
    except EventError as error:
        # The evidence would be the private values.
        raise VerificationError(f"a private value is not what was committed to: {error}") from None
    return {opening.path: opening.value for opening in openings}


def prove_inclusion(
    index: int, *, tree_size: int | None, expected: Hash | None, heads: Heads
) -> Plan[Inclusion]:
    """The proof for the leaf at an index, in the published tree or in that of a kept checkpoint.

    With `expected` it must be the proof of a leaf with that hash.

    Raises: ValueError when the ledger keeps no checkpoint of that size; VerificationError,
    MalformedError, RejectedError.
    """
    target = f"/v1/proofs/inclusion?index={_check_number(index)}"
    if tree_size is not None:
        target += f"&size={_check_number(tree_size)}"
    request = Request(target=target)
    response = yield request
    answer = decode_answer(request, response, InclusionAnswer)
    if answer.checkpoint is None:
        raise ValueError(f"the ledger keeps no checkpoint of size {answer.tree_size}")

    def evidence() -> dict[str, bytes]:
        return {"answer.json": response.body}

    check_same("index of a proof", got=answer.index, want=index, evidence=evidence)
    with from_wire():
        hashes = tuple(parse_hash(text) for text in answer.hashes)
        proof = Proof(leaf_index=index, hashes=hashes, checkpoint=answer.checkpoint)
    claimed = parse_hash(answer.leaf_hash)
    if expected is not None and claimed != expected:
        raise VerificationError(
            f"the leaf at {index} is another one: got {claimed.hex()}, want {expected.hex()}",
            evidence=evidence(),
        )
    with adding_evidence(evidence):
        head = yield from heads.check_proof(
            proof, leaf_hash=claimed, is_size_asked=tree_size is not None
        )
    got = head.checkpoint.tree_size
    for want in (answer.tree_size, got if tree_size is None else tree_size):
        check_same("size of a proof's tree", got=got, want=want, evidence=evidence)
    return Inclusion(leaf_hash=claimed, proof=proof, head=head)


class BundleIterator:
    """Iterates over the entries [start, end) of the published tree, a bundle at a step.

    Mutable; owned by one reader. `plan_walk` makes it; call `next_entries` while `is_open`.
    """

    def __init__(self, *, start: int, end: int, tree_size: int, head: VerifiedHead | None) -> None:
        """With `head`, the head of that size, the entries are verified."""
        self._next = start
        self._end: Final = end
        self._tree_size: Final = tree_size
        self._head: Final = head
        self._tree: Final = None if head is None else TiledTree(head)
        self._reached = range(0)  # The bundles that need no further tile.

    @property
    def is_open(self) -> bool:
        """Whether there are entries left."""
        return self._next < self._end

    def next_entries(self) -> Plan[list[Entry]]:
        """The entries of the next bundle that lie in the range.

        Raises: VerificationError, MalformedError, RejectedError.
        """
        index, skipped = divmod(self._next, TILE_WIDTH)
        width = tile_width(level=0, index=index, tree_size=self._tree_size)
        ref = TileRef(None, index, width)
        bundle = yield from fetch_bundle(ref)
        leaves = decode_bundle(bundle)[:width]
        if len(leaves) != width:
            raise MalformedError(f"{ref.path} has {len(leaves)} entries")
        if self._tree is not None:
            with adding_evidence(lambda: {"bundle.bin": bundle}):
                yield from self._check_bundle(self._tree, index, leaves)
        first = index * TILE_WIDTH
        end = min(first + width, self._end)
        entries = [
            make_entry(first + offset, leaves[offset], head=self._head, proof=None)
            for offset in range(skipped, end - first)
        ]
        self._next = end
        return entries

    def _check_bundle(self, tree: TiledTree, index: int, leaves: Sequence[bytes]) -> Plan[None]:
        if index not in self._reached:
            bundles = bundles_under_tile(index, leaves_end=self._end)
            nodes = tree.bundle_nodes(bundles)
            tiles = {}
            for ref in tree.plan(nodes):
                tiles[ref] = yield from fetch_tile(ref)
            tree.finish(nodes, tiles)
            self._reached = bundles
        tree.check_bundle(index, list(map(leaf_hash, leaves)))


def plan_walk(start: int, end: int | None, *, heads: Heads | None) -> Plan[BundleIterator]:
    """An iterator from `start` to `end`, or to the end of the tree that is published now.

    Raises: ValueError for a range that isn't within that tree.
    """
    head = None
    if heads is None:
        note = check_status(CHECKPOINT_REQUEST, (yield CHECKPOINT_REQUEST))
        tree_size = parse_checkpoint(parse_note(note).text).tree_size
    else:
        head = yield from heads.checkpoint()
        tree_size = head.checkpoint.tree_size
    end = tree_size if end is None else end
    if not 0 <= start <= end <= tree_size:
        raise ValueError(
            f"the range [{start}, {end}) is not in the published tree of size {tree_size}"
        )
    return BundleIterator(start=start, end=end, tree_size=tree_size, head=head)


def fetch_bundle(ref: TileRef) -> Plan[bytes]:
    """A bundle with at least these entries, unchecked. Raises: RejectedError."""
    return (yield from _fetch(ref, bytes_max=BUNDLE_BYTES_MAX))


def fetch_tile(ref: TileRef) -> Plan[bytes]:
    """The hashes of a tile, cut to its width; they are not authenticated. Raises: RejectedError."""
    data = yield from _fetch(ref, bytes_max=TILE_WIDTH * HASH_BYTES)
    return data[: ref.width * HASH_BYTES]


def _fetch(ref: TileRef, *, bytes_max: int) -> Plan[bytes]:
    """A tile or bundle; the full one if the log no longer has it at this width.

    Source: c2sp.org/tlog-tiles, "Partial Tiles".
    """
    request = _tile_request(ref, bytes_max=bytes_max)
    response = yield request
    if response.status == NOT_FOUND and ref.width < TILE_WIDTH:
        request = _tile_request(ref._replace(width=TILE_WIDTH), bytes_max=bytes_max)
        response = yield request
    return check_status(request, response)


def _tile_request(ref: TileRef, *, bytes_max: int) -> Request:
    return Request(
        target=f"/{ref.path}", accept="application/octet-stream", answer_bytes_max=bytes_max
    )


def make_entry(
    index: int,
    leaf: bytes,
    *,
    head: VerifiedHead | None,
    proof: Proof | None,
    because: tuple[str, ...] = (),
) -> Entry:
    """The entry that a leaf makes. Raises: MalformedError for bytes that are no leaf."""
    parsed = parse_leaf(leaf)
    return Entry(
        index=index,
        event=parsed.event,
        received=parsed.received,
        leaf=leaf,
        head=head,
        proof=proof,
        because=because,
    )


def answered_entry(
    answer: EventAnswer,
    *,
    head: VerifiedHead | None,
    proof: Proof | None,
    because: tuple[str, ...] = (),
) -> Entry:
    """The entry of an answer; with `head`, the other members must say what its leaf says.

    Raises: VerificationError, MalformedError.
    """
    leaf = answer.leaf.encode()
    entry = make_entry(answer.index, leaf, head=head, proof=proof, because=because)
    if head is not None:
        want = format_base64(leaf_hash(leaf))
        check_same("leaf hash of an event", got=answer.leaf_hash, want=want, evidence=dict)
        check_same("received of an event", got=answer.received, want=entry.received, evidence=dict)
        if answer.late_s is not None:
            want_s = late_s(str(entry.event.time), entry.received.time)
            check_same("late_s of an event", got=answer.late_s, want=want_s, evidence=dict)
        event = bytes(answer.event)
        # Bytes that differ may still be the same JSON, as when a proxy writes it anew.
        if not leaf.startswith(b'{"event":%b,"received":' % event) and (
            msgspec.json.decode(event) != msgspec.json.decode(leaf)["event"]
        ):
            raise VerificationError(f"the event at {answer.index} is not what its leaf says")
    return entry


def check_reference(reference: int | str) -> int | str:
    """An index, or an id in lower case. Raises: ValueError for anything else."""
    if isinstance(reference, int):
        return _check_number(reference)
    lowered = reference.lower()
    if not is_uuid(lowered):
        raise ValueError("an event is asked for by its index or by its id, a UUID")
    return lowered


def _check_number(number: int) -> int:
    if isinstance(number, bool) or number < 0:
        raise ValueError(f"want a number that isn't negative, got {number}")
    return number
