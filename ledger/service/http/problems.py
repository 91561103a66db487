"""Why a request is refused: one table of problems, and one place where errors become them.

Every answer that isn't a success is an RFC 9457 problem document. Its `type` is an address on this
service, `/v1/problems#<slug>`, where the table stands. `field`, `limit`, `got` and `rule` are ours:
where the fault is, two numbers, and the rule by which something is a secret. So are those of a
query: `position` and `length` of the fault in it, what was `expected` there, and the `nearest` name
of a field. No document holds a value of an event or of a token.

Source: RFC 9457.
"""

import traceback
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec
import structlog
from aiohttp import web
from msgspec import UNSET

from ledger.log.group_commit import QueueFullError
from ledger.query.cursor import CursorError
from ledger.service.http.responses import PROBLEM_MEDIA, encode_answer
from ledger.store.environment import CommitFailedError, StorageFullError
from ledger_core.api import TYPE_PREFIX, Problem
from ledger_core.event.model import EventError
from ledger_core.query.parser import QueryError
from ledger_core.tlog.errors import UnavailableError, VerificationError

RETRY_AFTER_S: Final = 1.0

_log = structlog.get_logger("ledger.service")


class ProblemType(NamedTuple):
    """A row of the table."""

    slug: str
    status: int
    title: str
    meaning: str


_KINDS: Final = (
    # The request as a whole.
    ProblemType("malformed-request", 400, "Malformed request", "The bytes are not HTTP/1.1."),
    ProblemType(
        "body-cut-short",
        400,
        "Body cut short",
        "The connection or a chunk ended before the body did.",
    ),
    ProblemType("body-too-slow", 408, "Body too slow", "The body did not arrive in time."),
    ProblemType(
        "bad-parameter",
        400,
        "Bad parameter",
        "A parameter is unknown, repeated, missing or not in its one form: numbers are ASCII "
        "digits without sign or leading zero, below 2^63.",
    ),
    ProblemType(
        "past-the-end",
        400,
        "Past the end of the tree",
        "An index or a size is larger than the tree; `limit` is the tree's size.",
    ),
    ProblemType("not-json", 400, "Not JSON", "The body, or a line of it, is not JSON in UTF-8."),
    ProblemType("not-msgpack", 400, "Not MessagePack", "The body is not MessagePack."),
    ProblemType(
        "token-missing", 401, "Token missing", "The request needs `Authorization: Bearer <token>`."
    ),
    ProblemType(
        "token-unknown", 401, "Token unknown", "There is no such token, or it has been revoked."
    ),
    ProblemType("scope-missing", 403, "Scope missing", "The token may not do this."),
    ProblemType(
        "wrong-tenant",
        403,
        "Wrong tenant",
        "The token is bound to a tenant, and this is not that tenant's.",
    ),
    ProblemType("not-found", 404, "Not found", "There is nothing at this path."),
    ProblemType("no-event", 404, "No such event", "No event has this index or id."),
    ProblemType(
        "no-tile",
        404,
        "No such tile",
        "The published tree has no tile or bundle of this name and width.",
    ),
    ProblemType(
        "no-checkpoint",
        404,
        "No such checkpoint",
        "No checkpoint of this size was published; ask with `Accept: application/json`.",
    ),
    ProblemType(
        "method-not-allowed", 405, "Method not allowed", "`Allow` names the methods of this path."
    ),
    ProblemType(
        "body-too-large",
        413,
        "Body too large",
        "A request takes so many bytes; send several requests.",
    ),
    ProblemType(
        "too-many-events",
        413,
        "Too many events",
        "A request takes so many events; send several requests.",
    ),
    ProblemType(
        "unsupported-media-type",
        415,
        "Unsupported media type",
        "A body is application/json, application/x-ndjson or application/msgpack, in UTF-8, "
        "without a content encoding.",
    ),
    ProblemType(
        "expectation-failed",
        417,
        "Expectation failed",
        "The only expectation that is met is 100-continue.",
    ),
    ProblemType("empty-batch", 422, "Empty batch", "The request holds no event."),
    ProblemType(
        "all-refused",
        422,
        "All events refused",
        "No event was logged; `results` says why, one by one.",
    ),
    ProblemType(
        "query",
        422,
        "Not a query",
        "`position` says where in `q` the fault is, counted in characters from 0; `expected` what "
        "could stand there, `nearest` which field may have been meant.",
    ),
    ProblemType(
        "cursor",
        422,
        "Not a cursor of this query",
        "A cursor goes on with the query, order and token that it was given for.",
    ),
    ProblemType(
        "too-many-rows",
        422,
        "Too many events for one file",
        "Evidence holds so many events; ask for several files, by time.",
    ),
    ProblemType(
        "id-conflict",
        409,
        "Id taken",
        "Another event has this id: an id names one event, for ever.",
    ),
    # One event: the rules of the model.
    ProblemType("action", 422, "Not an action", "An action is segments joined by dots."),
    ProblemType("address", 422, "Not an address", "An address is IPv4 or IPv6, no port, no zone."),
    ProblemType("id", 422, "Not an id", "The id of an event is a UUID."),
    ProblemType(
        "leaf-too-large", 413, "Event too large", "An event makes a leaf of so many bytes."
    ),
    ProblemType("missing-field", 422, "Field missing", "A required field is missing."),
    ProblemType("not-listed", 422, "Not one of the values", "The field takes one of a few values."),
    ProblemType(
        "number",
        422,
        "Number not exact",
        "A number is NaN, infinite or beyond ±(2^53−1): send it as a string.",
    ),
    ProblemType("out-of-range", 422, "Out of range", "A number is too small or too large."),
    ProblemType(
        "private",
        422,
        "Private value unfit",
        "A private value stands where none may stand, or does not open its commitment.",
    ),
    ProblemType("repeated-key", 422, "Key repeated", "A key stands twice in one object."),
    ProblemType(
        "secret",
        422,
        "Looks like a secret",
        "A value at `field` is a secret by `rule`: leave it out, or mask it.",
    ),
    ProblemType("string", 422, "Not text", "A string holds NUL or a lone surrogate."),
    ProblemType("time", 422, "Not a time", "A time is RFC 3339 with a zone, and exists."),
    ProblemType("too-deep", 422, "Too deep", "Objects and arrays are nested too deep."),
    ProblemType("too-long", 422, "Too long", "A string has too many characters."),
    ProblemType("too-many", 422, "Too many", "A list or an object has too many members."),
    ProblemType("too-short", 422, "Too short", "A string has too few characters."),
    ProblemType("unknown-key", 422, "Unknown key", "An event has no such key; use `context`."),
    ProblemType("wrong-type", 422, "Wrong type", "A value is of another JSON type."),
    # The service. Worth trying again, but for the last.
    ProblemType(
        "queue-full",
        503,
        "Queue full",
        "Too much waits for the disk; nothing of the request was kept.",
    ),
    ProblemType(
        "too-busy",
        503,
        "Too busy",
        "Too many searches wait, or too many streams are open.",
    ),
    ProblemType(
        "not-yet-published",
        503,
        "Not yet published",
        "The checkpoint that the proof needs is not published yet.",
    ),
    ProblemType(
        "signing-stopped",
        503,
        "Signing stopped",
        "The tree does not extend what was signed before; an operator must look.",
    ),
    ProblemType(
        "writing-stopped",
        503,
        "Writing stopped",
        "A commit failed; whether it was kept shows when the service is started again. "
        "Sending an event again with its id is safe.",
    ),
    ProblemType("unavailable", 503, "Unavailable", "The service can't do this now."),
    ProblemType("not-ready", 503, "Not ready", "`reasons` says what stands in the way."),
    ProblemType(
        "storage-full", 507, "Storage full", "There is no room; nothing of the request was kept."
    ),
    ProblemType(
        "internal", 500, "Internal error", "A fault of the service; its log has the cause."
    ),
)

