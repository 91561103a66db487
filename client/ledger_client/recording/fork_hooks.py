"""Forks and exits: what the recorders of a process are told about them.

A fork copies one thread and every open file. The locks of all recorders are held across it, so that
the child finds them in order; then the child lets go of its copies of the files, and its recorders
begin anew, with instances of their own, when it first records something.

At exit each recorder gets some time to send what it holds. What remains stays in the spool, for the
next recorder on that folder.
"""

import atexit
import os
import sys
from typing import Any, Protocol
from weakref import WeakSet, ref


class Living(Protocol):
    """What a recorder does at a fork and at the exit."""

    def before_fork(self) -> None:
        """Come to rest."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Forget the parent's files and threads."""

    def at_exit(self) -> None:
        """Send what can be sent in time."""


_living: WeakSet[Any] = WeakSet()
_resting: list[Living] = []


def watch(recorder: Living) -> None:
    """Tell this recorder of forks and of the exit, as long as it lives."""
    _living.add(recorder)


def watch_multiprocessing(recorder: Living) -> None:
    """Tell a recorder of the exit of a multiprocessing child, which runs no atexit functions."""
    process = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None:
        return
    from multiprocessing.util import Finalize  # It is loaded in such a child.

    weak = ref(recorder)

    def end() -> None:
        living = weak()
        if living is not None:
            living.at_exit()

    Finalize(None, end, exitpriority=100)


def _before_fork() -> None:
    # Kept until the fork is over: none may be collected between the two.
    _resting[:] = sorted(_living, key=id)
    for recorder in _resting:
        recorder.before_fork()


def _after_fork_in_parent() -> None:
    for recorder in reversed(_resting):
        recorder.after_fork_in_parent()
    _resting.clear()


def _after_fork_in_child() -> None:
    for recorder in _resting:
        recorder.after_fork_in_child()
    _resting.clear()


def _at_exit() -> None:
    for recorder in sorted(_living, key=id):
        recorder.at_exit()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
atexit.register(_at_exit)
