"""The plans that accept a head from a server, around a `TrustedLog`.

Many threads may use one client. One lock guards the `TrustedLog`; no plan holds it while it waits
for an answer.

The events of one commit come back to many threads at once, with one head and often with a proof
from a head that is no longer the latest. One thread asks for the missing proof. The others wait
(`Request.unless`) and then find the head accepted, so nearly always one request is sent for each
head: 32 appends in flight sent 2,223 of these requests for 1,920 appends without this.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from ledger_client.errors import OlderHeadError, RejectedError
from ledger_client.messages import NOT_SENT, Plan, Request, Response
from ledger_client.responses import check_same, check_status, decode_answer
from ledger_client.results import Consistency
from ledger_core.api import ConsistencyAnswer
from ledger_core.tlog.errors import UnavailableError
from ledger_core.tlog.hashing import Hash
from ledger_core.tlog.policy import Policy, VerifiedHead
from ledger_core.tlog.proof import Proof, RangeProof
from ledger_core.tlog.trust import ConsistencyProof, TrustedLog, check_consistent, fork_error

CHECKPOINT_REQUEST = Request(target="/checkpoint", accept="text/plain", answer_bytes_max=1 << 20)
PROOF_REFUSED_STATUSES = frozenset({400, 404, 409, 422})
"""Refusals that mean there is no such proof; a 401 says nothing about the tree."""


class Heads:
    """The accepted heads of one log, for many threads."""

    def __init__(self, trusted: TrustedLog) -> None:
        self._trusted: Final = trusted
        self._lock: Final = threading.Lock()
        self.policy: Final[Policy] = trusted.policy
        self._remembered: Final = trusted.latest
        self._published = trusted.latest
        self._older: str | None = None

    @property
    def latest(self) -> VerifiedHead | None:
        """The largest accepted head."""
        with self._lock:
            return self._trusted.latest

    def checkpoint(self) -> Plan[VerifiedHead]:
        """Fetch the published head and accept it, and note if one before it was larger."""
        with self._lock:
            before = self._published
        note = check_status(CHECKPOINT_REQUEST, (yield CHECKPOINT_REQUEST))
        head = yield from self.accept(note)
        self._note_older(head, before)
        with self._lock:
            if self._published is None or _size(head) > _size(self._published):
                self._published = head
        return head

    def take_older(self) -> str | None:
        """The report of an older head that the ledger showed, given once; None without one."""
        with self._lock:
            message, self._older = self._older, None
        return message

    def _note_older(self, head: VerifiedHead, before: VerifiedHead | None) -> None:
        if before is not None and _size(head) < _size(before):
            with self._lock:
                self._older = (
                    f"the ledger shows a head of size {_size(head):,}, older than the head of size"
                    f" {_size(before):,} that was accepted before: newer entries are withheld, or"
                    " not published yet"
                )

    def accept(
        self, note: bytes | str, *, offered: ConsistencyProof | None = None
    ) -> Plan[VerifiedHead]:
        """Accept a head, asking for the consistency proof that this takes unless `offered` is it.

        Raises: MalformedError, VerificationError.
        """
        return (yield from self._accept(note, offered, lambda head: head))

    def check_proof(
        self,
        proof: Proof,
        *,
        leaf_hash: Hash,
        offered: ConsistencyProof | None = None,
        is_size_asked: bool = False,
    ) -> Plan[VerifiedHead]:
        """The accepted head in whose tree the leaf is. Raises: VerificationError.

        Unless the size of its tree was asked for, a head older than the remembered one is noted.
        """
        head = yield from self._accept(
            proof.checkpoint,
            offered,
            lambda _: self._trusted.check_proof(proof, leaf_hash=leaf_hash),
        )
        if not is_size_asked:
            # Threads overtake each other, so only the head of an earlier process is compared.
            self._note_older(head, self._remembered)
        return head

    def check_range_proof(
        self,
        proof: RangeProof,
        *,
        leaf_hashes: Sequence[Hash],
        offered: ConsistencyProof | None = None,
    ) -> Plan[VerifiedHead]:
        """The accepted head in whose tree the leaves are. Raises: VerificationError."""
        return (
            yield from self._accept(
                proof.checkpoint,
                offered,
                lambda _: self._trusted.check_range_proof(proof, leaf_hashes=leaf_hashes),
            )
        )

    def consistency(self, old_note: bytes | str, new_note: bytes | str | None) -> Plan[Consistency]:
        """Prove that the tree of one head begins with that of another; both become accepted.

        Without `new_note` the published head is taken. Raises: OlderHeadError for a larger old one.
        """
        old = yield from self.accept(old_note)
        new = yield from (self.checkpoint() if new_note is None else self.accept(new_note))
        old_size, new_size = _size(old), _size(new)
        if old_size > new_size:
            raise OlderHeadError(
                f"the head of size {new_size:,} does not extend that of size {old_size:,}: it is"
                " the beginning of it"
            )
        proof = ConsistencyProof(old_size=old_size, new_size=new_size, hashes=())
        if 0 < old_size < new_size:
            proof = yield from fetch_consistency(old_size, new_size)
        check_consistent(old, new, proof, offered=new)
        return Consistency(old=old, new=new, proof=proof)

    def _accept(
        self,
        note: bytes | str,
        offered: ConsistencyProof | None,
        check: Callable[[VerifiedHead], VerifiedHead],
    ) -> Plan[VerifiedHead]:
        """Accept a head, and run a check against it while it is surely still known."""
        with self._lock:
            head = self._trusted.check_head(note)
        proof = offered
        while True:
            with self._lock:
                verdict = check(head) if self._trusted.accept(head, proof) else None
                needed = self._trusted.needs(head)
                latest = self._trusted.latest
            if verdict is not None:
                return verdict
            if needed is None:
                raise AssertionError("a head that needs no proof is accepted or refused")
            request = _consistency_request(*needed, unless=lambda: self._needs_none(head))
            response = yield request
            if response == NOT_SENT:
                continue
            try:
                proof = _parse_consistency(request, response, *needed)
            except RejectedError as error:
                if error.problem.status not in PROOF_REFUSED_STATUSES or latest is None:
                    raise
                if _size(latest) > _size(head):
                    yield from show_head(latest.note)
                reason = f"the ledger has no proof between them ({error})"
                raise fork_error(reason, accepted=latest, offered=head) from error

    def _needs_none(self, head: VerifiedHead) -> bool:
        with self._lock:
            return self._trusted.needs(head) is None


def _size(head: VerifiedHead) -> int:
    return head.checkpoint.tree_size


def show_head(note: str) -> Plan[None]:
    """Show the log a head that it signed and seems to have lost; its answer changes nothing here.

    A log that was put back from an old copy takes no events from then on until a person decides.
    """
    with suppress(UnavailableError):
        yield show_head_request(note)


def show_head_request(note: str) -> Request:
    """The request that shows the log a head."""
    return Request(
        target="/v1/checkpoints",
        method="POST",
        content_type="text/plain; charset=utf-8",
        body=note.encode(),
    )


def fetch_consistency(old_size: int, new_size: int) -> Plan[ConsistencyProof]:
    """The ledger's proof between two sizes, not yet checked against their heads.

    Raises: VerificationError when it is between others, MalformedError, RejectedError.
    """
    request = _consistency_request(old_size, new_size)
    return _parse_consistency(request, (yield request), old_size, new_size)


def _consistency_request(
    old_size: int, new_size: int, *, unless: Callable[[], bool] | None = None
) -> Request:
    target = f"/v1/proofs/consistency?from={old_size}&to={new_size}"
    return Request(target=target, unless=unless)


def _parse_consistency(
    request: Request, response: Response, old_size: int, new_size: int
) -> ConsistencyProof:
    answer = decode_answer(request, response, ConsistencyAnswer)
    check_same(
        "a consistency proof between other sizes",
        got=(answer.from_, answer.to),
        want=(old_size, new_size),
        evidence=lambda: {"answer.json": response.body},
    )
    return answer.proof()
