"""A log that sends its entries to a mirror of ours, request by request."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from ledger.tlog_mirror import app
from ledger.tlog_mirror.data_dir import TlogMirrorPaths, add_log, create_tlog_mirror
from ledger.tlog_mirror.settings import TlogMirrorSettings
from ledger_core.tlog.checkpoint import (
    Checkpoint,
    SignedCheckpoint,
    format_checkpoint,
    parse_signed_checkpoint,
)
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.keys import ED25519_COSIGNATURE, MLDSA44_COSIGNATURE
from ledger_core.tlog.mirror import (
    MirrorInfo,
    Package,
    Upload,
    encode_package,
    encode_upload,
    package_ranges,
    parse_mirror_info,
)
from ledger_core.tlog.note import Signer, verify_note
from ledger_core.tlog.tile import decode_bundle
from ledger_core.tlog.witness import AddCheckpoint, format_add_checkpoint, parse_cosignatures
from tests.tlog.oracle import Oracle

WAIT_S = 60.0
ORIGIN = "example.com/log"
LOG = Signer.generate(ORIGIN, seed=b"l" * 32)
SIGNERS = tuple(
    CosignatureSigner.generate("example.com/m", algorithm=algorithm, seed=bytes([algorithm]) * 32)
    for algorithm in (ED25519_COSIGNATURE, MLDSA44_COSIGNATURE)
)


LEAVES = tuple(b"entry %d" % index for index in range(3_000))


class Tree:
    """The entries of a log, and all that it can prove of them."""

    def __init__(
        self,
        leaves: Sequence[bytes] = LEAVES,
        *,
        origin: str = ORIGIN,
        signer: Signer = LOG,
    ) -> None:
        self.origin = origin
        self.signer = signer
        self.leaves = list(leaves)
        self._oracle = Oracle(self.leaves)

    def signed(self, size: int) -> SignedCheckpoint:
        checkpoint = Checkpoint(self.origin, size, self._oracle.root(size))
        return SignedCheckpoint(checkpoint, (self.signer.sign(format_checkpoint(checkpoint)),))

    def add_checkpoint(self, old_size: int, size: int) -> bytes:
        proof = self._oracle.consistency(old_size, size) if 0 < old_size < size else []
        return format_add_checkpoint(AddCheckpoint(old_size, tuple(proof), self.signed(size)))

    def packages(self, start: int, end: int) -> list[Package]:
        return [
            Package(
                first,
                tuple(self.leaves[first:stop]),
                tuple(self._oracle.subtree_consistency(first - first % 256, stop, end)),
            )
            for first, stop in package_ranges(start, end)
        ]

    def upload(
        self, start: int, end: int, *, most: int | None = None, ticket: bytes = b""
    ) -> bytes:
        """The body of an upload, of its first packages alone if `most` says how many."""
        sent = self.packages(start, end)[:most]
        beginning = encode_upload(Upload(self.origin, start, end, ticket))
        return b"".join([beginning, *map(encode_package, sent)])

    def subtree(self, start: int, end: int, size: int) -> tuple[bytes, tuple[bytes, ...]]:
        """The root of a subtree, and the proof that the tree has it."""
        proof = self._oracle.subtree_consistency(start, end, size)
        return self._oracle.mth(start, end), tuple(proof)

    def tile(self, level: int, index: int, width: int) -> bytes:
        span = 256**level
        first = index * 256
        return b"".join(
            self._oracle.mth(each * span, (each + 1) * span) for each in range(first, first + width)
        )


@cache
def tree() -> Tree:
    """The log that most tests are about."""
    return Tree()


@cache
def fork() -> Tree:
    """Another history of it."""
    return Tree([leaf + b" of a fork" for leaf in LEAVES])


class Sender:
    """Sends requests to a mirror."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, bytes, str]:
        """The status, the body and the type of an answer."""
        given = {"Content-Type": "application/octet-stream"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        data = io.BytesIO(body) if isinstance(body, bytes) else body
        async with self._session.post(self.url + path, data=data, headers=given) as answer:
            return answer.status, await answer.read(), answer.headers["Content-Type"]

    async def get(self, path: str) -> tuple[int, bytes]:
        async with self._session.get(self.url + path) as answer:
            return answer.status, await answer.read()

    async def checkpoint(self, old_size: int, size: int, *, of: Tree | None = None) -> int:
        body = (of or tree()).add_checkpoint(old_size, size)
        return (await self.post("/add-checkpoint", body))[0]

    async def entries(self, body: Any, **headers: str) -> tuple[int, MirrorInfo | bytes]:
        """The status of an upload, and the next ends, the cosignatures or the reason."""
        status, answer, media = await self.post("/add-entries", body, **headers)
        if status in (202, 409):
            assert media == "text/x.tlog.mirror-info"
            return status, parse_mirror_info(answer)
        return status, answer

    async def mirrored(self, *, of: Tree | None = None) -> SignedCheckpoint | None:
        """The checkpoint that the mirror serves, verified by the log's keys and its own."""
        log = of or tree()
        folder = hashlib.sha256(log.origin.encode()).hexdigest()
        status, note = await self.get(f"/{folder}/checkpoint")
        if status == 404:
            return None
        checkpoint = parse_signed_checkpoint(note)
        verify_note(checkpoint.as_note(), [log.signer.verifier])
        verified = verify_note(checkpoint.as_note(), [each.verifier for each in SIGNERS])
        assert len(verified) == len(SIGNERS)
        return checkpoint

    async def check_copy(self, size: int, *, of: Tree | None = None) -> None:
        """Check that the mirror serves a log of this size, each entry and each tile of it."""
        log = of or tree()
        checkpoint = await self.mirrored(of=log)
        assert checkpoint is not None
        assert checkpoint.checkpoint == log.signed(size).checkpoint
        folder = f"/{hashlib.sha256(log.origin.encode()).hexdigest()}/tile"
        for level, index, width in _tiles(size):
            end = f"{index:03d}" if width == 256 else f"{index:03d}.p/{width}"
            assert await self.get(f"{folder}/{level}/{end}") == (200, log.tile(level, index, width))
            if level == 0:
                status, bundle = await self.get(f"{folder}/entries/{end}")
                assert status == 200
                first = index * 256
                assert decode_bundle(bundle) == log.leaves[first : first + width]


def _tiles(size: int) -> list[tuple[int, int, int]]:
    """Level, index and width of each tile of a tree below 65,536 entries."""
    return [
        (level, at // 256, min(256, count - at))
        for level, count in ((0, size), (1, size // 256))
        for at in range(0, count, 256)
    ]


def check_cosignatures(answer: MirrorInfo | bytes, size: int) -> None:
    """Check that an answer has the cosignatures of the checkpoint of a size."""
    assert isinstance(answer, bytes)
    text = format_checkpoint(tree().signed(size).checkpoint)
    lines = parse_cosignatures(answer)
    for signer, line in zip(SIGNERS, lines, strict=True):
        signer.verifier.check(text, line)


def make_tlog_mirror(
    directory: Path,
    logs: Sequence[tuple[str, str]] = ((ORIGIN, str(LOG.verifier)),),
    signers: Sequence[CosignatureSigner] = SIGNERS,
) -> TlogMirrorPaths:
    """A mirror of ours that takes these logs, each an origin and a key."""
    paths = create_tlog_mirror(directory, signers)
    for origin, vkey in logs:
        add_log(paths, origin, [vkey], signers)
    return paths


@asynccontextmanager
async def serving(directory: Path, **settings: Any) -> AsyncIterator[Sender]:
    """Serve the mirror in a folder on this event loop."""
    stop, url = asyncio.Event(), asyncio.get_running_loop().create_future()
    chosen = msgspec.convert({"listen": "127.0.0.1:0", **settings}, TlogMirrorSettings)
    task = asyncio.create_task(app.serve(directory, chosen, stop=stop, on_ready=url.set_result))
    timeout = aiohttp.ClientTimeout(total=WAIT_S)
    try:
        async with asyncio.timeout(WAIT_S):
            await asyncio.wait((task, url), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
        async with aiohttp.ClientSession(timeout=timeout) as session:
            yield Sender(await url, session)
    finally:
        stop.set()
        await task
