"""The system checks of `LedgerConfig`, which `manage.py check` and most commands run.

ledger.E001  there is no recorder: neither `LEDGER["RECORDER"]` nor `use_recorder()`
ledger.E002  `LEDGER` has a name that there is not
ledger.E003  `LEDGER["RECORDER"]` has an unknown option, or lacks one
ledger.E004  the policy can't be read
ledger.E005  the spool folder can't be written
ledger.E006  `LEDGER["MODELS"]` names a model or field that there is not
ledger.E007  `ACTOR` can't be imported, or one of `PROXIES` is no network
ledger.W001  the application is installed, and the middleware is missing
ledger.W005  writes of many rows of a recorded model are not seen

The middleware without the application is a log line at the start, `ledger_app_not_installed`: no
check of an application runs that is not installed.
"""

import inspect
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ledger_client.integrations.django_bulk import unaudited_managers
from ledger_client.integrations.django_fields import read_models
from ledger_client.integrations.django_settings import (
    is_enabled,
    ledger_settings,
    near_misses,
    request_settings,
)
from ledger_client.integrations.request_info import RequestReader
from ledger_client.recording.memory import is_test_run
from ledger_client.recording.options import RecorderKeywords
from ledger_client.recording.recorder import Recorder, recorder_in_use
from ledger_client.runtime.files import read_limited
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.policy import POLICY_BYTES_MAX, parse_policy

APP: Final = "ledger_client.integrations.django"
MIDDLEWARE: Final = f"{APP}.LedgerMiddleware"

_RECORDER_OPTIONS: Final = {
    *(inspect.signature(Recorder).parameters.keys() - {"options"}),
    *RecorderKeywords.__annotations__,
}
_REQUIRED: Final = ("url", "spool", "policy")


def check_ledger(**_: Any) -> list[checks.CheckMessage]:
    """All that is wrong with the settings."""
    try:
        chosen = ledger_settings()
    except ImproperlyConfigured as error:
        return [checks.Error(str(error), id="ledger.E002")]
    if not is_enabled(chosen):
        return []
    return [
        *_check_recorder(chosen),
        *_check_request(chosen),
        *_check_models(chosen),
        *_check_middleware(),
    ]


def is_middleware_installed() -> bool:
    """Whether `MIDDLEWARE` has ours, or a class that is derived from it."""
    return any(
        name == MIDDLEWARE or name.endswith(".LedgerMiddleware") for name in settings.MIDDLEWARE
    )


def _check_recorder(chosen: Mapping[str, Any]) -> Iterator[checks.CheckMessage]:
    options = chosen.get("RECORDER")
    if options is None:
        if recorder_in_use() is None:
            yield checks.Error(
                'there is no recorder: LEDGER["RECORDER"] is missing',
                hint="Set its url, token, spool and policy, or call use_recorder().",
                id="ledger.E001",
            )
        return
    unknown = sorted(set(options) - _RECORDER_OPTIONS)
    if unknown:
        hint = near_misses(unknown, _RECORDER_OPTIONS)
        yield checks.Error(f'LEDGER["RECORDER"] has {unknown}', hint=hint, id="ledger.E003")
    missing = [name for name in _REQUIRED if not options.get(name)]
    if missing:
        yield checks.Error(f'LEDGER["RECORDER"] lacks {missing}', id="ledger.E003")
    if is_test_run():
        return  # Its recorder reads no policy and makes no spool.
    yield from _check_policy(options.get("policy"))
    yield from _check_spool(options.get("spool"))


def _check_policy(policy: Any) -> Iterator[checks.CheckMessage]:
    if not policy or not isinstance(policy, str | os.PathLike):
        return
    try:
        parse_policy(read_limited(Path(policy), POLICY_BYTES_MAX))
    except (OSError, MalformedError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        yield checks.Error(
            f'LEDGER["RECORDER"]["policy"]: {os.fspath(policy)} can\'t be read: {reason}',
            hint="Copy the file `policy` of the ledger's folder there.",
            id="ledger.E004",
        )


def _check_spool(spool: Any) -> Iterator[checks.CheckMessage]:
    if not spool:
        return
    folder = Path(spool)
    # What is missing is made, in the first folder above it that exists.
    existing = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield checks.Error(
            f'LEDGER["RECORDER"]["spool"]: {folder} can\'t be written by this user',
            hint=f"Make it writable for the user that runs the application: {existing}.",
            id="ledger.E005",
        )


def _check_request(chosen: Mapping[str, Any]) -> Iterator[checks.CheckMessage]:
    try:
        RequestReader(**request_settings(chosen))
        if "ACTOR" in chosen:
            import_string(chosen["ACTOR"])
    except (ImportError, ValueError) as error:
        yield checks.Error(f"LEDGER: {error}", id="ledger.E007")


def _check_models(chosen: Mapping[str, Any]) -> Iterator[checks.CheckMessage]:
    try:
        models = read_models(chosen.get("MODELS", {}))
    except ImproperlyConfigured as error:
        yield checks.Error(str(error), id="ledger.E006")
        return
    for recorded in models:
        names = unaudited_managers(recorded.model)
        if names:
            yield checks.Warning(
                f"writes of many rows by {', '.join(names)} are not recorded "
                "(update, bulk_create, bulk_update)",
                hint="Use AuditedManager, also as base_manager_name, or audited_rows(queryset) of "
                "ledger_client.integrations.django_bulk where such a write is made.",
                obj=recorded.model,
                id="ledger.W005",
            )


def _check_middleware() -> Iterator[checks.CheckMessage]:
    if not is_middleware_installed():
        yield checks.Warning(
            "LedgerMiddleware is not in MIDDLEWARE: events have no user, address and request",
            hint=f'Put "{MIDDLEWARE}" first.',
            id="ledger.W001",
        )


def is_app_installed() -> bool:
    """Whether `INSTALLED_APPS` has ours."""
    return apps.is_installed(APP)
