"""Measures the steps by which the sequencer takes the frames of front ends, alone on one core.

Their sum bounds the events that a ledger takes in a second, however many cores and workers it has:
one thread of the interpreter does these steps. Figures are processor time, the least of the rounds.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar, cast

from bench.append import ORIGIN
from bench.events import event_stream
from bench.rows import Row
from ledger.demo.child_service import make_ledger
from ledger.log.append_request import AppendRequest, UnstampedEvent, outcomes_of, stamp
from ledger.store.writer import LogWriter
from ledger.workers.messages import AllAppended, Append, decode_to_sequencer, encode
from ledger_core.event.reader import Reader
from ledger_core.event.times import format_time

REACH = 150_000
SHAPES = ((4, 1_000, 30), (64, 1, 200))
"""Requests of a frame, events of a request, and rounds."""

T = TypeVar("T")


def run(folder: Path) -> list[Row]:
    """Measure on a new ledger in `folder`."""
    make_ledger(folder, origin=ORIGIN)
    writer = LogWriter.open(folder / "log")
    try:
        return [row for shape in SHAPES for row in _measure(writer, *shape)]
    finally:
        writer.close()


def _measure(writer: LogWriter, requests: int, events: int, rounds: int) -> Iterator[Row]:
    stream = event_stream(time.time_ns())
    reader = Reader(lambda: "", lambda: 0)
    figures: defaultdict[str, list[float]] = defaultdict(list)

    def measured(step: str, work: Callable[[], T]) -> T:
        start = time.thread_time()
        result = work()
        figures[step].append((time.thread_time() - start) * 1e6 / requests / events)
        return result

    for number in range(rounds):
        frame = encode(Append(number, [_request(reader, stream, events) for _ in range(requests)]))
        received_time = format_time(time.time_ns() // 1000)
        decoded = measured("decode the frame", lambda: decode_to_sequencer(frame))  # noqa: B023 - run at once
        asked = cast("Append", decoded).requests
        entries = measured("make and hash the leaves", lambda: stamp(asked, received_time))  # noqa: B023
        placed = measured("commit: ids, bundles, tiles, sync", lambda: writer.commit(entries))  # noqa: B023
        measured(
            "outcomes and answer",
            lambda: encode(
                AllAppended(0, outcomes_of(asked, entries, placed, received_time))  # noqa: B023
            ),
        )
    name = f"{requests} requests of {events:,}"
    least = {step: min(times) for step, times in figures.items()}
    yield from (Row(f"{name}: {step}", figure, "µs an event") for step, figure in least.items())
    bound = 1e6 / sum(least.values())
    yield Row(f"{name}: one core would do", bound, "events/s", REACH if events > 1 else None)


def _request(reader: Reader, stream: Iterator[bytes], events: int) -> AppendRequest:
    reads = [reader.read(raw) for raw in islice(stream, events)]
    made = [UnstampedEvent(read.id_bytes, read.event_json, time_filled=False) for read in reads]
    return AppendRequest("billing-api", made, sum(len(read.event_json) for read in reads))
