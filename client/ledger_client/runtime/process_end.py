"""Ends a process that has threads for which Python does not wait.

A daemon thread, or one of a library that calls Python, may come back for the interpreter's lock
while the interpreter is being taken down. Python ends it then in the middle of foreign code. Rust
aborts the process for that: a command that had done all of its work ended by SIGABRT, in up to a
fifth of the runs under load. So does the C library when it can't open a file of its own at that
moment. So the interpreter is not taken down where such threads may be.
"""

import atexit
import os
import sys
import threading
from typing import NoReturn

_has_foreign_threads = False


def note_foreign_threads() -> None:
    """Say that a library with threads that call Python was loaded. It may be said again."""
    global _has_foreign_threads  # noqa: PLW0603 - a fact about the process
    _has_foreign_threads = True


def end_process(code: int) -> NoReturn:
    """Exit with a code, after threads that are no daemons, `atexit`, and output that waits."""
    if _has_foreign_threads or any(each.daemon for each in threading.enumerate()):
        # These two are what the interpreter calls at its end.
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001
        atexit._run_exitfuncs()  # noqa: SLF001
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):  # Its reader is gone, or it is closed.
                code = code or 1
        os._exit(code)
    sys.exit(code)
