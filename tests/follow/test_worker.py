"""A follower goes on after a failure that a later try may not have."""

import asyncio
from pathlib import Path

import pytest

from ledger.follow.position import FollowerPaths
from ledger.follow.worker import keep_following
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
