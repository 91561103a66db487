"""Decodes the ledger's answers, or raises the error that they stand for."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from ledger_client.errors import RejectedError
from ledger_client.messages import Request, Response
from ledger_core.api import Problem
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.text import excerpt

T = TypeVar("T")

Evidence = Callable[[], Mapping[str, bytes]]
"""Makes the files that convince a third person; called only for an answer that is not true."""

GOOD_STATUSES = range(200, 300)
TOO_LARGE = 413
_PROXY_LIMIT = (
    "status 413 from something in front of the ledger, such as a reverse proxy, which takes no "
    "body of this size: raise its limit (nginx: client_max_body_size 32m)"
)
_NO_ROUTE = (
    "status 404 from something that is no ledger, such as a reverse proxy: see whether the address "
    "has the right host, port and path"
)
_OF_OTHERS = {TOO_LARGE: _PROXY_LIMIT, 404: _NO_ROUTE}
_REFUSED = range(400, 500)
_FAILED = range(500, 600)


def decode_answer(request: Request, response: Response, kind: type[T]) -> T:
    """The JSON of a good answer.

    Raises: RejectedError for a 4xx, UnavailableError for a 5xx, MalformedError for any other
    status and for what isn't this JSON.
    """
    return decode_json(request, check_status(request, response), kind)


def decode_json(request: Request, body: bytes, kind: type[T]) -> T:
    """A body as the JSON of this type. Raises: MalformedError."""
    with malformed_as(request):
        return msgspec.json.decode(body, type=kind)


@contextmanager
def malformed_as(request: Request) -> Iterator[None]:
    """Turn errors of decoding into a MalformedError that names the request."""
    try:
        yield
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"{request.name}: the answer is not as agreed: {error}") from None


def untrusted_certificate(address: str, reason: str) -> VerificationError:
    """The error for a server whose certificate no authority that we trust has signed."""
    return VerificationError(
        f"the certificate of {address} is not trusted: {reason}; {trust_hint()}"
    )


def trust_hint() -> str:
    """How a program trusts an authority of its own, or that the file for it is missing."""
    named = os.environ.get("SSL_CERT_FILE")
    if named and not Path(named).is_file():
        return f"SSL_CERT_FILE names {named}, which is no file"
    return "SSL_CERT_FILE names the certificate of an authority of your own"


def check_status(request: Request, response: Response) -> bytes:
    """The body of a good answer. Raises: as `decode_answer`, but for the JSON."""
    if response.status in GOOD_STATUSES:
        return response.body
    if response.status in _REFUSED:
        raise RejectedError(decode_problem(response))
    if response.status in _FAILED:
        raise UnavailableError(f"{request.name}: {describe_failure(response)}")
    raise MalformedError(f"{request.name}: got status {response.status}, want 2xx, 4xx or 5xx")


def describe_failure(response: Response) -> str:
    """The status of a response, and the detail of its problem document if it has one."""
    detail = decode_problem(response).detail
    return f"status {response.status}{': ' if detail else ''}{detail}"


def decode_problem(response: Response) -> Problem:
    """The problem document of a response; for a proxy's page one with the status alone."""
    try:
        problem = msgspec.json.decode(response.body, type=Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        detail = _OF_OTHERS.get(response.status, "")
        return Problem(title=f"status {response.status}", status=response.status, detail=detail)
    return problem.printable(response.status)


def check_same(what: str, *, got: object, want: object, evidence: Evidence) -> None:
    """Refuse an answer that differs from the request.

    Raises: VerificationError saying got and want.
    """
    if got != want:
        shown = excerpt(got) if isinstance(got, str) else got
        raise VerificationError(f"{what}: got {shown}, want {want}", evidence=evidence())


@contextmanager
def adding_evidence(evidence: Evidence) -> Iterator[None]:
    """Add evidence to a VerificationError raised within."""
    try:
        yield
    except VerificationError as error:
        raise VerificationError(str(error), evidence={**evidence(), **error.evidence}) from error
