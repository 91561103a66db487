"""The client of a witnessed ledger: append events, read them, and verify every answer.

    from ledger_client import LedgerClient

    with LedgerClient("https://ledger.example.com", token, policy="ledger.policy") as ledger:
        ledger.append({"action": "user.deleted", "actor": {"id": "u_1"}, "outcome": "success"})

The modules, in reading order:

messages          a request and its response as values; plans, which are made of them
responses         decoding of answers; the errors that they stand for
errors, results   what a call raises, and what it returns
retry             when a request is sent again, and after how long
plans             what is sent and what an answer must prove, for each call
state_file        the accepted head on disk, and evidence
base_client       settings, accepted heads and state file of a client
async_transport   requests over aiohttp; transport: over sockets; answer_reader: reads HTTP for it
async_driver      runs plans; driver: generated from it
async_session     settings and connections of a client; session: generated from it
async_downloads   exports and evidence, written to files; downloads: generated from it
async_client      the other public methods; client: generated from it
event_values      ids and erasable values of events; fork_safe_masking: masks that survive a fork
extras            the optional dependencies, and the message without one
runtime           clocks, locks and atomic writes, for the service too

recording         the recorder: events from an application, by way of a spool on disk
integrations      the recorder in web frameworks and task queues
testing           for the tests of applications: what they recorded, in memory
sql               events as tables of DuckDB and Parquet
collect           importers of other systems' records, and a syslog listener
audit             a monitor that follows a log for an auditor
cli               the command `ledger`

Importing this package imports nothing else: each name is imported on first use (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ledger_client.async_client import AsyncLedgerClient as AsyncLedgerClient
    from ledger_client.client import LedgerClient as LedgerClient
    from ledger_client.errors import IncompleteWarning as IncompleteWarning
    from ledger_client.errors import OlderHeadError as OlderHeadError
    from ledger_client.errors import OlderHeadWarning as OlderHeadWarning
    from ledger_client.errors import RejectedError as RejectedError
    from ledger_client.errors import UnsettledError as UnsettledError
    from ledger_client.event_values import new_event_id as new_event_id
    from ledger_client.event_values import private as private
    from ledger_client.recording.async_recorder import AsyncRecorder as AsyncRecorder
    from ledger_client.recording.context import audit_context as audit_context
    from ledger_client.recording.context import capture_scope as capture_scope
    from ledger_client.recording.context import extend_audit_context as extend_audit_context
    from ledger_client.recording.context import restored as restored
    from ledger_client.recording.decorator import audited as audited
    from ledger_client.recording.diff import diff as diff
    from ledger_client.recording.diff import snapshot as snapshot
    from ledger_client.recording.executors import with_audit_context as with_audit_context
    from ledger_client.recording.logging_handlers import AuditContextFilter as AuditContextFilter
    from ledger_client.recording.logging_handlers import AuditHandler as AuditHandler
    from ledger_client.recording.logging_handlers import AuditProcessor as AuditProcessor
    from ledger_client.recording.options import RecorderStatus as RecorderStatus
    from ledger_client.recording.options import SpoolFullError as SpoolFullError
    from ledger_client.recording.recorder import Recorder as Recorder
    from ledger_client.recording.recorder import current_recorder as current_recorder
    from ledger_client.recording.recorder import use_recorder as use_recorder
    from ledger_client.results import Consistency as Consistency
    from ledger_client.results import Entry as Entry
    from ledger_client.results import EvidenceFile as EvidenceFile
    from ledger_client.results import Exported as Exported
    from ledger_client.results import Fields as Fields
    from ledger_client.results import Inclusion as Inclusion
    from ledger_client.results import KeptHead as KeptHead
    from ledger_client.results import Page as Page
    from ledger_client.results import Receipt as Receipt
    from ledger_client.results import Rejected as Rejected
    from ledger_client.results import Seen as Seen
    from ledger_client.retry import RetryPolicy as RetryPolicy
    from ledger_core.api import Erased as Erased
    from ledger_core.api import Problem as Problem
    from ledger_core.asking import AskCount as AskCount
    from ledger_core.event.model import EventError as EventError
    from ledger_core.search_answers import Facet as Facet
    from ledger_core.search_answers import Hint as Hint
    from ledger_core.search_answers import Histogram as Histogram
    from ledger_core.tlog.errors import MalformedError as MalformedError
    from ledger_core.tlog.errors import UnavailableError as UnavailableError
    from ledger_core.tlog.errors import VerificationError as VerificationError
    from ledger_core.tlog.trust import ConsistencyProof as ConsistencyProof
    from ledger_core.tlog.trust import TrustedLog as TrustedLog

_NAMES = {
    "ledger_client.async_client": "AsyncLedgerClient",
    "ledger_client.client": "LedgerClient",
    "ledger_client.errors": (
        "IncompleteWarning OlderHeadError OlderHeadWarning RejectedError UnsettledError"
    ),
    "ledger_client.event_values": "new_event_id private",
    "ledger_client.recording.async_recorder": "AsyncRecorder",
    "ledger_client.recording.context": (
        "audit_context capture_scope extend_audit_context restored"
    ),
    "ledger_client.recording.decorator": "audited",
    "ledger_client.recording.diff": "diff snapshot",
    "ledger_client.recording.executors": "with_audit_context",
    "ledger_client.recording.logging_handlers": "AuditContextFilter AuditHandler AuditProcessor",
    "ledger_client.recording.options": "RecorderStatus SpoolFullError",
    "ledger_client.recording.recorder": "Recorder current_recorder use_recorder",
    "ledger_client.results": (
        "Consistency Entry EvidenceFile Exported Fields Inclusion KeptHead Page Receipt Rejected"
        " Seen"
    ),
    "ledger_client.retry": "RetryPolicy",
    "ledger_core.api": "Erased Problem",
    "ledger_core.asking": "AskCount",
    "ledger_core.event.model": "EventError",
    "ledger_core.search_answers": "Facet Hint Histogram",
    "ledger_core.tlog.errors": "MalformedError UnavailableError VerificationError",
    "ledger_core.tlog.trust": "ConsistencyProof TrustedLog",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_MODULES)  # noqa: PLE0605 - a list: the names of the table


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(_MODULES[name])
    except ModuleNotFoundError as error:
        from ledger_client.extras import missing_extra

        raise missing_extra(name, error) from error
    value: object = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
