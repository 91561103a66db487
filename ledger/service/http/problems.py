"""Problem documents: the table of their types, and the one mapping from errors to them.

Every answer except a success is an RFC 9457 problem document. Its `type` is an address on this
service, `/v1/problems#<slug>`, where the table is served. The other members are our own: `field`
names the place of the fault, `limit` and `got` are two numbers, and `rule` is the rule by which
something is a secret. For a query, `position` and `length` mark the fault, `expected` lists what
could stand there, and `nearest` is a field with a similar name. No document holds a value of an
event or of a token.

Source: RFC 9457.
"""

import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, TypedDict, Unpack

import structlog
from aiohttp import web

from ledger.log.group_commit import QueueFullError, StalledError
from ledger.log.hold import HeldError
from ledger.query.cursor import CursorError
from ledger.query.event_times import TimesUnknownError
from ledger.runtime.chunk_limits import ChunksTooSmallError
from ledger.service.http.responses import PROBLEM_MEDIA, encode_answer
from ledger.store.commit_errors import CommitFailedError, CommitUndoneError, StorageFullError
from ledger.store.erasable_values import DamagedValueError
from ledger.store.log import DamagedBundleError, DamagedTreeError, PrunedError
from ledger.store.stored_log import DamagedObjectError, FetchFailedError
from ledger_core.api import TYPE_PREFIX, Problem
from ledger_core.event.model import EventError
from ledger_core.query.scanner import QueryError
from ledger_core.status import ProblemKind
from ledger_core.tlog.errors import UnavailableError, VerificationError

RETRY_AFTER_S: Final = 1.0
HELD_RETRY_S: Final = 60.0

_log = structlog.get_logger("ledger.service")


