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
"""Reads of the log for one mail; the position moves after it."""

INTERRUPT_POLL_S: Final = 0.5
"""Seconds between two checks, while a sink waits, for what a person wants of it."""


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

    def take(self, start: int) -> tuple[list[Record], Entry | None]:
        """The records of a batch and the last entry that was read for it, None at the log's end.

        A mail has those of several reads if the query finds few: each read would be one otherwise.
        Raises: as `read`.
        """
        if self._config.type != "smtp":
            entries = self.read(start)
            return self.records(entries), entries[-1] if entries else None
        records: list[Record] = []
        last: Entry | None = None
        for _ in range(GATHERED_READS_MAX):
            entries = self.read(start)
            found = self.records(entries)
            size = sum(len(record.json) for record in (*records, *found))
            if not entries or (records and self._is_beyond(len(records) + len(found), size)):
                break
            records += found
            last = entries[-1]
            start = last.index + 1
        return records, last

    def is_full(self, records: Sequence[Record]) -> bool:
        """Whether a batch has as many records, or half as many bytes, as one may have."""
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
    while not stop.is_set():
        await send_firings()  # First: a log that is damaged or behind does not hold an alarm up.
        if cursor.take_rewind() is not None:
            is_checked = False
        try:
            if not is_checked:
                check_position(source.store, cursor.position, mend="ledger sink rewind")
                delivery.succeed()
                is_checked = True
            await delivery.resend_dead(source.record)
            records, last = source.take(cursor.position.next_index)
        except MalformedError as error:
            await delivery.fail(str(error))
            continue
        if last is None:
            await wait_set(stop, POLL_S)
            continue
        if records and pause.left_s() > 0 and not source.is_full(records):
            await pause.wait()
            continue
        await delivery.deliver(records, _mover(cursor))
        if records:
            pause.begin()
        cursor.move(last.index + 1, last.leaf_hash.hex())


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
