"""Uploads to a mirror of ours: whole, in parts, again, at once, cut short, and refused."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ledger.tlog_mirror.upload_body import MEMBER_BYTES_MIN, MEMBERS_MAX, STEP_BYTES, inflated
from ledger_core.tlog.mirror import MirrorInfo
from tests.tlog_mirror.sending import (
    ORIGIN,
    WAIT_S,
    Sender,
    check_cosignatures,
    fork,
    make_tlog_mirror,
    serving,
    tree,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Sender]:
    make_tlog_mirror(tmp_path / "m")
    async with serving(tmp_path / "m", package_wait_s=30.0) as sender:
        yield sender


async def test_a_log_is_mirrored_as_it_grows(mirror: Sender) -> None:
    assert await mirror.mirrored() is None
    before = 0
    for size in (0, 1, 255, 256, 700, 1100):
        assert await mirror.checkpoint(before, size) == 200
        status, answer = await mirror.entries(tree().upload(before, size))
        assert status == 200
        check_cosignatures(answer, size)
        await mirror.check_copy(size)
        before = size


async def test_the_pending_checkpoint_is_not_cosigned_before_its_entries_are_there(
    mirror: Sender,
) -> None:
    status, answer, _ = await mirror.post("/add-checkpoint", tree().add_checkpoint(0, 700))
    assert (status, answer) == (200, b"")
    assert await mirror.mirrored() is None
    assert (await mirror.entries(tree().upload(0, 700, most=2)))[0] == 202
    assert await mirror.mirrored() is None


async def test_a_prefix_is_kept_and_the_answer_says_where_to_go_on(mirror: Sender) -> None:
    assert await mirror.checkpoint(0, 1100) == 200
    status, info = await mirror.entries(tree().upload(0, 1100, most=3))
    assert (status, info[:2]) == (202, (1100, 768))
    status, info = await mirror.entries(tree().upload(768, 1100, most=1))
    assert (status, info[:2]) == (202, (1100, 1024))
    status, answer = await mirror.entries(tree().upload(1024, 1100))
    assert status == 200
    check_cosignatures(answer, 1100)
    await mirror.check_copy(1100)


async def test_an_upload_goes_on_by_its_ticket_while_the_log_grows(mirror: Sender) -> None:
    assert await mirror.checkpoint(0, 700) == 200
    status, info = await mirror.entries(tree().upload(0, 700, most=1))
    assert status == 202
    assert isinstance(info, MirrorInfo)
    assert await mirror.checkpoint(700, 1100) == 200
    # Without the ticket, 700 is a size that the mirror knows no more.
    status, conflict = await mirror.entries(tree().upload(256, 700))
    assert (status, conflict[:2]) == (409, (1100, 256))
    for forged in (info.ticket[:-1], b"\x01" + bytes(32) + tree().signed(700).note.encode()):
        assert (await mirror.entries(tree().upload(256, 700, ticket=forged)))[0] == 409
    status, answer = await mirror.entries(tree().upload(256, 700, ticket=info.ticket))
    assert status == 200
    check_cosignatures(answer, 700)
    # The ticket is as good as ever, but a smaller checkpoint is not cosigned after a larger one.
    assert (await mirror.entries(tree().upload(700, 1100)))[0] == 200
    assert (await mirror.entries(tree().upload(700, 700, ticket=info.ticket)))[0] == 409
    await mirror.check_copy(1100)


async def test_a_ticket_outlives_the_process(tmp_path: Path) -> None:
    make_tlog_mirror(tmp_path / "m")
    async with serving(tmp_path / "m") as mirror:
        assert await mirror.checkpoint(0, 700) == 200
        status, info = await mirror.entries(tree().upload(0, 700, most=1))
        assert status == 202
        assert await mirror.checkpoint(700, 1100) == 200
    assert isinstance(info, MirrorInfo)
    async with serving(tmp_path / "m") as mirror:
        assert (await mirror.entries(tree().upload(256, 700, ticket=info.ticket)))[0] == 200
        await mirror.check_copy(700)


async def test_entries_that_are_sent_again_are_verified_and_kept_once(mirror: Sender) -> None:
    assert await mirror.checkpoint(0, 700) == 200
    assert (await mirror.entries(tree().upload(0, 700, most=2)))[0] == 202
    for start in (0, 300, 512):
        assert (await mirror.entries(tree().upload(start, 700)))[0] == 200
    # Everything is there; an empty upload renews the cosignature.
    status, answer = await mirror.entries(tree().upload(700, 700))
    assert status == 200
    check_cosignatures(answer, 700)
    await mirror.check_copy(700)


async def test_gaps_and_unknown_ends_are_conflicts(mirror: Sender) -> None:
    assert (await mirror.entries(tree().upload(0, 0)))[0] == 422  # No checkpoint yet.
    assert await mirror.checkpoint(0, 700) == 200
    for start, end in ((1, 700), (0, 699), (0, 701), (256, 700)):
        status, info = await mirror.entries(tree().upload(start, end))
        assert (status, info[:2]) == (409, (700, 0))
    assert (await mirror.entries(tree().upload(0, 700)))[0] == 200
    status, info = await mirror.entries(tree().upload(0, 600))
    assert (status, info[:2]) == (409, (700, 700))


async def test_entries_of_another_tree_are_refused_and_what_was_true_stays(mirror: Sender) -> None:
    assert await mirror.checkpoint(0, 700) == 200
    assert (await mirror.entries(fork().upload(0, 700)))[0] == 422
    bad = (
        tree().upload(0, 700, most=2) + fork().upload(0, 700)[len(fork().upload(0, 700, most=2)) :]
    )
    assert (await mirror.entries(bad))[0] == 422
    status, info = await mirror.entries(tree().upload(512, 700, most=0))
    assert status == 400
    status, info = await mirror.entries(tree().upload(600, 700))
    assert (status, info[:2]) == (409, (700, 512))
    assert (await mirror.entries(tree().upload(512, 700)))[0] == 200
    await mirror.check_copy(700)
    assert await mirror.checkpoint(700, 1100, of=fork()) == 422


async def test_bytes_that_are_no_upload_are_refused(mirror: Sender) -> None:
    assert await mirror.checkpoint(0, 700) == 200
    whole = tree().upload(0, 700)
    for bad in (b"", b"\x00", whole[:20], whole[:60], b"\xff" * 40):
        assert (await mirror.entries(bad))[0] == 400
    assert (await mirror.post("/add-entries", whole, Content_Type="text/plain"))[0] == 415
    assert (await mirror.entries(whole, Content_Encoding="br"))[0] == 415
    assert (await mirror.entries(b"no gzip", Content_Encoding="gzip"))[0] == 400
    unknown = whole.replace(ORIGIN.encode(), b"example.com/xyz")
    assert (await mirror.entries(unknown))[0] == 404
    # Whatever comes behind the last package, the entries before it are good.
    status, answer = await mirror.entries(whole + b"x")
    assert status == 200
    check_cosignatures(answer, 700)


@pytest.mark.parametrize("cut", [1, 100, 7_000])
async def test_a_body_that_ends_within_a_package_keeps_those_before(
    mirror: Sender, cut: int
) -> None:
    assert await mirror.checkpoint(0, 1100) == 200
    status, info = await mirror.entries(tree().upload(0, 1100)[:-cut])
    assert status == 202
    whole = [len(tree().upload(0, 1100, most=most)) for most in range(6)]
    kept = sum(length <= whole[-1] - cut for length in whole) - 1
    assert info[:2] == (1100, 256 * kept)
    await _finish(mirror, info)


async def test_gzip_that_ends_too_soon_keeps_the_packages_before(mirror: Sender) -> None:
    assert await mirror.checkpoint(0, 1100) == 200
    packed = gzip.compress(tree().upload(0, 1100))
    half = packed[: len(packed) // 2]
    status, info = await mirror.entries(half, Content_Encoding="gzip")
    assert status == 202
    assert info[1] in (256, 512, 768)
    status, info = await mirror.entries(half + b"x" * 100, Content_Encoding="gzip")
    assert status == 202
    await _finish(mirror, info)


async def test_gzip_of_several_members_is_inflated(mirror: Sender) -> None:
    assert await mirror.checkpoint(0, 700) == 200
    whole = tree().upload(0, 700)
    body = gzip.compress(whole[:5_000]) + gzip.compress(whole[5_000:])
    assert (await mirror.entries(body, Content_Encoding="gzip"))[0] == 200
    await mirror.check_copy(700)


async def test_gzip_of_many_members_that_hold_nothing_is_refused(mirror: Sender) -> None:
    assert await mirror.checkpoint(0, 700) == 200
    whole, empty = tree().upload(0, 700), gzip.compress(b"")
    for most, status in ((MEMBERS_MAX - 1, 200), (MEMBERS_MAX, 400)):
        body = empty * most + gzip.compress(whole)
        assert (await mirror.entries(body, Content_Encoding="gzip"))[0] == status
    # Each may hold little where all of them hold much.
    parts = [gzip.compress(bytes(MEMBER_BYTES_MIN))] * 3 * MEMBERS_MAX
    assert await _inflate(b"".join(parts)) == 3 * MEMBERS_MAX


async def test_others_have_their_turn_while_gzip_is_inflated() -> None:
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(take_turns())
    steps = await _inflate(gzip.compress(bytes(256 * STEP_BYTES)))
    other.cancel()
    assert turns >= steps >= 256


async def _inflate(body: bytes) -> int:
    """The number of steps in which a piece of a body is inflated."""

    async def pieces() -> AsyncIterator[bytes]:
        yield body

    return len([step async for step in inflated(pieces(), "gzip")])


async def test_a_connection_that_breaks_loses_no_whole_package(mirror: Sender) -> None:
    assert await mirror.checkpoint(0, 1100) == 200
    whole = tree().upload(0, 1100)
    half = len(tree().upload(0, 1100, most=2)) + 100
    reader, writer = await _begin(mirror, len(whole))
    writer.write(whole[:half])
    await writer.drain()
    writer.transport.abort()
    with suppress(ConnectionError):
        await reader.read()
    async with asyncio.timeout(WAIT_S):
        while True:
            status, info = await mirror.entries(tree().upload(1024, 1100))
            assert status == 409
            if info[1] == 512:
                break
            await asyncio.sleep(0.02)
    assert (await mirror.entries(tree().upload(512, 1100)))[0] == 200
    await mirror.check_copy(1100)


async def test_an_upload_that_pauses_holds_up_nobody_and_is_ended(tmp_path: Path) -> None:
    make_tlog_mirror(tmp_path / "m")
    async with serving(tmp_path / "m", package_wait_s=2.0) as mirror:
        assert await mirror.checkpoint(0, 1100) == 200
        whole = tree().upload(0, 1100)
        half = len(tree().upload(0, 1100, most=2)) + 100
        reader, writer = await _begin(mirror, len(whole))
        writer.write(whole[:half])
        await writer.drain()
        assert (await mirror.entries(whole))[0] == 200
        await mirror.check_copy(1100)
        # The paused one is ended; what it had sent is there, or all of the log by now.
        async with asyncio.timeout(WAIT_S):
            answer = await reader.read(65_536)
        assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 202"))
        writer.close()


async def test_uploads_at_once_make_one_log(mirror: Sender) -> None:
    assert await mirror.checkpoint(0, 2_900) == 200

    async def push() -> int:
        start = 0
        while True:
            status, answer = await mirror.entries(_in_pieces(tree().upload(start, 2_900, most=3)))
            if status == 503:
                await asyncio.sleep(0.01)
            elif isinstance(answer, MirrorInfo):
                assert answer.tree_size == 2_900
                start = answer.next_entry
            else:
                return status

    async with asyncio.timeout(WAIT_S):
        assert await asyncio.gather(*(push() for _ in range(6))) == [200] * 6
    await mirror.check_copy(2_900)


async def test_one_address_has_so_many_uploads_and_no_more(tmp_path: Path) -> None:
    make_tlog_mirror(tmp_path / "m")
    async with serving(tmp_path / "m", uploads_per_address_max=2) as mirror:
        assert await mirror.checkpoint(0, 700) == 200
        whole = tree().upload(0, 700)
        paused = [await _begin(mirror, len(whole)) for _ in range(2)]
        for _, writer in paused:
            writer.write(whole[:1_000])
            await writer.drain()
        await _until_answered(mirror, whole, 503)
        for _, writer in paused:
            writer.transport.abort()
        await _until_answered(mirror, whole, 200)
        await mirror.check_copy(700)


async def test_addresses_that_send_slowly_keep_nobody_else_out(tmp_path: Path) -> None:
    make_tlog_mirror(tmp_path / "m")
    sources = "127.0.0.2", "127.0.0.3"
    async with serving(tmp_path / "m", uploads_max=4, uploads_per_address_max=2) as mirror:
        assert await mirror.checkpoint(0, 700) == 200
        whole = tree().upload(0, 700)
        slow = [await _begin(mirror, len(whole), source) for source in (*sources, *sources)]
        for _, writer in slow:
            writer.write(whole[:10])
        async with asyncio.timeout(WAIT_S):
            for source in sources:
                while True:
                    if await _status(*await _begin(mirror, 0, source)) == 503:
                        break
                    await asyncio.sleep(0.02)
        # One of an address with two gives way, and is told so. Neither of the others does.
        assert (await mirror.entries(whole))[0] == 200
        answers = [asyncio.create_task(_status(*each)) for each in slow]
        ended, rest = await asyncio.wait(
            answers, timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED
        )
        assert [task.result() for task in ended] == [503]
        assert len(rest) == len(slow) - 1
        for task in rest:
            task.cancel()
        await asyncio.wait(rest)
        await mirror.check_copy(700)


async def _finish(mirror: Sender, info: MirrorInfo | bytes) -> None:
    """Send what an answer says is missing."""
    assert isinstance(info, MirrorInfo)
    assert (await mirror.entries(tree().upload(info.next_entry, 1100)))[0] == 200
    await mirror.check_copy(1100)


async def _until_answered(mirror: Sender, body: bytes, status: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            if (await mirror.entries(body))[0] == status:
                return
            await asyncio.sleep(0.02)


async def _status(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """The status of the answer; the connection ends with it."""
    try:
        return int((await reader.readline()).split()[1])
    finally:
        writer.transport.abort()


async def _begin(
    mirror: Sender, length: int, source: str = "127.0.0.1"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection from an address that has sent the head of an upload."""
    parts = urlsplit(mirror.url)
    reader, writer = await asyncio.open_connection(
        parts.hostname, parts.port, local_addr=(source, 0)
    )
    head = (
        "POST /add-entries HTTP/1.1\r\nHost: m\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {length}\r\n\r\n"
    )
    writer.write(head.encode())
    return reader, writer


async def _in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), 3_000):
        yield body[at : at + 3_000]
        await asyncio.sleep(0)
