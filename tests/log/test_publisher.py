"""Sequencer and publisher together, over a real log: order, acknowledgement, signing."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ledger.log.group_commit import QueueFullError
from ledger.log.hold import HeldError, read_marker, write_marker
from ledger.log.mirror_peer import HeadRecord, lost_path, write_head
from ledger.log.publisher import Publisher, PublisherOptions
from ledger.log.sequencer import LIMITS, Sequencer
from ledger.store.commit_errors import CommitFailedError, StorageFullError
from ledger.store.log import LogStore
from ledger.store.writer import LogWriter, Placement
from ledger_core.tlog.errors import UnavailableError, VerificationError
from ledger_core.tlog.policy import Policy, format_policy, parse_policy
from ledger_core.tlog.tree import TreeHead
from tests.store.entries import MAP_BYTES, SIGNER, entries, entry, new_log, signed

POLICY = parse_policy(format_policy([SIGNER.verifier]).encode())
QUICK = PublisherOptions(interval_s=0.01)
WAIT_S = 60.0


@asynccontextmanager
async def running(
    path: Path,
    *,
    policy: Policy = POLICY,
    waiting_max: int = LIMITS.waiting_max,
    map_bytes: int = MAP_BYTES,
    options: PublisherOptions = QUICK,
) -> AsyncIterator[tuple[Sequencer, Publisher]]:
    writer = LogWriter.open(path, map_bytes=map_bytes)
    sequencer = Sequencer(writer, limits=replace(LIMITS, waiting_max=waiting_max))
    evidence = path.parent / "evidence"
    publisher = Publisher(sequencer, [SIGNER], policy, evidence=evidence, options=options)
    try:
        yield sequencer, publisher
    finally:
        await sequencer.stop()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    new_log(tmp_path / "log").close()
    return tmp_path / "log"


@pytest.mark.anyio
async def test_requests_are_placed_in_the_order_in_which_they_came(path: Path) -> None:
    async with running(path) as (sequencer, _):
        commits = await asyncio.gather(
            *(sequencer.append(entries(n * 3, n * 3 + 3)) for n in range(200))
        )
        indices = [p.leaf_index for commit in commits for p in commit.placed]
        assert indices == list(range(600))
        assert all(c.head.tree_size >= 3 * (n + 1) for n, c in enumerate(commits))
        assert sequencer.head.tree_size == 600


@pytest.mark.anyio
async def test_a_caller_that_goes_away_does_not_take_its_events_back(path: Path) -> None:
    async with running(path) as (sequencer, _):
        task = asyncio.create_task(sequencer.append(entries(0, 5)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        again = await sequencer.append([entry(4), entry(5)])
        placements = [p.placement for p in again.placed]
        assert placements == [Placement.DUPLICATE, Placement.APPENDED]


@pytest.mark.anyio
async def test_too_much_waiting_is_refused_whole_and_the_rest_goes_on(path: Path) -> None:
    async with running(path, waiting_max=100) as (sequencer, _):
        results = await asyncio.gather(
            *(sequencer.append(entries(n * 40, n * 40 + 40)) for n in range(8)),
            return_exceptions=True,
        )
        refused = [n for n, r in enumerate(results) if isinstance(r, QueueFullError)]
        assert refused
        assert refused[0] > 0
        kept = 8 - len(refused)
        assert sequencer.head.tree_size == kept * 40
        after = await sequencer.append(entries(900, 901))
        assert after.placed[0].leaf_index == kept * 40


@pytest.mark.anyio
async def test_a_stopped_sequencer_refuses_and_has_kept_what_was_in_line(path: Path) -> None:
    async with running(path) as (sequencer, _):
        pending = asyncio.gather(*(sequencer.append([entry(n)]) for n in range(50)))
        await asyncio.sleep(0)
        await sequencer.stop()
        await pending
        with pytest.raises(UnavailableError, match="stopping"):
            await sequencer.append([entry(99)])

    store = LogStore.open(path)
    assert store.head().tree_size == 50
    store.close()


@pytest.mark.anyio
async def test_a_full_log_answers_so_and_publishes_nothing_more(tmp_path: Path) -> None:
    new_log(tmp_path / "small", map_bytes=1 << 20).close()

    async with running(tmp_path / "small", map_bytes=1 << 20) as (sequencer, publisher):
        kept = 0
        while await _fits(sequencer, kept):
            kept += 200
        assert kept
        assert sequencer.failure is None
        assert sequencer.head.tree_size == kept
        assert (await publisher.sign()).head == sequencer.head


async def _fits(sequencer: Sequencer, kept: int) -> bool:
    try:
        await sequencer.append(entries(kept, kept + 200))
    except StorageFullError:
        return False
    return True


@pytest.mark.anyio
async def test_after_a_failed_commit_whoever_is_in_line_and_whoever_comes_is_refused(
    path: Path,
) -> None:
    async with running(path) as (sequencer, _):
        await sequencer.append([entry(0)])
        # The environment is closed under the writer: the next write transaction can't begin.
        sequencer._writer.store.environment.close()
        results = await asyncio.gather(
            *(sequencer.append([entry(n)]) for n in range(1, 20)), return_exceptions=True
        )
        assert {type(r) for r in results} == {CommitFailedError}
        with pytest.raises(CommitFailedError):
            await sequencer.append([entry(50)])
        assert isinstance(sequencer.failure, CommitFailedError)


@pytest.mark.anyio
async def test_published_heads_extend_each_other_and_survive_a_restart(path: Path) -> None:
    async def grow(first: int) -> None:
        async with running(path) as (sequencer, publisher):
            task = asyncio.create_task(publisher.run())
            for n in range(first, first + 300, 10):
                await sequencer.append(entries(n, n + 10))
                if n % 50 == 0:
                    covering = await publisher.wait_for(n + 10, timeout_s=60)
                    assert covering is not None
                    head = POLICY.check(covering.note).checkpoint
                    assert head.tree_size >= n + 10
                    assert publisher.published == covering
            task.cancel()

    await grow(0)
    await grow(300)


@pytest.mark.anyio
async def test_a_checkpoint_that_is_stored_late_does_not_replace_a_newer_one(path: Path) -> None:
    async with running(path) as (sequencer, publisher):
        store_checkpoint, may_return = sequencer.publish, asyncio.Event()

        async def store_late(*, tree_size: int, note: str) -> None:
            await store_checkpoint(tree_size=tree_size, note=note)
            if tree_size == 10:
                await may_return.wait()

        sequencer.publish = store_late  # type: ignore[method-assign]  # holds up one of two
        await sequencer.append(entries(0, 10))
        older = asyncio.create_task(publisher.publish())
        await asyncio.sleep(0.01)
        await sequencer.append(entries(10, 20))
        await publisher.publish()
        newer = publisher.published
        assert newer is not None
        assert newer.head.tree_size == 20
        may_return.set()
        await older
        assert publisher.published == newer


@pytest.mark.anyio
async def test_waiting_for_a_head_that_does_not_come_ends(path: Path) -> None:
    async with running(path) as (_, publisher):
        assert await publisher.wait_for(1, timeout_s=0.01) is None


@pytest.mark.anyio
async def test_the_same_head_is_signed_once_and_an_empty_log_has_one_too(path: Path) -> None:
    async with running(path) as (sequencer, publisher):
        await publisher.publish()
        assert publisher.published is not None
        assert publisher.published.head.tree_size == 0
        await sequencer.append([entry(0)])
        assert await publisher.sign() == await publisher.sign()


@pytest.mark.parametrize("spoil", ["smaller", "other"])
@pytest.mark.anyio
async def test_a_head_that_does_not_extend_the_last_is_never_signed(path: Path, spoil: str) -> None:
    async with running(path) as (sequencer, publisher):
        await sequencer.append(entries(0, 20))
        await publisher.publish()
        published = publisher.published
        assert published is not None
        await sequencer.append(entries(20, 30))
        head = sequencer.head
        sequencer.head = SPOILS[spoil](head)
        with pytest.raises(VerificationError):
            await publisher.sign()
        assert publisher.failure is not None
        # Stopped for good, also when the head is right again.
        sequencer.head = head
        with pytest.raises(VerificationError):
            await publisher.publish()
        await publisher.run()
        assert publisher.published == published


SPOILS: dict[str, Callable[[TreeHead], TreeHead]] = {
    "smaller": lambda head: TreeHead(head.tree_size - 15, head.root_hash),
    "other": lambda head: TreeHead(head.tree_size, bytes(32)),
}


@pytest.mark.anyio
async def test_a_store_that_was_put_back_behind_its_published_head_is_refused(path: Path) -> None:
    async def grow(first: int) -> str:
        async with running(path) as (sequencer, publisher):
            await sequencer.append(entries(first, first + 10))
            await publisher.publish()
            assert publisher.published is not None
            return publisher.published.note

    assert await grow(0) != await grow(10)
    writer = LogWriter.open(path, map_bytes=MAP_BYTES)
    with writer.store.environment.write() as transaction:
        note = signed(99, bytes(32)).encode()
        transaction.put(b"checkpoints", (99).to_bytes(8, "big"), note)
    writer.close()
    with pytest.raises(
        VerificationError, match=r"a head of size 99 was signed, but .* restored backup"
    ):
        LogWriter.open(path, map_bytes=MAP_BYTES)


@pytest.mark.anyio
async def test_a_marker_that_is_written_late_does_not_replace_a_newer_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round that is cancelled leaves the thread that writes its marker."""
    began, may_go_on, written = threading.Event(), threading.Event(), threading.Semaphore(0)

    def write(marker: Path, note: str) -> None:
        if not began.is_set():
            began.set()
            may_go_on.wait()
        write_marker(marker, note)
        written.release()

    monkeypatch.setattr("ledger.log.publisher.write_marker", write)
    marker = path.parent / "marker"
    options = PublisherOptions(interval_s=0.01, marker=marker)
    async with running(path, options=options) as (sequencer, publisher):
        await sequencer.append(entries(0, 1))
        cancelled = asyncio.create_task(publisher.publish())
        await asyncio.to_thread(began.wait)
        cancelled.cancel()
        await sequencer.append(entries(1, 2))
        later = asyncio.create_task(publisher.publish())
        await asyncio.wait((later,), timeout=0.1)
        may_go_on.set()
        await later
        await asyncio.to_thread(lambda: [written.acquire() for _ in range(2)])
        marked = read_marker(marker)
        assert marked is not None
        assert marked.head.tree_size == 2


