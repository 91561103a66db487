"""Taking secrets out of events, in a process that forks and that ends.

RE2 takes locks of its own and lets other threads run while it looks at a text. That has to be kept
from two moments in the life of a process:

* A fork in the middle copies a lock that is held. The child compiles everything anew.
* A thread that is still inside when the interpreter ends is unwound by force when it comes back,
  which C++ answers with `abort()`. So a thread enters only while it holds a lock that the main
  thread takes at the end, and threads that would still enter wait, as a rule until they are gone.
"""

import atexit
import os
import threading
from typing import Any, Final

from ledger_client.plans.append import Mask
from ledger_core.event.secrets.re2_sets import forget_compiled

END_WAIT_S: Final = 1.0
"""A thread may be waited for at the end by somebody who registered that earlier than we did."""

# Reentrant, for a signal handler may record in the middle of a recording.
_inside = threading.RLock()


def guarded(mask: Mask) -> Mask:
    """The mask, for any thread at any time."""

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
    global _inside  # noqa: PLW0603 - a thread that isn't here may hold the one that was copied
    _inside = threading.RLock()
    forget_compiled()


def _at_exit() -> None:
    _inside.acquire(timeout=END_WAIT_S)


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
