"""The service of a witness: it answers requests, without HTTP.

A request is parsed and its signatures are verified on the event loop. The writer thread then
compares it with the stored head and replaces that, in a transaction shared by all waiting requests.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple

import structlog

from ledger.log.group_commit import GroupCommit
from ledger.witness.store import HeadStore, HeadWriter, KnownLog, Outcome, Update
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.cosignature import CosignatureSigner, CosignatureVerifier, parse_verifier
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.note import Verifier
from ledger_core.tlog.witness import (
    SIZE_MEDIA,
    Authentic,
    Refused,
    advance,
    authenticate,
    cosignatures_by,
    format_cosignatures,
    format_size_answer,
    is_fork,
    parse_add_checkpoint,
)

WAITING_MAX: Final = 10_000
BATCH_MAX: Final = 1_000
TEXT: Final = "text/plain; charset=utf-8"
LOGS_CACHED_MAX: Final = 10_000

_log = structlog.get_logger("ledger.witness")


class Answer(NamedTuple):
    """A status of HTTP, a body, and its type."""

    status: int
    body: str
    content_type: str = TEXT


class Witness:
    """One witness, created and used on the event loop of its process.

    `now` gives the time in whole seconds since 1970, on the writer thread.
    """

    def __init__(
        self,
        writer: HeadWriter,
        signers: Sequence[CosignatureSigner],
        *,
        now: Callable[[], int],
    ) -> None:
        self._writer = writer
        self._signers = tuple(signers)
        self._now = now
        self._commits: GroupCommit[Update, Outcome] = GroupCommit(
            self._commit, name="witness-writer", waiting_max=WAITING_MAX, batch_max=BATCH_MAX
        )

    @property
    def name(self) -> str:
        """The name in its cosignatures."""
        return self._signers[0].verifier.name

    @property
    def vkeys(self) -> tuple[str, ...]:
        """Its verifier keys, for policies."""
        return tuple(str(signer.verifier) for signer in self._signers)

    @property
    def store(self) -> HeadStore:
        """The known logs and their heads."""
        return self._writer.store

    @property
    def failure(self) -> UnavailableError | None:
        """Why nothing is cosigned any more, or None."""
        return self._commits.failure

    async def stop(self) -> None:
        """Commit the waiting requests, then end the writer thread and close the store."""
        await self._commits.stop()
        self._writer.close()

    async def add_checkpoint(self, body: bytes) -> Answer:
        """The answer to an add-checkpoint request."""
        try:
            request = parse_add_checkpoint(body)
        except MalformedError as error:
            return _refusal(Refused(HTTPStatus.BAD_REQUEST, str(error)))
        origin = request.signed.checkpoint.origin
        log = self.store.log(origin)
        authentic = authenticate(request, log=None if log is None else _verifiers(log))
        if isinstance(authentic, Refused):
            return _refusal(authentic)
        try:
            outcome = await self._commits.submit(
                Update(origin, lambda known: self._advance(authentic, known))
            )
        except UnavailableError as error:
            return _refusal(Refused(HTTPStatus.SERVICE_UNAVAILABLE, str(error)))
        if isinstance(outcome, Refused):
            return _refusal(outcome)
        return Answer(HTTPStatus.OK, format_cosignatures(cosignatures_by(outcome, self._signers)))

    def checkpoint(self, origin_hash: bytes) -> str | None:
        """The head cosigned last for an origin, by its SHA-256: a signed note, or None."""
        head = self.store.head(origin_hash)
        return None if head is None else head.note

    def _commit(self, updates: Sequence[Update]) -> list[Outcome]:
        """Commit a batch, on the writer thread."""
        outcomes = self._writer.commit(updates)
        cosigned = sum(isinstance(outcome, SignedCheckpoint) for outcome in outcomes)
        if cosigned:
            _log.info("heads_cosigned", heads=cosigned)
        return outcomes

    def _advance(self, authentic: Authentic, known: SignedCheckpoint | None) -> Outcome:
        """Decide one request, on the writer thread, inside the transaction of its batch."""
        outcome = advance(authentic, known=known, signers=self._signers, time_unix_s=self._now())
        if isinstance(outcome, Refused):
            _log_refusal(authentic, known, outcome)
        return outcome


def _log_refusal(authentic: Authentic, known: SignedCheckpoint | None, refused: Refused) -> None:
    """Log a refusal; a fork is logged with both heads, which are the evidence."""
    origin = authentic.request.signed.checkpoint.origin
    if known is not None and is_fork(authentic, known):
        _log.critical(
            "log_forked",
            origin=origin,
            cosigned_note=known.note,
            refused_note=authentic.request.signed.note,
        )
    elif refused.status != HTTPStatus.CONFLICT:
        _log.warning("head_refused", origin=origin, status=refused.status, reason=refused.reason)


def _refusal(refused: Refused) -> Answer:
    if refused.known_size is not None:
        return Answer(refused.status, format_size_answer(refused.known_size), SIZE_MEDIA)
    return Answer(refused.status, f"{refused.reason}\n")


@lru_cache(LOGS_CACHED_MAX)
def _verifiers(log: KnownLog) -> tuple[Verifier | CosignatureVerifier, ...]:
    """The parsed keys of a log, cached."""
    return tuple(map(parse_verifier, log.vkeys))
