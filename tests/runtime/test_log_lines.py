"""What strangers send reaches the log lines, and a terminal obeys none of it."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import structlog

from ledger.runtime.log_lines import LIMITED_LINES, LogFile, limit_lines
from ledger_client.runtime.line_limit import LINES_MAX, PERIOD_S, SENDERS_MAX, LineLimit
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


class Steady:
    """Seconds as the test counts them."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_lines_that_strangers_cause_are_left_out_beyond_their_limit() -> None:
    steady = Steady()
    process = limit_lines(LineLimit(monotonic_s=steady))

    def written(event: str, count: int = 10 * LINES_MAX, **fields: str) -> list[dict[str, object]]:
        lines: list[dict[str, object]] = []
        for _ in range(count):
            with suppress(structlog.DropEvent):
                line = process(None, "info", {"event": event, **fields})
                assert isinstance(line, dict)
                lines.append(line)
        return lines

    for event in LIMITED_LINES:
        assert len(written(event, address="203.0.113.7")) == LINES_MAX
    # Each sender has lines of its own, by token, log or network; other lines have no limit.
    assert len(written("request_refused", by="billing", address="203.0.113.7")) == LINES_MAX
    assert len(written("head_refused", origin="example.com/log")) == LINES_MAX
    hosts = [
        written("connection_refused", 1, address=f"2001:db8::{each:x}") for each in range(1_000)
    ]
    assert sum(map(len, hosts)) == LINES_MAX
    assert len(written("read", address="203.0.113.7")) == 10 * LINES_MAX
    steady.now += PERIOD_S
    first, second, *_ = written("head_too_slow", address="203.0.113.7")
    assert (first["left_out"], "left_out" in second) == (9 * LINES_MAX, False)


def test_very_many_senders_have_a_limit_together() -> None:
    steady = Steady()
    limit = LineLimit(monotonic_s=steady)
    admitted = [limit.admit("head_too_slow", f"{each}") for each in range(10 * SENDERS_MAX)]
    assert len(admitted) - admitted.count(None) == SENDERS_MAX + LINES_MAX
    steady.now += PERIOD_S
    assert limit.admit("head_too_slow", "another") == 0
    assert [limit.admit("head_too_slow", "1") for _ in range(LINES_MAX + 1)][-1] is None


def test_a_flood_of_refusals_writes_few_lines() -> None:
    code = """
import structlog
from ledger.runtime.log_lines import configure_logs

configure_logs("json", "info")
log = structlog.get_logger("a")
for _ in range(1_000):
    log.info("request_refused", by="address 203.0.113.7", address="203.0.113.7")
"""
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, check=True)
    assert len(done.stderr.splitlines()) == LINES_MAX
