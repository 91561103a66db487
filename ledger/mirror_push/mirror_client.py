"""Sends requests to one mirror, and reads its answers.

`push` brings one head to the mirror: first the checkpoint, then all entries below it that the
mirror lacks, some packages a request. What it answers:

    add-checkpoint  200   the head is the pending checkpoint
                    409   its size: used once, as the start of the proof
    add-entries     200   cosignatures: all entries are there
                    202   a part is there; the next request begins at the entry that it names
                    409   other ends, and a ticket: the next request has them
    else                  an error of the mirror or of the network; later once more

The mirror may have had a larger head from us already, when this one was restored from a backup or
two of us send to it. It can't cosign a smaller one then, and says so by a 409.
"""

import asyncio
import gzip
import ssl
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import aiohttp
import structlog

from ledger.follow.position import with_answer
from ledger.log.witness_client import Reply, make_session, read_reply
from ledger.mirror_push.config import MirrorTarget
from ledger.mirror_push.packages import make_body
from ledger.runtime.network_errors import explain_network_error
from ledger.store.log import LogStore
from ledger_client.runtime.clock import unix_s
from ledger_core.tlog import mirror as protocol
from ledger_core.tlog import witness
from ledger_core.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.cosignature import CosignatureVerifier
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.note import Signature, verify_note
from ledger_core.tlog.tile import TILE_WIDTH
from ledger_core.tlog.tree import TreeHead

DETOURS_MAX: Final = 8
"""Answers in one push that may keep no further package whole, as those that want other ends: a
mirror that goes back and forth, or on by an entry at a time, is left alone for a while."""

GZIP_LEVEL: Final = 1

_log = structlog.get_logger("ledger.mirror_push")


class AheadError(UnavailableError):
    """The mirror has a later head than the one that is sent, or is waiting for its entries."""


class LostError(UnavailableError):
    """The mirror has had more entries from this log than the log has now."""


class UnknownKeyError(UnavailableError):
    """What the mirror cosigned has no cosignature by a known key."""


class Probed(NamedTuple):
    """What a mirror has of a head: its first entries, and its cosignatures once it has all."""

    kept: int
    cosignatures: tuple[Signature, ...]