_TABLE: Final = """\
400 malformed-request | Malformed request | The bytes are not HTTP/1.1.
400 body-cut-short | Body cut short | The connection or a chunk ended before the body did.
400 bad-parameter | Bad parameter | A parameter is unknown, repeated, missing or not in its one
    form: numbers are ASCII digits without sign or leading zero, below 2^63.
400 past-the-end | Past the end of the tree | An index or a size is larger than the tree; `limit` is
    the tree's size.
400 bad-encoding | Bad encoding | The body is not in its content encoding, or is cut short.
400 not-json | Not JSON | The body, or a line of it, is not JSON in UTF-8.
400 not-protobuf | Not protobuf | The body is not a message of OTLP logs in protobuf.
400 not-msgpack | Not MessagePack | The body is not MessagePack.
401 token-missing | Token missing | The request needs `Authorization: Bearer <token>`.
401 token-unknown | Token unknown | There is no such token, or it is revoked or expired.
403 scope-missing | Scope missing | The token may not do this.
403 read-only | Read only | This service reads an archive, and takes no events.
403 wrong-network | Wrong network | The token may be used from other addresses alone.
403 action-not-allowed | Action not allowed | The token may append events of other actions alone.
403 wrong-tenant | Wrong tenant | The token is bound to a tenant, and this is not that tenant's.
404 not-found | Not found | There is nothing at this path.
404 no-event | No such event | No event has this index or id.
404 no-query | No such query | No query is saved under this name.
404 no-export | No such export | No export with this id has ended, or its trailer is kept no more.
404 no-tile | No such tile | The published tree has no tile or bundle of this name and width.
404 no-checkpoint | No such checkpoint | No checkpoint of this size was published, or it
    is kept no more; ask with `Accept: application/json`.
405 method-not-allowed | Method not allowed | `Allow` names the methods of this path.
408 body-too-slow | Body too slow | The body did not arrive in time.
409 id-conflict | Id taken | Another event has this id: an id names one event, for ever.
409 id-pruned | Id of a pruned event | An event that was pruned has this id. Whether it was this
    event can't be told any more, and an id names one event, for ever.
410 pruned | Pruned | The entries below `limit` were removed under the retention policy of this log;
    `detail` has the index of the event that says why. Proofs about them still verify.
413 body-too-large | Body too large | A request takes so many bytes; send several requests.
413 too-many-events | Too many events | A request takes so many events; send several requests.
413 leaf-too-large | Event too large | An event makes a leaf of so many bytes.
414 target-too-long | Target too long | The request line has too long a path and query.
415 unsupported-media-type | Unsupported media type | The body of this route has another type, or
    it is not in UTF-8, or in another content encoding than gzip or zstd.
417 expectation-failed | Expectation failed | The only expectation that is met is 100-continue.
422 empty-batch | Empty batch | The request holds no event.
422 checkpoint | Not a checkpoint of this log | It is no signed checkpoint, or this log did not sign
    it.
422 all-refused | All events refused | No event was logged; `results` says why, one by one.
422 query | Not a query | `position` says where in `q` the fault is, counted in characters from 0;
    `expected` what could stand there, `nearest` which field may have been meant.
422 cursor | Not a cursor of this query | A cursor goes on with the query, order and token that it
    was given for.
422 too-many-rows | Too many events for one file | Evidence holds so many events; ask for several
    files, by time.
422 action | Not an action | An action is segments joined by dots.
422 address | Not an address | An address is IPv4 or IPv6, no port, no zone.
422 id | Not an id | The id of an event is a UUID.
422 missing-field | Field missing | A required field is missing.
422 not-listed | Not one of the values | The field takes one of a few values.
422 number | Number not exact | A number is NaN, infinite or beyond ±(2^53−1): send it as a string.
422 out-of-range | Out of range | A number is too small or too large.
422 private | Private value unfit | A private value stands where none may stand, or does not open
    its commitment.
422 repeated-key | Key repeated | A key stands twice in one object.
422 reserved-action | Reserved action | Actions that begin with `ledger.`, in upper or lower case,
    are the service's own, except those with which clients report their losses: `ledger.recorder.…`
    and `ledger.syslog.…`.
422 secret | Looks like a secret | A value at `field` is a secret by `rule`: leave it out, or mask
    it.
422 string | Not text | A string holds NUL or a lone surrogate.
422 time | Not a time | A time is RFC 3339 with a zone, and exists.
422 too-deep | Too deep | Objects and arrays are nested too deep.
422 too-long | Too long | A string has too many characters.
422 too-many | Too many | A list or an object has too many members.
422 too-short | Too short | A string has too few characters.
422 unknown-key | Unknown key | An event has no such key; use `context`.
422 wrong-type | Wrong type | A value is of another JSON type.
431 header-too-long | Header too long | A header has too many bytes, or all together have, or there
    are too many headers.
500 damaged | Damaged | Entries, hashes, private values or the token that the answer needs are
    damaged on the disk; the rest is not. `ledger fsck` says what is damaged, and `ledger
    verify-archive` what is in a bucket.
500 internal | Internal error | A fault of the service; its log has the cause.
429 rate-exceeded | Rate exceeded | The token has used up its requests or bytes of a minute, or the
    bytes that it may store in a day; `limit` is that limit.
503 queue-full | Queue full | Too much waits for the disk; nothing of the request was kept.
503 too-busy | Too busy | Too many searches wait, too many streams are open, too many requests or
    bytes of bodies and answers are in flight, or there was no time to put events in order of time.
503 not-yet-published | Not yet published | The checkpoint that the proof needs is not published
    yet.
503 signing-stopped | Signing stopped | The tree does not extend what was signed before; an operator
    must look.
503 writing-stopped | Writing stopped | A commit failed; whether it was kept shows when the service
    is started again. Sending an event again with its id is safe.
503 log-held | Log held | This log lacks entries that it acknowledged before, such as after an old
    backup was restored. It takes no events until a person decides: `ledger recover`.
503 mirror | A mirror | This is a copy of a log, which takes no events itself: `detail` has the
    address of the log.
503 archive-unavailable | Archive unavailable | An object of the archive that the answer needs can't
    be read from its bucket now; `detail` names it.
503 unavailable | Unavailable | The service can't do this now.
503 not-ready | Not ready | `reasons` says what stands in the way.
507 storage-full | Storage full | There is no room; nothing of the request was kept.
"""


def _read_table(table: str) -> Iterator[tuple[str, ProblemKind]]:
    for row in re.split(r"\n(?=\d)", table):
        head, title, meaning = " ".join(row.split()).split(" | ")
        status, slug = head.split()
        yield slug, ProblemKind(TYPE_PREFIX + slug, title, int(status), meaning)


PROBLEMS: Final[Mapping[str, ProblemKind]] = MappingProxyType(dict(_read_table(_TABLE)))


class ProblemMembers(TypedDict, total=False):
    """The members of a problem document that its row of the table does not give."""

    field: str | None
    limit: int | None
    got: int | None
    rule: str | None
    position: int
    length: int
    expected: tuple[str, ...]
    nearest: str | None


class ProblemError(Exception):
    """A request, or one event of it, is refused with a row of the table."""

    def __init__(
        self,
        slug: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **members: Unpack[ProblemMembers],
    ) -> None:
        super().__init__(detail)
        self.problem = make_problem(slug, detail, **members)
        self.headers = headers or {}

    def __reduce__(self) -> tuple[Callable[..., "ProblemError"], tuple[object, ...]]:
        """As pickle takes it: the query process sends its problems to the front ends."""
        return _as_error, (self.problem, self.headers)


def _as_error(problem: Problem, headers: Mapping[str, str]) -> ProblemError:
    error = ProblemError(problem.slug, problem.detail, headers=headers)
    error.problem = problem
    return error


