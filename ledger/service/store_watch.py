"""Watches the environments of a service, log, access and private, its open files and its memory.

A write that the disk refused was undone as a whole, and the next one may succeed. So the watch
writes a small row again once a second until that succeeds: `/readyz` then says so although nobody
appends. After a commit whose outcome is unknown only a new process can go on, which reads what the
disk holds: the watch ends, the service ends with it, and a supervisor starts it again (ADR 0028).
So it is when somebody deletes, moves or replaces the folder, also while nobody appends.
"""

import asyncio
import os
import resource
from contextlib import suppress
from typing import Final

import structlog

from ledger.log.appender import Appender
from ledger.runtime.memory import trim
from ledger.service.http.in_flight import InFlight
from ledger.store.commit_errors import CommitFailedError
from ledger.store.environment import Environment
from ledger_core.tlog.errors import UnavailableError

INTERVAL_S: Final = 1.0
DESCRIPTORS_SPARE: Final = 4
"""With fewer free descriptors than these they are used up: a search opens several files."""

TRIMMED_BYTES: Final = 1 << 24
"""Bytes of bodies and answers after which freed memory is given back."""

_log = structlog.get_logger("ledger.service")


class Descriptors:
    """The open files of this process. `are_used_up`: no connection and no file can be opened."""

    def __init__(self) -> None:
        self.are_used_up = False

    def check(self) -> None:
        """Look, and log it when it has changed."""
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        try:
            # One of them is that of the folder itself.
            used = len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208 - names alone are cheaper
        except OSError:
            used = most
        are_used_up = used > most - DESCRIPTORS_SPARE
        if are_used_up and not self.are_used_up:
            reason = "connections and files can't be opened; raise LimitNOFILE or ulimit -n"
            _log.error("descriptors_used_up", most=most, reason=reason)
        elif self.are_used_up and not are_used_up:
            _log.info("descriptors_free", used=used, most=most)
        self.are_used_up = are_used_up


async def watch(
    sequencer: Appender,
    others: tuple[Environment, ...],
    descriptors: Descriptors,
    bytes_in_flight: InFlight,
) -> CommitFailedError:
    """Try failed writes again; returns the error after which only a new process can go on."""
    seen = 0
    while (failure := broken(sequencer, others)) is None:
        await asyncio.sleep(INTERVAL_S)
        descriptors.check()
        seen = await _trim_at_rest(bytes_in_flight, seen)
        with suppress(UnavailableError):
            await sequencer.probe()
        for environment in others:
            with suppress(CommitFailedError):
                environment.check_place()
            if environment.failure is not None:
                await asyncio.to_thread(environment.probe)
    return failure


async def _trim_at_rest(in_flight: InFlight, seen: int) -> int:
    """Give back what many bodies or answers took, when none is left; returns their total."""
    if in_flight.used or in_flight.total - seen < TRIMMED_BYTES:
        return seen
    await asyncio.to_thread(trim)
    return in_flight.total


def broken(sequencer: Appender, others: tuple[Environment, ...]) -> CommitFailedError | None:
    """The error after which only a new process can go on, if there was one."""
    if sequencer.failure is not None:
        return sequencer.failure
    failures = [each.failure for each in others if each.is_broken]
    return CommitFailedError(f"{failures[0]}") if failures else None
