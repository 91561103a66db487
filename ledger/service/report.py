"""The reports of a service's processes on themselves, for `/readyz`, `/metrics` and `/v1/log`.

One process orders events, and each one that answers requests has counters and limits of its own. An
answer speaks for all of them. Anybody may ask, and each report is work for every process, so those
who ask at once share one, and there are `1 / REPORT_PAUSE_S` in a second.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from ledger.log.witness_client import WitnessStatus
from ledger.service.engine import Engine
from ledger.service.follower_lag import FollowerLag, follower_lags, follower_warnings
from ledger.service.metrics import Counter
from ledger.service.mirrored import Lag
from ledger.store.commit_errors import free_bytes
from ledger.store.environment import Environment

MAP_FILL_WARNED: Final = 0.9
REPORT_PAUSE_S: Final = 0.05
"""Seconds from one report to the next of a process."""


class Report(msgspec.Struct, kw_only=True):
    """The state of one process, or of all of them.

    `reasons`: why the service is not ready. `warnings`: what will soon prevent it from being ready.
    """

    reasons: Sequence[str] = ()
    warnings: Sequence[str] = ()
    counters: Sequence[Counter] = ()
    bytes_in_flight: int = 0
    requests_in_flight: int = 0
    clock_behind_s: int = 0
    witnesses: Sequence[WitnessStatus] = ()
    lag: Lag = Lag()
    followers: Sequence[FollowerLag] = ()
    released_end: int = 0


class Reports(Protocol):
    """Gathers the reports of the other parts of a service."""

    async def others(self, own: Report) -> Sequence[Report]:
        """The report of the part that orders events, and those of other processes.

        `own`: the report of the process that asks, whose counters outlast it from then on.
        """
        ...


class EngineReports:
    """The other parts of a service that is one process: its engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def others(self, own: Report) -> Sequence[Report]:  # noqa: ARG002 - as `Reports`
        """The report of the engine."""
        return (engine_report(self._engine),)


class SharedReport:
    """Makes one report for all who ask at the same time. Used on one event loop."""

    def __init__(self, make: Callable[[], Awaitable[Report]]) -> None:
        self._make: Final = make
        self._begun_s = -REPORT_PAUSE_S
        self._last: asyncio.Task[Report] | None = None
        self._next: asyncio.Task[Report] | None = None

    async def newest(self) -> Report:
        """A report that was begun after this call. Raises: what making it raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._make_next(self._last))
        return await asyncio.shield(self._next)

    async def _make_next(self, last: asyncio.Task[Report] | None) -> Report:
        loop = asyncio.get_running_loop()
        if last is not None:
            await asyncio.wait({last})
        await asyncio.sleep(self._begun_s + REPORT_PAUSE_S - loop.time())
        # Who asks from now on waits for the one after this.
        self._begun_s, self._last, self._next = loop.time(), self._next, None
        return await self._make()


def combine(reports: Sequence[Report]) -> Report:
    """One report of several; what several of them say is said once."""
    return Report(
        reasons=_unique(each.reasons for each in reports),
        warnings=_unique(each.warnings for each in reports),
        counters=[counter for each in reports for counter in each.counters],
        bytes_in_flight=sum(each.bytes_in_flight for each in reports),
        requests_in_flight=sum(each.requests_in_flight for each in reports),
        clock_behind_s=max(each.clock_behind_s for each in reports),
        witnesses=[status for each in reports for status in each.witnesses],
        lag=max((each.lag for each in reports), key=lambda lag: (lag.entries, lag.seconds)),
        followers=[lag for each in reports for lag in each.followers],
        released_end=max(each.released_end for each in reports),
    )


def engine_report(engine: Engine) -> Report:
    """The report of the part that orders events."""
    mirrored = engine.mirrored
    followers = follower_lags(engine.followers, engine.store)
    release = engine.store.release()
    return Report(
        reasons=_engine_reasons(engine),
        warnings=[*_engine_warnings(engine), *follower_warnings(followers)],
        clock_behind_s=engine.clock.behind_s(),
        witnesses=engine.publisher.witnesses,
        lag=Lag() if mirrored is None else mirrored.lag(),
        followers=followers,
        released_end=0 if release is None else release.end,
    )


def write_warnings(environments: Mapping[str, Environment]) -> list[str]:
    """Warnings about environments that can't be written, by the names of their folders."""
    return [
        f"the writes to {name} fail: {environment.failure}"
        for name, environment in environments.items()
        if environment.failure is not None
    ]


def map_warnings(environments: Mapping[str, Environment]) -> list[str]:
    """Warnings about environments that will soon be full."""
    return [
        f"the map of {name} is {environment.fill_ratio():.0%} full: raise "
        f"{environment.map_setting} and start again"
        for name, environment in environments.items()
        if environment.fill_ratio() > MAP_FILL_WARNED
    ]


def _engine_reasons(engine: Engine) -> list[str]:
    reasons = []
    if (hold := engine.sequencer.held) is not None:
        reasons.append(f"no event is taken until a person runs `ledger recover`: {hold.reason}")
    reasons += engine.broken
    reasons += () if engine.mirrored is None else engine.mirrored.reasons()
    if (failed := engine.store.environment.failure) is not None:
        reasons.append(f"no event is taken: {failed}")
    elif engine.sequencer.failure is not None:
        reasons.append("no event is taken: a commit failed, and the service must be started again")
    elif (stalled := engine.sequencer.stalled) is not None:
        reasons.append(f"no event is taken: {stalled}")
    if engine.publisher.failure is not None:
        reasons.append(
            "no head is signed: this log or its store has another history than was signed or "
            "witnessed; the log lines say which, and the folder evidence/ shows it"
        )
    return reasons


def _engine_warnings(engine: Engine) -> list[str]:
    warnings = []
    if engine.publisher.quorum_missing is not None:
        errors = [each.error for each in engine.publisher.witnesses if each.error is not None]
        reasons = "; ".join((engine.publisher.quorum_missing, *errors))
        warnings.append(f"the newest head is not published, what is published stays: {reasons}")
    if behind_s := engine.clock.behind_s():
        warnings.append(
            f"this host's clock is {behind_s} s behind the last entry: times of receipt stand "
            "still until it has caught up"
        )
    free = free_bytes(engine.store.path)
    if free < engine.settings.free_bytes_min:
        warnings.append(
            f"the disk of {engine.store.path} has {free:,} bytes free, less than free_bytes_min, "
            f"{engine.settings.free_bytes_min:,}"
        )
    warnings += map_warnings({"log": engine.store.environment})
    warnings += () if engine.mirrored is None else engine.mirrored.warnings()
    warnings += [
        f"the follower {name} has ended and will be started again"
        for name in engine.followers.not_running()
    ]
    warnings += engine.followers.faults()
    return warnings


def _unique(lists: Iterable[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(text for each in lists for text in each))
