"""The work of saved queries: finds them in the log, and reads queries in which `@name` is one."""

from collections.abc import Iterator, Mapping
from functools import cache, partial
from typing import Any, Final

import msgspec

from ledger.query.answer import Answer, Row
from ledger.service.http.problems import ProblemError, explain, retry_later
from ledger.service.queries.job import QueryJob
from ledger_core.query.ast import Expression, format_query, resolve
from ledger_core.query.parser import LONG_CHARS_MAX, parse_query
from ledger_core.query.saved import (
    DELETED,
    SAVED,
    SavedName,
    SavedNames,
    SavedQuery,
    changes_of,
    name_of,
    parts_of,
    text_of_parts,
)
from ledger_core.tlog.tile import TILE_WIDTH

START_CHARS: Final = 200
_PAGE_ROWS: Final = 100


def read_named(job: QueryJob, text: str, *, tenant: str | None, is_long: bool) -> Expression:
    """Work: the expression of a query, with each `@name` expanded. Raises: QueryError."""

    @cache  # A name that stands in the text several times is read once.
    def expand(name: str) -> Expression | None:
        saved = find_saved(job, name, tenant=tenant)
        return None if saved is None else parse_query(saved.query, is_long=True)

    return parse_query(text, is_long=is_long, named=expand)


def read_asked(job: QueryJob, query: Expression | str, *, tenant: str | None) -> Expression:
    """The expression of a query that the front end left as a text."""
    if isinstance(query, str):
        return read_named(job, query, tenant=tenant, is_long=True)
    return query


def expand_text(job: QueryJob, text: str, *, tenant: str | None, now_unix_us: int | None) -> str:
    """Work: the text of a query with each `@name` expanded, and its times resolved to a moment.

    Raises: QueryError, ProblemError for one that has no text that reads back as the same.
    """
    expression = read_named(job, text, tenant=tenant, is_long=True)
    if now_unix_us is not None:
        expression = resolve(expression, now_unix_us)
    expanded = format_query(expression)
    if len(expanded) > LONG_CHARS_MAX:
        raise ProblemError(
            "query", f"a query has at most {LONG_CHARS_MAX:,} characters, not {len(expanded):,}"
        )
    if parse_query(expanded, is_long=True) != expression:
        raise ProblemError(
            "query", "with its relative times resolved, the query would be read as another one"
        )
    return expanded


def find_saved(job: QueryJob, name: str, *, tenant: str | None) -> SavedQuery | None:
    """Work: the query that is saved under a name."""
    row = next((row for row, _ in _changes(job, name, tenant)), None)
    if row is None:
        return None
    event = _event(row.leaf)
    if event["action"] == DELETED:
        return None
    first = row.index + 1 - parts_of(event)
    events = [_read(job, index) for index in range(first, row.index)]
    return SavedQuery(
        name=name,
        query=text_of_parts([*events, event]),
        first_index=first,
        index=row.index,
        saved_by=event["actor"]["id"],
        time=event["time"],
        tenant=event.get("tenant"),
    )


def list_saved(job: QueryJob, *, tenant: str | None) -> SavedNames:
    """Work: all saved queries of a tenant, or of those who have none."""
    tree_size = job.engine.tree_size()
    found: dict[str, SavedName | None] = {}
    # Every change was an event with a text of up to 48 KB, so few of them are held at once.
    for row, size in _changes(job, None, tenant):
        tree_size = size
        event = _event(row.leaf)
        name = name_of(event)
        if name not in found:
            is_deleted = event["action"] == DELETED
            found[name] = None if is_deleted else _name(job, row.index, event)
    queries = [saved for _, saved in sorted(found.items()) if saved is not None]
    return SavedNames(tree_size=tree_size, queries=tuple(queries))


def _name(job: QueryJob, index: int, event: Mapping[str, Any]) -> SavedName:
    parts = parts_of(event)
    first = event if parts == 1 else _read(job, index + 1 - parts)
    return SavedName(
        name=name_of(event),
        start=first["context"]["query"][:START_CHARS],
        index=index,
        saved_by=event["actor"]["id"],
        time=event["time"],
    )


def _changes(job: QueryJob, name: str | None, tenant: str | None) -> Iterator[tuple[Row, int]]:
    """The changes of a name, or of all names, the newest first, each with the size of the tree.

    Raises: ProblemError where entries are damaged that may hold a change before the next one, or
    before the end, and when the time was too short.
    """
    limit = _PAGE_ROWS if name is None else 1
    search = partial(
        job.engine.search,
        changes_of(name, has_tenant=tenant is not None),
        tenant=tenant,
        now_unix_us=0,
        limit=limit,
        is_counted=False,
        limits=job.limits,
        is_cancelled=job.is_cancelled,
    )
    answer = search()
    while True:
        for row in answer.rows:
            _check_readable(job, answer, row.index + 1)
            # Actions compare without case: a log may hold a token's `Ledger.query.saved`.
            if _event(row.leaf)["action"] in (SAVED, DELETED):
                yield row, answer.tree_size
        if answer.cursor is None:
            _check_readable(job, answer, 0)
            return
        if len(answer.rows) < limit:
            raise retry_later("too-busy", "the saved queries could not be found in time; ask again")
        answer = search(cursor=answer.cursor)


def _check_readable(job: QueryJob, answer: Answer, start: int) -> None:
    """Check that no entry from `start` on is damaged: it may be a newer change than those found.

    Raises: ProblemError.
    """
    for error in job.store.damaged_bundles():
        if error.bundle in answer.unreadable and (error.bundle + 1) * TILE_WIDTH > start:
            raise explain(error)


def _read(job: QueryJob, index: int) -> Mapping[str, Any]:
    leaf = job.store.leaf(index)
    if leaf is None:
        raise ProblemError("no-event", f"entry {index} is missing")
    return _event(leaf)


def _event(leaf: bytes) -> Mapping[str, Any]:
    event: Mapping[str, Any] = msgspec.json.decode(leaf)["event"]
    return event
