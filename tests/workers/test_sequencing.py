"""The contract of `Appender` and `Heads`, in one process and across a socket."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import pytest

from ledger.log import group_commit
from ledger.log import sequencer as sequencing
from ledger.log.append_request import AppendRequest, UnstampedEvent
from ledger.log.appender import Appender
from ledger.log.group_commit import QueueFullError, StalledError
from ledger.log.hold import HeldError, Hold
from ledger.log.publisher import Publisher, PublisherOptions
from ledger.log.sequencer import LIMITS, Sequencer
from ledger.service.metrics import Counter
from ledger.service.mirrored import Heads
from ledger.service.report import Report, combine
from ledger.service.settings import Settings
from ledger.store import earlier_entries
from ledger.store.commit_errors import CommitFailedError, StorageFullError
from ledger.store.log import LogStore
from ledger.store.writer import LogWriter, Placement
from ledger.workers.gateway import Gateway
from ledger.workers.messages import VERSIONS, Versions, shared_version
from ledger.workers.remote import FRAMES_MAX, RemoteHeads, RemoteSequencer, SequencerClient
from ledger.workers.remote_reports import RemoteReports
from ledger.workers.start import Start, decode_start, encode_start, settings_of
from ledger_core.event.canonical import format_leaf, parse_leaf
from ledger_core.event.times import format_time
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.hashing import HASH_BYTES, leaf_hash
from ledger_core.tlog.policy import format_policy, parse_policy
from tests.store.entries import MAP_BYTES, SIGNER, START_UNIX_US, entry, new_log, signed
from tests.waiting import until_async

POLICY = parse_policy(format_policy([SIGNER.verifier]).encode())
WAIT_S = 60.0


class Served(NamedTuple):
    """A sequencer as callers see it, and its parts."""

    sequencing: Appender
    heads: Heads
    sequencer: Sequencer
    publisher: Publisher
    client: SequencerClient | None


@asynccontextmanager
async def in_process(
    path: Path, *, waiting_max: int = LIMITS.waiting_max, map_bytes: int = MAP_BYTES
) -> AsyncIterator[Served]:
    writer = LogWriter.open(path, map_bytes=map_bytes)
    times = iter(range(START_UNIX_US, START_UNIX_US + 10**9))
    sequencer = Sequencer(
        writer,
        limits=replace(LIMITS, waiting_max=waiting_max),
        hold=Hold(),
        receive_us=lambda: next(times),
    )
    publisher = Publisher(
        sequencer,
        [SIGNER],
        POLICY,
        evidence=path.parent / "evidence",
        options=PublisherOptions(interval_s=0.01),
    )
    try:
        yield Served(sequencer, publisher, sequencer, publisher, None)
    finally:
        await sequencer.stop()


@asynccontextmanager
async def across_a_socket(
    path: Path, *, waiting_max: int = LIMITS.waiting_max, map_bytes: int = MAP_BYTES
) -> AsyncIterator[Served]:
    loop = asyncio.get_running_loop()
    async with in_process(path, waiting_max=waiting_max, map_bytes=map_bytes) as inner:
        gateway = Gateway(inner.sequencer, inner.publisher)
        client = SequencerClient()
        ours, theirs = socket.socketpair()
        await loop.create_unix_connection(gateway.connect, sock=ours)
        await loop.create_unix_connection(lambda: client.link, sock=theirs)
        running = asyncio.create_task(gateway.run())
        # Another process opens the store by itself; this one has it open already.
        store = inner.sequencer.store
        limits = replace(LIMITS, waiting_max=waiting_max)
        remote = RemoteSequencer(client, store, limits)
        try:
            yield Served(
                remote, RemoteHeads(client, store), inner.sequencer, inner.publisher, client
            )
        finally:
            client.link.close()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


class Serve(Protocol):
    """One of the two."""

    def __call__(
        self, path: Path, *, waiting_max: int = ..., map_bytes: int = ...
    ) -> AbstractAsyncContextManager[Served]: ...


both = pytest.mark.parametrize("serve", [in_process, across_a_socket])


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    new_log(tmp_path / "log").close()
    return tmp_path / "log"


def event(number: int, *, reason: str = "", tenant: str = "") -> UnstampedEvent:
    made = entry(number, reason=reason, tenant=tenant)
    return UnstampedEvent(made.id_bytes, made.event_json, made.time_filled)


def request(*events: UnstampedEvent, by: str = "tests") -> AppendRequest:
    return AppendRequest(by, list(events), sum(len(each.event_json) for each in events))


def numbered(start: int, end: int, *, by: str = "tests") -> AppendRequest:
    return request(*map(event, range(start, end)), by=by)


@both
@pytest.mark.anyio
async def test_requests_are_placed_in_the_order_of_the_calls(serve: Serve, path: Path) -> None:
    async with serve(path) as served:
        outcomes = await asyncio.gather(
            *(served.sequencing.append_events(numbered(n * 3, n * 3 + 3)) for n in range(200))
        )
        indices = [place.leaf_index for each in outcomes for place in each.places()]
        assert indices == list(range(600))
        times = [each.received_time for each in outcomes]
        assert times == sorted(times)
        assert served.sequencing.head.tree_size == 600
        check_stored(served.sequencer.store, 600)


@both
@pytest.mark.anyio
async def test_ids_that_come_again_are_compared_by_several_commits(
    serve: Serve, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compared in one commit is bounded, so others append between; no event is lost."""
    async with serve(path) as served:
        append = served.sequencing.append_events
        await append(numbered(0, 600))
        monkeypatch.setattr(earlier_entries, "COMPARED_BYTES_MAX", 1)
        again = [event(3), event(300, reason="another"), event(900), event(500, tenant="acme")]
        outcome, other = await asyncio.gather(
            append(request(*again, event(5))), append(numbered(901, 902))
        )
        places = list(outcome.places())
        assert [each.placement.name for each in places] == [
            "DUPLICATE", "CONFLICT", "APPENDED", "DUPLICATE", "DUPLICATE"
        ]  # fmt: skip
        # That of a tenant has an index of its own; a later commit has appended it.
        assert [each.leaf_index for each in places] == [3, 300, 600, 602, 5]
        assert [each.leaf_index for each in other.places()] == [601]
        assert parse_leaf(places[3].leaf).event.tenant == "acme"
        assert served.sequencing.head.tree_size == 603
        check_stored(served.sequencer.store, 603)


