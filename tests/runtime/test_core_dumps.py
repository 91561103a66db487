"""A crash of a server leaves no file with the keys and values in its memory."""

import subprocess
import sys

PROGRAM = """
import resource, subprocess, sys
from ledger_client.runtime.server import run_until_signal

_, hard = resource.getrlimit(resource.RLIMIT_CORE)
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

async def serve(stop):
    show = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE)[0])"
    print(resource.getrlimit(resource.RLIMIT_CORE)[0], flush=True)
    subprocess.run([sys.executable, "-c", show], check=True)

run_until_signal(serve)
"""


def test_a_server_and_what_it_starts_dump_no_core() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, check=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["0", "0"]
