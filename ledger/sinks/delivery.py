"""Sends batches to a receiver until each record is confirmed or a dead letter.

A failure that says nothing about the records is waited out, with growing waits, for ever. A refused
batch is halved until the record is found that the receiver refuses. A batch without an answer is
halved too, and later ones grow again: a slow link may never take a whole batch in time. The
position moves after the confirmation, so a kill at any moment repeats records and loses none.
"""

import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from ledger.follow.position import (
    FollowerPaths,
    FollowerState,
    note_state,
    public_reason,
)
from ledger.follow.worker import RETRY_BASE_S
from ledger.sinks.config import BATCH_EVENTS_MAX
from ledger.sinks.dead_letters import DeadLetters
from ledger.sinks.receiver import BatchRefusedError, Receiver, RetryError
from ledger.sinks.record import Record
from ledger_client.runtime.backoff import exponential_s, spread
from ledger_client.runtime.clock import unix_s
from ledger_core.tlog.errors import MalformedError, UnavailableError

RETRY_AFTER_MAX_S: Final = 3600.0
"""The longest wait that a receiver can ask for."""

Wait = Callable[[float], Awaitable[None]]
"""Waits for so many seconds. Raises: StoppedError, InterruptError."""

_log = structlog.get_logger("ledger.sinks")


class StoppedError(Exception):
    """The sink should end; what was not confirmed is sent at the next start."""


class InterruptError(Exception):
    """A person has set another position, or asked to resend or discard the dead letters."""


class Health:
    """Keeps `state.json`, and logs a line when a follower fails and when it gets on again."""

    def __init__(self, name: str, paths: FollowerPaths, *, kind: str = "sink") -> None:
        """`kind`: of follower, in log lines."""
        self._name: Final = name
        self._kind: Final = kind
        self._paths: Final = paths
        self.expected_lag_s = 0.0
        """Seconds that entries wait by its settings."""
        self._state = FollowerState()
        self._is_written = False

    def set(self, *, error: str | None = None, dead: int | None = None) -> None:
        """Write the state if it changed; None leaves a part as it is."""
        error = self._state.error if error is None else error
        dead = self._state.dead if dead is None else dead
        since_s = 0
        if error:
            since_s = self._state.since_unix_s or unix_s()
        new = FollowerState(
            error=error, since_unix_s=since_s, dead=dead, expected_lag_s=self.expected_lag_s
        )
        if new == self._state and self._is_written:
            return
        if bool(new.error) != bool(self._state.error):
            log = _log.warning if error else _log.info
            said = {self._kind: self._name, "reason": public_reason(error)}
            log(f"{self._kind}_{'fails' if error else 'gets_on'}", **said)
        if new.dead > self._state.dead:
            _log.warning("sink_dead_letters", sink=self._name, dead=new.dead)
        self._state = new
        self._is_written = note_state(self._paths, new)


class Delivery:
    """Delivers the records of one sink. Used by one task."""

    def __init__(
        self,
        receiver: Receiver,
        dead: DeadLetters,
        health: Health,
        *,
        wait: Wait,
        retry_max_s: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`draw`: a random number in [0, 1), by which waits differ."""
        self._receiver: Final = receiver
        self._dead: Final = dead
        self._health: Final = health
        self._wait: Final = wait
        self._retry_max_s: Final = retry_max_s
        self._draw: Final = draw
        self._failures = 0
        self._records_max = BATCH_EVENTS_MAX

    async def deliver(
        self, records: Sequence[Record], on_confirmed: Callable[[Record], None]
    ) -> None:
        """Send records in order. `on_confirmed` gets the last record of each part that is done.

        Raises: StoppedError, InterruptError, OSError.
        """
        parts = deque([records] if records else [])
        while parts:
            part = parts.popleft()
            if len(part) > self._records_max:
                parts.appendleft(part[self._records_max :])
                part = part[: self._records_max]
            warning = ""
            try:
                sent = await self._receiver.send(part)
                for position, reason in sent.refused.items():
                    self._dead_letter(part[position], reason)
            except BatchRefusedError as error:
                if len(part) > 1:
                    middle = len(part) // 2
                    parts.extendleft((part[middle:], part[:middle]))
                    continue
                try:
                    self._dead_letter(part[0], str(error))
                except UnavailableError as full:
                    await self.fail(str(full))
                    parts.appendleft(part)
                    continue
            except (RetryError, UnavailableError) as error:
                if getattr(error, "is_unanswered", False):
                    self._records_max = max(1, len(part) // 2)
                await self.fail(str(error), wait_s=getattr(error, "wait_s", None))
                parts.appendleft(part)
                continue
            else:
                if sent.again:
                    await self.fail(sent.reason)
                    parts.appendleft([part[position] for position in sorted(sent.again)])
                    continue
                warning = sent.warning
            self._succeed(warning)
            # By an eighth: on a slow link, each batch that is too large again costs `timeout_s`.
            grown = self._records_max + max(1, self._records_max // 8)
            self._records_max = min(grown, BATCH_EVENTS_MAX)
            on_confirmed(part[-1])

    async def resend_dead(self, read: Callable[[int], Record]) -> None:
        """Send the dead letters again that a person asked for. Raises: as `deliver`."""
        if self._dead.is_request_pending():
            # First, so that after a kill the state never counts more letters than the files have.
            self._health.set(dead=0)
        letters = self._dead.begin_resend()
        self._health.set(dead=len(self._dead))
        for letter in letters:
            try:
                record = read(letter.index)
            except MalformedError as error:
                self._dead.add(letter.index, letter.leaf_hash, str(error))
                continue
            await self.deliver([record], lambda _record: None)
        self._dead.finish()

    def succeed(self) -> None:
        """Note that the last attempt succeeded. Raises: OSError."""
        self._succeed("")

    def _succeed(self, warning: str) -> None:
        self._failures = 0
        self._health.set(error=warning, dead=len(self._dead))

    async def fail(self, reason: str, *, wait_s: float | None = None) -> None:
        """Note a failure and wait, as long as the receiver asked for. Raises: as `Wait`."""
        self._failures += 1
        self._health.set(error=reason, dead=len(self._dead))
        delay_s = exponential_s(self._failures, base_s=RETRY_BASE_S, limit_s=self._retry_max_s)
        delay_s = spread(delay_s, self._draw())
        if wait_s is not None:
            delay_s = max(delay_s, min(wait_s, RETRY_AFTER_MAX_S))
        await self._wait(delay_s)

    def _dead_letter(self, record: Record, reason: str) -> None:
        self._dead.add(record.index, record.leaf_hash, reason)
