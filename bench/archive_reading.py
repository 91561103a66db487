"""Measures reads of an archive by a reader: first from the bucket, then from the cache.

Each read is the whole work behind a request, without its HTTP: fetched, verified, parsed. Requests
are exact; times are those of SeaweedFS on the same machine, and of a bucket elsewhere another
round trip for each request in a row.
"""

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.rows import Row
from ledger.object_storage.fetching import wait_for
from ledger.object_storage.place import Place
from ledger.query.engine import QueryEngine
from ledger.reader.archived_log import ArchivedLog
from ledger.reader.data_dir import ReaderConfig, create_reader, read_config
from ledger.reader.open_archive import OpenArchive, open_archive, running_loop
from ledger_core.event.canonical import parse_leaf
from ledger_core.query.parser import parse_query
from ledger_core.tlog.prove import plan_inclusion
from ledger_core.tlog.tree import Node

READS: Final = 100
SEARCHES: Final = (
    ("an actor", "actor:{actor}"),
    ("a target's failures", "target:{target} outcome:failure"),
    ("a word of a reason", 'reason:"{word}"'),
)


def measure_reading(folder: Path, place: Place, policy: Path) -> list[Row]:
    """Measure reads of an archive with the folder of a reader that is made here."""
    config = ReaderConfig(url=place.url, endpoint=place.endpoint)
    paths = create_reader(folder, config, policy.read_bytes())
    paths.cache.mkdir()
    with running_loop() as loop:

        async def start() -> OpenArchive:
            archive = open_archive(paths, read_config(paths), paths.cache)
            await archive.follower.read_head()
            return archive

        began_s = time.perf_counter()
        archive = asyncio.run_coroutine_threadsafe(start(), loop).result()
        rows = [
            Row("reader: start, until it serves", (time.perf_counter() - began_s) * 1000, "ms"),
            Row("reader: GETs of a start", archive.objects.bucket.requests["get"], ""),
        ]
        rows += _measure(archive)
        loop.call_soon_threadsafe(archive.objects.close)
    return rows


def _measure(archive: OpenArchive) -> list[Row]:
    log = ArchivedLog(archive.state, wait_for)
    head = log.head()
    # Each in a bundle of its own, below the open segment.
    step = max(256, (head.tree_size - 65_536) // READS // 256 * 256)
    indices = range(3, head.tree_size - 65_536, step)[:READS]
    rows = _pair(archive, "an event", [partial(log.leaf, at) for at in indices])

    def prove(index: int) -> None:
        plan = plan_inclusion(leaf_index=index, tree_size=head.tree_size)
        log.prove(plan, (Node(0, index),), head)

    rows += _pair(archive, "an inclusion proof", [partial(prove, at) for at in indices])
    events = [parse_leaf(log.leaf(at) or b"").event for at in indices]
    ids = [bytes.fromhex(str(each.id).replace("-", "")) for each in events]
    rows += _pair(archive, "an id", [partial(log.indices_of, each, None) for each in ids])
    engine = QueryEngine(log, archive.index)
    for name, template in SEARCHES:
        queries = [
            template.format(
                actor=each.actor.id,
                target=each.targets[0].id if each.targets else "none",
                word=(each.reason or "none").split()[0],
            )
            for each in events[:10]
        ]
        rows += _pair(
            archive,
            f"a search, {name}",
            [partial(_search, engine, text) for text in queries],
        )
    return rows


def _search(engine: QueryEngine, text: str) -> None:
    query = parse_query(text)
    engine.search(query, tenant=None, now_unix_us=time.time_ns() // 1000, limit=10)


def _pair(archive: OpenArchive, name: str, works: Sequence[Callable[[], Any]]) -> list[Row]:
    """The first run of each piece of work, and the second."""
    rows = []
    for when in ("first", "again"):
        requests = archive.objects.bucket.requests
        before, spans_ms = requests["get"], []
        for work in works:
            began_s = time.perf_counter()
            work()
            spans_ms.append((time.perf_counter() - began_s) * 1000)
        rows += [
            Row(f"{name}, {when}: p50", statistics.median(spans_ms), "ms"),
            Row(f"{name}, {when}: longest", max(spans_ms), "ms"),
            Row(f"{name}, {when}: GETs each", (requests["get"] - before) / len(works), ""),
        ]
    return rows
