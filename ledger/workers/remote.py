"""The sequencer and its heads, as a front end has them: across a socket, and from the store.

Group commit works on this end too. Requests wait while `FRAMES_MAX` frames are unanswered, and the
next frame has all of them. While one frame is at the disk the next one is queued behind it.

What was acknowledged by any process can be read here at once: heads are read from the store, where
they were durable before. Messages only wake those that wait.

If the sequencer's process ends, the outcome of what it had not answered is unknown, and each caller
is told so. The events may be in the log; their ids make a repetition safe. If it stands still, or
the disk does, those that wait go on waiting, and whoever comes later is refused.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Final

from ledger.log.append_request import Appended, AppendRequest
from ledger.log.group_commit import CommitLimits, QueueFullError, Weight, stalled_since
from ledger.log.hold import HoldRecord
from ledger.log.witness_client import WitnessStatus
from ledger.service.loaded_files import LoadedFiles
from ledger.service.metrics import Counter
from ledger.service.report import Report
from ledger.service.settings import Settings
from ledger.store.commit_errors import CommitFailedError
from ledger.store.kept_heads import latest_head
from ledger.store.log import LogStore
from ledger.workers.link import Link
from ledger.workers.messages import (
    LAST,
    VERSIONS,
    AllAppended,
    Append,
    AskReport,
    Failed,
    Grown,
    Hello,
    NewSettings,
    OwnReport,
    Show,
    Shown,
    Sign,
    Signed,
    State,
    Versions,
    Watch,
    decode_to_front_end,
    error_of,
)
from ledger.workers.start import settings_of
from ledger_core.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.errors import UnavailableError, VerificationError
from ledger_core.tlog.tree import TreeHead

FRAMES_MAX: Final = 2
"""Frames of events that are unanswered at once: one at the disk, and one behind it."""

_Waiting = tuple[AppendRequest, Weight, "asyncio.Future[Appended]"]


class SequencerClient:
    """The link to the sequencer's process: requests, answers, and the last `state`.

    Used on one event loop. `on_lost` is called when the sequencer's process has ended.
    """

    def __init__(
        self,
        *,
        on_lost: Callable[[], None] = lambda: None,
        report: Callable[[], Report] = Report,
        versions: Versions = VERSIONS,
    ) -> None:
        """`report` makes the report of this process. `versions`: those that it speaks."""
        self.report = report
        self._versions = versions
        self.reload: Callable[[Settings, LoadedFiles | None], None] = lambda _settings, _files: None
        """Called with settings, and files beside them, that were read again."""
        self.state = State()
        self.link: Final = Link(self._receive, self._lose, self._greet)
        self._on_lost = on_lost
        self._numbers = count()
        self._unanswered: dict[int, asyncio.Future[Any]] = {}
        self._changed = asyncio.Event()
        self._grown = asyncio.Event()

    @property
    def is_lost(self) -> bool:
        """Whether the sequencer's process has ended."""
        return self.link.is_lost

    def ask(self, make: Callable[[int], Any]) -> "asyncio.Future[Any]":
        """Send the request that `make` makes with its number; the answer.

        The future raises the error of the answer, or CommitFailedError when the process ended.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.is_lost:
            future.set_exception(_ended())
            return future
        number = next(self._numbers)
        self._unanswered[number] = future
        self.link.send(make(number))
        return future

    async def wait_changed(self) -> None:
        """Wait until the state changes, or the link is lost."""
        await self._changed.wait()

    async def wait_grown(self, tree_size: int) -> None:
        """Wait until the log may be larger than this size, or the link is lost."""
        grown = self._grown
        self.link.send(Watch(tree_size))
        await grown.wait()

    async def end_link(self, counters: Sequence[Counter]) -> None:
        """Say what this process counted, as its last message, and end the link."""
        self.link.send(OwnReport(LAST, Report(counters=counters)))
        self.link.close()
        while not self.is_lost:
            await self.wait_changed()

    def _greet(self) -> None:
        self.link.send(Hello(*self._versions))

    def _receive(self, message: bytes) -> None:
        answer = decode_to_front_end(message)
        if isinstance(answer, State):
            self.state = answer
            self._changed = _wake(self._changed)
        elif isinstance(answer, Grown):
            self._grown = _wake(self._grown)
        elif isinstance(answer, AskReport):
            self.link.send(OwnReport(answer.number, self.report()))
        elif isinstance(answer, NewSettings):
            self.reload(settings_of(answer.settings), answer.files)
        else:
            future = self._unanswered.pop(answer.number)
            if future.done():
                return
            if isinstance(answer, Failed):
                future.set_exception(error_of(answer))
            else:
                future.set_result(answer)

    def _lose(self) -> None:
        unanswered, self._unanswered = self._unanswered, {}
        for future in unanswered.values():
            if not future.done():
                future.set_exception(_ended())
        self._changed = _wake(self._changed)
        self._grown = _wake(self._grown)
        self._on_lost()


class RemoteSequencer:
    """The sequencer of another process. See `Appender`."""

    def __init__(self, client: SequencerClient, store: LogStore, limits: CommitLimits) -> None:
        """`limits`: what may wait here, and the events of one frame."""
        self._client = client
        self._store = store
        self._limits = limits
        self._waiting: deque[_Waiting] = deque()
        self._waiting_weight = Weight(0, 0)
        self._begun_s: list[float] = []  # When each unanswered frame was sent.
        self._will_send = False

    @property
    def head(self) -> TreeHead:
        """The durable head, read from the store."""
        return self._store.head()

    @property
    def failure(self) -> CommitFailedError | None:
        """Why nothing is accepted any more."""
        failure = self._client.state.failure
        if self._client.is_lost:
            return _ended()
        return None if failure is None else CommitFailedError(failure)

    @property
    def held(self) -> HoldRecord | None:
        """Why the log takes no events until a person decides, if it doesn't."""
        return self._client.state.hold

    async def append_events(self, request: AppendRequest) -> Appended:
        """See `Appender`."""
        if self._client.is_lost:
            raise _ended()
        if self._begun_s and (stalled := stalled_since(self._begun_s[0])) is not None:
            raise stalled
        weight = request.weight()
        events, bytes_ = self._waiting_weight
        grown = Weight(events + weight.items, bytes_ + weight.bytes_)
        limits = self._limits
        if events and (grown.items > limits.waiting_max or grown.bytes_ > limits.waiting_bytes_max):
            raise QueueFullError(
                f"{events} are waiting, {bytes_} bytes; the limits are {limits.waiting_max} and "
                f"{limits.waiting_bytes_max}",
                retry_after_s=1.0,
            )
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, weight, future))
        self._waiting_weight = grown
        self._send_soon()
        return await future

    async def probe(self) -> None:
        """Nothing: the process of the sequencer does it."""

    async def wait_past(self, tree_size: int) -> TreeHead:
        """The durable head, as soon as it is larger than this size."""
        while (head := self.head).tree_size <= tree_size:
            if self._client.is_lost:
                raise _ended()
            await self._client.wait_grown(tree_size)
        return head

    def _send_soon(self) -> None:
        """Send what waits in the next turn of the loop, so that the others of this turn join."""
        if not self._will_send and self._waiting and len(self._begun_s) < FRAMES_MAX:
            self._will_send = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._will_send = False
        frame: list[_Waiting] = []
        taken = Weight(0, 0)
        while self._waiting and (
            not frame or taken.items + self._waiting[0][1].items <= self._limits.batch_max
        ):
            waiting = self._waiting.popleft()
            taken = Weight(taken.items + waiting[1].items, taken.bytes_ + waiting[1].bytes_)
            frame.append(waiting)
        events, bytes_ = self._waiting_weight
        self._waiting_weight = Weight(events - taken.items, bytes_ - taken.bytes_)
        if not frame:
            return
        begun_s = time.monotonic()
        self._begun_s.append(begun_s)
        requests = [request for request, _, _ in frame]
        answer = self._client.ask(lambda number: Append(number, requests))
        futures = [future for _, _, future in frame]
        answer.add_done_callback(lambda done: self._deliver(begun_s, futures, done))
        self._send_soon()

    def _deliver(
        self,
        begun_s: float,
        futures: Sequence["asyncio.Future[Appended]"],
        done: "asyncio.Future[AllAppended]",
    ) -> None:
        self._begun_s.remove(begun_s)
        error = done.exception()
        outcomes = () if error is not None else done.result().outcomes
        for number, future in enumerate(futures):
            if future.done():
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(outcomes[number])
        self._send_soon()


