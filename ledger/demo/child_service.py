"""Makes ledgers and witnesses and serves each in a child process: for demo, tests, benchmarks."""

import secrets
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Self

from ledger.service.data_dir import create_directory
from ledger.service.token_admin import make_token
from ledger.witness.data_dir import create_witness
from ledger.witness.store import HeadStore
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.errors import UnavailableError
from ledger_core.tlog.keys import ED25519_COSIGNATURE, SEED_BYTES
from ledger_core.tlog.policy import parse_policy

STACKS_WAIT_S: Final = 10.0


def make_ledger(directory: Path, *, origin: str) -> str:
    """Make a ledger, and a token that may append and read."""
    create_directory(directory, origin=origin, seed=secrets.token_bytes(32))
    return make_token(directory, name="application", scopes=("append", "read"), tenant=None)


@dataclass(frozen=True, slots=True)
class Witness:
    """A running witness, as a policy names it."""

    name: str
    vkeys: tuple[str, ...]
    url: str
    process_id: int


@contextmanager
def witnesses(folder: Path, count: int, *, log_policy: Path) -> Iterator[tuple[Witness, ...]]:
    """Run witnesses `w1`, `w2` … of a policy's log, each `ledger witness serve` in a process."""
    log = parse_policy(log_policy.read_bytes()).logs
    with ExitStack() as stack:
        running = []
        for number in range(1, count + 1):
            signer = CosignatureSigner.generate(
                f"w{number}.example",
                algorithm=ED25519_COSIGNATURE,
                seed=secrets.token_bytes(SEED_BYTES),
            )
            paths = create_witness(folder / f"w{number}", [signer])
            with closing(HeadStore.open(paths.heads, readonly=False)) as store:
                store.add_log(log[0].verifier.name, [str(each.verifier) for each in log])
            service = stack.enter_context(
                Service(
                    folder / f"w{number}",
                    listen="127.0.0.1:0",
                    command=("witness", "serve"),
                    flags=("--log-level", "error"),
                )
            )
            running.append(
                Witness(f"w{number}", (str(signer.verifier),), service.url, service.process_id)
            )
        yield tuple(running)


def require_witnesses(policy: Path, witnesses: Sequence[Witness], *, threshold: int) -> None:
    """Replace `quorum none` in a policy file by a quorum of witnesses."""
    names, lines = [], []
    for witness in witnesses:
        for number, vkey in enumerate(witness.vkeys):
            names.append(f"{witness.name}{f'-{number}' if number else ''}")
            lines.append(f"witness {names[-1]} {vkey} {witness.url}")
    lines += [f"group witnesses {threshold} {' '.join(names)}", "quorum witnesses"]
    text = policy.read_text(encoding="utf-8").replace("quorum none", "\n".join(lines))
    policy.write_text(text, encoding="utf-8")


class Service:
    """`ledger serve` as a child process, or another command that serves a folder.

    Its address is read from what it prints.
    """

    start_wait_s: float = 120.0
    stop_wait_s: float = 120.0

    def __init__(
        self,
        directory: Path,
        *,
        listen: str,
        flags: tuple[str, ...] = (),
        command: tuple[str, ...] = ("serve",),
        stderr: int | IO[str] | None = None,
    ) -> None:
        # -P: the working directory is no place to import modules from.
        self._command = [
            *(sys.executable, "-P", "-m", "ledger.cli.child", *command, str(directory)),
            *("--listen", listen),
            *flags,
        ]
        self._stderr = stderr
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    @property
    def process_id(self) -> int:
        """Of the child. Precondition: it was started."""
        if self._process is None:
            raise ValueError("the service was not started")
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Of the child that has ended, negative for a signal; None while it runs."""
        return None if self._process is None else self._process.returncode

    def __enter__(self) -> Self:
        # A session of its own: Ctrl-C reaches only this process, which then stops the child.
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            self._command,
            stdin=subprocess.PIPE,  # Closes when this process ends, however that is.
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            start_new_session=True,
        )
        self.url = self._read_address(self._process)
        return self

    def wait(self) -> None:
        """Until the child ends, or Ctrl-C."""
        if self._process is not None:
            self._process.wait()

    def __exit__(self, *exception: object) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(self.stop_wait_s)
        except subprocess.TimeoutExpired:
            end_hanging(self._process)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _read_address(self, process: subprocess.Popen[str]) -> str:
        if process.stdout is None:
            raise AssertionError("the child's output is a pipe")
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            line = process.stdout.readline() if selector.select(self.start_wait_s) else ""
        address = line.strip().rpartition(" ")[2]
        if not address.startswith("http"):
            end_hanging(process)
            process.stdout.close()
            if process.stdin is not None:
                process.stdin.close()
            raise UnavailableError("the service did not start; its output is above")
        return address


def end_hanging(process: "subprocess.Popen[str]") -> None:
    """End a child that should have ended: SIGABRT, then SIGKILL.

    With PYTHONFAULTHANDLER in its environment it writes the stacks of its threads to its errors.
    """
    process.send_signal(signal.SIGABRT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STACKS_WAIT_S)
    process.kill()
    process.wait()
