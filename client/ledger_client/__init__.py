"""The client of a witnessed ledger: append events, read them, and check every answer.

    from ledger_client import LedgerClient

    with LedgerClient("https://ledger.example.com", token, policy="ledger.policy") as ledger:
        ledger.append({"action": "user.deleted", "actor": {"id": "u_1"}, "outcome": "success"})

Importing this package imports nothing else: an application pays for a client when it makes one, and
for aiohttp when it makes an asynchronous one. The names come in on first use (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ledger_client.async_client import AsyncLedgerClient
    from ledger_client.client import LedgerClient
    from ledger_client.errors import RejectedError, UnsettledError
    from ledger_client.ids import new_event_id
    from ledger_client.mark_private import private
    from ledger_client.problem_details import Problem
    from ledger_client.recording.async_recorder import AsyncRecorder
    from ledger_client.recording.context import audit_context, extend_audit_context
    from ledger_client.recording.decorator import audited
    from ledger_client.recording.diff import diff, snapshot
    from ledger_client.recording.logging_handlers import AuditHandler, AuditProcessor
    from ledger_client.recording.options import SpoolFullError
    from ledger_client.recording.recorder import (
        Recorder,
        RecorderStatus,
        current_recorder,
        use_recorder,
    )
    from ledger_client.results import (
        Consistency,
        Entry,
        Erased,
        Exported,
        Facet,
        Histogram,
        Inclusion,
        Page,
        Receipt,
        Rejected,
        Seen,
    )
    from ledger_client.retry import RetryPolicy
    from ledger_core.event.model import EventError
    from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
    from ledger_core.tlog.trust import ConsistencyProof, TrustedLog

__all__ = [
    "AsyncLedgerClient",
    "AsyncRecorder",
    "AuditHandler",
    "AuditProcessor",
    "Consistency",
    "ConsistencyProof",
    "Entry",
    "Erased",
    "EventError",
    "Exported",
    "Facet",
    "Histogram",
    "Inclusion",
    "LedgerClient",
    "MalformedError",
    "Page",
    "Problem",
    "Receipt",
    "Recorder",
    "RecorderStatus",
    "Rejected",
    "RejectedError",
    "RetryPolicy",
    "Seen",
    "SpoolFullError",
    "TrustedLog",
    "UnavailableError",
    "UnsettledError",
    "VerificationError",
    "audit_context",
    "audited",
    "current_recorder",
    "diff",
    "extend_audit_context",
    "new_event_id",
    "private",
    "snapshot",
    "use_recorder",
]

_MODULES = {
    "AsyncLedgerClient": "ledger_client.async_client",
    "AsyncRecorder": "ledger_client.recording.async_recorder",
    "AuditHandler": "ledger_client.recording.logging_handlers",
    "AuditProcessor": "ledger_client.recording.logging_handlers",
    "Consistency": "ledger_client.results",
    "ConsistencyProof": "ledger_core.tlog.trust",
    "Entry": "ledger_client.results",
    "Erased": "ledger_client.results",
    "EventError": "ledger_core.event.model",
    "Exported": "ledger_client.results",
    "Facet": "ledger_client.results",
    "Histogram": "ledger_client.results",
    "Inclusion": "ledger_client.results",
    "LedgerClient": "ledger_client.client",
    "MalformedError": "ledger_core.tlog.errors",
    "Page": "ledger_client.results",
    "Problem": "ledger_client.problem_details",
    "Receipt": "ledger_client.results",
    "Recorder": "ledger_client.recording.recorder",
    "RecorderStatus": "ledger_client.recording.recorder",
    "Rejected": "ledger_client.results",
    "RejectedError": "ledger_client.errors",
    "RetryPolicy": "ledger_client.retry",
    "Seen": "ledger_client.results",
    "SpoolFullError": "ledger_client.recording.options",
    "TrustedLog": "ledger_core.tlog.trust",
    "UnavailableError": "ledger_core.tlog.errors",
    "UnsettledError": "ledger_client.errors",
    "VerificationError": "ledger_core.tlog.errors",
    "audit_context": "ledger_client.recording.context",
    "audited": "ledger_client.recording.decorator",
    "current_recorder": "ledger_client.recording.recorder",
    "diff": "ledger_client.recording.diff",
    "extend_audit_context": "ledger_client.recording.context",
    "new_event_id": "ledger_client.ids",
    "private": "ledger_client.mark_private",
    "snapshot": "ledger_client.recording.diff",
    "use_recorder": "ledger_client.recording.recorder",
}


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
