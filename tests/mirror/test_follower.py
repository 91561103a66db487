"""The loops of a mirror end when they are cancelled, whatever comes at that moment."""

import asyncio
from unittest import mock

import pytest

from ledger.mirror.fetching import LogReader
from ledger.mirror.follower import Follower
from ledger.mirror.replica import Replica
from ledger.mirror.state import MirrorState
from ledger_core.tlog.policy import VerifiedHead
from ledger_core.tlog.tree import TreeHead

WAIT_S = 120.0
EMPTY = TreeHead(0, bytes(32))


async def never(**_options: int) -> str:
    return await asyncio.Future()


@pytest.mark.anyio
@pytest.mark.parametrize("turns", range(6))
async def test_a_cancellation_that_comes_with_a_head_is_kept(turns: int) -> None:
    reader = mock.AsyncMock(spec=LogReader, fetch_head=never)
    replica = mock.Mock(spec=Replica, held=EMPTY, stopped=None, published=None)
    follower = Follower(replica, reader, mock.Mock(spec=MirrorState))
    following = asyncio.create_task(follower.run())
    await asyncio.sleep(0.01)
    offered = mock.Mock(spec=VerifiedHead, checkpoint=mock.Mock(tree_size=1))
    offering = asyncio.create_task(follower.wait_held(offered, timeout_s=WAIT_S))
    for _ in range(turns):
        await asyncio.sleep(0)
    following.cancel()
    await asyncio.wait({following}, timeout=WAIT_S)
    assert following.cancelled()
    offering.cancel()
