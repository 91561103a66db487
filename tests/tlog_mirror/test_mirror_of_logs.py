"""A mirror of logs: several logs, signed subtrees, restarts, kills, copies that don't belong."""

import asyncio
import hashlib
import os
import shutil
import signal
import threading
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from click.testing import CliRunner

from ledger.cli.tlog_mirror import command
from ledger.demo.child_service import Service
from ledger.log import group_commit
from ledger.store import keyspace
from ledger.store.log import LogStore
from ledger.tlog_mirror.app import UNREAD_BYTES_PER_ADDRESS_MAX
from ledger.tlog_mirror.data_dir import TlogMirrorPaths, add_log
from ledger.tlog_mirror.log_copy import LogCopy, check_copy
from ledger_core.tlog.checkpoint import parse_signed_checkpoint
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.keys import ED25519_COSIGNATURE
from ledger_core.tlog.note import Signer
from ledger_core.tlog.signed_subtree import SignSubtree, format_sign_subtree
from ledger_core.tlog.tile import decode_bundle
from ledger_core.tlog.witness import parse_cosignatures
from tests.tlog_mirror.sending import (
    LOG,
    ORIGIN,
    SIGNERS,
    WAIT_S,
    Sender,
    Tree,
    fork,
    make_tlog_mirror,
    serving,
    tree,
)
from tests.waiting import until_async

pytestmark = pytest.mark.anyio

OTHER = Tree(
    origin="example.com/other", signer=Signer.generate("example.com/other", seed=b"o" * 32)
)


async def test_logs_are_mirrored_beside_each_other_and_added_while_it_runs(tmp_path: Path) -> None:
    paths = make_tlog_mirror(tmp_path / "m")
    async with serving(paths.root) as mirror:
        assert await mirror.checkpoint(0, 300) == 200
        assert await mirror.checkpoint(0, 300, of=OTHER) == 404
        add_log(paths, OTHER.origin, [str(OTHER.signer.verifier)], SIGNERS)
        assert await mirror.checkpoint(0, 500, of=OTHER) == 200
        assert (await mirror.entries(OTHER.upload(0, 500)))[0] == 200
        assert (await mirror.entries(tree().upload(0, 300)))[0] == 200
        await mirror.check_copy(300)
        await mirror.check_copy(500, of=OTHER)


async def test_a_checkpoint_is_taken_by_the_rules_of_a_witness(tmp_path: Path) -> None:
    make_tlog_mirror(tmp_path / "m")
    async with serving(tmp_path / "m") as mirror:
        assert await mirror.checkpoint(0, 300) == 200
        assert await mirror.checkpoint(300, 300) == 200
        status, size, media = await mirror.post("/add-checkpoint", tree().add_checkpoint(0, 500))
        assert (status, size, media) == (409, b"300\n", "text/x.tlog.size")
        assert await mirror.checkpoint(300, 500, of=fork()) == 422
        assert (await mirror.post("/add-checkpoint", b"old 0\n"))[0] == 400
        stranger = Tree(signer=Signer.generate(ORIGIN, seed=b"s" * 32))
        assert await mirror.checkpoint(300, 500, of=stranger) == 403
        assert await mirror.checkpoint(300, 500) == 200


async def test_a_disk_that_stands_still_is_named_and_refuses_work_until_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tlog_mirror(tmp_path / "m")
    begun, going_on = threading.Event(), threading.Event()
    keep = LogCopy.keep

    def stand_still(*arguments: Any) -> int:
        begun.set()
        going_on.wait(WAIT_S)
        return keep(*arguments)

    async with serving(tmp_path / "m") as mirror, aiohttp.ClientSession() as session:

        async def health() -> int:
            async with session.get(f"{mirror.url}/healthz") as answer:
                return answer.status

        assert await mirror.checkpoint(0, 300) == 200
        monkeypatch.setattr(LogCopy, "keep", stand_still)
        upload = asyncio.create_task(mirror.entries(tree().upload(0, 300)))
        assert await asyncio.to_thread(begun.wait, WAIT_S)
        assert await health() == 200
        monkeypatch.setattr(group_commit, "STALL_S", -1.0)
        assert await health() == 503
        body = tree().add_checkpoint(300, 500)
        async with session.post(f"{mirror.url}/add-checkpoint", data=body) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"]
            assert "does not finish a write" in await answer.text()
        monkeypatch.setattr(group_commit, "STALL_S", WAIT_S)
        going_on.set()
        assert (await upload)[0] == 200
        assert await health() == 200
        assert await mirror.checkpoint(300, 500) == 200
        await mirror.check_copy(300)


