"""The process of one sink: `python -m ledger.sinks.worker DIR NAME`.

It reads the durable entries from its position on, sends those that its query finds, and moves the
position after the receiver's confirmation.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import Final

from ledger.follow.entries import Entry, check_position, read_batch
from ledger.follow.position import Cursor, FollowerPaths
from ledger.follow.tables import check_name
from ledger.follow.worker import START_AGAIN_S, keep_following, run_worker, until_stopped
from ledger.object_storage.open_log import open_log
from ledger.runtime.tasks import wait_set
from ledger.sinks.config import KIND, SinkConfig, read_sink
from ledger.sinks.dead_letters import DeadLetters, is_request_pending
from ledger.sinks.delivery import Delivery, Health, InterruptError, StoppedError, Wait
from ledger.sinks.firings import FiringSource, open_firings
from ledger.sinks.kinds import format_record, open_receiver
from ledger.sinks.record import Record
from ledger.store.log import LogStore
from ledger_client.runtime.clock import unix_us
from ledger_client.runtime.process_end import end_process
from ledger_core.query.ast import Everything, resolve
from ledger_core.query.parser import parse_query
from ledger_core.query.predicate import Matcher, make_matcher
from ledger_core.tlog.errors import MalformedError

POLL_S: Final = 0.1
"""Seconds between two checks for new entries."""


MAIL_PAUSE_S: Final = 30.0
"""Seconds after a mail until the next one, unless that is full: people read them."""

SPACING_POLL_S: Final = 1.0
"""Seconds between two checks whether what waits is a full mail by now."""

GATHERED_READS_MAX: Final = 100
"""Reads of the log for one mail; the position moves after it. A mail that has these waits no more,
so a busy log with few events for the sink is read as fast as ever."""

INTERRUPT_POLL_S: Final = 0.5
"""Seconds between two checks, while a sink waits, for what a person wants of it."""


class Batch:
    """The records that are sent next, and how far the log was read for them."""

    def __init__(self) -> None:
        self.records: Final[list[Record]] = []
        self.last: Entry | None = None
        """The last entry that was read, None for none."""
        self.reads = 0
        self.is_closed = False
        """Nothing more is added."""


class LogSource:
    """The entries of the log as the records of one sink."""

    def __init__(self, store: LogStore, config: SinkConfig) -> None:
        self.store: Final = store
        self._config: Final = config
        self._origin: Final = store.origin()
        self._matches: Final = make_filter(config.query)

    def read(self, start: int) -> list[Entry]:
        """The next entries, none at the end of the log. Raises: MalformedError when damaged."""
        config = self._config
        return read_batch(
            self.store, start, entries_max=config.batch_events, bytes_max=config.batch_bytes
        )

    def read_on(self, batch: Batch, start: int) -> None:
        """Add what comes next to a batch that begins at an entry, as far as it has room.

        A mail has the records of several reads if the query finds few: each read would be one
        otherwise. No entry is read again while a mail waits. Entries before a damaged one are sent.
        Raises: as `read`, for the first entry of the batch.
        """
        while not batch.is_closed:
            try:
                entries = self.read(start if batch.last is None else batch.last.index + 1)
            except MalformedError:
                if batch.last is None:
                    raise
                batch.is_closed = True
                return
            if not entries:
                return
            found = self.records(entries)
            size = sum(len(record.json) for record in (*batch.records, *found))
            if batch.records and self._is_beyond(len(batch.records) + len(found), size):
                batch.is_closed = True
                return
            batch.records.extend(found)
            batch.last = entries[-1]
            batch.reads += 1
            batch.is_closed = self._config.type != "smtp" or batch.reads >= GATHERED_READS_MAX

    def is_full(self, records: Sequence[Record]) -> bool:
        """Whether a batch has half as many records, or bytes, as one may have."""
        size = 2 * sum(len(record.json) for record in records)
        return len(records) >= self._config.batch_events // 2 or self._is_beyond(0, size)

    def _is_beyond(self, count: int, size: int) -> bool:
        return count > self._config.batch_events or size > self._config.batch_bytes

    def records(self, entries: list[Entry]) -> list[Record]:
        """The records of the entries that the query finds."""
        matches = self._matches
        return [
            format_record(entry, self._origin, self._config.form)
            for entry in entries
            if matches is None or matches(entry.index, entry.leaf)
        ]

    def record(self, index: int) -> Record:
        """The record of one entry. Raises: MalformedError when there is none."""
        entries = read_batch(self.store, index, entries_max=1, bytes_max=1)
        if not entries:
            raise MalformedError(f"the log has no entry {index}")
        if entries[0].index != index:
            raise MalformedError(f"the entry {index} was pruned: discard the dead letters")
        return format_record(entries[0], self._origin, self._config.form)


class MailSpacing:
    """The time after a mail in which no other one is sent, for people read them."""

    def __init__(self, pause_s: float, *, wait: Wait) -> None:
        self._pause_s: Final = pause_s
        self._wait: Final = wait
        self._end_s = 0.0

    def begin(self) -> None:
        """Note that a mail was sent."""
        self._end_s = time.monotonic() + self._pause_s

    def left_s(self) -> float:
        """Seconds until the next mail; 0 or less for none."""
        return self._end_s - time.monotonic()

    async def wait(self) -> None:
        """Wait until the pause is over, or for a second: a mirror's firings may fill a mail.

        Raises: as `Wait`.
        """
        await self._wait(min(self.left_s(), SPACING_POLL_S))


def make_filter(query: str) -> Matcher | None:
    """The test of a sink's query, None for every event. Raises: ValueError."""
    expression = resolve(parse_query(query), unix_us())
    return None if expression == Everything() else make_matcher(expression)


