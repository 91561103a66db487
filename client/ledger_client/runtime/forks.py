"""Tells a process from the one that it was forked from, without a system call.

`os.getpid()` asks the kernel each time, which takes as long as a short step of a request.
"""

import os
from typing import Final


class _Forks:
    def __init__(self) -> None:
        self.count = 0
        os.register_at_fork(after_in_child=self._add)

    def _add(self) -> None:
        self.count += 1


_forks: Final = _Forks()


def fork_number() -> int:
    """How many calls of `os.fork()` lie between this process and the first: another in each child.

    A child that C code forks, and that runs on in Python, has that of its parent.
    """
    return _forks.count
