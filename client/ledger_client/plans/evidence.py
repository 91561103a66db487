"""Asks for a bundle of evidence, and verifies what came before anybody relies on it."""

from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from ledger_client.messages import Request
from ledger_client.plans.question import Question
from ledger_core.api import AskEvidence
from ledger_core.event.commitments import is_commitment
from ledger_core.evidence.findings import Evidence
from ledger_core.evidence.verifier import check_evidence
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.policy import Policy

REFUSED_ENDING: Final = ".refused"


def evidence_request(ask: AskEvidence) -> Request:
    """The request for a bundle."""
    return Request(
        target="/v1/evidence",
        method="POST",
        accept="application/zip",
        content_type="application/json",
        body=msgspec.json.encode(ask),
    )


def verify_written(
    file: BinaryIO,
    to: Path,
    *,
    question: Question,
    ask: AskEvidence,
    policy: Policy,
    size_before: int,
) -> Evidence:
    """Verify a bundle that was just written, against what was asked.

    `size_before` is the size of a head that was published before it was asked for.
    Raises: MalformedError, VerificationError; the bundle is then kept under `to` and `.refused`.
    """
    file.flush()
    path = Path(file.name)
    try:
        return _check(check_evidence(path, policy), question, ask, size_before)
    except (MalformedError, VerificationError) as error:
        refused = to.with_name(f"{to.name}{REFUSED_ENDING}")
        path.replace(refused)
        raise type(error)(f"{error}; it is kept as {refused}") from error


def _check(evidence: Evidence, question: Question, ask: AskEvidence, size_before: int) -> Evidence:
    if evidence.faults:
        raise VerificationError(f"the bundle does not verify: {evidence.faults[0]}")
    if evidence.stated is None:
        raise VerificationError("the bundle has no statement of the log about this export")
    question.check_query(evidence.query)
    stated = evidence.stated
    # Without a quorum the entry of the export has no proof; its head is at least that size.
    place = stated.statement.tree_size if stated.index is None else stated.index
    if place < size_before:
        raise VerificationError(
            f"the bundle is of an earlier export: its statement belongs to entry {place:,}, and the"
            f" log had {size_before:,} entries when this one was asked for"
        )
    for what, got, want in (
        ("case", stated.case, ask.case),
        ("places to disclose", stated.statement.disclose, ask.disclose),
    ):
        if got != want:
            raise VerificationError(f"{what} of the statement: got {got}, want {want}")
    # Settings of the service may make a reason private: then a commitment stands there.
    if stated.reason != ask.reason and not is_commitment(stated.reason):
        raise VerificationError("the reason in the statement is not the one that was given")
    return evidence
