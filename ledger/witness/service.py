"""The service of a witness: it answers requests, without HTTP.

A request is parsed and its signatures are verified on the event loop. The writer thread then
compares it with the stored head and replaces that, in a transaction shared by all waiting requests.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Final

import structlog

from ledger.log.group_commit import CommitLimits, GroupCommit
from ledger.runtime.bucket import Bucket
from ledger.runtime.tasks import wait_set
from ledger.runtime.text_answer import Answer, text_answer, unavailable_answer
from ledger.witness.clock_guard import ClockGuard, steady_s
from ledger.witness.known_log import KnownLog
from ledger.witness.store import HeadWriter, Outcome, Update
from ledger_core.tlog import witness as protocol
from ledger_core.tlog.checkpoint import Checkpoint, SignedCheckpoint
from ledger_core.tlog.cosignature import CosignatureSigner, CosignatureVerifier, parse_verifier
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.note import Verifier

LIMITS: Final = CommitLimits(waiting_max=10_000, batch_max=1_000)
LOGS_CACHED_MAX: Final = 10_000
HOURS_A_DAY: Final = 24
DAY_S: Final = 86_400.0

CHECK_INTERVAL_S: Final = 1.0
"""Seconds between looks at the store, of a write that failed."""

_log = structlog.get_logger("ledger.witness")


Check = Callable[[Checkpoint], protocol.Refused | None]


class Witness:
    """One witness, created and used on the event loop of its process.

    `now` gives the time in whole seconds since 1970, on the writer thread. `steady_s` counts
    seconds and is never set. A clock that runs ahead of it was set: a head that is cosigned with a
    time to come keeps the witness from cosigning until that time.
    """

    def __init__(
        self,
        writer: HeadWriter,
        signers: Sequence[CosignatureSigner],
        *,
        now: Callable[[], int],
        steady_s: Callable[[], float] = steady_s,
        check: Check = lambda _checkpoint: None,
    ) -> None:
        """`check` may refuse a head that the witness would cosign; the writer thread calls it."""
        self.store: Final = writer.store
        self.name: Final = signers[0].verifier.name
        self.vkeys: Final = tuple(str(signer.verifier) for signer in signers)
        self._writer = writer
        self._signers = tuple(signers)
        self._now = now
        self._steady_s = steady_s
        self._check = check
        self._clock = ClockGuard(now(), steady_s)
        self._buckets: dict[tuple[str, bool], tuple[float, Bucket]] = {}
        self._commits: GroupCommit[Update, Outcome] = GroupCommit(
            self._commit, name="witness-writer", limits=LIMITS
        )

    @property
    def failure(self) -> UnavailableError | None:
        """The failed commit after which only a new process can go on."""
        return self._commits.failure

    @property
    def any_failure(self) -> UnavailableError | None:
        """That failure, or else the last write, which the disk refused or does not finish."""
        return self.failure or self.store.environment.failure or self._commits.stalled

    async def until_failed(self, stop: asyncio.Event) -> None:
        """Until `stop` is set, or a commit failed so that only a new process can go on.

        Tries a write that the disk refused again, so that `/healthz` shows when it has recovered.
        """
        while self.failure is None and not stop.is_set():
            await wait_set(stop, CHECK_INTERVAL_S)
            if self.store.environment.failure is not None:
                await asyncio.to_thread(self.store.environment.probe)

    async def stop(self) -> None:
        """Commit the waiting requests, then end the writer thread and close the store."""
        await self._commits.stop()
        self._writer.close()

    async def add_checkpoint(self, body: bytes) -> Answer:
        try:
            request = protocol.parse_add_checkpoint(body)
        except MalformedError as error:
            return text_answer(HTTPStatus.BAD_REQUEST, str(error))
        origin = request.signed.checkpoint.origin
        try:
            log = self.store.log(origin)
            known = self.store.head_of(origin)
        except MalformedError as error:
            _log.critical("store_damaged", reason=str(error))
            return text_answer(
                HTTPStatus.SERVICE_UNAVAILABLE, "the store of this witness is damaged"
            )
        authentic = protocol.authenticate(request, log=None if log is None else _verifiers(log))
        if isinstance(authentic, protocol.Refused):
            return _refusal(authentic)
        counted = None if log is None else self._count(log, authentic, known)
        if isinstance(counted, Answer):
            return counted
        update = Update(origin, lambda known: self._advance(authentic, known))
        try:
            outcome = await self._commits.submit(update)
        except UnavailableError as error:
            return unavailable_answer(error)
        if isinstance(outcome, protocol.Refused):
            return _refusal(outcome)
        if counted is not None:
            counted.spend(1, self._steady_s())
        cosignatures = protocol.cosignatures_by(outcome, self._signers)
        return Answer(HTTPStatus.OK, protocol.format_cosignatures(cosignatures))

    def checkpoint(self, origin_hash: bytes) -> str | None:
        """The head cosigned last for an origin, by its SHA-256: a signed note, or None."""
        head = self.store.head(origin_hash)
        return None if head is None else head.note

    def _count(
        self, log: KnownLog, authentic: protocol.Authentic, known: SignedCheckpoint | None
    ) -> Answer | Bucket | None:
        """Hold a log to its requests a day: the answer that it has to wait, or what to count it in.

        Anybody can send what a log has signed and published. So only what would be cosigned counts:
        a larger head once it is cosigned, with its right old size and proof; and heads that were
        cosigned before by themselves, as they come: they keep no larger one from being cosigned.
        """
        known_size = 0 if known is None else known.head.tree_size
        is_larger = authentic.request.signed.head.tree_size > known_size
        bucket = self._bucket(log, is_larger=is_larger)
        if bucket is None:
            return None
        if isinstance(protocol.compare(authentic, known=known), protocol.Refused):
            # By now; the writer thread decides, and it counts should it be cosigned after all.
            return bucket
        now_s = self._steady_s()
        if wait_s := math.ceil(bucket.wait_s(now_s)):
            return Answer(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"this log may ask {log.requests_per_day:g} times a day; ask again in {wait_s} s\n",
                retry_after_s=wait_s,
            )
        if is_larger:
            return bucket
        bucket.spend(1, now_s)
        return None

    def _bucket(self, log: KnownLog, *, is_larger: bool) -> Bucket | None:
        key = log.origin, is_larger
        limit = log.requests_per_day
        if limit is None:
            self._buckets.pop(key, None)
            return None
        known = self._buckets.get(key)
        if known is None or known[0] != limit:
            # What an hour has may be used at once, and one request in any case.
            most = max(1.0, limit / HOURS_A_DAY)
            bucket = Bucket(most, DAY_S * most / limit, self._steady_s())
            known = self._buckets[key] = limit, bucket
        return known[1]

    def _commit(self, updates: Sequence[Update]) -> list[Outcome]:
        outcomes = self._writer.commit(updates)
        cosigned = sum(isinstance(outcome, SignedCheckpoint) for outcome in outcomes)
        if cosigned:
            _log.info("heads_cosigned", heads=cosigned)
        return outcomes

    def _advance(self, authentic: protocol.Authentic, known: SignedCheckpoint | None) -> Outcome:
        """Decide one request, on the writer thread, inside the transaction of its batch."""
        time_unix_s = self._now()
        outcome = self._clock.check(time_unix_s) or protocol.advance(
            authentic, known=known, signers=self._signers, time_unix_s=time_unix_s
        )
        if not isinstance(outcome, protocol.Refused):
            # The cosignature that was made is never shown then.
            outcome = self._check(outcome.checkpoint) or outcome
        if isinstance(outcome, protocol.Refused):
            log_refusal(authentic, known, outcome)
        else:
            self._clock.used(time_unix_s)
        return outcome


def log_refusal(
    authentic: protocol.Authentic, known: SignedCheckpoint | None, refused: protocol.Refused
) -> None:
    """Log a refusal; a fork is logged with both heads, which are the evidence."""
    origin = authentic.request.signed.checkpoint.origin
    if known is not None and protocol.is_fork(authentic, known):
        _log.critical(
            "log_forked",
            origin=origin,
            cosigned_note=known.note,
            refused_note=authentic.request.signed.note,
        )
    elif refused.status != HTTPStatus.CONFLICT:
        _log.warning("head_refused", origin=origin, status=refused.status, reason=refused.reason)


def _refusal(refused: protocol.Refused) -> Answer:
    if refused.known_size is not None:
        return Answer(
            refused.status, protocol.format_size_answer(refused.known_size), protocol.SIZE_MEDIA
        )
    return text_answer(refused.status, refused.reason)


@lru_cache(LOGS_CACHED_MAX)
def _verifiers(log: KnownLog) -> tuple[Verifier | CosignatureVerifier, ...]:
    return tuple(map(parse_verifier, log.vkeys))
