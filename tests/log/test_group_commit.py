"""Jobs are committed in order, together when they wait together, and told only afterwards."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ledger.log import group_commit
from ledger.log.group_commit import (
    CommitLimits,
    GroupCommit,
    QueueFullError,
    StalledError,
    Weight,
)
from ledger.store.commit_errors import CommitFailedError, StorageFullError
from ledger_core.tlog.errors import UnavailableError
from tests.waiting import until_async

ITEMS, BYTES = (lambda job: Weight(job, 0)), (lambda job: Weight(1, job))


class Disk:
    """A commit that can be held up, and fails when it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.errors: list[Exception] = []
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def commit(self, jobs: Sequence[int]) -> list[int]:
        self.begun.release()
        self.go_on.acquire()
        self.batches.append(list(jobs))
        if self.errors:
            raise self.errors.pop(0)
        return [-job for job in jobs]

    async def until_begun(self) -> None:
        await asyncio.to_thread(self.begun.acquire)


def open_commits(
    disk: Disk,
    *,
    waiting_max: int = 100,
    batch_max: int = 10,
    waiting_bytes_max: int = 1 << 30,
    **others: Any,
) -> GroupCommit[int, int]:
    limits = CommitLimits(
        waiting_max=waiting_max, batch_max=batch_max, waiting_bytes_max=waiting_bytes_max
    )
    return GroupCommit(disk.commit, name="disk", limits=limits, **others)


async def submitted(commits: GroupCommit[int, int], jobs: range) -> list[asyncio.Future[int]]:
    tasks = [asyncio.ensure_future(commits.submit(job)) for job in jobs]
    await asyncio.sleep(0)
    return tasks


@pytest.mark.anyio
async def test_what_waits_for_a_commit_shares_the_next_one() -> None:
    disk = Disk()
    commits = open_commits(disk)
    first = await submitted(commits, range(1))
    await disk.until_begun()
    rest = await submitted(commits, range(1, 25))
    assert not any(task.done() for task in (*first, *rest))
    disk.go_on.release(4)
    assert await asyncio.gather(*first, *rest) == [-job for job in range(25)]
    assert disk.batches == [[0], [*range(1, 11)], [*range(11, 21)], [*range(21, 25)]]
    await commits.stop()


@pytest.mark.anyio
async def test_nothing_is_told_before_its_commit_is_done() -> None:
    disk = Disk()
    commits = open_commits(disk)
    (task,) = await submitted(commits, range(1))
    await disk.until_begun()
    assert not task.done()
    disk.go_on.release()
    assert await task == 0
    await commits.stop()


@pytest.mark.anyio
async def test_jobs_of_one_turn_of_the_loop_share_the_first_commit() -> None:
    disk = Disk()
    commits = open_commits(disk)
    disk.go_on.release()
    assert await asyncio.gather(*map(commits.submit, range(1, 6))) == [-1, -2, -3, -4, -5]
    assert disk.batches == [[1, 2, 3, 4, 5]]
    await commits.stop()


@pytest.mark.anyio
@pytest.mark.parametrize("waiting", [(), (4,)])
@pytest.mark.parametrize("weigh", [ITEMS, BYTES])
async def test_jobs_that_are_not_handed_over_yet_count_as_waiting(
    weigh: Callable[[int], Weight], waiting: tuple[int, ...]
) -> None:
    disk = Disk()
    commits = open_commits(
        disk, waiting_max=10 if weigh is ITEMS else 100, waiting_bytes_max=10, weigh=weigh
    )
    futures = [commits.submit(1)]
    await asyncio.sleep(0)
    await disk.until_begun()
    futures += [commits.submit(job) for job in waiting]
    await asyncio.sleep(0)  # These are handed over, and wait.
    fitting = (3, 3) if waiting else (7, 3)
    futures += [commits.submit(job) for job in fitting]
    with pytest.raises(QueueFullError):
        commits.submit(1)
    disk.go_on.release(10)
    assert await asyncio.gather(*futures) == [-1, *(-job for job in (*waiting, *fitting))]
    await commits.stop()


@pytest.mark.anyio
async def test_nothing_is_queued_behind_a_commit_that_stands_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = Disk()
    commits = open_commits(disk)
    first = commits.submit(1)
    await disk.until_begun()
    second = commits.submit(2)
    assert commits.stalled is None
    monkeypatch.setattr(group_commit, "STALL_S", -1.0)
    with pytest.raises(StalledError, match="does not finish a write") as refused:
        commits.submit(3)
    assert refused.value.retry_after_s
    # What was queued before is not lost, and all goes on by itself.
    disk.go_on.release(10)
    assert [await first, await second] == [-1, -2]
    await until_async(lambda: commits.stalled is None)
    assert await commits.submit(4) == -4
    assert disk.batches == [[1], [2], [4]]
    await commits.stop()


@pytest.mark.anyio
async def test_a_stop_commits_what_was_submitted_in_the_same_turn() -> None:
    disk = Disk()
    commits = open_commits(disk)
    disk.go_on.release()
    future = commits.submit(1)
    await commits.stop()
    assert await future == -1


