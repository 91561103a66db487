"""Forks and exits of the process, and what its recorders do at them.

A fork copies one thread and every open file. The locks of all recorders are held across it, so that
the child finds their state consistent. The child then closes its copies of the files, and each of
its recorders starts a new session, with an instance of its own, at its first event.

C code may fork without calling the hooks, as uWSGI does when it makes its workers. Each recorder
notices that itself, by the id of its process.

At exit each recorder gets some time to send its events. The rest stays in the spool, for the next
recorder on that folder.
"""

import atexit
import os
import sys
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from ledger_client.recording.sink import SpoolSink


_registered: "WeakSet[SpoolSink]" = WeakSet()
_forking: "list[SpoolSink]" = []


def register(sink: "SpoolSink") -> None:
    """Call the hooks of a recorder's spool at forks and at the exit, until that is garbage."""
    _registered.add(sink)


def register_multiprocessing_exit() -> None:
    """Call `at_exit` at the end of a multiprocessing child, which runs no atexit functions."""
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize  # Such a child has loaded it.

        Finalize(None, _at_exit, exitpriority=100)


def _before_fork() -> None:
    # This list keeps them from being collected between the two hooks of one fork.
    _forking[:] = sorted(_registered, key=id)
    for sink in _forking:
        sink.before_fork()


def _after_fork_in_parent() -> None:
    for sink in reversed(_forking):
        sink.after_fork_in_parent()
    _forking.clear()


def _after_fork_in_child() -> None:
    # Window: C code that forks may call this hook without the one before the fork.
    for sink in _forking or sorted(_registered, key=id):
        sink.after_fork_in_child()
    _forking.clear()


def _at_exit() -> None:
    for sink in sorted(_registered, key=id):
        sink.at_exit()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
atexit.register(_at_exit)
