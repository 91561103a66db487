"""A process that forks children while its threads look for secrets; it ends when all of them have.

python -m tests.secrets.forking CHILDREN
"""

import os
import random
import signal
import sys
import threading

from ledger_client.fork_safe_masking import guarded
from ledger_core.event.secrets import mask

CHILD_LIMIT_S = 10

mask_any_time = guarded(mask)


def look() -> None:
    """Look at a text that no automaton has seen, so that it grows."""
    letters = "".join(random.choices("abcdefgh-_.=:/ 0123456789", k=60))
    masked = mask_any_time(
        {"context": {"note": letters, "password": letters, "url": "https://u:p@host/"}}
    )
    assert masked["context"]["password"] == {"masked": "password"}


def look_on() -> None:
    while True:
        look()


for _ in range(3):
    threading.Thread(target=look_on, daemon=True).start()
for _ in range(int(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        signal.alarm(CHILD_LIMIT_S)
        look()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        sys.exit(f"a child ended with {status}")