@pytest.mark.anyio
async def test_a_marker_that_can_not_be_written_is_said_once_and_holds_up_no_head(
    path: Path,
) -> None:
    marker = path.parent / "folder" / "marker"
    options = PublisherOptions(interval_s=0.01, marker=marker)
    async with running(path, options=options) as (sequencer, publisher):

        async def publish_next() -> int:
            size = sequencer.head.tree_size
            await sequencer.append(entries(size, size + 1))
            await publisher.publish()
            assert publisher.published is not None
            assert publisher.published.head.tree_size == size + 1
            return size + 1

        for times in (1, 2):
            with capture_logs() as lines:
                await publish_next()
                await publish_next()
            assert [each["event"] for each in lines].count("marker_not_written") == 1, times
            marker.parent.mkdir()
            size = await publish_next()
            marked = read_marker(marker)
            assert marked is not None
            assert marked.head.tree_size == size
            marker.unlink()
            marker.parent.rmdir()


@pytest.mark.anyio
async def test_a_lost_head_that_a_mirror_shows_holds_the_log(path: Path) -> None:
    options = replace(QUICK, mirrors=path.parent)
    async with running(path, options=options) as (sequencer, publisher):
        await sequencer.append(entries(0, 20))
        await publisher.publish()
        # One that the log has, and what is no head of the log, hold nothing.
        assert publisher.published is not None
        for note in (publisher.published.note, "no head"):
            write_head(lost_path(path.parent, "m1"), HeadRecord(number=1, note=note))
            publisher.check_mirrors()
        await sequencer.append(entries(20, 21))
        lost = signed(1000, bytes(32))
        write_head(lost_path(path.parent, "m1"), HeadRecord(number=1, note=lost))
        async with asyncio.timeout(WAIT_S):
            await publisher.run()
        with pytest.raises(HeldError, match="the mirror m1 has a head of size 1000"):
            await sequencer.append(entries(30, 40))
