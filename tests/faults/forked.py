"""Functions and commands that run in a forked child, which saves the start of an interpreter.

An interpreter with all our modules takes a second of processor time to start, and most cases of the
harness start several. The parent should have one thread.
"""

import faulthandler
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import IO, Any, Final, NoReturn, Self

import ledger.cli  # noqa: F401 - its commands
from ledger.demo.child_service import Service
from ledger.follow.followers import Followers
from ledger_client.cli.app import run as run_ledger

POLL_S: Final = 0.01
ERROR_CHARACTERS: Final = 1500
CLOCK_MAX_S: Final = 600.0
"""Very generous: a loaded machine is not taken for a hang."""


class Forked:
    """A forked child that runs a function and exits with what it returns; as `Popen` has them."""

    def __init__(
        self,
        function: Callable[[], int],
        *,
        stdout: int | IO[str] | None = None,
        stderr: int | IO[str] | None = None,
    ) -> None:
        """`stdout` and `stderr`: as of `Popen`."""
        self.returncode: int | None = None
        self.stdin: IO[str] | None = None
        self.stdout: IO[str] | None = None
        outputs = {1: stdout, 2: stderr}
        read_end = write_end = None
        if stdout == subprocess.PIPE:
            read_end, write_end = os.pipe()
            outputs[1] = write_end
        self.pid = os.fork()
        if self.pid == 0:
            _run(function, outputs)
        if read_end is not None and write_end is not None:
            os.close(write_end)
            self.stdout = os.fdopen(read_end)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises: TimeoutExpired."""
        end_s = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end_s is not None and time.monotonic() > end_s:
                raise subprocess.TimeoutExpired("a forked child", timeout or 0.0)
            time.sleep(POLL_S)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it and all that it has started in its session."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


def _run(function: Callable[[], int], outputs: dict[int, int | IO[str] | None]) -> NoReturn:
    """The child: never returns into the stack of its parent."""
    code = 1
    try:
        os.setsid()
        for number, output in outputs.items():
            if output == subprocess.DEVNULL:
                output = os.open(os.devnull, os.O_WRONLY)  # noqa: PLW2901 - it is the same output
            if output is not None:
                os.dup2(output if isinstance(output, int) else output.fileno(), number)
        # A test may have put others in their place.
        sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        faulthandler.enable(file=2)
        code = function()
    except BaseException:  # noqa: BLE001 - as the top of an interpreter
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code & 0xFF)


def run_without_followers(arguments: list[str]) -> int:
    """Run `ledger` in a forked child; a service starts no followers, and front ends if told to."""
    os.environ.setdefault("LEDGER_WORKERS", "0")
    setattr(Followers, "start", lambda _self: None)  # noqa: B010 - in the child alone
    return run_ledger(arguments)


class ForkedService(Service):
    """`Service` in a forked child, without its followers: none builds an index meanwhile."""

    start_wait_s = stop_wait_s = CLOCK_MAX_S

    def __enter__(self) -> Self:
        # Python, -P, -m and `ledger` come first.
        serve = partial(run_without_followers, self._command[4:])
        self._process = Forked(  # type: ignore[assignment]  # It has what is used of `Popen`.
            serve, stdout=subprocess.PIPE, stderr=self._stderr
        )
        assert self._process is not None
        self.url = self._read_address(self._process)
        return self


class ForkedCase:
    """A function that runs in a forked child, and its result."""

    def __init__(self, function: Callable[[], Any]) -> None:
        # Both are open until the child has ended.
        self._result = tempfile.TemporaryFile()  # noqa: SIM115
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self.begun_s = time.monotonic()

        def run() -> int:
            pickle.dump(function(), self._result)
            self._result.flush()
            return 0

        self.process = Forked(run, stderr=self._errors)

    def result(self) -> Any:
        """What the function returned. Precondition: it has ended. Raises: CaseError."""
        code = self.process.wait()
        # What it left behind, as after a kill.
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with self._result, self._errors:
            if code:
                self._errors.seek(0)
                raise CaseError(code, self._errors.read()[-ERROR_CHARACTERS:])
            self._result.seek(0)
            return pickle.load(self._result)


class CaseError(Exception):
    """A case that raised, or was ended by a signal: its exit code and its errors."""
