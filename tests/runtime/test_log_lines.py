"""What strangers send reaches the log lines, and a terminal obeys none of it."""

import os
import subprocess
import sys

import pytest

WRITE_LINES = r"""
import structlog
from ledger.runtime.log_lines import configure_logs

configure_logs({format!r}, "info")
log = structlog.get_logger("a")
log.warning("reader_gone", path="/\x1b[31mred\x07", line="one\nserving address=forged")
secret = "hunter2-in-a-variable"
try:
    raise OSError("no room")
except OSError:
    log.exception("commit_failed")
"""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_log_line_obeys_nobody_and_shows_no_variable(log_format: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITE_LINES.replace("{format!r}", repr(log_format))],
        stderr=subprocess.PIPE,
        env={**os.environ, "NO_COLOR": "1", "FORCE_COLOR": ""},
        check=True,
    )
    text = done.stderr.decode()
    assert "red" in text
    assert "no room" in text
    # The colours of the line itself are of one form.
    assert "\x1b[31mred" not in text
    assert "\x07" not in text
    assert not any(line.startswith("serving") for line in text.splitlines())
    # The statement that is at fault is shown; what the variables hold is not.
    assert "hunter2" not in text
