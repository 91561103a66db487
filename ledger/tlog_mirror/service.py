"""The service of a mirror of logs: it answers requests, without HTTP.

An upload is decoded and verified a package at a time. Packages are appended some at a time, each
time in a transaction on a thread, and the next ones are read after that: so a client sends no
faster than the disk takes it. Several uploads of one log run at once; none waits for another that
has stopped sending.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple, ParamSpec, TypeVar

import structlog

from ledger.log.group_commit import StalledError, stalled_since
from ledger.runtime.text_answer import Answer, text_answer, unavailable_answer
from ledger.store.commit_errors import StorageFullError
from ledger.store.environment import DATA_FILE
from ledger.tlog_mirror.data_dir import (
    TlogMirrorPaths,
    read_signers,
    read_ticket_key,
)
from ledger.tlog_mirror.log_copy import LogCopy
from ledger.tlog_mirror.settings import TlogMirrorSettings
from ledger.tlog_mirror.ticket import open_ticket, seal_ticket
from ledger.tlog_mirror.upload_body import CutShortError
from ledger_core.tlog import mirror as protocol
from ledger_core.tlog import witness
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.mirror import origin_hash
from ledger_core.tlog.signed_subtree import parse_sign_subtree, sign_subtree

BATCH_PACKAGES_MAX: Final = 32
BATCH_BYTES_MAX: Final = 1 << 20
"""Entries of an upload that are appended at once: as many packages as begin within these bytes."""

COME_AGAIN_S: Final = 1

_log = structlog.get_logger("ledger.tlog_mirror")

P = ParamSpec("P")
T = TypeVar("T")


class _Upload(NamedTuple):
    """An upload that runs: where it comes from, and its end."""

    address: str
    end: asyncio.Timeout


class TlogMirror:
    """One mirror of logs, created and used on the event loop of its process."""

    def __init__(
        self, directory: Path, settings: TlogMirrorSettings, *, now: Callable[[], int]
    ) -> None:
        """Open every log. Raises: UnavailableError, MalformedError, VerificationError."""
        self._paths: Final = TlogMirrorPaths(directory)
        self._settings: Final = settings
        self._now: Final = now
        self._signers: Final = read_signers(self._paths)
        self._ticket_key: Final = read_ticket_key(self._paths)
        self.name: Final = self._signers[0].verifier.name
        self._uploads: Final[dict[object, _Upload]] = {}  # The earliest first.
        self._threads: Final = ThreadPoolExecutor(
            settings.uploads_max, thread_name_prefix="tlog-mirror"
        )
        self._numbers: Final = count()
        self._begun_s: Final[dict[int, float]] = {}  # Of the work on threads, by its number.
        self._copies: Final[dict[str, LogCopy]] = {}
        try:
            for folder in self._paths.log_folders():
                self._open(folder)
        except BaseException:
            self.close()
            raise

    @property
    def failure(self) -> UnavailableError | None:
        """Why the last write of one of the logs failed, or does not end, if that is so."""
        failures = [copy.store.environment.failure for copy in self._copies.values()]
        return next((each for each in failures if each is not None), self._stalled)

    @property
    def _stalled(self) -> StalledError | None:
        """Why no more work is taken now: some has taken long, and may yet end."""
        begun_s = list(self._begun_s.values())
        return stalled_since(min(begun_s)) if begun_s else None

    def close(self) -> None:
        """End the threads after their work, and close the stores."""
        self._threads.shutdown()
        for copy in self._copies.values():
            copy.close()

    def probe(self) -> None:
        """Try failed writes again, so that `/healthz` shows the recovery."""
        for copy in self._copies.values():
            if copy.store.environment.failure is not None:
                copy.store.environment.probe()

    def find(self, origin_hash: str) -> LogCopy | None:
        """The copy of a log by the SHA-256 of its origin. Opens a copy that was added meanwhile.

        Raises: as `LogCopy.open`.
        """
        copy = self._copies.get(origin_hash)
        folder = self._paths.logs / origin_hash
        if copy is None and (folder / DATA_FILE).is_file():
            copy = self._open(folder)
        return copy

    async def add_checkpoint(self, body: bytes) -> Answer:
        """Store a checkpoint of a log as its pending one."""
        try:
            request = witness.parse_add_checkpoint(body)
        except MalformedError as error:
            return text_answer(HTTPStatus.BAD_REQUEST, str(error))
        try:
            copy = self.find(origin_hash(request.signed.checkpoint.origin))
            log = None if copy is None else copy.verifiers()
            authentic = witness.authenticate(request, log=log)
            if copy is None or isinstance(authentic, witness.Refused):
                return _refusal(authentic)
            outcome = await self._on_thread(copy.set_pending, authentic)
        except (UnavailableError, MalformedError, VerificationError) as error:
            return _failure(error)
        # The mirror's own key signs when the entries are here, and there is no other.
        return _refusal(outcome) if isinstance(outcome, witness.Refused) else text_answer(200, "")

    async def sign_subtree(self, body: bytes) -> Answer:
        """Sign a subtree of a checkpoint that this mirror has cosigned."""
        try:
            request = parse_sign_subtree(body)
        except MalformedError as error:
            return text_answer(HTTPStatus.BAD_REQUEST, str(error))
        try:
            is_known = self.find(origin_hash(request.signed.checkpoint.origin)) is not None
        except (UnavailableError, MalformedError, VerificationError) as error:
            return _failure(error)
        decide = partial(sign_subtree, request, self._signers, is_known=is_known)
        try:
            outcome = await self._on_thread(decide)
        except UnavailableError as error:
            return _failure(error)
        if isinstance(outcome, witness.Refused):
            return _refusal(outcome)
        return Answer(HTTPStatus.OK, witness.format_cosignatures(outcome))

    async def add_entries(self, pieces: AsyncIterator[bytes], *, address: str) -> Answer:
        """Take an upload, whose body comes in `pieces`; they may raise `CutShortError`."""
        if not self._make_room(address):
            return _come_again("too many uploads run")
        place = object()
        try:
            async with asyncio.timeout(None) as end:
                self._uploads[place] = _Upload(address, end)
                return await _UploadTask(self, pieces, self._settings.package_wait_s).run()
        except TimeoutError:
            return _come_again("another address had no upload, and this one gave way")
        except VerificationError as error:
            return text_answer(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except (UnavailableError, MalformedError) as error:
            return _failure(error)
        finally:
            self._uploads.pop(place, None)

    def _make_room(self, address: str) -> bool:
        """Whether one more upload of an address may run.

        If all places are taken, one of the address that has most gives way, unless that leaves it
        fewer than the other: a few addresses that send slowly must not keep all others out. What it
        has sent is kept, and its client goes on from there.
        """
        counts = Counter(each.address for each in self._uploads.values())
        if counts[address] >= self._settings.uploads_per_address_max:
            return False
        if counts.total() < self._settings.uploads_max:
            return True
        greedy, most = counts.most_common(1)[0]
        if most <= counts[address] + 1:
            return False
        place = next(at for at, each in self._uploads.items() if each.address == greedy)
        self._uploads.pop(place).end.reschedule(asyncio.get_running_loop().time())
        return True

    def resolve(self, upload: protocol.Upload) -> tuple[LogCopy, SignedCheckpoint] | Answer:
        """The copy that an upload is for, and the checkpoint to verify it by; or the refusal."""
        copy = self.find(origin_hash(upload.origin))
        resolved = protocol.resolve_upload(
            upload,
            None if copy is None else copy.state(),
            ticketed=open_ticket(upload.ticket, self._ticket_key, origin=upload.origin),
        )
        if copy is None or isinstance(resolved, witness.Refused):
            return _refusal(resolved)
        if isinstance(resolved, protocol.Conflict):
            return self.go_on(HTTPStatus.CONFLICT, resolved.checkpoint, resolved.next_entry)
        return copy, resolved

    async def keep(
        self, copy: LogCopy, packages: Sequence[protocol.Package], checkpoint: SignedCheckpoint
    ) -> int:
        """Call `LogCopy.keep` on a thread."""
        return await self._on_thread(copy.keep, packages, checkpoint)

    async def finish(self, copy: LogCopy, checkpoint: SignedCheckpoint) -> Answer:
        """Cosign a checkpoint whose entries are all kept."""
        outcome = await self._on_thread(copy.cosign, checkpoint)
        if isinstance(outcome, witness.Refused):
            return _refusal(outcome)
        if isinstance(outcome, protocol.Conflict):
            return self.go_on(HTTPStatus.CONFLICT, outcome.checkpoint, outcome.next_entry)
        lines = witness.cosignatures_by(outcome, self._signers)
        return Answer(HTTPStatus.OK, witness.format_cosignatures(lines))

    def go_on(self, status: int, checkpoint: SignedCheckpoint, next_entry: int) -> Answer:
        """The answer that says from where to go on."""
        info = protocol.MirrorInfo(
            checkpoint.head.tree_size, next_entry, seal_ticket(checkpoint, self._ticket_key)
        )
        return Answer(status, protocol.format_mirror_info(info), protocol.INFO_MEDIA)

    async def _on_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function on a thread. Raises: StalledError while the disk stands still."""
        if (stalled := self._stalled) is not None:
            raise stalled
        work = partial(self._timed, next(self._numbers), partial(function, *args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _timed(self, number: int, work: Callable[[], T]) -> T:
        self._begun_s[number] = time.monotonic()
        try:
            return work()
        finally:
            del self._begun_s[number]

    def _open(self, folder: Path) -> LogCopy:
        copy = LogCopy.open(
            folder, self._signers, now=self._now, map_bytes=self._settings.log_bytes_max
        )
        self._copies[folder.name] = copy
        return copy


class _UploadTask:
    """One upload from its first byte to its answer."""

    def __init__(
        self, mirror: TlogMirror, pieces: AsyncIterator[bytes], package_wait_s: float
    ) -> None:
        self._mirror: Final = mirror
        self._pieces: Final = pieces
        self._package_wait_s: Final = package_wait_s
        self._decoder: Final = protocol.UploadDecoder()
        self._batch: list[protocol.Package] = []
        self._batch_bytes = 0
        self._verified = 0

    async def run(self) -> Answer:
        """Raises: as `LogCopy.keep` and `LogCopy.cosign`."""
        resolved: tuple[LogCopy, SignedCheckpoint] | Answer | None = None
        reason = "the body ends before its first package does"
        try:
            async for packages in self._arriving():
                if resolved is None and self._decoder.upload is not None:
                    resolved = self._mirror.resolve(self._decoder.upload)
                if isinstance(resolved, Answer):
                    return resolved  # At once: what else is sent would be in vain.
                for package in packages:
                    await self._take(package, resolved)
        except CutShortError as error:
            # What came before is kept, and the client goes on from there.
            reason = str(error)
        upload = self._decoder.upload
        if resolved is None or isinstance(resolved, Answer) or upload is None:
            return text_answer(HTTPStatus.BAD_REQUEST, reason)
        copy, checkpoint = resolved
        await self._keep(copy, checkpoint)
        if upload.start < upload.end and not self._verified:
            return text_answer(HTTPStatus.BAD_REQUEST, reason)
        next_entry = copy.state().next_entry
        if next_entry < upload.end:
            return self._mirror.go_on(HTTPStatus.ACCEPTED, checkpoint, next_entry)
        return await self._mirror.finish(copy, checkpoint)

    async def _arriving(self) -> AsyncIterator[list[protocol.Package]]:
        """The packages that each piece of the body completes. Raises: CutShortError."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._package_wait_s
        while True:
            try:
                async with asyncio.timeout_at(deadline_s):
                    piece = await anext(self._pieces, b"")
            except TimeoutError:
                wait_s = self._package_wait_s
                raise CutShortError(f"no package arrived within {wait_s:g} s") from None
            if not piece:
                return
            packages: list[protocol.Package] = []
            fault: MalformedError | None = None
            try:
                packages.extend(self._decoder.feed(piece))
            except MalformedError as error:
                fault = error
            yield packages
            if fault is not None:
                raise CutShortError(str(fault))
            if packages:
                deadline_s = loop.time() + self._package_wait_s

    async def _take(
        self, package: protocol.Package, resolved: tuple[LogCopy, SignedCheckpoint] | None
    ) -> None:
        if resolved is None:
            raise AssertionError("no package comes before the beginning of the body")
        self._batch.append(package)
        self._batch_bytes += sum(map(len, package.entries))
        if len(self._batch) >= BATCH_PACKAGES_MAX or self._batch_bytes >= BATCH_BYTES_MAX:
            await self._keep(*resolved)

    async def _keep(self, copy: LogCopy, checkpoint: SignedCheckpoint) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if batch:
            await self._mirror.keep(copy, batch, checkpoint)
            self._verified += len(batch)


def _come_again(reason: str) -> Answer:
    return text_answer(HTTPStatus.SERVICE_UNAVAILABLE, reason, retry_after_s=COME_AGAIN_S)


def _failure(error: Exception) -> Answer:
    """The answer when a store can't be read or written."""
    if isinstance(error, StorageFullError):
        return text_answer(HTTPStatus.INSUFFICIENT_STORAGE, str(error))
    if isinstance(error, UnavailableError):
        return unavailable_answer(error)
    _log.critical("store_damaged", reason=str(error))
    return text_answer(HTTPStatus.SERVICE_UNAVAILABLE, "the store of this mirror is damaged")


def _refusal(refused: object) -> Answer:
    if not isinstance(refused, witness.Refused):
        raise TypeError(f"{refused!r} is no refusal")
    if refused.known_size is not None:
        size = witness.format_size_answer(refused.known_size)
        return Answer(refused.status, size, witness.SIZE_MEDIA)
    return text_answer(refused.status, refused.reason)
