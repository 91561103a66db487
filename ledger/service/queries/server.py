"""Runs the work of all front ends on threads, by turns of their tokens.

A search takes from a tenth of a millisecond to several seconds. An export or a stream uses a thread
for each piece, so a slow reader holds none. A job's thread is given to another when the front end
has read most of what was sent to it, so answers that wait to be read are as many as threads.

Tokens take turns at the threads (`fair_turns`). Where there are several threads, no token runs on
more than half of them, and none has more than half of the places to wait. So a token that asks a
lot keeps no other from its answer. All callers without a token take turns as one token does, and
have places to wait of their own, so they keep no token from its answer. A token has a quarter of
the live streams at most, and the tokens of a tenant have half of them. All of this counts whichever
front end asks.
"""

import asyncio
import pickle
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from inspect import isgenerator
from typing import Any, Final, cast

from ledger.query.budget import QueryCancelledError
from ledger.query.indexer import IndexFollower
from ledger.runtime.fair_turns import FairTurns
from ledger.service.http.in_flight import STRANGERS
from ledger.service.http.problems import ProblemError, explain, log_failure, retry_later
from ledger.service.queries.frames import (
    ANSWER_ENDS,
    Frame,
    FrameProtocol,
    Start,
    encode_value,
    unpickle,
)
from ledger.service.queries.handover import HELD_BYTES_MIN, HeldAnswers
from ledger.service.queries.job import QueryJob, QueryOptions, QueryParts
from ledger_core.tlog.errors import UnavailableError

STRANGERS_PART: Final = 4
"""Their places to wait, beside those of tokens: so many times fewer."""


