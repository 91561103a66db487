"""Asking a witness over HTTP, and holding its answers against the table."""

import http.client
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from ledger_core.tlog.checkpoint import parse_checkpoint
from ledger_core.tlog.cosignature import CosignatureVerifier
from ledger_core.tlog.keys import MLDSA44_COSIGNATURE
from ledger_core.tlog.note import parse_note
from ledger_core.tlog.witness import SIZE_MEDIA, parse_cosignatures, parse_size_answer
from tests.witness.table import Row, want_status

ANSWER_WAIT_S = 60.0


@dataclass(frozen=True)
class Answer:
    """An answer of a witness."""

    status: int
    content_type: str
    body: bytes


def ask(url: str, method: str, path: str, body: bytes | None = None) -> Answer:
    """One request on a connection of its own, to a path below the URL."""
    parts = urlsplit(url)
    path = f"{parts.path}{path}"
    with closing(
        http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=ANSWER_WAIT_S)
    ) as connection:
        connection.connect()
        # Refused before all of it was sent: what was said to it is there to be read.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, body)
        response = connection.getresponse()
        return Answer(response.status, response.headers.get("Content-Type", ""), response.read())


def add_checkpoint(url: str, body: bytes) -> Answer:
    """Ask for cosignatures."""
    return ask(url, "POST", "/add-checkpoint", body)


def check_cosigned(answer: Answer, note: str, vkeys: Sequence[str]) -> list[int]:
    """The times of an answer that has a good cosignature by each of these keys."""
    assert answer.status == 200, answer
    return check_cosignatures(answer.body, note, vkeys)


def check_cosignatures(body: bytes, note: str, vkeys: Sequence[str]) -> list[int]:
    """The times of signature lines, one good one by each of these keys."""
    by_key = {(line.name, line.key_id): line for line in parse_cosignatures(body)}
    times = []
    for vkey in vkeys:
        verifier = CosignatureVerifier.parse(vkey)
        line = by_key[verifier.name, verifier.key_id]
        times.append(verifier.check(parse_note(note).text, line))
    assert all(time_unix_s > 0 for time_unix_s in times)
    return times


def check_row(row: Row, url: str, vkeys: Sequence[str], *, witness: str) -> None:
    """Put a row of the table to a witness that knows its log."""
    log, size = row.log, 0
    for tree_size in row.known:
        check_cosigned(add_checkpoint(url, log.grow(size, tree_size)), log.note(tree_size), vkeys)
        size = tree_size
    body = row.body(log)
    answer = add_checkpoint(url, body)
    want = want_status(row, witness)
    assert answer.status == want, answer
    if want == 409:
        assert answer.content_type == SIZE_MEDIA
        assert parse_size_answer(answer.body) == row.known_size
    if want == row.status == 200:
        note = body.decode().partition("\n\n")[2]
        if parse_checkpoint(parse_note(note).text).extensions:
            vkeys = [vkey for vkey in vkeys if not _is_ml_dsa(vkey)]
        check_cosigned(answer, note, vkeys)
    elif want != 200 and size:
        # What was refused has changed nothing.
        check_cosigned(add_checkpoint(url, log.grow(size, size)), log.note(size), vkeys)


def _is_ml_dsa(vkey: str) -> bool:
    return CosignatureVerifier.parse(vkey).key.algorithm == MLDSA44_COSIGNATURE
