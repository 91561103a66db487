"""What `/readyz` says of followers that are behind."""

from ledger.follow.position import FollowerReport, FollowerState, with_answer
from ledger.service.follower_lag import LAG_WARNED_S, FollowerLag, follower_warnings, lag_gauges


def lag(seconds: float, **state: float) -> FollowerLag:
    """A follower whose oldest entry waits so long."""
    report = FollowerReport(
        name="archive/copy",
        next_index=0,
        is_paused=False,
        state=FollowerState(**state),  # type: ignore[arg-type]  # the one key is a float
    )
    return FollowerLag(report=report, entries=3, seconds=seconds)


def test_a_follower_that_waits_by_its_settings_is_not_behind_before() -> None:
    assert follower_warnings([lag(LAG_WARNED_S)]) == []
    (warning,) = follower_warnings([lag(LAG_WARNED_S + 1)])
    assert warning == "the follower archive/copy is behind: 3 entries wait, the oldest for 61 s"
    assert follower_warnings([lag(LAG_WARNED_S + 599, expected_lag_s=600.0)]) == []
    assert follower_warnings([lag(LAG_WARNED_S + 601, expected_lag_s=600.0)])


def test_what_a_follower_may_wait_is_a_gauge_that_alerts_can_take_off() -> None:
    gauges = lag_gauges([lag(900.0, expected_lag_s=600.0)])
    assert gauges["follower_lag_seconds"] == {("archive/copy",): 900.0}
    assert gauges["follower_expected_lag_seconds"] == {("archive/copy",): 600.0}


def test_what_a_receiver_answered_is_not_shown_to_everybody() -> None:
    error = with_answer("HTTP 502", 'bad gateway: Bearer sesame {"event": …}')
    state = FollowerState(error=error)
    report = FollowerReport(name="sinks/siem", next_index=0, is_paused=False, state=state)
    (warning,) = follower_warnings([FollowerLag(report=report, entries=0, seconds=0.0)])
    assert warning == "the follower sinks/siem fails: HTTP 502"
