"""A terminal that closes leaves no process behind, and a demo none when it is killed."""

import os
import pty
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.service.serving import Ledger, event, make_ledger, serving_new
from tests.waiting import until
from tests.witness.witnesses import make_witness

ROOT = Path(__file__).parents[2]
WAIT_S = 120.0


class Process(NamedTuple):
    """A process by its number and its start, for numbers are used again."""

    number: int
    started: str


def family(number: int) -> set[Process]:
    """A process and all that it has started, in whatever session they are."""
    found, numbers = set(), [number]
    while numbers:
        number = numbers.pop()
        with suppress(OSError):
            for task in Path(f"/proc/{number}/task").iterdir():
                numbers += map(int, (task / "children").read_text().split())
            found.add(Process(number, _fields(number)[21]))
    return found


def is_alive(process: Process) -> bool:
    with suppress(OSError):
        fields = _fields(process.number)
        return fields[21] == process.started and fields[2] != "Z"
    return False


def _fields(number: int) -> list[str]:
    """The fields of proc(5), `stat`; a name may hold blanks."""
    text = Path(f"/proc/{number}/stat").read_text()
    return ["", "", *text.rpartition(")")[2].split()]


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, command: list[str], environ: dict[str, str], folder: Path) -> None:
        self.process_id, self._terminal = pty.fork()
        if self.process_id == 0:
            os.chdir(folder)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may run these tests.
            os.execve(command[0], command, environ)
        self.said = b""

    def wait_for(self, text: bytes, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Read until the program has written something; `meanwhile` is done again and again."""
        end_s = time.monotonic() + WAIT_S
        while text not in self.said:
            assert time.monotonic() < end_s, self.said
            meanwhile()
            if select.select([self._terminal], [], [], 0.5)[0]:
                try:
                    self.said += os.read(self._terminal, 1 << 16)
                except OSError:
                    raise AssertionError(f"it has ended: {self.said!r}") from None

    def close(self) -> None:
        """Close the terminal's window."""
        os.close(self._terminal)


@contextmanager
def in_terminal(folder: Path, *command: object, **variables: str) -> Iterator[Terminal]:
    """Run a program whose temporary files are in a folder; all that it started is ended."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("LEDGER_")}
    environ = {**kept, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", **variables}
    terminal = Terminal([sys.executable, *map(str, command)], environ, folder)
    started: set[Process] = set()
    try:
        yield terminal
    finally:
        started = family(terminal.process_id)
        for each in filter(is_alive, started):
            with suppress(OSError):
                os.kill(each.number, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(terminal.process_id, 0)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    with serving_new(tmp_path_factory.mktemp("served")) as ledger:
        ledger.append(event())
        yield ledger


def command_of(kind: str, folder: Path, ledger: Ledger) -> tuple[list[object], bytes]:
    """A program, and what it writes when all of it runs."""
    asked = ["--url", ledger.url, "--policy", ledger.directory / "policy"]
    match kind:
        case "demo":
            return ["-m", "ledger", "demo"], b"serving /"
        case "example":
            return [ROOT / "docs/examples/flask/app.py"], b"Running on "
        case "serve":
            make_ledger(folder / "l")
            flags = ["--listen", "127.0.0.1:0", "--workers", "2"]
            return ["-m", "ledger", "serve", folder / "l", *flags], b"serving on "
        case "witness":
            make_witness(folder / "w", [])
            flags = ["--listen", "127.0.0.1:0"]
            return ["-m", "ledger", "witness", "serve", folder / "w", *flags], b"serving on "
        case "follow":
            return ["-m", "ledger", "query", "--follow", *asked, ""], b"record.viewed"
        case "monitor":
            return ["-m", "ledger", "monitor", *asked[1:], "--state", folder / "s"], b"size "
    raise ValueError(kind)


@pytest.mark.parametrize("kind", ["demo", "example", "serve", "witness", "follow", "monitor"])
def test_a_closed_terminal_leaves_no_process_and_no_temporary_file(
    tmp_path: Path, ledger: Ledger, kind: str
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    command, marker = command_of(kind, tmp_path, ledger)
    variables = {"LEDGER_TOKEN": ledger.tokens["admin"], "PORT": "0"}
    if kind in {"demo", "example"}:
        variables.pop("LEDGER_TOKEN")
    with in_terminal(folder, *command, **variables) as terminal:
        terminal.wait_for(marker, lambda: kind == "follow" and ledger.append(event()))
        started = family(terminal.process_id)
        assert started
        terminal.close()
        os.waitpid(terminal.process_id, 0)
        until(lambda: not any(map(is_alive, started)), kind)
    assert list(folder.iterdir()) == []


def test_a_demo_that_is_killed_leaves_no_process(tmp_path: Path, ledger: Ledger) -> None:
    command, marker = command_of("demo", tmp_path, ledger)
    with in_terminal(tmp_path, *command) as terminal:
        terminal.wait_for(marker)
        started = family(terminal.process_id)
        assert len(started) >= 4  # Itself, the witnesses, and the ledger's processes.
        os.kill(terminal.process_id, signal.SIGKILL)
        os.waitpid(terminal.process_id, 0)
        until(lambda: not any(map(is_alive, started)), started)
        terminal.close()


def test_nohup_lets_a_service_outlive_its_terminal(tmp_path: Path, ledger: Ledger) -> None:
    make_ledger(tmp_path / "l")
    lines = tmp_path / "lines"
    flags = f"--listen 127.0.0.1:0 --workers 0 --log-file {lines} >{tmp_path / 'out'}"
    shell = f"nohup {sys.executable} -m ledger serve {tmp_path / 'l'} {flags} & wait"
    with in_terminal(
        tmp_path, "-c", "import os, sys; os.execv('/bin/sh', ['sh', '-c', sys.argv[1]])", shell
    ) as terminal:
        out = tmp_path / "out"
        until(lambda: out.exists() and "serving on " in out.read_text(), "it serves")
        started = {
            each
            for each in family(terminal.process_id)
            if b"ledger" in command_line(each) and each.number != terminal.process_id
        }
        terminal.close()
        os.waitpid(terminal.process_id, 0)
        (main,) = {each for each in started if b"\0serve\0" in command_line(each)}
        os.kill(main.number, signal.SIGHUP)
        until(lambda: "settings_reloaded" in lines.read_text(), "files are read again")
        os.kill(main.number, signal.SIGTERM)
        until(lambda: not any(map(is_alive, started)), started)


def command_line(process: Process) -> bytes:
    return Path(f"/proc/{process.number}/cmdline").read_bytes()
