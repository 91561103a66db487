"""A ledger that is made and served by the commands themselves, and a way to run a command."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ledger.demo.child_service import Service, make_ledger

ORIGIN = "example.com/audit"
Done = subprocess.CompletedProcess[str]
Command = Callable[..., Done]


@dataclass(frozen=True)
class Ledger:
    """A served ledger, and what a client needs of it."""

    directory: Path
    url: str
    token: str

    @property
    def policy(self) -> Path:
        return self.directory / "policy"


@pytest.fixture(scope="session")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    directory = tmp_path_factory.mktemp("cli") / "audit"
    token = make_ledger(directory, origin=ORIGIN)
    with Service(directory, listen="127.0.0.1:0", flags=("--log-level", "error")) as service:
        yield Ledger(directory, service.url, token)


@pytest.fixture
def command(ledger: Ledger, tmp_path: Path) -> Command:
    """Run `ledger …` as a process of its own, in an empty folder, against the served ledger."""

    def run(*arguments: str | Path, stdin: str | bytes = "", **variables: str) -> Done:
        environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("LEDGER_")},
            "LEDGER_URL": ledger.url,
            "LEDGER_TOKEN": ledger.token,
            "LEDGER_POLICY": str(ledger.policy),
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

    return run
