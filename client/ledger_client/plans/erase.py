"""Erasing what is private of a subject, without I/O."""

from typing import Annotated

import msgspec

from ledger_client.messages import Plan, Request
from ledger_client.responses import decode_answer
from ledger_client.results import Erased


class _ErasedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    subject: str
    values: Annotated[int, msgspec.Meta(ge=0)]
    index: Annotated[int, msgspec.Meta(ge=0)]
    id: str


def plan_erase(subject: str, *, reason: str) -> Plan[Erased]:
    """Have the ledger destroy key, salts and values of a subject. Raises: RejectedError."""
    request = Request(
        method="POST",
        target="/v1/private/erasures",
        content_type="application/json",
        body=msgspec.json.encode({"subject": subject, "reason": reason}),
    )
    answer = decode_answer(request, (yield request), _ErasedAnswer)
    return Erased(subject=answer.subject, values=answer.values, index=answer.index, id=answer.id)