async def test_a_subtree_of_what_was_cosigned_is_signed(tmp_path: Path) -> None:
    make_tlog_mirror(tmp_path / "m")
    async with serving(tmp_path / "m") as mirror:
        assert await mirror.checkpoint(0, 700) == 200
        root, proof = tree().subtree(256, 400, 700)
        unsigned = SignSubtree(256, 400, root, proof, tree().signed(700))
        assert (await mirror.post("/sign-subtree", format_sign_subtree(unsigned)))[0] == 403
        assert (await mirror.entries(tree().upload(0, 700)))[0] == 200
        mirrored = await mirror.mirrored()
        assert mirrored is not None
        asked = SignSubtree(256, 400, root, proof, mirrored)
        status, answer, _ = await mirror.post("/sign-subtree", format_sign_subtree(asked))
        assert status == 200
        (signature,) = parse_cosignatures(answer)
        SIGNERS[1].verifier.check_subtree(asked.subtree, signature)
        wrong = SignSubtree(256, 400, bytes(32), proof, mirrored)
        assert (await mirror.post("/sign-subtree", format_sign_subtree(wrong)))[0] == 422
        assert (await mirror.post("/sign-subtree", b"subtree 0 1\n"))[0] == 400


async def test_what_was_answered_is_there_after_a_restart(tmp_path: Path) -> None:
    make_tlog_mirror(tmp_path / "m")
    async with serving(tmp_path / "m") as mirror:
        assert await mirror.checkpoint(0, 700) == 200
        assert (await mirror.entries(tree().upload(0, 700, most=2)))[0] == 202
    async with serving(tmp_path / "m") as mirror:
        status, info = await mirror.entries(tree().upload(600, 700))
        assert (status, info[:2]) == (409, (700, 512))
        assert (await mirror.entries(tree().upload(512, 700)))[0] == 200
        assert await mirror.checkpoint(700, 1100) == 200
    async with serving(tmp_path / "m") as mirror:
        await mirror.check_copy(700)
        assert (await mirror.entries(tree().upload(700, 1100)))[0] == 200
        await mirror.check_copy(1100)


async def test_a_killed_mirror_has_all_that_it_answered(tmp_path: Path) -> None:
    paths = make_tlog_mirror(tmp_path / "m")
    pending, next_entry, mirrored = 0, 0, 0
    for size, most in ((300, 1), (700, 1), (1100, 1), (1100, None)):
        flags = ("--log-level", "error")
        with Service(
            paths.root, listen="127.0.0.1:0", command=("tlog-mirror", "serve"), flags=flags
        ) as service:
            async with aiohttp.ClientSession() as session:
                mirror = Sender(service.url, session)
                if size > pending:
                    assert await mirror.checkpoint(pending, size) == 200
                    pending = size
                status, answer = await mirror.entries(tree().upload(next_entry, size, most=most))
                if status == 200:
                    next_entry = mirrored = size
                else:
                    assert status == 202
                    next_entry = answer[1]
                os.kill(service.process_id, signal.SIGKILL)
        with closing(LogStore.open(paths.log(ORIGIN))) as store:
            assert store.head().tree_size == next_entry
            note = store.environment.get(keyspace.META, keyspace.META_PENDING)
            assert note is not None
            assert parse_signed_checkpoint(note).head.tree_size == pending
        assert check_copy(paths.log(ORIGIN)) == []
    assert mirrored == 1100


async def test_another_mirror_s_copies_are_refused(tmp_path: Path) -> None:
    paths = make_tlog_mirror(tmp_path / "m")
    other = CosignatureSigner.generate(
        "example.com/n", algorithm=ED25519_COSIGNATURE, seed=b"n" * 32
    )
    others = make_tlog_mirror(tmp_path / "n", signers=[other])
    shutil.rmtree(paths.log(ORIGIN))
    shutil.copytree(others.log(ORIGIN), paths.log(ORIGIN))
    with pytest.raises(MalformedError, match="does not belong to the keys"):
        async with serving(paths.root):
            pass


async def test_an_older_copy_that_was_put_back_is_refused(tmp_path: Path) -> None:
    paths = make_tlog_mirror(tmp_path / "m")
    folder = paths.log(ORIGIN)
    async with serving(paths.root) as mirror:
        assert await mirror.checkpoint(0, 300) == 200
    shutil.copy(folder / "data.mdb", tmp_path / "older")
    async with serving(paths.root) as mirror:
        assert (await mirror.entries(tree().upload(0, 300)))[0] == 200
    shutil.copy(tmp_path / "older", folder / "data.mdb")
    with pytest.raises(MalformedError, match="older copy was put back, and this mirror"):
        async with serving(paths.root):
            pass