PROBLEMS: Final[Mapping[str, ProblemType]] = MappingProxyType({kind.slug: kind for kind in _KINDS})


class ProblemError(Exception):
    """A request, or one event of it, is refused with a row of the table."""

    def __init__(
        self,
        slug: str,
        detail: str,
        *,
        field: str | None = None,
        limit: int | None = None,
        got: int | None = None,
        rule: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.problem = make_problem(slug, detail, field=field, limit=limit, got=got, rule=rule)
        self.headers = headers or {}


def make_problem(
    slug: str,
    detail: str,
    *,
    field: str | None = None,
    limit: int | None = None,
    got: int | None = None,
    rule: str | None = None,
) -> Problem:
    """A problem document of a row of the table. An empty field is the whole, and left out."""
    kind = PROBLEMS[slug]
    return Problem(
        type=TYPE_PREFIX + slug,
        title=kind.title,
        status=kind.status,
        detail=detail,
        field=field or UNSET,
        limit=UNSET if limit is None else limit,
        got=UNSET if got is None else got,
        rule=rule or UNSET,
    )


def explain(error: Exception) -> ProblemError:
    """The one place where an error becomes a problem. What we did not foresee tells no detail."""
    match error:
        case ProblemError():
            return error
        case EventError():
            return ProblemError(
                error.rule, error.message, field=error.field, limit=error.limit, got=error.got
            )
        case QueryError():
            return _bad_query(error)
        case CursorError():
            return ProblemError("cursor", str(error), field="cursor")
        case QueueFullError():
            return _unavailable("queue-full", error)
        case StorageFullError():
            return ProblemError("storage-full", "the log has no room for more events")
        case CommitFailedError():
            return _unavailable("writing-stopped", error)
        case UnavailableError():
            return _unavailable("unavailable", error)
        case VerificationError():
            return ProblemError("signing-stopped", "the log signs no heads any more")
        case web.RequestPayloadError() | ConnectionError():
            return ProblemError("body-cut-short", "the body ended before its end")
    return ProblemError("internal", "an unexpected error")


def answer_error(error: Exception) -> web.Response:
    """The answer to a request that ended in an error."""
    explained = explain(error)
    if explained.problem.status == PROBLEMS["internal"].status:
        log_failure("request_failed", error)
    return answer_problem(explained.problem, headers=explained.headers)


def log_failure(event: str, error: Exception, **fields: str) -> None:
    """Log an error of our own: its kind and place. Its text may quote what it was about."""
    trace = "".join(traceback.format_tb(error.__traceback__))
    _log.error(event, error=type(error).__name__, trace=trace, **fields)


def answer_problem(problem: Problem, *, headers: Mapping[str, str] | None = None) -> web.Response:
    """A problem document as an answer."""
    return encode_answer(problem, status=problem.status, media=PROBLEM_MEDIA, headers=headers)


def _bad_query(error: QueryError) -> ProblemError:
    refused = ProblemError("query", error.message, field="q")
    refused.problem = msgspec.structs.replace(
        refused.problem,
        position=error.position,
        length=error.length,
        expected=error.expected or UNSET,
        nearest=error.nearest or UNSET,
    )
    return refused


def _unavailable(slug: str, error: UnavailableError) -> ProblemError:
    # Whole seconds: the header knows no others (RFC 9110 §10.2.3).
    seconds = max(1, round(error.retry_after_s or RETRY_AFTER_S))
    detail = {
        "queue-full": str(error),
        "writing-stopped": "the log takes no events until it has been started again",
    }.get(slug, "the service can't do this now")
    return ProblemError(slug, detail, headers={"Retry-After": str(seconds)})
