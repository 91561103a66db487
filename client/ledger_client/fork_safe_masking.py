"""Makes masking safe in a process that forks, and when the interpreter exits.

RE2 takes locks of its own and releases the GIL while it scans a text. Two moments are dangerous:

* A fork during a scan copies a lock that is held. The child compiles all patterns anew.
* If the interpreter exits while a thread scans, Python unwinds that thread by force when it
  returns, and C++ calls `abort()`. So each scan holds a lock that the main thread takes at exit;
  threads that would scan later wait for it, usually until they end.
"""

import atexit
import os
import threading
from typing import Any, Final

from ledger_client.plans.append import Mask
from ledger_core.event.secrets.re2_sets import forget_compiled

END_WAIT_S: Final = 1.0
"""Bounded, for an exit handler that runs after this one may itself wait for such a thread."""

# Reentrant: a signal handler may record during a recording.
_inside = threading.RLock()


def guarded(mask: Mask) -> Mask:
    """The mask, safe in any thread at any time."""

    def masked(event: dict[str, Any]) -> dict[str, Any]:
        lock = _inside
        is_held = lock.acquire(timeout=END_WAIT_S)
        try:
            return mask(event)
        finally:
            if is_held:
                lock.release()

    return masked


def _after_fork_in_child() -> None:
    global _inside  # noqa: PLW0603 - a thread of the parent may hold the copied lock
    _inside = threading.RLock()
    forget_compiled()


def _at_exit() -> None:
    _inside.acquire(timeout=END_WAIT_S)


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
