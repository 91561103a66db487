"""`python -m ledger.cli.child …`: the command `ledger …`, which ends with the one that started it.

The parent holds the other end of standard input. When it has ended, even by SIGKILL, this process
gets SIGTERM, and stops as it would by Ctrl-C. So a demo, a test or a benchmark leaves none behind.
"""

import os
import signal
import sys
import threading

from ledger.cli import main


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    main()
