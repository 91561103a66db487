"""Starts the front ends, starts one again that has ended, and stops all of them.

A front end that ends takes with it the requests that it was answering, and nothing else. Its events
that the sequencer has are committed all the same. What it had in use counts no longer, the pages
that it read are released, and the event of an erasure that it did not log comes by the outbox.
"""

import asyncio
import mmap
import os
import secrets
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import IO, Final

import msgspec

from ledger.follow.process import FollowerProcess, child_environment
from ledger.runtime.listening import Sockets
from ledger.runtime.shared_counts import SharedCounts, memory_bytes
from ledger.service.settings import Settings
from ledger.workers.gateway import Gateway
from ledger.workers.start import Start, encode_start
from ledger_core.tlog.errors import UnavailableError

KEY_BYTES: Final = 16
START_WAIT_S: Final = 120.0
"""Seconds that the front ends have for their first start."""

STOP_SPARE_S: Final = 5.0
"""Seconds that a front end has for its end beyond those of its requests."""


@dataclass(frozen=True, slots=True)
class CountsMemory:
    """The memory in which all processes count, as a file without a name."""

    descriptor: int
    key: bytes
    counts: SharedCounts
    """As the sequencer's process sees them, which has no part of its own."""


@contextmanager
def counts_memory(processes: int) -> Iterator[CountsMemory]:
    """Memory for the counts of so many front ends."""
    with _nameless_file() as file:
        size = memory_bytes(processes)
        file.truncate(size)
        key = secrets.token_bytes(KEY_BYTES)
        memory = mmap.mmap(file.fileno(), size)
        counts = SharedCounts(memory, number=processes, processes=processes, key=key)
        yield CountsMemory(file.fileno(), key, counts)


class FrontEndProcess(FollowerProcess):
    """One front end: a child process, and the thread that starts it again when it ends."""

    kind = "worker"

    def __init__(
        self,
        start: Start,
        listening: Sequence[socket.socket],
        *,
        on_started: Callable[[socket.socket], None],
        on_end: Callable[[], None],
    ) -> None:
        """`start` lacks the link. The functions are called on other threads than the loop's.

        `on_started` gets our end of the link.
        """
        super().__init__(
            str(start.number),
            "ledger.workers.front_end",
            stop_wait_s=start.settings.stop_wait_s + STOP_SPARE_S,
        )
        self._start = start
        self._listening: Final = listening
        self._on_started: Final = on_started
        self._on_end: Final = on_end

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start a front end with a new link."""
        ours, theirs = socket.socketpair()
        with closing(theirs):
            listening = tuple(each.fileno() for each in self._listening)
            start = msgspec.structs.replace(self._start, link=theirs.fileno(), listening=listening)
            try:
                process = subprocess.Popen(  # noqa: S603 - our own module
                    self.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    env=child_environment(),
                    pass_fds=(start.link, start.counts, *listening),
                    # Ctrl-C reaches only the sequencer's process, which then stops this one.
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                raise
        with suppress(BrokenPipeError):  # it has ended already
            if process.stdin is not None:
                process.stdin.write(encode_start(start))
                process.stdin.close()
        self._on_started(ours)
        return process

    def take_settings(self, settings: Settings) -> None:
        """Give these settings to a front end that is started again."""
        self._start = msgspec.structs.replace(self._start, settings=settings)

    def note_end(self) -> None:
        self._on_end()


class FrontEnds:
    """All front ends of a service. Used on the event loop of the sequencer."""

    def __init__(
        self,
        gateway: Gateway,
        start: Start,
        listening: Sequence[Sockets],
        *,
        on_end: Callable[[int], None],
    ) -> None:
        """`on_end` gets the number of a front end that ended by itself."""
        self._gateway: Final = gateway
        self._loop: Final = asyncio.get_running_loop()
        self._on_end: Final = on_end
        self._ready: Final = [asyncio.Event() for _ in listening]
        self._failed: Final = asyncio.Event()
        self._connecting: set[asyncio.Task[None]] = set()
        self._processes: Final = [
            FrontEndProcess(
                msgspec.structs.replace(start, number=number),
                sockets,
                on_started=partial(self._call, self._connect, number),
                on_end=partial(self._call, self._ended, number),
            )
            for number, sockets in enumerate(listening)
        ]

    async def start(self, stop: asyncio.Event) -> None:
        """Start all, and wait until each takes connections, or until `stop` is set.

        Raises: UnavailableError when one ends before that, whose log lines say why, or takes longer
        than `START_WAIT_S`.
        """
        for process in self._processes:
            process.start()
        ready = asyncio.create_task(self._wait_ready())
        ends = [asyncio.create_task(event.wait()) for event in (self._failed, stop)]
        await asyncio.wait(
            (ready, *ends), timeout=START_WAIT_S, return_when=asyncio.FIRST_COMPLETED
        )
        for end in ends:
            end.cancel()
        if ready.done() or stop.is_set():
            ready.cancel()
            return
        ready.cancel()
        if self._failed.is_set():
            raise UnavailableError("a worker ended before it took a connection: see its log lines")
        late = [str(number) for number, event in enumerate(self._ready) if not event.is_set()]
        raise UnavailableError(
            f"the workers {', '.join(late)} took no connection within {START_WAIT_S:g} s"
        )

    async def _wait_ready(self) -> bool:
        return all([await event.wait() for event in self._ready])

    async def stop(self) -> None:
        """Let all answer what they have begun, and end them."""
        for process in self._processes:
            process.ask_to_stop()
        await asyncio.gather(*(asyncio.to_thread(process.stop) for process in self._processes))

    def take_settings(self, settings: Settings) -> None:
        """Have all front ends take settings that were read again."""
        for process in self._processes:
            process.take_settings(settings)
        self._gateway.tell_settings(settings)

    def not_running(self) -> list[str]:
        """The numbers of front ends that have ended and aren't started again yet."""
        return [process.name for process in self._processes if process.process_id is None]

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        """Call a function on the loop, from another thread."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function, *arguments)

    def _connect(self, number: int, link: socket.socket) -> None:
        task = self._loop.create_task(self._join(number, link))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _join(self, number: int, link: socket.socket) -> None:
        make = partial(self._gateway.connect, on_ready=self._ready[number].set)
        await self._loop.create_unix_connection(make, sock=link)

    def _ended(self, number: int) -> None:
        if not self._ready[number].is_set():
            self._failed.set()
        self._on_end(number)


def _nameless_file() -> IO[bytes]:
    """A file in memory, where the system has that."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("ledger-counts"), "r+b")
    return tempfile.TemporaryFile()
