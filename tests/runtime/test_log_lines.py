"""What strangers send reaches the log lines, and a terminal obeys none of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ledger.runtime.log_lines import LogFile
from ledger_core.tlog.errors import UnavailableError

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


def test_a_log_file_that_was_renamed_or_deleted_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    first, second = LogFile(path), LogFile(path)  # Of two processes.
    first.write("1\n")
    second.write("2\n")
    path.rename(tmp_path / "lines.1")
    second.write("3\n")
    first.write("4\n")
    assert (tmp_path / "lines.1").read_text() == "1\n2\n"
    assert path.read_text() == "3\n4\n"
    path.unlink()
    first.write("5\n")
    assert path.read_text() == "5\n"
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_log_file_that_can_not_be_written_leaves_lines_to_standard_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    lines = LogFile(folder / "lines")
    (folder / "lines").unlink()
    folder.rmdir()
    lines.write("lost?\n")
    assert capfd.readouterr().err == "lost?\n"
    with pytest.raises(UnavailableError, match="No such file"):
        LogFile(folder / "lines")
