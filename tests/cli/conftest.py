"""A ledger that is made and served by the commands themselves, and a way to run a command."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

from ledger.demo.child_service import Service, make_ledger
from ledger_client.cli.app import run
from tests.served import ORIGIN, ServedLedger

Done = subprocess.CompletedProcess[str]
Command = Callable[..., Done]


class Output(NamedTuple):
    """The exit code of a command that ran in this process, and its output."""

    code: int
    out: str
    err: str


def run_here(*arguments: str | Path) -> Output:
    """Run `ledger …` in this process."""
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline=""), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run([*map(str, arguments)])
    out.flush()
    assert isinstance(out.buffer, io.BytesIO)
    return Output(code, out.buffer.getvalue().decode(), err.getvalue())


@pytest.fixture(scope="session")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedLedger]:
    directory = tmp_path_factory.mktemp("cli") / "audit"
    token = make_ledger(directory, origin=ORIGIN)
    with Service(directory, listen="127.0.0.1:0", flags=("--log-level", "error")) as service:
        yield ServedLedger(service.url, token, directory)


@pytest.fixture
def command(ledger: ServedLedger, tmp_path: Path) -> Command:
    """Run `ledger …` as a process of its own, in an empty folder, against the served ledger."""

    def run_command(*arguments: str | Path, stdin: str | bytes = "", **variables: str) -> Done:
        environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("LEDGER_")},
            **ledger.variables,
            **variables,
        }
        return subprocess.run(
            [sys.executable, "-m", "ledger", *map(str, arguments)],
            input=stdin if isinstance(stdin, str) else stdin.decode("latin-1"),
            capture_output=True,
            text=True,
            env=environ,
            cwd=tmp_path,
            timeout=240,
            check=False,
        )

    return run_command
