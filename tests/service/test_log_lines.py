"""Log lines that can't be written: the service goes on without them."""

import json
import subprocess
import sys
from pathlib import Path

from tests.service.serving import JSON, event, make_ledger, send


def test_a_full_disk_under_the_log_lines_stops_no_request(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    token = make_ledger(directory)["admin"]
    command = [sys.executable, "-m", "ledger", "serve", str(directory), "--listen", "127.0.0.1:0"]
    with (
        Path("/dev/full").open("w") as full,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=full, text=True) as child,
    ):
        assert child.stdout is not None
        url = child.stdout.readline().split()[-1]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": JSON}
        body = json.dumps(event()).encode()
        try:
            # Each of them writes a log line.
            for _ in range(3):
                assert (
                    send(url, "/v1/events", method="GET", body=None, headers=headers).status == 200
                )
            target = "/v1/events?proof=1"
            assert send(url, target, method="POST", body=body, headers=headers).status == 200
        finally:
            child.terminate()
        assert child.wait(30) == 0