class RemoteHeads:
    """The heads that the publisher of another process signs. See `Heads`."""

    def __init__(self, client: SequencerClient, store: LogStore) -> None:
        self._client = client
        self._store = store
        self._read_at = -1
        self._published: SignedCheckpoint | None = None
        self._signing: asyncio.Future[SignedCheckpoint] | None = None

    @property
    def published(self) -> SignedCheckpoint | None:
        """The latest, read from the store when that has changed."""
        with self._store.environment.read() as transaction:
            # Not the number in LMDB's head, which is ahead of what is read while a commit syncs.
            if transaction.number != self._read_at:
                self._published = latest_head(transaction)
                self._read_at = transaction.number
        return self._published

    @property
    def failure(self) -> VerificationError | None:
        """Why no more heads are signed."""
        failure = self._client.state.signing_failure
        return None if failure is None else VerificationError(failure)

    @property
    def quorum_missing(self) -> str | None:
        """What the newest head lacks to be published."""
        return self._client.state.quorum_missing

    @property
    def witnesses(self) -> tuple[WitnessStatus, ...]:
        """None here: the process of the sequencer asks them, and reports."""
        return ()

    async def newest(self) -> SignedCheckpoint:
        """The newest durable head, signed. Raises: as `Publisher.sign`, UnavailableError.

        All who ask in one turn of the loop share a request: it is sent after they asked.
        """
        if self._signing is None:
            self._signing = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(self._sign, self._signing)
        return await asyncio.shield(self._signing)

    async def shown(self, data: bytes, *, by: str) -> bool:
        """Take a checkpoint that somebody has. Raises: as `Publisher.show`, UnavailableError."""
        try:
            answer: Shown = await self._client.ask(lambda number: Show(number, data, by))
        except CommitFailedError as error:
            raise UnavailableError(str(error)) from None
        return answer.is_known

    async def wait_for(self, tree_size: int, *, timeout_s: float) -> SignedCheckpoint | None:
        """The first published head of at least this size; None when time ran out."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._client.is_lost:
                    # It can't be published between the look and the wait: nothing is awaited there.
                    published = self.published
                    if published is not None and published.head.tree_size >= tree_size:
                        return published
                    await self._client.wait_changed()
        return None

    def _sign(self, signing: "asyncio.Future[SignedCheckpoint]") -> None:
        self._signing = None
        answer = self._client.ask(Sign)
        answer.add_done_callback(lambda done: _set_signed(signing, done))


def _set_signed(
    signing: "asyncio.Future[SignedCheckpoint]", done: "asyncio.Future[Signed]"
) -> None:
    error = done.exception()
    if error is None:
        signing.set_result(parse_signed_checkpoint(done.result().note.encode()))
        return
    if isinstance(error, CommitFailedError):  # Nothing was to be committed.
        error = UnavailableError(str(error))
    signing.set_exception(error)
    signing.exception()  # Those who waited may have gone.


def _wake(event: asyncio.Event) -> asyncio.Event:
    event.set()
    return asyncio.Event()


def _ended() -> CommitFailedError:
    return CommitFailedError("the sequencer's process has ended")
