"""Cosigns the log's heads with the mirror's own key, once their entries are held here.

A policy may name the mirror as a witness, at the mirror's own address. The log then asks it as any
witness (c2sp.org/tlog-witness); the answer is given when the entries are durable and verified here,
so a quorum with the mirror in it means that an event is on another host.

    POST /add-checkpoint             503 while the entries are not held, after a wait of `WAIT_S`
    GET  /<origin hash>/checkpoint   the head that was cosigned last

The witness decides, with the store and the rules of every witness. The check that the entries are
held is within its transaction, so no request overtakes it.
"""

from http import HTTPStatus
from typing import Final

from aiohttp import web

from ledger.log.sequencer import Sequencer
from ledger.mirror.follower import Follower
from ledger.mirror.replica import ForkError, Replica
from ledger.runtime.text_answer import Answer
from ledger.service.context import ServiceContext
from ledger.service.http.parameters import Parameter
from ledger.service.http.responses import NO_CACHE, TEXT_MEDIA, make_answer
from ledger.service.http.router import TEXT_SCHEMA, Route, Success
from ledger.witness.service import Witness
from ledger_client.runtime.sender_network import sender_network
from ledger_core.tlog import witness as protocol
from ledger_core.tlog.checkpoint import Checkpoint
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.policy import VerifiedHead

WAIT_S: Final = 4.0
"""Less than a log waits for a witness, unless `witness_timeout_s` says otherwise."""


class Cosigner:
    """Answers the log's requests for cosignatures. `check` is called on the witness's thread."""

    def __init__(self, *, wait_s: float = WAIT_S) -> None:
        self._wait_s: Final = wait_s
        self._sequencer: Sequencer | None = None
        self._parts: tuple[Witness, Replica, Follower] | None = None

    def attach(
        self, sequencer: Sequencer, witness: Witness, replica: Replica, follower: Follower
    ) -> None:
        """Begin to cosign; before, every request is refused."""
        self._sequencer = sequencer
        self._parts = (witness, replica, follower)

    def check(self, checkpoint: Checkpoint) -> protocol.Refused | None:
        """A refusal for a head whose entries are not durable here."""
        sequencer = self._sequencer
        if sequencer is None:
            return protocol.Refused(HTTPStatus.SERVICE_UNAVAILABLE, "this mirror is starting")
        held, size = sequencer.store.head().tree_size, checkpoint.tree_size
        if held < size:
            reason = f"this mirror holds {held} of {size} entries"
            return protocol.Refused(HTTPStatus.SERVICE_UNAVAILABLE, reason)
        try:
            is_same = sequencer.store.root_at(size) == checkpoint.root_hash
        except MalformedError as error:
            return protocol.Refused(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        if not is_same:
            reason = f"this mirror holds another tree of size {size}"
            return protocol.Refused(HTTPStatus.UNPROCESSABLE_ENTITY, reason)
        return None

    async def add_checkpoint(self, body: bytes) -> Answer:
        """Wait for the entries of a head, then let the witness decide."""
        if self._parts is None:
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE, "this mirror is starting\n")
        witness, replica, follower = self._parts
        head = self._offered(body)
        if head is not None:
            try:
                replica.shown(head.note.encode())
            except ForkError as error:
                replica.stop(error)
            await follower.wait_held(head, timeout_s=self._wait_s)
        return await witness.add_checkpoint(body)

    def checkpoint(self, origin_hash: bytes) -> str | None:
        """The head cosigned last, a signed note, or None."""
        return None if self._parts is None else self._parts[0].checkpoint(origin_hash)

    @property
    def failure(self) -> UnavailableError | None:
        """Why nothing is cosigned any more."""
        return None if self._parts is None else self._parts[0].failure

    def _offered(self, body: bytes) -> VerifiedHead | None:
        """The head of a request that the witness would cosign if the entries were held."""
        if self._parts is None:
            return None
        witness, replica, _ = self._parts
        try:
            request = protocol.parse_add_checkpoint(body)
            head = replica.check_offered(request.signed)
            known = witness.store.known_size(request.signed.checkpoint.origin)
        except (MalformedError, VerificationError):
            return None
        # The witness answers 409 with the size, for which the log need not wait.
        return head if known == request.old_size else None


async def add_checkpoint(context: ServiceContext, request: web.BaseRequest) -> web.Response:
    """Cosign a head of the log once its entries are held."""
    owner, bytes_max = sender_network(request.remote or ""), protocol.BODY_BYTES_MAX
    body = await context.read_body(request, owner=owner, bytes_max=bytes_max)
    await context.begin_quick_work(request)
    return _answer(await _cosigner(context).add_checkpoint(body))


async def read_cosigned(
    context: ServiceContext, request: web.BaseRequest, *, origin_hash: str
) -> web.Response:
    """The head that was cosigned last."""
    await context.begin_quick_work(request)
    note = _cosigner(context).checkpoint(bytes.fromhex(origin_hash))
    if note is None:
        return _answer(Answer(HTTPStatus.NOT_FOUND, "nothing was cosigned for this origin\n"))
    return _answer(Answer(HTTPStatus.OK, note))


def _cosigner(context: ServiceContext) -> Cosigner:
    cosigner = getattr(context.mirrored, "cosigner", None)
    if not isinstance(cosigner, Cosigner):
        raise TypeError("these routes are those of a mirror")
    return cosigner


def _answer(answer: Answer) -> web.Response:
    return make_answer(
        answer.body.encode(), media=answer.content_type, status=answer.status, cache=NO_CACHE
    )


ROUTES: Final = (
    Route(
        method="POST",
        path="/add-checkpoint",
        handler=add_checkpoint,
        summary="Cosign a head of the log",
        bodies={TEXT_MEDIA: TEXT_SCHEMA},
        successes=(Success("The cosignatures.", {TEXT_MEDIA: TEXT_SCHEMA}),),
    ),
    Route(
        path="/{origin_hash}/checkpoint",
        handler=read_cosigned,
        summary="The head that was cosigned last",
        parameters=(
            Parameter(
                "origin_hash",
                "The SHA-256 of the log's origin, in hex.",
                place="path",
                pattern="[0-9a-f]{64}",
            ),
        ),
        successes=(Success("The head.", {TEXT_MEDIA: TEXT_SCHEMA}),),
    ),
)
