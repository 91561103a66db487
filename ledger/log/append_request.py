"""The events that a front end has the sequencer append, and the answer.

Both are msgspec structs, so the same objects are passed within one process and between two.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from ledger.log.group_commit import Weight
from ledger.store.writer import AppendResult, NewEntry, Placement
from ledger_core.event.canonical import leaf_format
from ledger_core.tlog.hashing import HASH_BYTES, Hash, leaf_hashes


class UnstampedEvent(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An event that was checked, without its time of receipt.

    `event_json` is canonical, and its leaf is not too long whenever it is received. `time_filled`:
    the server chose the event's time.
    """

    id_bytes: bytes
    event_json: bytes
    time_filled: bool


class AppendRequest(msgspec.Struct, frozen=True, array_like=True):
    """The events of one request, and its principal. They are received together.

    `events_bytes`: the length of the JSON of all events.
    """

    by: str
    events: Sequence[UnstampedEvent]
    events_bytes: int

    def weight(self) -> Weight:
        """The size of the request in a queue."""
        return Weight(len(self.events), self.events_bytes)


class NotAppended(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An event of a request, at `position`, whose id another entry has.

    `leaf` is that entry as it is stored, empty when it can't be read.
    """

    position: int
    placement: Placement
    leaf_index: int
    leaf: bytes


class Place(NamedTuple):
    """The place of one event. `leaf` is empty unless it is `DUPLICATE` or `CONFLICT`."""

    placement: Placement
    leaf_index: int
    leaf_hash: Hash
    leaf: bytes


class Appended(msgspec.Struct, frozen=True, array_like=True):
    """The outcome of one request, once it is durable.

    Its new events have the consecutive indices from `first_index` on. `leaf_hashes` are those of
    all its events, stamped with `received_time`, 32 bytes each.
    """

    received_time: str
    first_index: int
    leaf_hashes: bytes
    not_appended: Sequence[NotAppended]

    def places(self) -> Iterator[Place]:
        """The place of each event, in the order of the request."""
        others = iter(self.not_appended)
        other = next(others, None)
        new_index = self.first_index
        for position in range(len(self.leaf_hashes) // HASH_BYTES):
            hashed = self.leaf_hashes[position * HASH_BYTES : (position + 1) * HASH_BYTES]
            if other is not None and other.position == position:
                yield Place(other.placement, other.leaf_index, hashed, other.leaf)
                other = next(others, None)
            else:
                yield Place(Placement.APPENDED, new_index, hashed, b"")
                new_index += 1


def stamp(requests: Sequence[AppendRequest], received_time: str) -> list[NewEntry]:
    """The entries of requests that were received at a time, one behind the other."""
    events: list[UnstampedEvent] = []
    leaves: list[bytes] = []
    for request in requests:
        leaf_of = leaf_format(request.by, received_time).leaf
        events += request.events
        leaves += [leaf_of(event.event_json) for event in request.events]
    return [
        NewEntry(event.id_bytes, leaf, hashed, event.event_json, event.time_filled)
        for event, leaf, hashed in zip(events, leaves, leaf_hashes(leaves), strict=True)
    ]


def outcomes_of(
    requests: Sequence[AppendRequest],
    entries: Sequence[NewEntry],
    placed: Sequence[AppendResult],
    received_time: str,
) -> list[Appended]:
    """The outcomes of requests from what the writer did with the entries that `stamp` made."""
    outcomes: list[Appended] = []
    start = 0
    for request in requests:
        end = start + len(request.events)
        if end - start == 1 and placed[start].placement is Placement.APPENDED:
            outcome = Appended(
                received_time, placed[start].leaf_index, entries[start].leaf_hash, ()
            )
        else:
            outcome = _outcome(entries[start:end], placed[start:end], received_time)
        outcomes.append(outcome)
        start = end
    return outcomes


def later_events(outcome: Appended) -> list[int]:
    """The positions of the events that a later commit is to compare."""
    return [each.position for each in outcome.not_appended if each.placement is Placement.LATER]


def part_of(request: AppendRequest, positions: Sequence[int]) -> AppendRequest:
    """A request of some of the events of another one."""
    events = [request.events[position] for position in positions]
    return AppendRequest(request.by, events, sum(len(event.event_json) for event in events))


def with_later(outcome: Appended, positions: Sequence[int], later: Appended) -> Appended:
    """The outcome of a request, with that of a later commit for these of its events.

    One that the later commit has appended, since another tenant's event has its id, has an index
    apart from the others: the next commit finds it as a `DUPLICATE` of itself.
    """
    found = {
        positions[each.position]: msgspec.structs.replace(each, position=positions[each.position])
        for each in later.not_appended
    }
    others = [
        found.get(each.position, each) if each.placement is Placement.LATER else each
        for each in outcome.not_appended
    ]
    return msgspec.structs.replace(outcome, not_appended=others)


def _outcome(
    entries: Sequence[NewEntry], placed: Sequence[AppendResult], received_time: str
) -> Appended:
    hashes = b"".join([entry.leaf_hash for entry in entries])
    others = [
        NotAppended(position, place.placement, place.leaf_index, place.leaf)
        for position, place in enumerate(placed)
        if place.placement is not Placement.APPENDED
    ]
    new = (place.leaf_index for place in placed if place.placement is Placement.APPENDED)
    return Appended(received_time, next(new, 0), hashes, others)