async def follow(directory: Path, name: str, config: SinkConfig, stop: asyncio.Event) -> None:
    """Deliver until `stop` is set. Raises: as `LogStore.open` and `read_sinks`."""
    paths = FollowerPaths(directory, KIND, name)
    with ExitStack() as opened:
        store = opened.enter_context(closing(open_log(directory / "log")))
        source = LogSource(store, config)
        cursor = Cursor(paths)
        dead = DeadLetters(paths)
        receiver = open_receiver(config)
        waits = partial(_wait, paths, stop)
        pause = MailSpacing(MAIL_PAUSE_S if config.type == "smtp" else 0.0, wait=waits)
        delivery = Delivery(
            receiver, dead, Health(name, paths), wait=waits, retry_max_s=config.retry_max_s
        )
        firings = open_firings(
            directory, name, config, origin=store.origin(), matches=make_filter(config.query)
        )
        send_firings: Callable[[], Awaitable[None]] = _nothing
        if firings is not None:
            opened.callback(firings.close)
            health = Health(f"{name}/firings", firings.paths)
            letters = DeadLetters(firings.paths)
            apart = Delivery(receiver, letters, health, wait=waits, retry_max_s=config.retry_max_s)
            send_firings = partial(_send_firings, firings, apart, source, pause)
        try:
            while not stop.is_set():
                with suppress(InterruptError):
                    await _follow(source, cursor, delivery, send_firings, pause, stop)
        except StoppedError:
            return
        finally:
            await receiver.close()


async def _nothing() -> None:
    """Sends no firings: those of a ledger are entries of its log."""


async def _send_firings(
    firings: FiringSource, delivery: Delivery, source: LogSource, pause: MailSpacing
) -> None:
    """Send what a mirror's alarms have fired. Raises: as `Delivery.deliver`."""
    await delivery.resend_dead(firings.record)
    records, move = firings.read()
    if records and pause.left_s() > 0 and not source.is_full(records):
        return  # They are in the next mail.
    await delivery.deliver(records, lambda _record: None)
    if records:
        pause.begin()
    move()


async def _follow(
    source: LogSource,
    cursor: Cursor,
    delivery: Delivery,
    send_firings: Callable[[], Awaitable[None]],
    pause: MailSpacing,
    stop: asyncio.Event,
) -> None:
    is_checked = False
    batch = Batch()
    while not stop.is_set():
        await send_firings()  # First: a log that is damaged or behind does not hold an alarm up.
        if cursor.take_rewind() is not None:
            is_checked = False
            batch = Batch()
        try:
            if not is_checked:
                check_position(source.store, cursor.position, mend="ledger sink rewind")
                delivery.succeed()
                is_checked = True
            await delivery.resend_dead(source.record)
            source.read_on(batch, cursor.position.next_index)
        except MalformedError as error:
            await delivery.fail(str(error))
            continue
        if batch.last is None:
            await wait_set(stop, POLL_S)
            continue
        records = batch.records
        is_due = batch.is_closed or pause.left_s() <= 0 or source.is_full(records)
        if records and not is_due:
            await pause.wait()
            continue
        await delivery.deliver(records, _mover(cursor))
        if records:
            pause.begin()
        cursor.move(batch.last.index + 1, batch.last.leaf_hash.hex())
        batch = Batch()


async def _wait(paths: FollowerPaths, stop: asyncio.Event, wait_s: float) -> None:
    """Wait as `Wait`; a request of a person ends the wait."""
    end_s = time.monotonic() + wait_s
    while (left_s := end_s - time.monotonic()) > 0:
        if await wait_set(stop, min(left_s, INTERRUPT_POLL_S)):
            raise StoppedError
        if paths.rewind.exists() or is_request_pending(paths):
            raise InterruptError


def _mover(cursor: Cursor) -> Callable[[Record], None]:
    """Moves the position behind each part of a batch that was confirmed."""
    return lambda record: cursor.move(record.index + 1, record.leaf_hash)


async def run(directory: Path, name: str, stop: asyncio.Event) -> None:
    """Deliver until `stop` is set or the sink is removed; what fails is tried again."""
    check_name(name)
    paths = FollowerPaths(directory, KIND, name)

    async def deliver() -> None:
        config = read_sink(directory, name)
        if config is not None:
            await until_stopped(stop, follow(directory, name, config, stop))

    health = Health(name, paths)

    def note_failure(error: str) -> float:
        health.set(error=error)
        return START_AGAIN_S

    await keep_following(paths, stop, deliver, on_failure=note_failure)


def main() -> None:
    """Run the sink that the command line names."""
    directory, name = Path(sys.argv[1]), sys.argv[2]
    run_worker(partial(run, directory, name))


if __name__ == "__main__":
    main()
    end_process(0)