def make_problem(slug: str, detail: str, **members: Unpack[ProblemMembers]) -> Problem:
    """A problem document of a row of the table.

    An empty `field` means the event as a whole, and is left out.
    """
    row = PROBLEMS[slug]
    members["field"] = members.get("field") or None
    return Problem(type=row.type, title=row.title, status=row.status, detail=detail, **members)


def retry_later(
    slug: str, detail: str, *, after_s: float | None = None, limit: int | None = None
) -> ProblemError:
    """A refusal with `Retry-After`, for what may succeed later."""
    # The header takes whole seconds only (RFC 9110 §10.2.3).
    seconds = max(1, round(after_s or RETRY_AFTER_S))
    return ProblemError(slug, detail, limit=limit, headers={"Retry-After": str(seconds)})


def query_process_missing() -> ProblemError:
    """The refusal of a search while the query process is away."""
    return retry_later("unavailable", "the process that answers searches is being started again")


def query_process_silent() -> ProblemError:
    """The refusal of a search while the query process does not answer."""
    return retry_later("unavailable", "the process that answers searches does not answer")


def refuse_write(log_url: str) -> ProblemError:
    """The refusal of a mirror to append. It is temporary: an operator may promote the mirror."""
    detail = f"this is a mirror, which takes no events; the log is at {log_url}"
    return retry_later("mirror", detail, after_s=HELD_RETRY_S)


def explain(error: Exception) -> ProblemError:
    """The problem of an error. An unforeseen error becomes `internal`, without any detail."""
    match error:
        case ProblemError():
            return error
        case EventError():
            return ProblemError(
                error.rule, error.message, field=error.field, limit=error.limit, got=error.got
            )
        case QueryError():
            return ProblemError(
                "query",
                error.message,
                field="q",
                position=error.position,
                length=error.length,
                expected=error.expected,
                nearest=error.nearest or None,
            )
        case CursorError():
            return ProblemError("cursor", str(error), field="cursor")
        case ChunksTooSmallError():
            return ProblemError("malformed-request", error.message, headers={"Connection": "close"})
        case web.RequestPayloadError() | ConnectionError():
            return ProblemError("body-cut-short", "the body ended before its end")
    return _explain_store(error)


def _explain_store(error: Exception) -> ProblemError:
    """The problem of an error of the log or its writer, or `internal`."""
    match error:
        case FetchFailedError() | DamagedObjectError():
            return _explain_archive(error)
        case QueueFullError():
            return retry_later("queue-full", str(error), after_s=error.retry_after_s)
        case StorageFullError():
            return ProblemError("storage-full", "the log has no room for more events")
        case CommitUndoneError() | StalledError():
            refused = "the disk refused a write, and nothing was stored"
            undone = str(error) if isinstance(error, StalledError) else refused
            return retry_later("unavailable", undone, after_s=error.retry_after_s)
        case CommitFailedError():
            stopped = "the log takes no events until it has been started again"
            return retry_later("writing-stopped", stopped, after_s=error.retry_after_s)
        case HeldError():
            held = f"no events are taken until a person runs `ledger recover`: {error}"
            return retry_later("log-held", held, after_s=HELD_RETRY_S)
        case PrunedError():
            return ProblemError("pruned", str(error), limit=error.pruning.minimum_index)
        case TimesUnknownError():
            return retry_later("too-busy", str(error))
        case UnavailableError():
            cannot = "the service can't do this now"
            return retry_later("unavailable", cannot, after_s=error.retry_after_s)
        case DamagedBundleError() | DamagedTreeError() | DamagedValueError():
            return ProblemError("damaged", f"{error}: run ledger fsck")
        case VerificationError():
            return ProblemError("signing-stopped", "the log signs no heads any more")
    return ProblemError("internal", "an unexpected error")


def _explain_archive(error: FetchFailedError | DamagedObjectError) -> ProblemError:
    """The problem of an object of an archive, which is named."""
    if isinstance(error, FetchFailedError):
        return retry_later("archive-unavailable", str(error))
    return ProblemError("damaged", f"{error}: run ledger verify-archive")


def answer_error(error: Exception) -> web.Response:
    """The answer to a request that ended in an error."""
    explained = explain(error)
    problem = explained.problem
    if problem.slug == "internal":
        log_failure("request_failed", error)
    return encode_answer(
        problem, status=problem.status, media=PROBLEM_MEDIA, headers=explained.headers
    )


def log_failure(event: str, error: Exception, **fields: str) -> None:
    """Log an error of our own by its class and place: its text may quote an event."""
    trace = "".join(traceback.format_tb(error.__traceback__))
    _log.error(event, error=type(error).__name__, trace=trace, **fields)


def too_many_events(events_max: int, got: int) -> ProblemError:
    """The problem of a request with more events than are taken at once."""
    return ProblemError(
        "too-many-events",
        f"a request has at most {events_max} events, got {got}",
        limit=events_max,
        got=got,
    )
