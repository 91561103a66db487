"""Starts the front ends, starts one again that has ended, replaces and stops all of them.

A front end that ends, or hangs and is killed, takes with it the requests that it was answering, and
nothing else. Its events that the sequencer has are committed all the same. What it had in use
counts no longer, the pages that it read are released, and the event of an erasure that it did not
log comes by the outbox.

Front ends are replaced one after another, each by one of the code that is installed now. Both take
connections from the same sockets until the new one has shown that it does; then the old one takes
no more, and ends each that it has with an answer. So there are more front ends than numbers for a
while, and each that runs has a part of the shared counts that is nobody else's.
"""

import asyncio
import mmap
import secrets
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec
import structlog

from ledger.follow.followers import AWS_VARIABLES
from ledger.follow.process import FollowerProcess, child_environment
from ledger.runtime.listening import Sockets
from ledger.runtime.memory import nameless_file
from ledger.runtime.shared_counts import SharedCounts, memory_bytes
from ledger.service.loaded_files import LoadedFiles
from ledger.service.queries.supervisor import QueryProcess
from ledger.service.settings import Settings
from ledger.workers.gateway import Gateway
from ledger.workers.start import Start, encode_start
from ledger_core.tlog.errors import UnavailableError

KEY_BYTES: Final = 16
START_WAIT_S: Final = 120.0
"""Seconds that the front ends have for their first start."""

SILENT_S: Final = 60.0
"""Seconds in which its event loop did not turn once, after which a front end is killed. Meanwhile
its share of the new connections waits; then the one that is started in its place takes them."""

STOP_SPARE_S: Final = 5.0
"""Seconds that a front end has for its end beyond those of its requests."""

_log = structlog.get_logger("ledger.workers")


@dataclass(frozen=True, slots=True)
class CountsMemory:
    """The memory in which all processes count, as a file without a name."""

    descriptor: int
    parts: int
    key: bytes
    counts: SharedCounts
    """As the sequencer's process sees them, which has no part of its own."""


