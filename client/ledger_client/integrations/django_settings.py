"""The setting `LEDGER` of a Django project, and the recorder that it describes."""

import threading
from collections.abc import Mapping
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from ledger_client.integrations.request_info import RequestSettings
from ledger_client.recording.recorder import Recorder, current_recorder, use_recorder

PROCESS: Final = {"type": "process", "id": "django"}
"""The actor outside of any request, unless `RECORDER` names one: a command, a worker."""

_OWN_SETTINGS: Final = frozenset({"RECORDER", "MODELS", "ACTOR"})
REQUEST_SETTINGS: Final = tuple(RequestSettings.__annotations__)

_lock = threading.Lock()


def ledger_recorder() -> Recorder:
    """The recorder in use; made from `LEDGER["RECORDER"]` on first use when there is none.

    Raises: ImproperlyConfigured, and what `Recorder` raises.
    """
    with _lock:
        try:
            return current_recorder()
        except RuntimeError:
            options = ledger_settings().get("RECORDER")
        if options is None:
            raise ImproperlyConfigured('neither LEDGER["RECORDER"] nor use_recorder() was given')
        return use_recorder(Recorder(**{"actor": PROCESS, **options}))


def ledger_settings() -> Mapping[str, Any]:
    """The setting. Raises: ImproperlyConfigured for a name that there is not."""
    chosen: Mapping[str, Any] = getattr(settings, "LEDGER", {})
    known = _OWN_SETTINGS.union(name.upper() for name in REQUEST_SETTINGS)
    unknown = sorted(set(chosen) - known)
    if unknown:
        raise ImproperlyConfigured(f"LEDGER has {unknown}; it may have {sorted(known)}")
    return chosen
