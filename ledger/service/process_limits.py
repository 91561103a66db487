"""Bounds the open files of a service's process, and the pauses of its event loop."""

import resource
import sys
from typing import Final

import msgspec
import structlog

from ledger.service.settings import Settings

DESCRIPTORS_WANTED: Final = 65_536
OWN_DESCRIPTORS: Final = 256
"""Open files that a service keeps for itself: connections may have the others."""

SWITCH_INTERVAL_S: Final = 0.001

_log = structlog.get_logger("ledger.service")


def shorten_pauses() -> None:
    """Bound how long searches on other threads keep the event loop waiting.

    A thread that computes gives up the interpreter's lock 5 ms after another one asks for it.
    Collections of objects are bounded by `run_until_signal`.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def raise_descriptor_limit() -> int:
    """Raise the number of files that this process may have open; the limit afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_WANTED)
    if wanted > soft >= 0:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft


def limit_connections(settings: Settings, descriptors_max: int) -> Settings:
    """Settings whose connections leave descriptors for the ledger's own files."""
    own = min(OWN_DESCRIPTORS, descriptors_max // 2)
    if settings.connections_max <= descriptors_max - own:
        return settings
    most = max(descriptors_max - own, 1)
    _log.warning(
        "connections_limited",
        connections_max=most,
        reason=f"this process may open {descriptors_max} files; raise LimitNOFILE or ulimit -n",
    )
    return msgspec.structs.replace(settings, connections_max=most)
