"""A follower goes on after a failure that a later try may not have."""

import asyncio
from pathlib import Path

import pytest

from ledger.follow.position import FollowerPaths, read_report
from ledger.follow.worker import keep_following
from ledger.sinks.delivery import Health
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError

pytestmark = pytest.mark.anyio


async def test_what_fails_is_tried_again_with_its_reason_noted(tmp_path: Path) -> None:
    errors = [
        OSError("no route"),
        UnavailableError("away"),
        MalformedError("not a head"),
        VerificationError("not the root"),
    ]
    noted = []
    runs = 0

    async def follow() -> None:
        nonlocal runs
        runs += 1
        if runs <= len(errors):
            raise errors[runs - 1]

    def note(error: str) -> float:
        noted.append(error)
        return 0.0

    paths = FollowerPaths(tmp_path, "archive", "berlin")
    await keep_following(paths, asyncio.Event(), follow, on_failure=note)
    assert noted == ["no route", "away", "not a head", "not the root"]
    assert runs == len(errors) + 1


def test_a_follower_whose_state_cannot_be_written_goes_on(tmp_path: Path) -> None:
    """As on a full disk, where sinks ended with a traceback and were started again and again."""
    paths = FollowerPaths(tmp_path, "sinks", "siem")
    health = Health("siem", paths)
    health.set(error="the receiver does not answer")
    paths.make()
    health.set(error="the receiver does not answer")
    state = read_report(tmp_path, "sinks", "siem").state
    assert state.error == "the receiver does not answer"
