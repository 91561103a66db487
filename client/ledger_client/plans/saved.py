"""Saved queries: what `@name` stands for, and the events in the log that say so."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec

from ledger_client.messages import Plan, Request
from ledger_client.plans.heads import Heads
from ledger_client.plans.read import read_event
from ledger_client.responses import adding_evidence, check_same, decode_answer
from ledger_core.query.ast import Expression
from ledger_core.query.parser import names_in, parse_query
from ledger_core.query.saved import (
    SAVED_CHARS_MAX,
    AskSave,
    DeletedQuery,
    SavedNames,
    SavedQuery,
    name_of,
    text_of_parts,
)
from ledger_core.tlog.errors import MalformedError, VerificationError

PARTS_MAX: Final = 1000
_ANSWER_BYTES_MAX = 6 * SAVED_CHARS_MAX


def plan_save(name: str, query: str) -> Plan[SavedQuery]:
    """Save a query under a name. Raises: RejectedError, MalformedError, VerificationError."""
    request = Request(
        method="POST",
        target="/v1/queries",
        content_type="application/json",
        body=msgspec.json.encode(AskSave(name=name, query=query)),
        answer_bytes_max=_ANSWER_BYTES_MAX,
    )
    response = yield request
    saved = decode_answer(request, response, SavedQuery)
    _check_name(saved.name, name, response.body)
    return saved


def plan_saved(name: str, *, heads: Heads | None) -> Plan[SavedQuery]:
    """The query of a name; with `heads` the events that saved it are verified to be in the log.

    Weak: that none of a later index says something else is the service's claim.
    Raises: RejectedError, MalformedError, VerificationError.
    """
    request = Request(
        target=f"/v1/queries/{quote(name, safe='')}", answer_bytes_max=_ANSWER_BYTES_MAX
    )
    response = yield request
    saved = decode_answer(request, response, SavedQuery)
    _check_name(saved.name, name, response.body)
    if not 0 <= saved.index - saved.first_index < PARTS_MAX:
        raise MalformedError(f"entries {saved.first_index} to {saved.index} of a saved query")
    if heads is not None:
        events = []
        for index in range(saved.first_index, saved.index + 1):
            entry = yield from read_event(index, heads=heads)
            events.append(msgspec.json.decode(entry.leaf)["event"])
        with adding_evidence(lambda: {"answer.json": response.body}):
            _check_saved(saved, events)
    return saved


def plan_names() -> Plan[SavedNames]:
    """The saved queries: the service's claim, of which nothing is proven."""
    request = Request(target="/v1/queries", answer_bytes_max=_ANSWER_BYTES_MAX)
    response = yield request
    return decode_answer(request, response, SavedNames)


def plan_delete(name: str) -> Plan[DeletedQuery]:
    """Delete a name. Raises: RejectedError, MalformedError, VerificationError."""
    request = Request(method="DELETE", target=f"/v1/queries/{quote(name, safe='')}")
    response = yield request
    deleted = decode_answer(request, response, DeletedQuery)
    _check_name(deleted.name, name, response.body)
    return deleted


def plan_expansions(text: str, *, heads: Heads | None) -> Plan[dict[str, Expression]]:
    """The query of each `@name` in a query; none for a query that can't be read.

    Raises: as `plan_saved`.
    """
    found: dict[str, Expression] = {}
    for name in names_in(text):
        saved = yield from plan_saved(name, heads=heads)
        found[name] = parse_query(saved.query, is_long=True)
    return found


def _check_name(got: str, want: str, body: bytes) -> None:
    check_same("name of a saved query", got=got, want=want, evidence=lambda: {"answer.json": body})


def _check_saved(saved: SavedQuery, events: Sequence[Mapping[str, Any]]) -> None:
    try:
        text, last = text_of_parts(events), events[-1]
        said = (name_of(last), text, last["actor"]["id"], last["time"], last.get("tenant"))
    except (LookupError, TypeError) as error:
        raise VerificationError(
            f"the entries {saved.first_index} to {saved.index} save no query"
        ) from error
    if said != (saved.name, saved.query, saved.saved_by, saved.time, saved.tenant):
        raise VerificationError(
            f"the saved query {saved.name} is not what entry {saved.index} of the log says"
        )