class MirrorClient:
    """The client of one mirror. Used by one task. Call `close` in the end."""

    def __init__(
        self,
        config: MirrorTarget,
        store: LogStore,
        *,
        verifiers: Sequence[CosignatureVerifier],
        next_entry: int,
        on_kept: Callable[[int], None],
    ) -> None:
        """`next_entry`: what the mirror has confirmed before. `on_kept` is told of what it adds.

        Raises: UnavailableError for an unfit `ca_file`.
        """
        self._config: Final = config
        self._url: Final = config.url.rstrip("/")
        self._store: Final = store
        self._keys: Final = {(each.name, each.key_id): each for each in verifiers}
        self._on_kept: Final = on_kept
        self._next_entry = next_entry
        self._known_size = 0
        self._ticket = b""
        self._must_probe = True
        self._tls: Final = _client_context(config)
        self._session: Final = make_session(config.timeout_s)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def push(self, signed: SignedCheckpoint) -> tuple[Signature, ...]:
        """Send a head and its entries to the mirror; return its verified cosignatures.

        Precondition: the log has signed the head, and the store has its tree.
        Raises: UnavailableError, MalformedError for entries that are damaged here.
        """
        head = signed.head
        await self._add_checkpoint(signed)
        start, end, detours = min(self._next_entry, head.tree_size), head, 0
        reached = start
        while True:
            upload = protocol.Upload(signed.checkpoint.origin, start, end.tree_size, self._ticket)
            reply = await self._add_entries(upload, end)
            least = _least_progress(reached, head)
            if reply.status == HTTPStatus.OK:
                self._note_kept(end.tree_size)
                self._ticket = b""
                if end == head:
                    return self._verified(signed, reply.body)
                if end.tree_size > head.tree_size:
                    raise self._ahead(end.tree_size)
                # The mirror wanted an earlier head first.
                reached, end = end.tree_size, head
                is_progress = reached >= least
            else:
                info = self._parse_info(reply)
                is_kept = reply.status == HTTPStatus.ACCEPTED and info.next_entry > start
                if is_kept:
                    self._note_kept(info.next_entry)
                elif upload.start == head.tree_size < info.tree_size:
                    raise self._ahead(info.tree_size)
                self._next_entry, self._ticket = info.next_entry, info.ticket
                end = self._end_for(info, head)
                reached = min(info.next_entry, head.tree_size)
                is_progress = is_kept and reached >= least
            if not is_progress and (detours := detours + 1) > DETOURS_MAX:
                raise self._failed(f"wants other entries again and again, now {reached}")
            start = min(reached, end.tree_size)

    async def probe(self, signed: SignedCheckpoint) -> Probed:
        """Show a head to the mirror and ask what it has of it. No entry is sent.

        Precondition and errors: as `push`.
        """
        await self._add_checkpoint(signed)
        size = signed.head.tree_size
        # Without entries: a mirror that has all of them answers with its cosignatures.
        upload = protocol.Upload(signed.checkpoint.origin, size, size, b"")
        body = await asyncio.to_thread(make_body, self._store, upload, signed.head, packages_max=0)
        reply = await self._post("/add-entries", body, protocol.MEDIA)
        if reply.status == HTTPStatus.OK:
            return Probed(size, self._verified(signed, reply.body))
        if reply.status not in (HTTPStatus.ACCEPTED, HTTPStatus.CONFLICT):
            raise self._refused(reply)
        return Probed(min(self._parse_info(reply).next_entry, size), ())

    async def fetch_shown(self, origin: str) -> bytes | None:
        """The checkpoint that the mirror shows of a log, unverified; None when it shows none.

        Raises: UnavailableError.
        """
        reply = await self._request("GET", f"/{protocol.origin_hash(origin)}/checkpoint")
        return reply.body if reply.status == HTTPStatus.OK else None

    async def fetch_cosigned(self, origin: str) -> tuple[int, tuple[Signature, ...]] | None:
        """The size that the mirror shows as cosigned last, and its verified cosignatures.

        None when it shows none at this address: it may serve its copies at another one.
        Raises: UnavailableError, also for a checkpoint without a cosignature by a known key.
        """
        note = await self.fetch_shown(origin)
        if note is None:
            return None
        try:
            shown = parse_signed_checkpoint(note)
        except MalformedError:
            return None  # A page of something else.
        if shown.checkpoint.origin != origin:
            raise self._failed(f"shows a checkpoint of {shown.checkpoint.origin!a}")
        try:
            cosignatures = verify_note(shown.as_note(), self._keys.values())
        except VerificationError as error:
            raise UnknownKeyError(
                f"the mirror shows a checkpoint that none of its keys cosigned: {error}"
            ) from None
        return shown.head.tree_size, cosignatures

    def _end_for(self, info: protocol.MirrorInfo, head: TreeHead) -> TreeHead:
        """The head to upload to next. Raises: UnavailableError."""
        if info.tree_size == head.tree_size or info.next_entry >= head.tree_size:
            # Its proofs are what the mirror wants, or all of its entries are there.
            return head
        self._check_size(info.tree_size)
        return self._store.head_at(info.tree_size)

    def _check_size(self, size: int) -> None:
        durable_size = self._store.head().tree_size
        if size > durable_size:
            raise LostError(
                f"the mirror knows size {size}, and the log here has {durable_size} entries: it "
                "looks like a restored backup"
            )

    def _ahead(self, size: int) -> AheadError:
        return AheadError(f"the mirror has cosigned or awaits size {size}, this head is older")

    async def _add_checkpoint(self, signed: SignedCheckpoint) -> None:
        size = signed.head.tree_size
        for _ in range(2):
            old_size = min(self._known_size, size)
            proof = self._store.prove_consistency(old_size, signed.head)
            body = witness.format_add_checkpoint(witness.AddCheckpoint(old_size, proof, signed))
            reply = await self._post("/add-checkpoint", body, "text/plain; charset=utf-8")
            if reply.status == HTTPStatus.OK:
                self._known_size = size
                return
            if reply.status != HTTPStatus.CONFLICT:
                raise self._refused(reply)
            try:
                self._known_size = witness.parse_size_answer(reply.body)
            except MalformedError as error:
                raise self._failed(f"gave a bad answer of 409: {error}") from error
            if self._known_size > size:
                self._check_size(self._known_size)
                return  # It knows a later head; what this one needs may be there.
        raise self._failed("answered 409 to the size that it gave itself")

    async def _add_entries(self, upload: protocol.Upload, head: TreeHead) -> Reply:
        """Send the first packages of an upload. At the start and after a failure, none of them.

        A mirror may refuse an upload before it has read it, and that answer may be lost with the
        connection. So what the mirror wants is asked for with a request without entries first.
        """
        most = 0 if self._must_probe else self._config.packages_max
        body = await asyncio.to_thread(make_body, self._store, upload, head, packages_max=most)
        try:
            reply = await self._post("/add-entries", body, protocol.MEDIA)
        except UnavailableError:
            self._must_probe = True
            raise
        is_probe, self._must_probe = self._must_probe, False
        if is_probe and reply.status == HTTPStatus.BAD_REQUEST and upload.start < upload.end:
            # It has read the beginning, and misses the entries alone.
            return await self._add_entries(upload, head)
        if reply.status in (HTTPStatus.OK, HTTPStatus.ACCEPTED, HTTPStatus.CONFLICT):
            return reply
        raise self._refused(reply)

    async def _post(self, path: str, body: bytes, media: str) -> Reply:
        """Post a request and return the answer. Raises: UnavailableError."""
        headers = {"Content-Type": media}
        if self._config.gzip and media == protocol.MEDIA:
            body = await asyncio.to_thread(gzip.compress, body, GZIP_LEVEL)
            headers["Content-Encoding"] = "gzip"
        return await self._request("POST", path, data=body, headers=headers)

    async def _request(self, method: str, path: str, **content: Any) -> Reply:
        """An answer. Raises: UnavailableError."""
        bytes_max = protocol.INFO_BYTES_MAX
        try:
            async with self._session.request(
                method, self._url + path, ssl=self._tls, allow_redirects=False, **content
            ) as answer:
                reply = await read_reply(answer, bytes_max, unix_s=unix_s())
                if reply is None:
                    raise self._failed(f"sent more than {bytes_max} bytes")
                return reply
        except TimeoutError:
            raise self._failed(f"gave no answer in {self._config.timeout_s:g} s") from None
        except aiohttp.ClientConnectorError as error:
            raise self._failed(f"can't be reached: {explain_network_error(error)}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._failed(f"broke off: {explain_network_error(error)}") from error

    def _parse_info(self, reply: Reply) -> protocol.MirrorInfo:
        try:
            return protocol.parse_mirror_info(reply.body)
        except MalformedError as error:
            raise self._failed(f"gave a bad answer of {reply.status}: {error}") from error

    def _verified(self, signed: SignedCheckpoint, body: bytes) -> tuple[Signature, ...]:
        """The cosignatures by known keys. A bad one makes the whole answer untrue."""
        try:
            cosignatures = witness.verify_cosignatures(body, signed.as_note().text, self._keys)
        except (MalformedError, VerificationError) as error:
            raise self._failed(f"gave a bad answer: {error}") from error
        if not cosignatures:
            raise UnknownKeyError(
                "the mirror answered without a cosignature by a known key: name its keys in vkeys, "
                "or in the policy"
            )
        return cosignatures

    def _note_kept(self, next_entry: int) -> None:
        self._next_entry = max(self._next_entry, next_entry)
        self._on_kept(min(self._next_entry, self._store.head().tree_size))

    def _refused(self, reply: Reply) -> UnavailableError:
        text = reply.body[:200].decode(errors="replace")
        said = "".join(c if c.isprintable() else " " for c in text).strip()
        return self._failed(with_answer(f"answered {reply.status}", said), reply.retry_after_s)

    def _failed(self, what: str, retry_after_s: float = 0.0) -> UnavailableError:
        """The error of a mirror; `what` begins with a verb."""
        return UnavailableError(f"the mirror {what}", retry_after_s=retry_after_s)


def _least_progress(reached: int, head: TreeHead) -> int:
    """The entry after the next package: a mirror keeps whole packages of an upload."""
    behind = reached - reached % TILE_WIDTH + TILE_WIDTH
    # Behind the last entry there is no progress, whatever an answer says.
    return reached + 1 if reached >= head.tree_size else min(behind, head.tree_size)


def _client_context(config: MirrorTarget) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise UnavailableError(f"{config.ca_file}: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
