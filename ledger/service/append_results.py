"""The outcomes of appended events, as the answer to a request has them."""

import asyncio
from collections.abc import Sequence
from itertools import count
from typing import cast

import msgspec

from ledger.log.append_request import Appended, Place
from ledger.service.http.problems import make_problem, retry_later
from ledger.service.private_fields import ChangedEvent
from ledger.service.work_pieces import QUICK_EVENTS, YIELD_EVENTS, pieces_of
from ledger.store.stored_log import FetchFailedError
from ledger.store.writer import Placement
from ledger_core.api import Masked, Refused, Result, Results
from ledger_core.event.canonical import parse_leaf
from ledger_core.event.model import Received
from ledger_core.event.reader import ReadEvent
from ledger_core.tlog.hashing import HASH_BYTES, leaf_hash
from ledger_core.tlog.text import format_base64
from ledger_core.tlog.tile import TILE_WIDTH

_encode = msgspec.json.Encoder().encode


def results_of_new(
    reads: Sequence[ReadEvent], appended: Appended, received: Received, *, start: int = 0
) -> list[Result | Refused]:
    """The outcomes of events that are all new, those of the request from `start` on."""
    hashes = _format_hashes(appended.leaf_hashes, start, start + len(reads))
    return [
        Result(
            index=index,
            id=str(read.event.id),
            received=received,
            leaf_hash=hashed,
            duplicate=False,
        )
        if type(read) is ReadEvent and not read.filled
        else _new_result(read, index, hashed, received)
        for index, read, hashed in zip(count(appended.first_index + start), reads, hashes)
    ]


async def all_results_of_new(
    reads: Sequence[ReadEvent], appended: Appended, received: Received
) -> list[Result | Refused]:
    """As `results_of_new`, of all events of a request, in pieces."""
    outcomes: list[Result | Refused] = []
    for start in range(0, len(reads), YIELD_EVENTS):
        if start:
            await asyncio.sleep(0)
        some = reads[start : start + YIELD_EVENTS]
        outcomes += results_of_new(some, appended, received, start=start)
    return outcomes


async def encode_outcomes(outcomes: Sequence[Result | Refused]) -> Results:
    """The outcomes as `AppendAnswer` has them, those of many events encoded already, in pieces."""
    if len(outcomes) <= QUICK_EVENTS:
        return [*outcomes]
    encoded: list[bytes] = []
    for some in pieces_of(outcomes):
        encoded.append(_encode(some)[1:-1])
        await asyncio.sleep(0)
    # msgspec writes what is encoded already as it is.
    return cast("Results", msgspec.Raw(b"[%b]" % b",".join(encoded)))


def _format_hashes(hashes: bytes, start: int, end: int) -> list[str]:
    """Some of the hashes that lie one behind the other, in base64: all in one call."""
    places = range(start * HASH_BYTES, end * HASH_BYTES, HASH_BYTES)
    texts: list[str] = msgspec.to_builtins([hashes[place : place + HASH_BYTES] for place in places])
    return texts


def _new_result(read: ReadEvent, index: int, hashed: str, received: Received) -> Result:
    result = Result(
        index=index,
        id=str(read.event.id),
        received=received,
        leaf_hash=hashed,
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
    """The outcome of an event that was appended, or that has the id of an older one.

    Raises: FetchFailedError when the older one is in an archive, and not fetched yet; ProblemError
    when it was not compared, since those of the request are too large together.
    """
    if placed.placement is Placement.LATER:
        raise retry_later(
            "too-busy",
            "the older events that have the ids of this request are too large together: send "
            "fewer events at once",
        )
    if placed.placement is Placement.RELEASED:
        raise FetchFailedError(
            f"the event at index {placed.leaf_index} has one of these ids, and is in the archive "
            "alone, from where it is fetched now: send the request again"
        )
    if placed.placement is Placement.CONFLICT:
        return Refused(
            make_problem(
                "id-conflict", f"the event at index {placed.leaf_index} has this id", field="id"
            )
        )
    if placed.placement is Placement.PRUNED:
        return Refused(
            make_problem(
                "id-pruned",
                f"the event at index {placed.leaf_index} had this id, and was pruned",
                field="id",
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
    result = _new_result(read, placed.leaf_index, format_base64(placed.leaf_hash), received)
    if placed.placement is Placement.DUPLICATE:
        # The first event counts, with its own sender and time of receipt.
        stored = parse_leaf(placed.leaf)
        result.duplicate = True
        result.received = stored.received
        result.leaf_hash = format_base64(leaf_hash(placed.leaf))
        if result.time is not None:
            result.time = stored.event.time or None
    return result
