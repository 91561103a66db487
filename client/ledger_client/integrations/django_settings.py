"""The setting `LEDGER` of a Django project, and the recorder that it describes."""

import threading
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, cast

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from ledger_client.integrations.request_info import RequestSettings
from ledger_client.recording.recorder import (
    Recorder,
    provide_recorder,
    recorder_in_use,
    use_recorder,
)
from ledger_core.near_names import near_names

PROCESS: Final = {"type": "process", "id": "django"}
"""The actor outside of any request, unless `RECORDER` names one: a command, a worker."""

_OWN_SETTINGS: Final = frozenset({"ENABLED", "RECORDER", "MODELS", "ACTOR"})
_REQUEST_SETTINGS: Final = tuple(RequestSettings.__annotations__)

_lock = threading.Lock()


def ledger_recorder() -> Recorder:
    """The recorder in use; made from `LEDGER["RECORDER"]` on first use when there is none.

    Raises: ImproperlyConfigured, and what `Recorder` raises.
    """
    with _lock:
        recorder = recorder_in_use()
        if recorder is not None:
            return recorder
        chosen = ledger_settings()
        options = chosen.get("RECORDER")
        if not is_enabled(chosen):
            return use_recorder(Recorder.disabled())
        if options is None:
            raise ImproperlyConfigured('neither LEDGER["RECORDER"] nor use_recorder() was given')
        return use_recorder(Recorder(**{"actor": PROCESS, **options}))


def ledger_settings() -> Mapping[str, Any]:
    """The setting. Raises: ImproperlyConfigured for a name that there is not."""
    chosen: Mapping[str, Any] = getattr(settings, "LEDGER", {})
    if not isinstance(chosen, Mapping):
        raise ImproperlyConfigured("LEDGER: want a mapping")
    known = _OWN_SETTINGS.union(name.upper() for name in _REQUEST_SETTINGS)
    unknown = sorted(set(chosen) - known)
    if unknown:
        raise ImproperlyConfigured(f"LEDGER has {unknown}. {near_misses(unknown, known)}")
    return chosen


def is_enabled(chosen: Mapping[str, Any]) -> bool:
    """Whether anything is recorded. If not, the integration connects and reads nothing."""
    return bool(chosen.get("ENABLED", True))


def request_settings(chosen: Mapping[str, Any]) -> RequestSettings:
    """Those of the settings that each integration has."""
    found: Any = {
        name: chosen[name.upper()] for name in _REQUEST_SETTINGS if name.upper() in chosen
    }
    return cast("RequestSettings", found)


def near_misses(unknown: Iterable[str], known: Collection[str]) -> str:
    """The message about unknown names: those that were probably meant, or all."""
    by_folded = {name.casefold(): name for name in sorted(known)}
    found = [near_names(name.casefold(), by_folded, count=1) for name in unknown]
    meant = [by_folded[match] for matches in found for match in matches]
    return f"Did you mean {meant}?" if meant else f"There may be {sorted(known)}."


# `@audited` in a management command, a cron job or a worker finds the recorder of the settings.
provide_recorder(ledger_recorder)
