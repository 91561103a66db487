"""Ends a process whose libraries have threads of their own that call Python.

Python does not wait for such a thread. One that comes back for the interpreter's lock while the
interpreter is being taken down is ended by Python in the middle of foreign code, and Rust aborts
the process for that: a command that had done all of its work ended by SIGABRT, in up to a fifth of
the runs under load. So the interpreter is not taken down where such threads may be.
"""

import atexit
import os
import sys
from typing import NoReturn

_has_foreign_threads = False


def note_foreign_threads() -> None:
    """Say that a library with such threads was loaded. It may be said again."""
    global _has_foreign_threads  # noqa: PLW0603 - a fact about the process
    _has_foreign_threads = True


def end_process(code: int) -> NoReturn:
    """Exit with a code, after the functions of `atexit` and what output still waits."""
    if _has_foreign_threads:
        atexit._run_exitfuncs()  # noqa: SLF001 - what the end of the interpreter calls
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):  # Its reader is gone, or it is closed.
                code = code or 1
        os._exit(code)
    sys.exit(code)
