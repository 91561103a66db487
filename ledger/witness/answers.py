"""The answers of a witness by path: over HTTP/1.1 (`app`), and to a bastion (`bastion`)."""

import re
from http import HTTPStatus
from typing import Final

from ledger.runtime.text_answer import Answer, health_answer, text_answer
from ledger.witness.page import CONTENT_SECURITY_POLICY, LOGS_SHOWN_MAX, format_page
from ledger.witness.service import Witness

HTML: Final = "text/html; charset=utf-8"
_match_checkpoint: Final = re.compile("/([0-9a-f]{64})/checkpoint").fullmatch


async def answer_to(witness: Witness, method: str, path: str, body: bytes) -> Answer:
    """The answer to a request whose body is no longer than one may be."""
    path = path.partition("?")[0]
    if path == "/add-checkpoint":
        if method == "POST":
            return await witness.add_checkpoint(body)
        return text_answer(HTTPStatus.METHOD_NOT_ALLOWED, "want POST")
    found = _match_checkpoint(path)
    if found is None and path not in {"/", "/healthz"}:
        return text_answer(HTTPStatus.NOT_FOUND, "there is nothing at this path")
    if method not in {"GET", "HEAD"}:
        return text_answer(HTTPStatus.METHOD_NOT_ALLOWED, "want GET")
    if found is not None:
        return checkpoint_answer(witness, bytes.fromhex(found[1]))
    return page_answer(witness) if path == "/" else health_answer(witness.any_failure)


def checkpoint_answer(witness: Witness, origin_hash: bytes) -> Answer:
    """The head cosigned last for an origin, by its SHA-256."""
    note = witness.checkpoint(origin_hash)
    if note is None:
        return text_answer(HTTPStatus.NOT_FOUND, "nothing was cosigned for this origin")
    return Answer(HTTPStatus.OK, note)


def page_answer(witness: Witness) -> Answer:
    """The page for people."""
    page = format_page(
        name=witness.name,
        vkeys=witness.vkeys,
        logs=witness.store.logs(logs_max=LOGS_SHOWN_MAX),
        logs_count=witness.store.count_logs(),
    )
    return Answer(HTTPStatus.OK, page, HTML, content_policy=CONTENT_SECURITY_POLICY)