@both
@pytest.mark.anyio
async def test_entries_that_are_too_much_to_answer_with_are_not_compared(
    serve: Serve, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(path) as served:
        append = served.sequencing.append_events
        await append(numbered(0, 300))
        monkeypatch.setattr(earlier_entries, "COMPARED_BYTES_MAX", 1)
        monkeypatch.setattr(sequencing, "ANSWERED_BYTES_MAX", 1_000)
        outcome = await append(request(*(event(7, reason="another") for _ in range(50))))
        placements = [each.placement for each in outcome.places()]
        assert placements.count(Placement.LATER) > 40
        assert placements.count(Placement.CONFLICT) > 1


def check_stored(store: LogStore, tree_size: int) -> None:
    """Times of receipt never run backwards along the log."""
    leaves = [store.leaf(index) for index in range(tree_size)]
    times = [parse_leaf(leaf or b"").received.time for leaf in leaves]
    assert times == sorted(times)


@both
@pytest.mark.anyio
async def test_an_outcome_says_what_is_stored(serve: Serve, path: Path) -> None:
    async with serve(path) as served:
        store = served.sequencer.store
        first = await served.sequencing.append_events(numbered(0, 3, by="one"))
        (a, b, c) = first.places()
        for index, place in enumerate((a, b, c)):
            leaf = format_leaf(
                event_json=event(index).event_json, by="one", received_time=first.received_time
            )
            assert place == (Placement.APPENDED, index, leaf_hash(leaf), b"")
            assert store.leaf(index) == leaf
        mixed = request(event(9), event(1), event(2, reason="another"), event(10), by="two")
        second = await served.sequencing.append_events(mixed)
        places = list(second.places())
        assert [place.placement.value for place in places] == [
            *("appended", "duplicate", "conflict", "appended")
        ]
        assert [place.leaf_index for place in places] == [3, 1, 2, 4]
        assert places[1].leaf == store.leaf(1)
        assert places[2].leaf == store.leaf(2)
        assert len(second.leaf_hashes) == 4 * HASH_BYTES


@both
@pytest.mark.anyio
async def test_a_caller_that_goes_away_does_not_take_its_events_back(
    serve: Serve, path: Path
) -> None:
    async with serve(path) as served:
        task = asyncio.create_task(served.sequencing.append_events(numbered(0, 5)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        again = await served.sequencing.append_events(numbered(4, 6))
        assert [place.leaf_index for place in again.places()] == [4, 5]


@both
@pytest.mark.anyio
async def test_too_much_that_waits_is_refused_and_nothing_of_it_is_kept(
    serve: Serve, path: Path
) -> None:
    async with serve(path, waiting_max=20) as served:
        outcomes = await asyncio.gather(
            *(served.sequencing.append_events(numbered(n * 10, n * 10 + 10)) for n in range(30)),
            return_exceptions=True,
        )
        refused = [n for n, each in enumerate(outcomes) if isinstance(each, QueueFullError)]
        assert refused
        assert all(each.retry_after_s for each in outcomes if isinstance(each, QueueFullError))
        assert served.sequencing.head.tree_size == 10 * (30 - len(refused))
        store = served.sequencer.store
        assert all(store.index_of(event(n * 10).id_bytes) is None for n in refused)
        await served.sequencing.append_events(numbered(900, 901))


@both
@pytest.mark.anyio
async def test_an_undone_commit_is_told_and_the_next_one_may_succeed(
    serve: Serve,
    tmp_path: Path,
) -> None:
    path = tmp_path / "small"
    new_log(path, map_bytes=1 << 18).close()
    async with serve(path, map_bytes=1 << 18) as served:
        with pytest.raises(StorageFullError):
            await append_until_full(served.sequencing)
        assert served.sequencing.failure is None
        size = served.sequencing.head.tree_size
        again = await served.sequencing.append_events(numbered(0, 1))
        assert [place.placement for place in again.places()] == [Placement.DUPLICATE]
        assert served.sequencing.head.tree_size == size


async def append_until_full(sequencing: Appender) -> None:
    for n in range(0, 10_000, 500):
        await sequencing.append_events(numbered(n, n + 500))


@both
@pytest.mark.anyio
async def test_a_held_log_takes_no_events_and_says_why(serve: Serve, path: Path) -> None:
    async with serve(path) as served:
        since = format_time(START_UNIX_US)
        served.sequencer.hold.place("an old copy", since=since, by="a client", note="note")
        with pytest.raises(HeldError, match="an old copy"):
            await served.sequencing.append_events(numbered(0, 1))
        await until_async(lambda: served.sequencing.held is not None)
        assert served.sequencing.held == served.sequencer.held


@both
@pytest.mark.anyio
async def test_those_who_wait_for_growth_wake_once_the_log_is_larger(
    serve: Serve, path: Path
) -> None:
    async with serve(path) as served, asyncio.timeout(WAIT_S):
        near = asyncio.create_task(served.sequencing.wait_past(0))
        far = asyncio.create_task(served.sequencing.wait_past(4))
        await served.sequencing.append_events(numbered(0, 2))
        assert (await near).tree_size >= 1
        assert not far.done()
        await served.sequencing.append_events(numbered(2, 5))
        assert (await far).tree_size == 5
        assert (await served.sequencing.wait_past(3)).tree_size == 5


@both
@pytest.mark.anyio
async def test_a_signed_head_covers_what_was_acknowledged(serve: Serve, path: Path) -> None:
    async with serve(path) as served:

        async def append_and_sign(n: int) -> int:
            appended = await served.sequencing.append_events(numbered(n, n + 1))
            (place,) = appended.places()
            newest = await served.heads.newest()
            POLICY.check(newest.note)
            return int(newest.head.tree_size) - place.leaf_index

        assert min(await asyncio.gather(*map(append_and_sign, range(50)))) >= 1


@both
@pytest.mark.anyio
async def test_a_published_head_wakes_those_who_wait_for_it(serve: Serve, path: Path) -> None:
    async with serve(path) as served:
        assert served.heads.published is None
        assert await served.heads.wait_for(1, timeout_s=0) is None
        waiting = asyncio.create_task(served.heads.wait_for(3, timeout_s=WAIT_S))
        await served.sequencing.append_events(numbered(0, 3))
        await served.publisher.publish()
        # What one caller was told, every other can read at once.
        assert served.heads.published == served.publisher.published
        found = await waiting
        assert found is not None
        assert found.head.tree_size == 3


@both
@pytest.mark.anyio
async def test_a_head_that_the_log_lacks_is_taken_and_ends_signing(
    serve: Serve, path: Path
) -> None:
    async with serve(path) as served:
        await served.sequencing.append_events(numbered(0, 3))
        head = served.sequencing.head
        known = signed(head.tree_size, head.root_hash).encode()
        assert await served.heads.shown(known, by="a client")
        with pytest.raises(MalformedError):
            await served.heads.shown(b"nonsense", by="a client")
        assert not await served.heads.shown(signed(9, bytes(32)).encode(), by="a client")
        with pytest.raises(HeldError):
            await served.sequencing.append_events(numbered(3, 4))
        with pytest.raises(VerificationError):
            await served.heads.newest()
        await until_async(lambda: served.heads.failure is not None)


@pytest.mark.anyio
async def test_what_waits_is_one_frame_and_few_frames_are_unanswered(path: Path) -> None:
    async with across_a_socket(path) as served:
        assert served.client is not None
        sent: list[int] = []
        ask = served.client.ask

        def counted(make):  # type: ignore[no-untyped-def] # as `ask`
            message = make(0)
            sent.append(len(message.requests))
            return ask(make)

        served.client.ask = counted  # type: ignore[method-assign] # counts, and asks
        await asyncio.gather(
            *(served.sequencing.append_events(numbered(n, n + 1)) for n in range(300))
        )
        assert sum(sent) == 300
        assert sent[0] == 300  # All of one turn of the loop.
        sent.clear()
        tasks = []
        for n in range(300, 400):
            tasks.append(asyncio.create_task(served.sequencing.append_events(numbered(n, n + 1))))
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert sum(sent) == 100
        assert FRAMES_MAX >= 2


@pytest.mark.anyio
async def test_callers_are_told_that_the_outcome_is_unknown_when_the_sequencer_ends(
    path: Path,
) -> None:
    async with across_a_socket(path) as served:
        assert served.client is not None
        pending = [
            asyncio.create_task(served.sequencing.append_events(numbered(n, n + 1)))
            for n in range(20)
        ]
        waiting = asyncio.create_task(served.sequencing.wait_past(100))
        await asyncio.sleep(0)
        served.client.link.close()
        outcomes = await asyncio.gather(*pending, return_exceptions=True)
        assert all(isinstance(each, CommitFailedError) for each in outcomes)
        with pytest.raises(CommitFailedError):
            await served.sequencing.append_events(numbered(50, 51))
        with pytest.raises(CommitFailedError):
            await waiting
        assert served.sequencing.failure is not None
        assert await served.heads.wait_for(1000, timeout_s=WAIT_S) is None


@asynccontextmanager
async def linked(
    gateway: Gateway, report: Report, versions: Versions = VERSIONS
) -> AsyncIterator[SequencerClient]:
    """A front end's link to a gateway."""
    loop = asyncio.get_running_loop()
    client = SequencerClient(report=lambda: report, versions=versions)
    ours, theirs = socket.socketpair()
    await loop.create_unix_connection(gateway.connect, sock=ours)
    await loop.create_unix_connection(lambda: client.link, sock=theirs)
    try:
        yield client
    finally:
        client.link.close()


@pytest.mark.anyio
async def test_what_a_new_front_end_is_told_the_others_are_told_too(path: Path) -> None:
    async with in_process(path) as served:
        gateway = Gateway(served.sequencer, served.publisher)  # It doesn't run.
        async with linked(gateway, Report()) as first:
            await served.sequencing.append_events(numbered(0, 3))
            await served.publisher.publish()
            async with linked(gateway, Report()) as second:
                await until_async(lambda: second.state.published_size == 3)
                await until_async(lambda: first.state.published_size == 3)


@pytest.mark.anyio
async def test_a_front_end_reports_for_all(path: Path) -> None:
    async with in_process(path) as served:
        own = [Report(reasons=("held",), requests_in_flight=1)]
        gateway = Gateway(served.sequencer, served.publisher, own_reports=lambda: own)
        gateway.not_running = lambda: ["2"]
        other = Report(warnings=("full",), requests_in_flight=5)
        async with linked(gateway, other), linked(gateway, Report()) as asking:
            report = combine([Report(), *await RemoteReports(asking).others(Report())])
        assert report.requests_in_flight == 6
        assert list(report.reasons) == ["held"]
        assert "full" in report.warnings
        assert "the worker 2 has ended and will be started again" in report.warnings


@pytest.mark.anyio
async def test_a_front_end_that_does_not_report_is_asked_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.workers.gateway.REPORT_WAIT_S", 0.05)
    async with in_process(path) as served:
        gateway = Gateway(served.sequencer, served.publisher)
        asked = 0

        def report() -> Report:
            nonlocal asked
            asked += 1
            return Report(requests_in_flight=7)

        async with linked(gateway, Report()) as hanging, linked(gateway, Report()) as asking:
            hanging.report = report
            answer, kept = hanging.link.send, list[Any]()
            monkeypatch.setattr(hanging.link, "send", kept.append)
            for _ in range(3):
                combined = combine(await RemoteReports(asking).others(Report()))
                assert "1 of the workers do not report" in combined.warnings
            assert asked == 1
            monkeypatch.undo()
            answer(*kept)  # It goes on.

            # What was asked before has its answer now, or this is asked again and has it.
            combined = combine(await RemoteReports(asking).others(Report()))
            assert combined.requests_in_flight == 7


@pytest.mark.anyio
async def test_a_sequencer_that_stands_still_is_named_and_asked_once() -> None:
    loop = asyncio.get_running_loop()
    client = SequencerClient()
    ours, theirs = socket.socketpair()
    await loop.create_unix_connection(lambda: client.link, sock=theirs)
    with ours:
        reports = RemoteReports(client, wait_s=0.01)
        asked = []
        ask = client.ask

        def counted(make):  # type: ignore[no-untyped-def] # as `ask`
            asked.append(make)
            return ask(make)

        client.ask = counted  # type: ignore[method-assign] # counts, and asks
        for _ in range(3):
            (report,) = await reports.others(Report())
            assert "the process that orders events has not answered for" in report.reasons[0]
        assert len(asked) == 1
    (report,) = await RemoteReports(client, wait_s=WAIT_S).others(Report())
    assert "has ended" in report.reasons[0]
    client.link.close()


@pytest.mark.anyio
async def test_nothing_waits_for_a_sequencer_that_stands_still(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going_on = threading.Event()
    commit = LogWriter.commit

    def stand_still(*arguments: Any, **named: Any) -> Any:
        going_on.wait(WAIT_S)
        return commit(*arguments, **named)

    async with across_a_socket(path) as served:
        assert served.client is not None
        monkeypatch.setattr(LogWriter, "commit", stand_still)
        first = asyncio.create_task(served.sequencing.append_events(numbered(0, 1)))
        await until_async(lambda: served.sequencer.stalled is None and sent(served.client))
        monkeypatch.setattr(group_commit, "STALL_S", -1.0)
        with pytest.raises(StalledError) as refused:
            await served.sequencing.append_events(numbered(1, 2))
        assert refused.value.retry_after_s
        await until_async(lambda: served.sequencer.stalled is not None)
        going_on.set()
        await first
        assert served.sequencer.head.tree_size == 1
        monkeypatch.setattr(group_commit, "STALL_S", WAIT_S)
        await served.sequencing.append_events(numbered(1, 2))
        assert served.sequencer.head.tree_size == 2


def sent(client: SequencerClient | None) -> bool:
    """Whether a request of a front end is unanswered."""
    return client is not None and bool(client._unanswered)


@pytest.mark.anyio
async def test_what_a_front_end_counted_stays_when_it_has_ended(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.workers.gateway.REPORT_WAIT_S", 0.05)

    def counted(value: float) -> Report:
        return Report(counters=[Counter("requests_total", ("/v1/log", "GET", "200"), value)])

    async with in_process(path) as served:
        gateway = Gateway(served.sequencer, served.publisher)
        async with linked(gateway, Report()) as asking:

            async def total(own: float = 0.0) -> float:
                others = await RemoteReports(asking).others(counted(own))
                return sum(each.value for report in others for each in report.counters)

            async with linked(gateway, counted(2)) as killed:
                assert await total() == 2
                killed.report = lambda: counted(3)
                assert await total() == 3
                monkeypatch.setattr(killed.link, "send", lambda _message: None)
                assert await total() == 3  # It does not answer in time.
            await until_async(lambda: len(gateway._links) == 1)
            assert await total() == 3
            async with linked(gateway, counted(0)) as leaving:
                await leaving.end_link(counted(10).counters)
            await until_async(lambda: len(gateway._links) == 1)
            assert await total(own=1) == 13
        # The one that asked is killed too: what it had counted by then was in its question.
        await until_async(lambda: not gateway._links)
        async with linked(gateway, Report()) as asking:
            others = await RemoteReports(asking).others(Report())
            assert sum(each.value for report in others for each in report.counters) == 14


@pytest.mark.parametrize(
    ("worker", "sequencer", "shared"),
    [((1, 1), (1, 1), 1), ((1, 2), (1, 1), 1), ((1, 3), (2, 4), 3), ((2, 2), (1, 3), 2)],
)
def test_two_processes_speak_the_newest_version_that_both_know(
    worker: tuple[int, int], sequencer: tuple[int, int], shared: int
) -> None:
    assert shared_version(Versions(*worker), Versions(*sequencer)) == shared


@pytest.mark.parametrize("worker", [(0, 0), (2, 3)])
def test_versions_that_share_none_are_named(worker: tuple[int, int]) -> None:
    with pytest.raises(UnavailableError, match=f"version {Versions(*worker)}, the sequencer.* 1:"):
        shared_version(Versions(*worker), Versions(1, 1))


@pytest.mark.anyio
async def test_a_gateway_serves_front_ends_that_speak_a_version_of_its_own_and_no_others(
    path: Path,
) -> None:
    async with in_process(path) as served:
        gateway = Gateway(served.sequencer, served.publisher)
        newer = Versions(VERSIONS.newest, VERSIONS.newest + 1)
        other = Versions(VERSIONS.newest + 1, VERSIONS.newest + 1)
        async with (
            linked(gateway, Report(), newer) as known,
            linked(gateway, Report(), other) as odd,
        ):
            store = served.sequencer.store
            appending = RemoteSequencer(known, store, LIMITS)
            assert (await appending.append_events(numbered(0, 3))).first_index == 0
            await until_async(lambda: odd.is_lost)
            with pytest.raises(CommitFailedError):
                await RemoteSequencer(odd, store, LIMITS).append_events(numbered(3, 4))


def test_a_front_end_leaves_out_settings_that_it_does_not_know() -> None:
    fields = {**msgspec.structs.asdict(Settings(workers=3)), "a_later_setting": 7}
    assert settings_of(fields) == Settings(workers=3)
    start = Start(
        directory="ledger",
        settings=Settings(workers=3),
        number=1,
        processes=3,
        part=1,
        parts=4,
        link=5,
        listening=(6, 7),
        counts=8,
        counts_key=b"key",
        verifier_keys=("key",),
        queries="socket",
        versions=VERSIONS,
    )
    later = {**msgspec.msgpack.decode(encode_start(start)), "settings": fields, "later": 1}
    assert decode_start(msgspec.msgpack.encode(later)) == start
