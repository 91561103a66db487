"""Ends a process that has threads for which Python does not wait.

A daemon thread may come back for the interpreter's lock while the interpreter is being taken down.
Python ends it then in the middle of foreign code, and the C library aborts the process when it
can't open a file of its own at that moment. So the interpreter is not taken down where such threads
are.
"""

import atexit
import os
import sys
import threading
from typing import NoReturn


def end_process(code: int) -> NoReturn:
    """Exit with a code, after threads that are no daemons, `atexit`, and output that waits."""
    if any(each.daemon for each in threading.enumerate()):
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