async def test_a_copy_that_is_full_takes_no_entries_and_keeps_what_it_has(tmp_path: Path) -> None:
    make_tlog_mirror(tmp_path / "m")
    large = Tree([hashlib.shake_256(b"%d" % index).digest(6_000) for index in range(600)])
    async with serving(tmp_path / "m", log_bytes_max=2 << 20) as mirror:
        assert await mirror.checkpoint(0, 600, of=large) == 200
        assert (await mirror.entries(large.upload(0, 600)))[0] == 507
        assert (await mirror.get("/healthz"))[0] == 503
        status, info = await mirror.entries(large.upload(257, 600))
        assert (status, info[:2]) == (409, (600, 256))
    assert check_copy(TlogMirrorPaths(tmp_path / "m").log(ORIGIN)) == []
    async with serving(tmp_path / "m", log_bytes_max=64 << 20) as mirror:
        assert (await mirror.entries(large.upload(256, 600)))[0] == 200
        await mirror.check_copy(600, of=large)


def test_the_commands_make_show_and_check_a_mirror(tmp_path: Path) -> None:
    folder, run = str(tmp_path / "m"), CliRunner().invoke
    made = run(command, ["init", folder, "--name", "example.com/m"])
    assert made.exit_code == 0
    assert made.stdout.count("example.com/m+") == 2
    assert run(command, ["init", folder, "--name", "example.com/m"]).exit_code == 2
    vkey = str(LOG.verifier)
    assert run(command, ["add-log", folder, "--vkey", vkey]).exit_code == 0
    own = made.stdout.split()[-1]
    refused = run(command, ["add-log", folder, "--vkey", own, "--origin", ORIGIN])
    assert refused.exit_code == 2
    assert "public key of this mirror" in refused.output
    shown = run(command, ["status", folder])
    assert ORIGIN in shown.stdout
    assert run(command, ["fsck", folder]).stdout.startswith("1 log:")


async def test_readers_of_one_address_keep_no_other_from_a_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tlog_mirror(tmp_path / "m")
    log = Tree([b"%060000d" % index for index in range(256)])
    path = f"/{hashlib.sha256(ORIGIN.encode()).hexdigest()}/tile/entries/000"
    reading, going_on, read = [0], threading.Event(), LogStore.bundle

    def slow(store: LogStore, *, index: int, width: int) -> bytes | None:
        reading[0] += 1
        if reading[0] == 1:
            going_on.wait(WAIT_S)
        return read(store, index=index, width=width)

    async def ask(url: str, address: str) -> asyncio.StreamReader:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(
            parts.hostname, parts.port, local_addr=(address, 0)
        )
        opened.callback(writer.close)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: mirror\r\n\r\n".encode())
        return reader

    async with serving(tmp_path / "m") as mirror, AsyncExitStack() as opened:
        assert await mirror.checkpoint(0, 256, of=log) == 200
        assert (await mirror.entries(log.upload(0, 256)))[0] == 200
        monkeypatch.setattr(LogStore, "bundle", slow)
        greedy = [await ask(mirror.url, "127.0.0.1") for _ in range(64)]
        try:
            await until_async(lambda: reading[0] == 1)
            async with asyncio.timeout(WAIT_S):
                other = await ask(mirror.url, "127.0.0.2")
                assert (await other.readline()).split()[1] == b"200"
            assert reading[0] == 2  # The first one and the other's: 63 wait for their turns.
        finally:
            going_on.set()
        async with asyncio.timeout(WAIT_S):
            assert (await greedy[0].readline()).split()[1] == b"200"


async def test_readers_that_accept_no_bundle_have_little_of_the_memory(tmp_path: Path) -> None:
    make_tlog_mirror(tmp_path / "m")
    log = Tree([b"%060000d" % index for index in range(256)])
    path = f"/{hashlib.sha256(ORIGIN.encode()).hexdigest()}/tile/entries/000"

    async def begin(url: str, *, address: str) -> tuple[bytes, asyncio.StreamWriter]:
        """The first line of an answer, of which no more is read."""
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(
            parts.hostname, parts.port, local_addr=(address, 0), limit=1 << 12
        )
        writer.write(f"GET {path} HTTP/1.1\r\nHost: mirror\r\n\r\n".encode())
        return await reader.readline(), writer

    async with serving(tmp_path / "m") as mirror:
        assert await mirror.checkpoint(0, 256, of=log) == 200
        assert (await mirror.entries(log.upload(0, 256)))[0] == 200
        many = UNREAD_BYTES_PER_ADDRESS_MAX // (256 * 60_000)
        begun = [await begin(mirror.url, address="127.0.0.1") for _ in range(many + 1)]
        assert [line.split()[1] for line, _ in begun] == [b"200"] * many + [b"503"]
        assert (await mirror.get(path))[0] == 503
        line, other = await begin(mirror.url, address="127.0.0.2")
        assert line.split()[1] == b"200"
        for _, writer in (*begun, (line, other)):
            writer.transport.abort()
        async with asyncio.timeout(WAIT_S):
            while (answer := await mirror.get(path))[0] == 503:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        assert decode_bundle(answer[1]) == log.leaves
