"""A ledger's folder that is pushed to mirrors, and a mirror that answers what a test wants."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from ledger.mirror_push.config import MirrorTarget
from ledger.mirror_push.mirror_client import MirrorClient
from ledger.store.log import LogStore
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.note import Signature, Signer
from tests.archive.archiving import SEED, ArchivedFolder
from tests.sinks.sinking import ORIGIN
from tests.tlog_mirror.sending import SIGNERS

LOG_VKEY = str(Signer.generate(ORIGIN, seed=SEED).verifier)


class PushedFolder(ArchivedFolder):
    """The folder of a ledger whose heads are published by the test, and sent by it."""

    def heads(self, *entries: int) -> list[SignedCheckpoint]:
        """The heads that are published after so many more entries each time."""
        heads = []
        for count in entries:
            self.grow(count)
            heads.append(self.head())
        return heads

    def head(self, size: int | None = None) -> SignedCheckpoint:
        """A published head, the latest without a size."""
        with closing(LogStore.open(self.directory / "log")) as log:
            head = log.published(size)
        assert head is not None
        return head

    @asynccontextmanager
    async def clients(
        self,
        url: str,
        count: int = 1,
        *,
        next_entry: int = 0,
        kept: list[int] | None = None,
        **config: object,
    ) -> AsyncIterator[list[MirrorClient]]:
        """Clients of the mirror at an address, each of which knows nothing of the others."""
        target = MirrorTarget(url=url, **config)  # type: ignore[arg-type]
        with closing(LogStore.open(self.directory / "log")) as log:
            clients = [
                MirrorClient(
                    target,
                    log,
                    verifiers=target.verifiers() or [each.verifier for each in SIGNERS],
                    next_entry=next_entry,
                    on_kept=(kept if kept is not None else []).append,
                )
                for _ in range(count)
            ]
            try:
                yield clients
            finally:
                for client in clients:
                    await client.close()

    async def push(
        self, url: str, size: int | None = None, **config: object
    ) -> tuple[Signature, ...]:
        """Bring a published head to a mirror, with a client that knows nothing of it."""
        head = self.head(size)
        async with self.clients(url, **config) as (client,):  # type: ignore[arg-type]
            return await client.push(head)


@dataclass
class Play:
    """Answers of a mirror: status, type and body, one for each request; the last one stays.

    `asked` has the path and the body of each request.
    """

    answers: list[tuple[int, str]]
    asked: list[tuple[str, bytes]] = field(default_factory=list)

    def next(self) -> tuple[int, str]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@asynccontextmanager
async def playing(
    play: Play, *, cut: Callable[[str], bool] = lambda _path: False
) -> AsyncIterator[str]:
    """A mirror that answers by a play; `cut`: whether it hangs up instead."""

    async def answer(request: web.Request) -> web.Response:
        if cut(request.path) and request.transport is not None:
            request.transport.abort()
            return web.Response()
        play.asked.append((request.path, await request.read()))
        status, text = play.next()
        return web.Response(status=status, text=text, headers={"Retry-After": "7"})

    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/{path}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def add_to(directory: Path, **mirrors: str) -> None:
    """Write `mirrors.toml` with the mirrors at these addresses."""
    tables = (
        f'[{name}]\nurl = "{url}"\ninterval_s = 0.05\nretry_max_s = 0.2\n'
        f"vkeys = {[str(signer.verifier) for signer in SIGNERS]}\n"
        for name, url in mirrors.items()
    )
    (directory / "mirrors.toml").write_text("".join(tables), encoding="utf-8")
