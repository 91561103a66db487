"""Runs one follower as a child process: start, restart after a failure or a hang, stop.

The child's standard input is a pipe to which nothing is ever written. When the parent ends, even by
SIGKILL, the pipe closes; the child sees that by `is_orphaned` and ends. The other way its signs of
life come by its standard output (`heartbeat`). One that gives none for long is killed, which each
child must survive at any moment, and started again.
"""

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from ledger.follow import heartbeat
from ledger.runtime.log_lines import FORMAT_VARIABLE, LEVEL_VARIABLE
from ledger_client.runtime import backoff

STOP_WAIT_S: Final = 10.0
RESTART_BASE_S: Final = 0.5
RESTART_MAX_S: Final = 60.0
SILENT_S: Final = 3_600.0
"""Seconds without a sign of life until a child is killed: a piece of work may take minutes."""

HEALTHY_S: Final = 60.0
"""A child that ran for so long failed for a new reason, so the wait begins small again."""

NICENESS: Final = 10

KEPT_VARIABLES: Final = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TZDIR", "TMPDIR", "TMP", "TEMP",
     "VIRTUAL_ENV", "TERM", "NO_COLOR", "FORCE_COLOR", "SSL_CERT_FILE", "SSL_CERT_DIR",
     FORMAT_VARIABLE, LEVEL_VARIABLE}
)  # fmt: skip
KEPT_PREFIXES: Final = ("LC_", "PYTHON", "LD_", "MALLOC_", "FAKETIME")

_log = structlog.get_logger("ledger.follow")


def child_environment(variables: Sequence[str] = ()) -> dict[str, str]:
    """The environment of a child: what Python and the system need, and the variables named.

    The service's own may hold secrets, of sinks and of what else its operator runs.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name in KEPT_VARIABLES or name.startswith(KEPT_PREFIXES) or name in variables
    }


class FollowerProcess:
    """One follower: a child process and the thread that starts it again when it ends."""

    kind = "follower"
    """The kind of process, in log lines."""

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str] = (),
        *,
        variables: Sequence[str] = (),
        restart_s: float = RESTART_BASE_S,
        stop_wait_s: float = STOP_WAIT_S,
        silent_s: float = SILENT_S,
    ) -> None:
        """`module` is run with `python -m`; `restart_s` is the wait after a first failure.

        `variables`: those of the service's environment that the child needs beside the usual ones.
        `stop_wait_s`: what the child has for its end, after SIGTERM. `silent_s`: a child that gave
        signs of life and gives none for so long is killed.
        """
        self._variables: Final = variables
        self.name: Final = name
        self._stop_wait_s: Final = stop_wait_s
        self._silent_turns: Final = max(1, round(silent_s / heartbeat.BEAT_S))
        # -P: the working directory is no place to import modules from.
        self.command: Final = [sys.executable, "-P", "-m", module, *arguments]
        self._restart_s: Final = restart_s
        self._lock: Final = threading.Lock()
        self._stopping: Final = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None  # Replaced under _lock.
        self._thread: Final = threading.Thread(
            target=self._supervise, name=f"ledger-{name}", daemon=True
        )

    @property
    def process_id(self) -> int | None:
        """Of the child, None while none runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start the child and its supervision."""
        self._start_child()
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the child, which is not started again."""
        with self._lock:
            self._stopping.set()
            process = self._process
        if process is not None:
            process.terminate()

    def stop(self) -> None:
        """End the child: SIGTERM, and SIGKILL after some seconds."""
        self.ask_to_stop()
        process = self._process
        if process is None:
            return
        try:
            process.wait(self._stop_wait_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._thread.join()

    def _start_child(self) -> subprocess.Popen[bytes] | None:
        """The new child, None after `stop`."""
        with self._lock:
            if self._stopping.is_set():
                return None
            self._process = self.spawn()
            return self._process

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the child."""
        return subprocess.Popen(  # noqa: S603 - our own module
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment(self._variables),
            # Ctrl-C reaches only the service, which then stops this process.
            start_new_session=True,
        )

    def note_end(self) -> None:
        """Called on a thread when the child has ended by itself."""

    def _supervise(self) -> None:
        failures = 0
        process = self._process
        while process is not None:
            started_s = time.monotonic()
            exit_code = self._wait_end(process)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            if self._stopping.is_set():
                return
            failures = 1 if time.monotonic() - started_s > HEALTHY_S else failures + 1
            wait_s = backoff.exponential_s(failures, base_s=self._restart_s, limit_s=RESTART_MAX_S)
            said = {self.kind: self.name, "exit_code": exit_code, "restart_s": wait_s}
            _log.warning(f"{self.kind}_ended", **said)
            self.note_end()
            if self._stopping.wait(wait_s):
                return
            process = self._start_again()

    def _wait_end(self, process: subprocess.Popen[bytes]) -> int:
        """Wait until the child ends, and kill it when it stands still; its exit code.

        The kill loses nothing that was acknowledged. A front end acknowledges what the sequencer
        has committed; the outcome of a request that it cuts off is unknown to the client, whose
        repetition has the same ids. A follower's position is written after what it covers.
        """
        turns_max = self._silent_turns
        if heartbeat.wait_silent(process, self._stopping.is_set, turns_max=turns_max):
            said = {self.kind: self.name, "silent_s": round(turns_max * heartbeat.BEAT_S)}
            _log.error(f"{self.kind}_hangs", **said)
            process.kill()
        return process.wait()

    def _start_again(self) -> subprocess.Popen[bytes] | None:
        """The new child, None after `stop`; tried until the system has room for a process."""
        while True:
            try:
                return self._start_child()
            except OSError as error:
                said = {self.kind: self.name, "error": error.strerror}
                _log.warning(f"{self.kind}_not_started", **said)
                if self._stopping.wait(RESTART_MAX_S):
                    return None


def lower_priority(niceness: int = NICENESS) -> None:
    """Let the service's own work go first. Called once, by the child."""
    os.nice(niceness)
    # Where Linux gives each session its share, a niceness counts within the session alone.
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(niceness), encoding="ascii")


def is_orphaned(wait_s: float) -> bool:
    """Whether the parent ended, which closes standard input; wait up to `wait_s` for it.

    It is asked between two pieces of work, so each time is a sign of life.
    """
    heartbeat.beat()
    return bool(select.select([sys.stdin], [], [], wait_s)[0])
