"""A witness that answers as it is told: rightly, wrongly, slowly, without end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.keys import ED25519_COSIGNATURE
from ledger_core.tlog.note import NoteVerifier
from ledger_core.tlog.witness import (
    Refused,
    advance,
    authenticate,
    cosignatures_by,
    format_cosignatures,
    format_size_answer,
    parse_add_checkpoint,
)

TIME_UNIX_S: Final = 1_790_000_000

Behaviour = Callable[["ScriptedWitness", web.Request, bytes], Awaitable[web.StreamResponse]]


class ScriptedWitness:
    """One witness. `behave` answers its requests; `honest` is what the specification says."""

    def __init__(self, number: int, log_keys: Sequence[NoteVerifier]) -> None:
        self.signer = CosignatureSigner.generate(
            f"w{number}.example", algorithm=ED25519_COSIGNATURE, seed=bytes([number]) * 32
        )
        self.log_keys = log_keys
        self.behave: Behaviour = honest
        self.known: SignedCheckpoint | None = None
        self.time_unix_s = TIME_UNIX_S + number
        self.url = ""
        self.bodies: list[bytes] = []
        self.shown = b""

    @property
    def vkey(self) -> str:
        """Its key, for a policy."""
        return str(self.signer.verifier)

    async def add_checkpoint(self, request: web.Request) -> web.StreamResponse:
        """POST /add-checkpoint"""
        body = await request.read()
        self.bodies.append(body)
        return await self.behave(self, request, body)

    async def show(self, _request: web.Request) -> web.StreamResponse:
        """GET /<origin hash>/checkpoint"""
        shown = self.shown or (self.known.note.encode() if self.known else b"")
        return web.Response(body=shown, status=200 if shown else 404)


async def honest(
    witness: ScriptedWitness, _request: web.Request, body: bytes
) -> web.StreamResponse:
    """Answer as the specification says."""
    asked = authenticate(parse_add_checkpoint(body), log=witness.log_keys)
    outcome = (
        asked
        if isinstance(asked, Refused)
        else advance(
            asked, known=witness.known, signers=[witness.signer], time_unix_s=witness.time_unix_s
        )
    )
    if isinstance(outcome, Refused):
        text = outcome.reason
        if outcome.known_size is not None:
            text = format_size_answer(outcome.known_size)
        return web.Response(status=outcome.status, text=text)
    witness.known = outcome
    return web.Response(text=format_cosignatures(cosignatures_by(witness.known, [witness.signer])))


def says(status: int, text: str | bytes = "", **headers: str) -> Behaviour:
    """Always this answer."""

    async def behave(
        _witness: ScriptedWitness, _request: web.Request, _body: bytes
    ) -> web.StreamResponse:
        body = text.encode() if isinstance(text, str) else text
        return web.Response(status=status, body=body, headers=headers)

    return behave


def around(before: str = "", after: str = "", *, change: tuple[str, str] = ("", "")) -> Behaviour:
    """The honest answer, with something before it, after it, or replaced in it."""

    async def behave(
        witness: ScriptedWitness, request: web.Request, body: bytes
    ) -> web.StreamResponse:
        answer = await honest(witness, request, body)
        assert isinstance(answer, web.Response)
        text = answer.text or ""
        if change[0]:
            text = text.replace(*change)
        return web.Response(status=answer.status, text=before + text + after)

    return behave


async def endless(
    _witness: ScriptedWitness, request: web.Request, _body: bytes
) -> web.StreamResponse:
    """A body that does not end."""
    answer = web.StreamResponse()
    await answer.prepare(request)
    while True:
        await answer.write(b"x" * 65_536)
        await asyncio.sleep(0)


async def silent(
    _witness: ScriptedWitness, _request: web.Request, _body: bytes
) -> web.StreamResponse:
    """No answer."""
    await asyncio.sleep(3600)
    raise AssertionError("the test has ended long ago")


@asynccontextmanager
async def serving(witnesses: Sequence[ScriptedWitness]) -> AsyncIterator[None]:
    """Serve each on a port of its own."""
    runners = []
    for witness in witnesses:
        app = web.Application(client_max_size=1 << 20)
        app.router.add_post("/add-checkpoint", witness.add_checkpoint)
        app.router.add_get("/{origin_hash}/checkpoint", witness.show)
        runner = web.AppRunner(app, shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        witness.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        runners.append(runner)
    try:
        yield
    finally:
        for runner in runners:
            await runner.cleanup()