@contextmanager
def counts_memory(processes: int) -> Iterator[CountsMemory]:
    """Memory for the counts of so many front ends, and of one that replaces another."""
    with nameless_file() as file:
        parts = processes + 1
        size = memory_bytes(parts)
        file.truncate(size)
        key = secrets.token_bytes(KEY_BYTES)
        memory = mmap.mmap(file.fileno(), size)
        counts = SharedCounts(memory, number=parts, processes=parts, key=key)
        yield CountsMemory(file.fileno(), parts, key, counts)


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
        self.part: Final = start.part
        self.queries: Final = start.queries
        super().__init__(
            str(start.number),
            "ledger.workers.front_end",
            stop_wait_s=start.settings.stop_wait_s + STOP_SPARE_S,
            silent_s=SILENT_S,
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
                    stdout=subprocess.PIPE,
                    env=child_environment(AWS_VARIABLES),
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

    def wind_down(self) -> None:
        """End it when its connections have had their answers. Waits for that."""
        with self._lock:
            self._stopping.set()
            process = self._process
        if process is not None:
            process.send_signal(signal.SIGUSR1)
            with suppress(subprocess.TimeoutExpired):
                process.wait(self._stop_wait_s)
        self.stop()

    def reload(self, settings: Settings, files: LoadedFiles) -> None:
        """Give these to a front end that is started again."""
        self._start = msgspec.structs.replace(self._start, settings=settings, files=files)

    def note_end(self) -> None:
        self._on_end()


class _FrontEnd:
    """A front end that was started, and what is known of it."""

    def __init__(self, process: FrontEndProcess) -> None:
        self.process: Final = process
        self.is_ready: Final = asyncio.Event()
        """It takes connections."""
        self.has_ended: Final = asyncio.Event()
        """It ended before that."""

    async def wait_started(self) -> None:
        """Wait until it takes connections or has ended, for `START_WAIT_S` at most."""
        known = [asyncio.create_task(each.wait()) for each in (self.is_ready, self.has_ended)]
        await asyncio.wait(known, timeout=START_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        for each in known:
            each.cancel()


class FrontEnds:
    """All front ends of a service. Used on the event loop of the sequencer."""

    def __init__(
        self,
        gateway: Gateway,
        start: Start,
        listening: Sequence[Sockets],
        *,
        start_queries: Callable[[], QueryProcess],
        on_end: Callable[[int], None],
    ) -> None:
        """`start_queries` starts a query process, which somebody else ends in the end.

        `on_end` gets the part of the shared counts of a front end that has ended.
        """
        self._gateway: Final = gateway
        self._loop: Final = asyncio.get_running_loop()
        self._on_end: Final = on_end
        self._start: Start = start
        self._start_queries: Final = start_queries
        self._queries: Final = [start_queries()]
        self._listening: Final = listening
        self._connecting: set[asyncio.Task[None]] = set()
        self._running: Final = [self._make(number, part=number) for number in range(len(listening))]
        self._leaving: Final[list[_FrontEnd]] = []
        self._free_part = len(listening)

    async def start(self, stop: asyncio.Event) -> None:
        """Start all, and wait until each takes connections, or until `stop` is set.

        Raises: UnavailableError when one ends before that, whose log lines say why, or takes longer
        than `START_WAIT_S`.
        """
        for each in self._running:
            each.process.start()
        starting = [asyncio.create_task(each.wait_started()) for each in self._running]
        stopping = asyncio.create_task(stop.wait())
        pending: set[asyncio.Task[Any]] = {*starting, stopping}
        try:
            while not stop.is_set() and not all(each.is_ready.is_set() for each in self._running):
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if any(each.has_ended.is_set() for each in self._running):
                    raise UnavailableError(
                        "a worker ended before it took a connection: see its log lines"
                    )
                if pending <= {stopping}:
                    self._check_ready()
        finally:
            for task in (*starting, stopping):
                task.cancel()

    def _check_ready(self) -> None:
        late = [
            str(number) for number, each in enumerate(self._running) if not each.is_ready.is_set()
        ]
        if late:
            raise UnavailableError(
                f"the workers {', '.join(late)} took no connection within {START_WAIT_S:g} s"
            )

    async def replace_all(self) -> None:
        """Replace all by front ends of the code that is installed now, one after another.

        Their query process is new too, for both are of one version. A front end that does not take
        connections leaves all others as they are.
        """
        self._queries.append(self._start_queries())
        for number in range(len(self._running)):
            if not await self._replace(number):
                break
        used = {each.process.queries for each in self._running}
        for queries in [each for each in self._queries if str(each.socket) not in used]:
            self._queries.remove(queries)
            await asyncio.to_thread(queries.stop)

    async def _replace(self, number: int) -> bool:
        """Replace a front end; False if the new one does not take connections."""
        old, new = self._running[number], self._make(number, part=self._free_part)
        new.process.start()
        try:
            await new.wait_started()
        finally:
            if not new.is_ready.is_set():
                await asyncio.to_thread(new.process.stop)
                self._on_end(new.process.part)
                _log.error("worker_not_replaced", worker=number, reason="see its log lines")
        if not new.is_ready.is_set():
            return False
        self._running[number] = new
        self._leaving.append(old)
        await asyncio.to_thread(old.process.wind_down)
        self._leaving.remove(old)
        self._on_end(old.process.part)
        self._free_part = old.process.part
        _log.info("worker_replaced", worker=number)
        return True

    async def stop(self) -> None:
        """Let all answer what they have begun, and end them."""
        ending = (*self._running, *self._leaving)
        for each in ending:
            each.process.ask_to_stop()
        await asyncio.gather(*(asyncio.to_thread(each.process.stop) for each in ending))

    def reload(self, settings: Settings, files: LoadedFiles) -> None:
        """Have all front ends take settings, and files beside them, that were read again."""
        self._start = msgspec.structs.replace(self._start, settings=settings, files=files)
        for each in self._running:
            each.process.reload(settings, files)
        self._gateway.tell_settings(settings, files)

    def not_running(self) -> list[str]:
        """The numbers of front ends that have ended and aren't started again yet."""
        return [each.process.name for each in self._running if each.process.process_id is None]

    def _make(self, number: int, *, part: int) -> _FrontEnd:
        made = _FrontEnd(
            FrontEndProcess(
                msgspec.structs.replace(
                    self._start, number=number, part=part, queries=str(self._queries[-1].socket)
                ),
                self._listening[number],
                on_started=lambda link: self._call(self._connect, made, link),
                on_end=lambda: self._call(self._ended, made),
            )
        )
        return made

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        """Call a function on the loop, from another thread."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function, *arguments)

    def _connect(self, front_end: _FrontEnd, link: socket.socket) -> None:
        task = self._loop.create_task(self._join(front_end, link))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _join(self, front_end: _FrontEnd, link: socket.socket) -> None:
        make = partial(self._gateway.connect, on_ready=front_end.is_ready.set)
        await self._loop.create_unix_connection(make, sock=link)

    def _ended(self, front_end: _FrontEnd) -> None:
        if not front_end.is_ready.is_set():
            front_end.has_ended.set()
        self._on_end(front_end.process.part)
