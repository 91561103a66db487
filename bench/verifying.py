"""Measures what an auditor's own processor pays: `ledger monitor` and exports that are verified.

Figures are a second of processor time (user and system) of the client's process alone, its start
included: a slow network or a busy neighbour doesn't change them.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.request import urlopen

from bench.append import ORIGIN, QUIET
from bench.million import fill_log
from bench.rows import Row
from ledger.demo.child_service import Service, make_ledger
from ledger.service.data_dir import DirectoryPaths

MONITOR_REACH = 60_000
EXPORT_REACH = 30_000


def run(folder: Path, *, entries: int) -> list[Row]:
    """Measure on a log that the log writer filled beforehand."""
    directory = folder / "verified"
    token = make_ledger(directory, origin=ORIGIN)
    fill_log(directory, entries)
    with Service(directory, listen="127.0.0.1:0", flags=QUIET) as service:
        with urlopen(f"{service.url}/checkpoint") as answer:
            answer.read()
        client = _Client(service.url, token=token, policy=DirectoryPaths(directory).policy)
        monitor_s = client.processor_s("monitor", "--once", "--state", str(folder / "monitor"))
        export_s = {
            format_: client.processor_s(
                "export", "--format", format_, "-o", str(folder / f"events.{format_}")
            )
            for format_ in ("jsonl", "csv")
        }
    return [
        Row(
            "`ledger monitor`, a second of processor time",
            entries / monitor_s,
            "entries/s",
            reach=MONITOR_REACH,
        ),
        *(
            Row(
                f"`ledger export --format {format_}`, verified, a second of processor time",
                entries / seconds,
                "events/s",
                reach=EXPORT_REACH,
            )
            for format_, seconds in export_s.items()
        ),
    ]


class _Client:
    """Runs the command `ledger` against one ledger, one command at a time."""

    def __init__(self, url: str, *, token: str, policy: Path) -> None:
        self._environment = {
            **os.environ,
            "LEDGER_URL": url,
            "LEDGER_TOKEN": token,
            "LEDGER_POLICY": str(policy),
        }

    def processor_s(self, *command: str) -> float:
        """The processor time of one command. Raises: CalledProcessError."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._run(command)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    def _run(self, command: Sequence[str]) -> None:
        subprocess.run(
            [Path(sys.executable).with_name("ledger"), *command],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            check=True,
        )
