"""A temporary ledger for trying out an application: made, served, and deleted at the end."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from ledger.demo.child_service import Service, make_ledger
from ledger.demo.ending import interrupted_by_signals
from ledger.service.data_dir import DirectoryPaths
from ledger_client.recording.recorder import recorder_in_use

ORIGIN: Final = "scratch.example/audit"
FLAGS: Final = ("--log-level", "error", "--workers", "0")


@contextmanager
def scratch_ledger() -> Iterator[None]:
    """Serve a ledger and set LEDGER_URL, LEDGER_TOKEN, LEDGER_POLICY and LEDGER_SPOOL.

    Does nothing when LEDGER_URL is already set. LEDGER_SPOOL is a folder for the recorder in use,
    which is closed at the end.

    Raises: UnavailableError when the service does not start.
    """
    if "LEDGER_URL" in os.environ:
        yield
        return
    with (
        interrupted_by_signals(),
        tempfile.TemporaryDirectory(prefix="ledger-scratch-") as scratch,
    ):
        directory = Path(scratch, "audit")
        token = make_ledger(directory, origin=ORIGIN)
        with Service(directory, listen="127.0.0.1:0", flags=FLAGS) as service:
            variables = {
                "LEDGER_URL": service.url,
                "LEDGER_TOKEN": token,
                "LEDGER_POLICY": str(DirectoryPaths(directory).policy),
            }
            exports = " ".join(f"{name}={value}" for name, value in variables.items())
            click.echo(
                f"A temporary ledger, deleted at the end. To use it elsewhere:\nexport {exports}"
            )
            os.environ.update(variables, LEDGER_SPOOL=str(Path(scratch, "spool")))
            try:
                yield
            finally:  # At the end of the process it would write into the folder again.
                if (recorder := recorder_in_use()) is not None:
                    recorder.close()
