"""Requests of a mirror to its log. All answers are unverified; `replica` and `follower` check them.

GET /v1/checkpoints?from=…&wait=1     the published head, as soon as it is this large
GET /v1/events/stream?from=…          entries as they are acknowledged, before they are published
GET /tile/…                           tiles and bundles of the published tree
POST /v1/checkpoints                  shows the log a head that it signed and may have lost
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Final, TypeVar

import msgspec

from ledger_client.async_driver import AsyncDriver
from ledger_client.async_transport import AsyncTransport
from ledger_client.errors import RejectedError
from ledger_client.messages import Endpoint, Plan, Request, Response
from ledger_client.plans.heads import show_head_request
from ledger_client.plans.read import fetch_bundle, fetch_tile
from ledger_client.plans.stream import LineSplitter
from ledger_client.responses import decode_answer
from ledger_client.retry import Environment, RetryPolicy
from ledger_core.api import KeptCheckpoints
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.tile import TileRef, decode_bundle
from ledger_core.tlog.tiled_tree import evidence_name

T = TypeVar("T")

RETRY: Final = RetryPolicy(attempts_max=2, total_s=5.0)
_TOKEN_REFUSED: Final = frozenset({401, 403})


class _Line(msgspec.Struct):
    """A line of the stream: an event, or the position of the stream."""

    index: int | None = None
    leaf: str | None = None


_decode_line = msgspec.json.Decoder(_Line).decode


class LogReader:
    """Asks one log. Used within one event loop; `close` ends its connections."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._transport: Final = AsyncTransport(endpoint)
        self._driver: Final = AsyncDriver(
            self._send, sleep=asyncio.sleep, retry=RETRY, environment=Environment()
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.close()

    async def run(self, plan: Plan[T]) -> T:
        """The result of a plan. Raises: what the plan raises; UnavailableError."""
        return await self._driver.run(plan)

    async def fetch_head(self, *, tree_size: int) -> str:
        """The published head, once it has this size or the wait is over: a signed note.

        Raises: UnavailableError, MalformedError.
        """
        target = f"/v1/checkpoints?from={tree_size}&limit=1&wait=1"
        request = Request(target=target, answer_bytes_max=1 << 20)
        with _refusals_as_unavailable():
            return decode_answer(request, await self._send(request), KeptCheckpoints).published

    async def fetch_tiles(self, refs: Sequence[TileRef]) -> dict[TileRef, bytes]:
        """Tiles of hashes. Raises: UnavailableError; VerificationError for one that is missing."""
        tiles = await asyncio.gather(*(self._fetch(fetch_tile(ref), ref) for ref in refs))
        return dict(zip(refs, tiles, strict=True))

    async def fetch_bundles(self, refs: Sequence[TileRef]) -> list[tuple[bytes, list[bytes]]]:
        """Entry bundles: the bytes, and the leaves in them, cut to their width.

        Raises: UnavailableError; VerificationError for one that is missing or is none.
        """
        bundles = await asyncio.gather(*(self._fetch(fetch_bundle(ref), ref) for ref in refs))
        return [(bundle, _leaves(ref, bundle)) for ref, bundle in zip(refs, bundles, strict=True)]

    async def stream(self, start: int) -> AsyncGenerator[list[tuple[int, bytes]], None]:
        """Entries from an index on as the log acknowledges them, some at a time, without an end.

        Empty lists come while there are none. Raises: UnavailableError, MalformedError.
        """
        request = Request(target=f"/v1/events/stream?from={start}", accept="application/x-ndjson")
        lines = LineSplitter()
        expected = start
        with _refusals_as_unavailable():
            async with aclosing(self._transport.stream(request)) as pieces:
                async for piece in pieces:
                    found = [each for each in map(_entry, lines.feed(piece)) if each is not None]
                    for index, _ in found:
                        if index != expected:
                            raise MalformedError(
                                f"the stream has entry {index} where {expected} is due: a token "
                                "that is bound to a tenant can't read the whole log"
                            )
                        expected += 1
                    yield found

    async def show_head(self, note: str) -> None:
        """Show the log a head that it signed. Raises: UnavailableError, RejectedError."""
        request = show_head_request(note)
        decode_answer(request, await self._send(request), msgspec.Raw)

    async def _fetch(self, plan: Plan[bytes], ref: TileRef) -> bytes:
        try:
            return await self.run(plan)
        except RejectedError as error:
            if error.problem.status in _TOKEN_REFUSED:
                raise UnavailableError(f"the log refuses the token: {error}") from error
            if error.problem.slug == "pruned":
                raise UnavailableError(
                    f"the log says that {ref.path} was pruned before this mirror had it: {error}; "
                    "a mirror needs every entry, so copy the folder of another one"
                ) from error
            raise VerificationError(
                f"the log withholds {ref.path}, which its head covers: {error}"
            ) from error
        except MalformedError as error:
            raise VerificationError(f"{ref.path}: {error}") from error

    async def _send(self, request: Request) -> Response:
        try:
            return await self._transport.send(request)
        except VerificationError as error:
            # A certificate that isn't trusted: this is not the log that was asked.
            raise UnavailableError(str(error)) from error


@contextmanager
def _refusals_as_unavailable() -> Iterator[None]:
    """Ask again later after a refusal: a token may be made, a version replaced."""
    try:
        yield
    except RejectedError as error:
        raise UnavailableError(f"the log refuses: {error}") from error
    except VerificationError as error:
        raise UnavailableError(str(error)) from error


def _entry(line: bytes) -> tuple[int, bytes] | None:
    try:
        found = _decode_line(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"a line of the stream is not as agreed: {error}") from None
    if found.index is None or found.leaf is None:
        return None
    return found.index, found.leaf.encode()


def _leaves(ref: TileRef, bundle: bytes) -> list[bytes]:
    evidence = {evidence_name(ref): bundle}
    try:
        leaves = decode_bundle(bundle)[: ref.width]
    except MalformedError as error:
        raise VerificationError(f"{ref.path} is no bundle: {error}", evidence=evidence) from error
    if len(leaves) != ref.width:
        said = f"{ref.path} has {len(leaves)} entries, want {ref.width}"
        raise VerificationError(said, evidence=evidence)
    return leaves
