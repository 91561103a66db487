"""A ledger made and served by a process of its own, for the demo and the benchmarks."""

import secrets
import selectors
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ledger.cli.token import make_token
from ledger.service.directory import create_directory
from ledger.tlog.errors import UnavailableError

START_WAIT_S: Final = 30.0
STOP_WAIT_S: Final = 30.0


def make_ledger(directory: Path, *, origin: str) -> str:
    """Make a ledger, and a token that may append and read."""
    create_directory(directory, origin=origin, seed=secrets.token_bytes(32))
    return make_token(directory, name="application", scopes=("append", "read"), tenant=None)


class Service:
    """`ledger serve` as a child process, or another command that serves a folder.

    Its address is read from what it prints.
    """

    def __init__(
        self,
        directory: Path,
        *,
        listen: str,
        flags: tuple[str, ...] = (),
        command: tuple[str, ...] = ("serve",),
    ) -> None:
        self._command = [
            *(sys.executable, "-m", "ledger", *command, str(directory), "--listen", listen),
            *flags,
        ]
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    @property
    def process_id(self) -> int:
        """Of the child. Precondition: it was started."""
        if self._process is None:
            raise ValueError("the service was not started")
        return self._process.pid

    def __enter__(self) -> Self:
        # A session of its own: Ctrl-C reaches this process, which then ends the child in order.
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            self._command, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.url = self._read_address(self._process)
        return self

    def wait(self) -> None:
        """Until the child ends, or Ctrl-C."""
        if self._process is not None:
            self._process.wait()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    @staticmethod
    def _read_address(process: subprocess.Popen[str]) -> str:
        if process.stdout is None:
            raise AssertionError("the child's output is a pipe")
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            line = process.stdout.readline() if selector.select(START_WAIT_S) else ""
        address = line.strip().rpartition(" ")[2]
        if not address.startswith("http"):
            process.kill()
            process.wait()
            process.stdout.close()
            raise UnavailableError("the service did not start; what it said stands above")
        return address
