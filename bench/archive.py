"""Measures an archive: upload, check and restoration, requests and bytes, against SeaweedFS.

The store runs on the same machine and takes most of its processor time, so rates by the clock say
little of a bucket elsewhere; the processor time of the ledger's own side says what it costs there.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from bench.append import ORIGIN
from bench.archive_reading import measure_reading
from bench.million import fill_log
from bench.rows import Row
from ledger.archive.check import ArchiveCheck, ArchiveReport
from ledger.archive.reader import ArchiveReader
from ledger.archive.restore import restore_archive
from ledger.archive.uploader import Uploader
from ledger.demo.child_service import make_ledger
from ledger.follow.position import Cursor, FollowerPaths
from ledger.object_storage.config import KIND
from ledger.object_storage.object_store import Bucket
from ledger.object_storage.place import Place
from ledger.service.data_dir import DirectoryPaths, read_signers
from ledger.store.log import LogStore
from ledger.store.writer import LogWriter
from ledger_core.tlog.checkpoint import Checkpoint, SignedCheckpoint, format_checkpoint
from ledger_core.tlog.note import Signer
from ledger_core.tlog.policy import parse_policy
from tests.archive.seaweed import ObjectServer, environment, object_server

MILLION: Final = 1_000_000


def run(folder: Path, *, entries: int) -> list[Row]:
    """Measure one log with an index, uploaded from its first entry on."""
    directory = folder / "archive"
    make_ledger(directory, origin=ORIGIN)
    fill_log(directory, entries)
    publish(directory)
    os.environ |= environment(folder)
    with object_server(folder / "store") as server:
        place = Place(f"s3://{server.make_bucket()}/log", endpoint=server.endpoint)
        return _measure(directory, server, place, entries)


def publish(directory: Path) -> None:
    """Store a published head of all entries, as the service does."""
    (signer,) = read_signers(DirectoryPaths(directory))
    assert isinstance(signer, Signer)
    with closing(LogWriter.open(directory / "log")) as writer:
        head = Checkpoint(ORIGIN, writer.head.tree_size, writer.head.root_hash)
        signed = SignedCheckpoint(head, (signer.sign(format_checkpoint(head)),))
        writer.commit([], checkpoints=[(head.tree_size, signed.note)])


def _measure(directory: Path, server: ObjectServer, place: Place, entries: int) -> list[Row]:
    policy = (directory / "policy").read_bytes()
    bucket = Bucket(place)
    upload = _timed(lambda: asyncio.run(_upload(directory, bucket)))
    sizes = _bytes_by_kind(server, place)
    reading = Bucket(place)
    check = _timed(lambda: asyncio.run(_check(reading, policy)))
    restored = directory.with_name("restored")
    restore = _timed(lambda: restore_archive(place, restored, policy, now="2026-11-28T00:00:00Z"))
    rows = measure_reading(directory.with_name("reader"), place, directory / "policy")
    for name, (clock_s, processor_s) in (
        ("upload", upload),
        ("verify-archive", check),
        ("restore", restore),
    ):
        rows += [
            Row(f"{name}, {entries:,} entries", entries / clock_s, "events/s"),
            Row(f"{name}, a second of its processor time", entries / processor_s, "events/s"),
        ]
    scale = MILLION / entries
    rows += [
        Row("PUT requests, a million events", bucket.requests["put"] * scale, ""),
        Row("GET requests of verify-archive, a million", reading.requests["get"] * scale, ""),
    ]
    return rows + [
        Row(f"bytes an event in the bucket, {kind}", size / entries, "B")
        for kind, size in sorted(sizes.items())
    ]


async def _upload(directory: Path, bucket: Bucket) -> None:
    paths = FollowerPaths(directory, KIND, "bench")
    paths.make()
    with closing(LogStore.open(directory / "log")) as log:
        uploader = Uploader(directory, log, bucket, Cursor(paths), requests_max=16)
        await uploader.prepare()
        await uploader.upload()


async def _check(bucket: Bucket, policy: bytes) -> ArchiveReport:
    reader = ArchiveReader(bucket, parse_policy(policy))
    report = await ArchiveCheck(reader, await reader.head()).run()
    assert not report.faults.total, report.faults.first
    return report


def _timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock and of this process."""
    clock_s, processor_s = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock_s, time.process_time() - processor_s


def _bytes_by_kind(server: ObjectServer, place: Place) -> Counter[str]:
    sizes: Counter[str] = Counter()
    for name, size in server.sizes(place.bucket):
        parts = name.removeprefix(f"{place.prefix}/").split("/")
        kind = {"index": "index", "parquet": "Parquet", "ids": "ids"}.get(parts[0], "")
        kind = kind or ("bundles" if "entries" in parts else "tiles")
        sizes[kind] += size
    return sizes