@pytest.mark.anyio
async def test_what_is_handed_over_after_the_thread_ended_is_refused() -> None:
    disk = Disk()
    disk.errors.append(CommitFailedError("EIO"))
    commits = open_commits(disk)
    (first,) = await submitted(commits, range(1))
    await disk.until_begun()
    disk.go_on.release()
    commits._thread.join()  # The loop does not know of it yet.
    late = commits.submit(1)
    async with asyncio.timeout(60):
        for outcome in await asyncio.gather(first, late, return_exceptions=True):
            assert isinstance(outcome, CommitFailedError)
    await commits.stop()


@pytest.mark.anyio
async def test_more_than_may_wait_is_refused_at_once() -> None:
    disk = Disk()
    commits = open_commits(disk, waiting_max=3)
    tasks = await submitted(commits, range(1))
    await disk.until_begun()
    tasks += await submitted(commits, range(1, 4))
    with pytest.raises(QueueFullError):
        await commits.submit(4)
    disk.go_on.release(2)
    await asyncio.gather(*tasks)
    await commits.stop()


@pytest.mark.anyio
async def test_a_full_disk_refuses_its_batch_and_the_next_is_tried() -> None:
    disk = Disk()
    disk.errors.append(StorageFullError("full"))
    commits = open_commits(disk)
    disk.go_on.release(2)
    with pytest.raises(StorageFullError):
        await commits.submit(1)
    assert commits.failure is None
    assert await commits.submit(2) == -2
    await commits.stop()


@pytest.mark.parametrize("error", [CommitFailedError("EIO"), RuntimeError("a fault of our own")])
@pytest.mark.anyio
async def test_after_a_commit_of_unknown_outcome_nothing_is_accepted(error: Exception) -> None:
    disk = Disk()
    disk.errors.append(error)
    commits = open_commits(disk)
    tasks = await submitted(commits, range(1))
    await disk.until_begun()
    tasks += await submitted(commits, range(1, 30))
    disk.go_on.release()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, CommitFailedError)
    assert commits.failure is not None
    with pytest.raises(CommitFailedError):
        await commits.submit(30)
    assert disk.batches == [[0]]
    await commits.stop()


@pytest.mark.anyio
async def test_a_job_is_committed_though_its_caller_went_away() -> None:
    disk = Disk()
    commits = open_commits(disk)
    (task,) = await submitted(commits, range(1))
    await disk.until_begun()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    disk.go_on.release()
    await commits.stop()
    assert disk.batches == [[0]]


@pytest.mark.anyio
async def test_stopping_commits_what_waits_and_refuses_what_comes() -> None:
    disk = Disk()
    commits = open_commits(disk)
    tasks = await submitted(commits, range(1))
    await disk.until_begun()
    tasks += await submitted(commits, range(1, 15))
    stopping = asyncio.create_task(commits.stop())
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError, match="stopping"):
        await commits.submit(15)
    disk.go_on.release(3)
    assert await asyncio.gather(*tasks) == [-job for job in range(15)]
    await stopping


@pytest.mark.anyio
@pytest.mark.parametrize("weigh", [ITEMS, BYTES])
async def test_as_much_may_wait_as_the_limits_say_and_no_more(
    weigh: Callable[[int], Weight],
) -> None:
    disk = Disk()
    commits = open_commits(
        disk, waiting_max=10 if weigh is ITEMS else 100, waiting_bytes_max=10, weigh=weigh
    )
    first = await submitted(commits, range(1, 2))
    await disk.until_begun()
    waiting = [asyncio.ensure_future(commits.submit(job)) for job in (7, 3)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError):
        await commits.submit(1)
    disk.go_on.release(10)
    assert await asyncio.gather(*first, *waiting) == [-1, -7, -3]
    # What was committed counts no more, and what was refused never did.
    assert await commits.submit(10) == -10
    await commits.stop()


@pytest.mark.anyio
@pytest.mark.parametrize("weigh", [ITEMS, BYTES])
async def test_a_job_larger_than_every_limit_is_committed_when_nothing_waits(
    weigh: Callable[[int], Weight],
) -> None:
    disk = Disk()
    disk.go_on.release(10)
    commits = open_commits(disk, waiting_max=5, batch_max=5, waiting_bytes_max=5, weigh=weigh)
    assert await commits.submit(50) == -50
    assert await commits.submit(5) == -5
    await commits.stop()
    assert disk.batches == [[50], [5]]


@pytest.mark.anyio
async def test_a_commit_holds_as_many_items_as_its_limit_says() -> None:
    disk = Disk()
    commits = open_commits(disk, batch_max=10, weigh=ITEMS)
    tasks = await submitted(commits, range(1, 2))
    await disk.until_begun()
    tasks += [asyncio.ensure_future(commits.submit(job)) for job in (4, 6, 9, 2)]
    await asyncio.sleep(0)
    disk.go_on.release(10)
    await asyncio.gather(*tasks)
    await commits.stop()
    assert disk.batches == [[1], [4, 6], [9], [2]]
