"""The outcomes of appended events, as the answer to a request has them."""

import asyncio
from collections.abc import Sequence

from ledger.log.append_request import Appended, Place
from ledger.service.http.problems import make_problem
from ledger.service.private_fields import ChangedEvent
from ledger.service.work_pieces import YIELD_EVENTS
from ledger.store.writer import Placement
from ledger_core.api import Masked, Refused, Result
from ledger_core.event.canonical import parse_leaf
from ledger_core.event.model import Received
from ledger_core.event.reader import ReadEvent
from ledger_core.tlog.hashing import HASH_BYTES, Hash, leaf_hash
from ledger_core.tlog.text import format_base64
from ledger_core.tlog.tile import TILE_WIDTH


async def results_of_new(
    reads: Sequence[ReadEvent], appended: Appended, received: Received
) -> list[Result | Refused]:
    """The outcomes of events that are all new."""
    outcomes: list[Result | Refused] = []
    index, hashes = appended.first_index, appended.leaf_hashes
    for position, read in enumerate(reads):
        if position % YIELD_EVENTS == 0 and position:
            await asyncio.sleep(0)
        hashed = hashes[position * HASH_BYTES : (position + 1) * HASH_BYTES]
        outcomes.append(_new_result(read, index + position, hashed, received))
    return outcomes


def _new_result(read: ReadEvent, index: int, hashed: Hash, received: Received) -> Result:
    result = Result(
        index=index,
        id=str(read.event.id),
        received=received,
        leaf_hash=format_base64(hashed),
        duplicate=False,
        filled=read.filled,
    )
    if read.filled and "time" in read.filled:
        result.time = read.event.time or None
    if isinstance(read, ChangedEvent):
        result.masked = tuple(Masked(path=hit.path, rule=hit.rule) for hit in read.masked)
        result.committed = read.committed
    return result


def result_of(read: ReadEvent, placed: Place, received: Received) -> Result | Refused:
    """The outcome of an event that was appended, or that has the id of an older one."""
    if placed.placement is Placement.CONFLICT:
        return Refused(
            make_problem(
                "id-conflict", f"the event at index {placed.leaf_index} has this id", field="id"
            )
        )
    if placed.placement is Placement.DAMAGED:
        bundle = placed.leaf_index // TILE_WIDTH
        return Refused(
            make_problem(
                "damaged",
                f"the event at index {placed.leaf_index} has this id, and can't be read: bundle "
                f"{bundle} is damaged: run ledger fsck",
                field="id",
            )
        )
    result = _new_result(read, placed.leaf_index, placed.leaf_hash, received)
    if placed.placement is Placement.DUPLICATE:
        # The first event counts, with its own sender and time of receipt.
        stored = parse_leaf(placed.leaf)
        result.duplicate = True
        result.received = stored.received
        result.leaf_hash = format_base64(leaf_hash(placed.leaf))
        if result.time is not None:
            result.time = stored.event.time or None
    return result
