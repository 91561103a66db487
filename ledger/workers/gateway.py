"""The sequencer's end of the links: does what the front ends ask, and tells them what changes."""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from ledger.log.sequencer import Sequencer
from ledger.service.http.problems import log_failure
from ledger.service.mirrored import Heads
from ledger.workers.link import Link
from ledger.workers.messages import (
    ERRORS,
    AllAppended,
    Append,
    Grown,
    Show,
    Shown,
    Sign,
    Signed,
    State,
    ToSequencer,
    Watch,
    decode_to_sequencer,
    failed,
)

STATE_POLL_S: Final = 0.05
"""Seconds after which front ends know of a failure. A published head is told at once."""


class Gateway:
    """Serves all links of one sequencer. Used on its event loop alone."""

    def __init__(self, sequencer: Sequencer, heads: Heads) -> None:
        self._sequencer = sequencer
        self._heads = heads
        self._links: set[_Served] = set()
        self._state = State()
        self._tasks: set[asyncio.Task[None]] = set()

    def connect(self) -> Link:
        """The link for a new front end, whose first message is the state."""
        served = _Served(self)
        return served.link

    async def run(self) -> None:
        """Tell the front ends what changes, until cancelled."""
        watching = asyncio.create_task(self._watch_growth())
        try:
            while True:
                # Ends at once when a head is published.
                size = self._state.published_size
                await self._heads.wait_for(size + 1, timeout_s=STATE_POLL_S)
                state = self._read_state()
                if state != self._state:
                    self._state = state
                    for served in self._links:
                        served.link.send(state)
        finally:
            watching.cancel()

    def joined(self, served: "_Served") -> None:
        """Count a link that is connected, and send it the state."""
        self._links.add(served)
        self._state = self._read_state()
        served.link.send(self._state)

    def left(self, served: "_Served") -> None:
        """Forget a link that is lost."""
        self._links.discard(served)

    def begin(self, served: "_Served", message: ToSequencer) -> None:
        """Begin what a front end asks. Appends are queued in the order of their messages."""
        if isinstance(message, Watch):
            watched = message.tree_size if served.watched is None else served.watched
            served.watched = min(watched, message.tree_size)
            if self._sequencer.head.tree_size > message.tree_size:
                served.tell_growth()
            return
        task = asyncio.create_task(self._answer(served, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, served: "_Served", message: Append | Sign | Show) -> None:
        try:
            answer: msgspec.Struct
            match message:
                case Append(number, requests):
                    answer = AllAppended(number, await self._sequencer.append_all(requests))
                case Sign(number):
                    answer = Signed(number, (await self._heads.newest()).note)
                case Show(number, note, by):
                    answer = Shown(number, await self._heads.shown(note, by=by))
        except Exception as error:  # noqa: BLE001 - a task's top; the front end raises it again
            if type(error).__name__ not in ERRORS:
                log_failure("request_of_front_end_failed", error)
            answer = failed(message.number, error)
        served.link.send(answer)

    async def _watch_growth(self) -> None:
        """Wake the front ends that wait for the log to grow."""
        while True:
            size = (await self._sequencer.wait_past(self._sequencer.head.tree_size)).tree_size
            for served in self._links:
                if served.watched is not None and served.watched < size:
                    served.tell_growth()

    def _read_state(self) -> State:
        published, failure = self._heads.published, self._sequencer.failure
        signing = self._heads.failure
        return State(
            published_size=0 if published is None else published.head.tree_size,
            quorum_missing=self._heads.quorum_missing,
            signing_failure=None if signing is None else str(signing),
            failure=None if failure is None else str(failure),
            hold=self._sequencer.held,
        )


class _Served:
    """One front end's link. `watched`: the size that the log is to exceed, if it waits for that."""

    def __init__(self, gateway: Gateway) -> None:
        self.watched: int | None = None
        self._gateway = gateway
        self.link: Final = _GatewayLink(self._receive, self._lose, self._join)

    def tell_growth(self) -> None:
        """Say that the log has grown, once."""
        self.watched = None
        self.link.send(Grown())

    def _receive(self, message: bytes) -> None:
        self._gateway.begin(self, decode_to_sequencer(message))

    def _join(self) -> None:
        self._gateway.joined(self)

    def _lose(self) -> None:
        self._gateway.left(self)


class _GatewayLink(Link):
    """A link that says when it is connected."""

    def __init__(
        self,
        on_message: Callable[[bytes], None],
        on_lost: Callable[[], None],
        on_made: Callable[[], None],
    ) -> None:
        super().__init__(on_message, on_lost)
        self._on_made = on_made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._on_made()
