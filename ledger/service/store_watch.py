"""Watches the environments of a service: log, access and private.

A write that the disk refused was undone as a whole, and the next one may succeed. So the watch
writes a small row again once a second until that succeeds: `/readyz` then says so although nobody
appends. After a commit whose outcome is unknown only a new process can go on, which reads what the
disk holds: the watch ends, the service ends with it, and a supervisor starts it again (ADR 0028).
"""

import asyncio
from contextlib import suppress
from typing import Final

from ledger.log.sequencer import Sequencer
from ledger.store.environment import CommitFailedError, Environment
from ledger_core.tlog.errors import UnavailableError

INTERVAL_S: Final = 1.0


async def watch(sequencer: Sequencer, others: tuple[Environment, ...]) -> CommitFailedError:
    """Try failed writes again; returns the error after which only a new process can go on."""
    while (failure := broken(sequencer, others)) is None:
        await asyncio.sleep(INTERVAL_S)
        with suppress(UnavailableError):
            await sequencer.probe()
        for environment in others:
            if environment.failure is not None:
                await asyncio.to_thread(environment.probe)
    return failure


def broken(sequencer: Sequencer, others: tuple[Environment, ...]) -> CommitFailedError | None:
    """The error after which only a new process can go on, if there was one."""
    if sequencer.failure is not None:
        return sequencer.failure
    failures = [each.failure for each in others if each.is_broken]
    return CommitFailedError(f"{failures[0]}") if failures else None
