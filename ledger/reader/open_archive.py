"""Opens the parts by which a reader, or a command on its folder, reads an archive."""

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ledger.mirror.data_dir import log_origin
from ledger.object_storage.fetching import Objects
from ledger.object_storage.object_cache import ObjectCache
from ledger.object_storage.object_store import Bucket
from ledger.reader.archived_index import ArchivedIndex
from ledger.reader.archived_log import ArchiveState
from ledger.reader.data_dir import ReaderConfig, ReaderPaths
from ledger.reader.follower import ArchiveFollower
from ledger_client.runtime.clock import unix_s
from ledger_client.runtime.files import FileLock, FileLockedError, read_limited
from ledger_client.state_file import StateFile
from ledger_core.tlog.errors import UnavailableError
from ledger_core.tlog.policy import POLICY_BYTES_MAX, parse_policy


@dataclass(frozen=True, slots=True)
class OpenArchive:
    """The parts, of one event loop."""

    objects: Objects
    state: ArchiveState
    index: ArchivedIndex
    follower: ArchiveFollower


def open_archive(paths: ReaderPaths, config: ReaderConfig, cache_folder: Path) -> OpenArchive:
    """Open the archive of a reader's folder. Precondition: a running loop.

    Raises: MalformedError, UnavailableError without credentials, OSError.
    """
    policy_bytes = read_limited(paths.ledger.policy, POLICY_BYTES_MAX)
    policy = parse_policy(policy_bytes)
    cache = ObjectCache(cache_folder, bytes_max=config.cache_bytes)
    objects = Objects(Bucket(config.place()), cache, requests_max=config.requests_max)
    state = ArchiveState(objects, log_origin(policy_bytes))
    index = ArchivedIndex(objects)
    follower = ArchiveFollower(
        state,
        index,
        policy,
        kept=StateFile(paths.head, policy=policy, monotonic_s=time.monotonic),
        evidence=paths.ledger.evidence,
        poll_s=config.poll_s,
        unix_s=unix_s,
    )
    return OpenArchive(objects, state, index, follower)


def lock_reader(paths: ReaderPaths) -> FileLock:
    """Lock the folder of a reader for this process. Raises: UnavailableError."""
    try:
        return FileLock(paths.lock, holder=f"process {os.getpid()}")
    except FileLockedError as error:
        raise UnavailableError(
            f"{paths.root} is being served by {error.holder}: each reader has a folder of its own"
        ) from None


@contextmanager
def running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs on a thread of its own."""
    started: Future[asyncio.AbstractEventLoop] = Future()
    over = asyncio.Event()

    async def run() -> None:
        started.set_result(asyncio.get_running_loop())
        await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="archive")
    thread.start()
    loop = started.result()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
