"""How far the followers of a service are behind its log, for `/readyz` and `/metrics`."""

from collections.abc import Sequence
from typing import Final

import msgspec

from ledger.follow.followers import Followers
from ledger.follow.position import FollowerReport, public_reason
from ledger.store.log import LogStore
from ledger_client.runtime.clock import unix_us
from ledger_core.event.canonical import parse_leaf
from ledger_core.event.times import parse_time
from ledger_core.tlog.errors import MalformedError

LAG_WARNED_S: Final = 60.0
"""Seconds that an entry may wait for a follower, beyond what its settings make it wait, before
`/readyz` warns."""


class FollowerLag(msgspec.Struct, frozen=True, kw_only=True):
    """`entries` wait for the follower, the oldest of them for `seconds`."""

    report: FollowerReport
    entries: int
    seconds: float


def follower_lags(followers: Followers, store: LogStore) -> list[FollowerLag]:
    """The lag of each follower that has a file of configuration. Cost: a leaf each."""
    return [_lag(store, report) for report in followers.reports()]


def lag_gauges(lags: Sequence[FollowerLag]) -> dict[str, dict[tuple[str, ...], float]]:
    """The gauges of `/metrics`, by the name of the follower."""
    return {
        "follower_lag_entries": {(lag.report.name,): lag.entries for lag in lags},
        "follower_lag_seconds": {(lag.report.name,): lag.seconds for lag in lags},
        "follower_expected_lag_seconds": {
            (lag.report.name,): lag.report.state.expected_lag_s for lag in lags
        },
        "follower_failing": {(lag.report.name,): bool(lag.report.state.error) for lag in lags},
        "follower_dead_letters": {(lag.report.name,): lag.report.state.dead for lag in lags},
    }


def follower_warnings(lags: Sequence[FollowerLag]) -> list[str]:
    """The obstacles of a follower, a line each, that anybody may read."""
    warnings = []
    for lag in lags:
        report = lag.report
        behind = f"{lag.entries:,} entries wait, the oldest for {lag.seconds:.0f} s"
        if report.is_paused:
            continue
        if report.state.error:
            waiting = f" ({behind})" if lag.entries else ""
            reason = public_reason(report.state.error)
            warnings.append(f"the follower {report.name} fails: {reason}{waiting}")
        elif lag.seconds > LAG_WARNED_S + report.state.expected_lag_s:
            warnings.append(f"the follower {report.name} is behind: {behind}")
        if report.state.dead:
            warnings.append(
                f"the follower {report.name} has {report.state.dead:,} dead letters: see "
                "ledger sink dead-letters"
            )
    return warnings


def _lag(store: LogStore, report: FollowerReport) -> FollowerLag:
    next_index = max(report.next_index, store.minimum_index)
    entries = max(0, store.head().tree_size - next_index)
    seconds = 0.0
    if entries:
        try:
            # Of an entry that was released, the first that is here tells: no bucket is asked.
            leaf = store.leaf(max(next_index, store.local_start()))
            received = parse_time(parse_leaf(leaf).received.time) if leaf else unix_us()
        except MalformedError:
            received = unix_us()  # A damaged entry: the follower says so itself.
        seconds = max(0, unix_us() - received) / 1_000_000
    return FollowerLag(report=report, entries=entries, seconds=seconds)