class QueryServer:
    """The engine, its threads, one of which follows the log, and the jobs of every connection.

    Used on the event loop alone.
    """

    def __init__(
        self, parts: QueryParts, options: QueryOptions, held: HeldAnswers | None = None
    ) -> None:
        """`held`: takes clients' connections; without it answers go to the front ends as bytes."""
        self.parts: Final = parts
        self.held: Final = held
        self.options: Final = options
        self.is_stopping = False
        self.connections: Final[set[_ServedConnection]] = set()
        self.damaged: tuple[str, ...] = ()
        threads = options.threads
        self.turns: Final = FairTurns(threads, places_each=max(1, threads // 2))
        self._streams: Counter[tuple[str, str]] = Counter()
        self._pool: Final = ThreadPoolExecutor(threads, thread_name_prefix="ledger-query")
        self._follower: Final = IndexFollower(parts.engine)
        self._follower.start()

    def connection(self) -> FrameProtocol:
        """The protocol of a new connection."""
        return _ServedConnection(self)

    def notice_damage(self) -> None:
        """Tell all front ends of damage that is new."""
        damaged = tuple(map(str, self.parts.store.damaged_bundles()))
        if damaged != self.damaged:
            self.damaged = damaged
            for connection in self.connections:
                connection.tell_damaged()

    def cancel(self) -> None:
        """End every job within its present piece of work."""
        self.is_stopping = True

    def close(self) -> None:
        """End running work and the threads; afterwards none reads the log."""
        self.cancel()
        self._follower.stop()
        self._pool.shutdown()

    def ask_turn(self, token: str, *, group: str, has_begun: bool) -> asyncio.Future[None]:
        """A future that is done when the token has a thread, to be given back by `turns.end`.

        A stream or export that `has_begun` waits whatever its length: other limits bound their
        number. Raises: ProblemError when too many wait already.
        """
        turns, most = self.turns, self.options.waiting_max
        if group:
            most = max(1, most // STRANGERS_PART)
        if (
            not has_begun
            and not turns.has_place(token, group=group)
            and (
                turns.waiting(group=group) >= most
                or turns.waiting_of(token, group=group) >= max(1, most // 2)
            )
        ):
            raise retry_later("too-busy", "too many searches wait", limit=most)
        return turns.ask(token, group=group)

    def take_stream(self, token: str, tenant: str | None) -> Counter[tuple[str, str]]:
        """Count one open stream, in all, of its token, and of all tokens of its tenant.

        Returns what `end_stream` gets. Raises: ProblemError when one of these has its limit.
        """
        total = self.options.streams_max
        counted = [(("the service", ""), total), (("the token", token), max(1, total // 4))]
        if tenant is not None:
            counted.append((("the tenant", tenant), max(1, total // 2)))
        for owner, most in counted:
            if self._streams[owner] >= most:
                what = f"{owner[0]} has {most} live streams open, and may have no more"
                raise retry_later("too-busy", what, limit=most)
        owners = Counter(owner for owner, _ in counted)
        self._streams += owners
        return owners

    def end_stream(self, owners: Counter[tuple[str, str]]) -> None:
        """Count it no longer."""
        self._streams -= owners  # Leaves no zeros.

    def submit(self, job: "_Job", value: bytes) -> asyncio.Future[tuple[Frame, bytes]]:
        """Run the next piece of a job on a thread. Precondition: it has a turn."""
        return asyncio.get_running_loop().run_in_executor(self._pool, job.step, value)


class _Job:
    """One job: its work, which is a function until its first piece, then perhaps a generator."""

    def __init__(self, server: QueryServer, start: Start) -> None:
        self._server = server
        self._start = start
        self._generator: Generator[object, object, object] | None = None
        self.token: Final = start.token
        self.group: Final = STRANGERS if start.is_stranger else ""
        self.may_hold: Final = start.may_hold
        self.is_closed = False
        self.has_begun = False
        self.turn: asyncio.Future[None] | None = None
        self.streams: Counter[tuple[str, str]] = Counter()

    def is_cancelled(self) -> bool:
        return self.is_closed or self._server.is_stopping

    def step(self, value: bytes) -> tuple[Frame, bytes]:
        """Do the next piece of the work, on a thread; the frame that answers it."""
        try:
            return self._step(value)
        except QueryCancelledError:
            return _refused(cancelled())
        except Exception as error:  # noqa: BLE001 - a job's top: a problem is sent for it
            explained = explain(error)
            if explained.problem.slug == "internal":
                log_failure("query_failed", error)
            return _refused(explained)

    def _step(self, value: bytes) -> tuple[Frame, bytes]:
        if self.is_cancelled():
            raise QueryCancelledError
        if self._generator is None:
            result = self._begin()
            if not isgenerator(result):
                return encode_value(result, is_last=True)
            self._generator = cast("Generator[object, object, object]", result)
        try:
            sent = unpickle(value) if value else None
            return encode_value(self._generator.send(sent), is_last=False)
        except StopIteration:
            return encode_value(None, is_last=True)

    def _begin(self) -> Any:
        """The result of the work. Raises: UnavailableError when the log is not the caller's."""
        server = self._server
        if server.parts.store.head().tree_size < self._start.tree_size_min:
            raise UnavailableError("entries that were acknowledged can't be read yet")
        work, args, named = unpickle(self._start.work)
        job = QueryJob(server.parts, server.options.limits, self.is_cancelled)
        return work(job, *args, **named)

    def end(self) -> None:
        """Let go of what it holds between its pieces. Precondition: no thread has it."""
        self._server.end_stream(self.streams)
        self.streams = Counter()
        if self._generator is not None:
            self._generator.close()


class _ServedConnection(FrameProtocol):
    """The jobs of one front end. They end with the connection."""

    def __init__(self, server: QueryServer) -> None:
        super().__init__()
        self._server = server
        self._jobs: dict[int, _Job] = {}
        self._held: set[int] = set()

    def on_frame(self, kind: Frame, number: int, payload: bytes) -> None:
        match kind:
            case Frame.START:
                self._start(number, payload)
            case Frame.NEXT if (job := self._jobs.get(number)) is not None:
                self._go_on(number, job, payload)
            case Frame.CLOSE if (job := self._jobs.pop(number, None)) is not None:
                self._close(job)
            case Frame.DROP:
                self._drop(number)
            case Frame.PING:
                self.send(Frame.PONG, number)

    def tell_damaged(self) -> None:
        """Say which entries of the log proved damaged, if any: the front ends warn of them."""
        if damaged := self._server.damaged:
            self.send(Frame.DAMAGED, 0, pickle.dumps(damaged))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.connections.add(self)
        self.tell_damaged()

    def on_lost(self) -> None:
        self._server.connections.discard(self)
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            self._close(job)
        for number in tuple(self._held):
            self._drop(number)

    def _start(self, number: int, payload: bytes) -> None:
        start: Start = unpickle(payload)
        job = self._jobs[number] = _Job(self._server, start)
        try:
            for tenant in start.stream_tenant:
                job.streams = self._server.take_stream(job.token, tenant)
        except ProblemError as problem:
            self._answer(number, job, _refused(problem))
            return
        self._go_on(number, job, b"")

    def _go_on(self, number: int, job: _Job, value: bytes) -> None:
        try:
            job.turn = self._server.ask_turn(job.token, group=job.group, has_begun=job.has_begun)
        except ProblemError as problem:
            self._answer(number, job, _refused(problem))
            return
        job.turn.add_done_callback(partial(self._use_turn, number, job, value))

    def _use_turn(self, number: int, job: _Job, value: bytes, turn: asyncio.Future[None]) -> None:
        if job.is_cancelled():
            self._end_turn(job, turn)
            self._answer(number, job, _refused(cancelled()))
            return
        job.has_begun = True
        done = self._server.submit(job, value)
        done.add_done_callback(partial(self._end_piece, number, job, turn))

    def _end_piece(
        self,
        number: int,
        job: _Job,
        turn: asyncio.Future[None],
        done: asyncio.Future[tuple[Frame, bytes]],
    ) -> None:
        self._server.notice_damage()
        self._answer(number, job, done.result())
        self.when_writable(partial(self._end_turn, job, turn))

    def _end_turn(self, job: _Job, turn: asyncio.Future[None]) -> None:
        job.turn = None
        self._server.turns.end(job.token, turn, group=job.group)
        if job.is_closed:
            job.end()

    def _answer(self, number: int, job: _Job, frame: tuple[Frame, bytes]) -> None:
        if not job.is_closed:
            kind, payload = self._hold(*frame) if job.may_hold else frame
            self.send(kind, number, payload)
            if kind in ANSWER_ENDS:
                self._close(self._jobs.pop(number))

    def _hold(self, kind: Frame, payload: bytes) -> tuple[Frame, bytes]:
        """The frame in the place of one that has many bytes, which are held."""
        held = self._server.held
        is_large = len(payload) >= HELD_BYTES_MIN and kind in (Frame.BYTES, Frame.LAST_BYTES)
        if held is None or not is_large:
            return kind, payload
        answer = held.keep(payload)
        self._held.add(answer.number)
        kind = Frame.HELD if kind is Frame.BYTES else Frame.LAST_HELD
        return kind, pickle.dumps(answer)

    def _drop(self, number: int) -> None:
        if number in self._held and self._server.held is not None:
            self._held.discard(number)
            self._server.held.drop(number)

    def _close(self, job: _Job) -> None:
        """Nobody waits for a job any more. One that a thread has ends with its present piece."""
        job.is_closed = True
        if job.turn is not None and not job.turn.done():
            self._server.turns.end(job.token, job.turn, group=job.group)
            job.turn = None
        if job.turn is None:
            job.end()


def cancelled() -> ProblemError:
    """The end of a search that nobody waits for, or that a stop of the service ends."""
    return retry_later("too-busy", "the search was cancelled: the client or the service ends")


def _refused(problem: ProblemError) -> tuple[Frame, bytes]:
    return Frame.REFUSED, pickle.dumps(problem)
