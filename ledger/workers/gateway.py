"""The sequencer's end of the links: does what the front ends ask, and tells them what changes."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Final

import msgspec
import structlog

from ledger.log.sequencer import Sequencer
from ledger.service.export_trailers import ExportTrailers
from ledger.service.http.in_flight import InFlight
from ledger.service.http.problems import log_failure
from ledger.service.loaded_files import LoadedFiles
from ledger.service.metrics import Counter, CounterTotals
from ledger.service.mirrored import Heads
from ledger.service.report import Report
from ledger.service.settings import Settings
from ledger.workers.link import Link
from ledger.workers.messages import (
    ERRORS,
    VERSIONS,
    AllAppended,
    Append,
    AskReport,
    AskReports,
    FindTrailer,
    Grown,
    Hello,
    NewSettings,
    OwnReport,
    Ready,
    Reported,
    Request,
    Show,
    Shown,
    Sign,
    Signed,
    State,
    StoreTrailer,
    ToSequencer,
    Trailer,
    Versions,
    Watch,
    decode_to_sequencer,
    failed,
    shared_version,
)
from ledger_core.tlog.errors import UnavailableError

STATE_POLL_S: Final = 0.05
"""Seconds after which front ends know of a failure. A published head is told at once."""

REPORT_WAIT_S: Final = 2.0
"""Seconds that front ends have to report."""

_log = structlog.get_logger("ledger.workers")


class Gateway:
    """Serves all links of one sequencer. Used on its event loop alone."""

    def __init__(
        self, sequencer: Sequencer, heads: Heads, *, own_reports: Callable[[], list[Report]] = list
    ) -> None:
        """`own_reports` makes the reports of this process."""
        self.bytes_in_flight: Final = InFlight("bytes", most=0, most_per_owner=0)
        self._sequencer = sequencer
        self._heads = heads
        self.not_running: Callable[[], Sequence[str]] = tuple
        """The numbers of front ends that have ended and aren't started again yet."""
        self._own_reports = own_reports
        self._trailers = ExportTrailers()
        self._numbers = count()
        self._ended: Final = CounterTotals()
        self._links: set[_Served] = set()
        self._state = State()
        self._settings: NewSettings | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def connect(self, *, on_ready: Callable[[], None] = lambda: None) -> Link:
        """The link for a new front end, which is told the state when it has said its version.

        `on_ready` is called when it takes connections.
        """
        return _Served(self, on_ready).link

    def tell_settings(self, settings: Settings, files: LoadedFiles) -> None:
        """Send all front ends settings that were read again, those too that are starting."""
        self._settings = NewSettings(msgspec.structs.asdict(settings), files)
        for served in self._links:
            served.link.send(self._settings)

    async def run(self) -> None:
        """Tell the front ends what changes, until cancelled."""
        watching = asyncio.create_task(self._watch_growth())
        try:
            while True:
                # Ends at once when a head is published.
                size = self._state.published_size
                await self._heads.wait_for(size + 1, timeout_s=STATE_POLL_S)
                self._tell_state()
        finally:
            watching.cancel()

    def joined(self, served: "_Served") -> None:
        """Count a front end whose messages are understood, and send it the state."""
        self._tell_state()
        self._links.add(served)
        served.link.send(self._state)
        if self._settings is not None:
            served.link.send(self._settings)

    def left(self, served: "_Served") -> None:
        """Forget a link that is lost, and keep what its front end counted.

        A front end that was killed loses what it counted since it was last asked.
        """
        if served in self._links:
            self._links.remove(served)
            self._ended.add(served.counters)

    def begin(self, served: "_Served", message: ToSequencer, size: int) -> None:
        """Begin what a front end asks by a message of `size` bytes.

        Appends are queued in the order of their messages.
        """
        match message:
            case Hello():
                pass  # Its versions are known.
            case Ready():
                served.on_ready()
            case OwnReport(number, report):
                served.take_report(number, report)
            case Watch(tree_size):
                watched = tree_size if served.watched is None else served.watched
                served.watched = min(tree_size, watched)
                if self._sequencer.head.tree_size > served.watched:
                    served.tell_growth()
            case _:
                task = asyncio.create_task(self._answer(served, message, size))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _answer(self, served: "_Served", message: Request, size: int) -> None:
        answer: msgspec.Struct
        with self.bytes_in_flight.lease("front ends", may_exceed=True) as take:
            take(size)
            try:
                answer = await self._outcome(served, message)
            except Exception as error:  # noqa: BLE001 - a task's top; the front end raises it again
                if type(error).__name__ not in ERRORS:
                    log_failure("request_of_front_end_failed", error)
                answer = failed(message.number, error)
        served.link.send(answer)

    async def _outcome(self, served: "_Served", message: Request) -> msgspec.Struct:
        match message:
            case Append(number, requests):
                return AllAppended(number, await self._sequencer.append_all(requests))
            case Sign(number):
                return Signed(number, (await self._heads.newest()).note)
            case Show(number, note, by):
                return Shown(number, await self._heads.shown(note, by=by))
            case AskReports(number, counters):
                served.counters = counters
                return Reported(number, await self._reports(but=served))
            case StoreTrailer(number, token, export_id, trailer):
                await self._trailers.store(token, export_id, trailer)
                return Trailer(number, trailer)
            case FindTrailer(number, token, export_id):
                return Trailer(number, await self._trailers.find(token, export_id))

    async def _reports(self, *, but: "_Served") -> list[Report]:
        """The reports of this process and of the front ends but one, as far as they answer."""
        asked = {served: served.ask_report(self._numbers) for served in self._links - {but}}
        if asked:
            await asyncio.wait(asked.values(), timeout=REPORT_WAIT_S)
        warnings = [
            f"the worker {number} has ended and will be started again"
            for number in self.not_running()
        ]
        # One that ended meanwhile may have answered before, and what it counted is among the ended.
        running = {served: asked[served] for served in asked if served in self._links}
        if missing := sum(not each.done() for each in running.values()):
            warnings.append(f"{missing} of the workers do not report")
        others = [
            each.result() if each.done() else Report(counters=served.counters)
            for served, each in running.items()
        ]
        rest = Report(warnings=warnings, counters=self._ended.counters())
        return [*self._own_reports(), rest, *others]

    async def _watch_growth(self) -> None:
        """Wake the front ends that wait for the log to grow."""
        while True:
            size = (await self._sequencer.wait_past(self._sequencer.head.tree_size)).tree_size
            for served in self._links:
                if served.watched is not None and served.watched < size:
                    served.tell_growth()

    def _tell_state(self) -> None:
        """Tell all front ends the state, if it has changed."""
        state = self._read_state()
        if state != self._state:
            self._state = state
            for served in self._links:
                served.link.send(state)

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

    def __init__(self, gateway: Gateway, on_ready: Callable[[], None]) -> None:
        self.watched: int | None = None
        self.counters: Sequence[Counter] = ()
        """Those of its last report."""
        self.on_ready: Final = on_ready
        self.version: int | None = None  # Unknown until its first message.
        self._gateway = gateway
        self._asked: tuple[int, asyncio.Future[Report]] | None = None
        self.link: Final = Link(self._receive, self._lose)

    def ask_report(self, numbers: Iterator[int]) -> asyncio.Future[Report]:
        """Its report to come. One that did not answer is not asked again, for it may hang."""
        if self._asked is None:
            number = next(numbers)
            self._asked = number, asyncio.get_running_loop().create_future()
            self.link.send(AskReport(number))
        return self._asked[1]

    def take_report(self, number: int, report: Report) -> None:
        """Take its report, whether it was asked for or not."""
        self.counters = report.counters
        if self._asked is not None and self._asked[0] == number:
            self._asked[1].set_result(report)
            self._asked = None

    def tell_growth(self) -> None:
        """Say that the log has grown, once."""
        self.watched = None
        self.link.send(Grown())

    def _receive(self, data: bytes) -> None:
        message = decode_to_sequencer(data)
        if self.version is not None:
            self._gateway.begin(self, message, len(data))
            return
        said = Versions(*msgspec.structs.astuple(message)) if type(message) is Hello else Versions()
        try:
            self.version = shared_version(said, VERSIONS)
        except UnavailableError as error:
            _log.error("worker_refused", reason=str(error))
            self.link.close()
            return
        self._gateway.joined(self)

    def _lose(self) -> None:
        self._gateway.left(self)
