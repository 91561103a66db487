"""Runs a PostgreSQL server of our own in a scratch folder, on a Unix socket there."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

POSTGRES_BIN: Final = Path("/usr/lib/postgresql/15/bin")
POSTGRES_USER: Final = "postgres"
_PSQL: Final = ("psql", "-X", "-q", "-A", "-t")


class Cluster:
    """One server and its folder, which belongs to the user `postgres`."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        """Precondition: `make` made the folder, and no server runs in it."""
        self.folder: Final = folder
        self._settings: Final = {"listen_addresses": "''", **settings}

    @classmethod
    def make(cls, folder: Path, settings: Mapping[str, str]) -> "Cluster":
        """Make a new cluster in the place of an old one; it isn't started."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shutil.chown(folder, POSTGRES_USER, POSTGRES_USER)
        folder.chmod(0o700)
        _as_postgres("initdb", "-D", str(folder / "data"), "-A", "trust", "-E", "UTF8", "--no-sync")
        return cls(folder, settings)

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        settings = " ".join(f"-c {name}={value}" for name, value in self._settings.items())
        _as_postgres(
            "pg_ctl", "-D", str(self.folder / "data"), "-l", str(self.folder / "server.log"),
            "-o", f"-k {self.folder} {settings}", "-w", "-t", "120", "start",
        )  # fmt: skip

    def stop(self) -> None:
        """Stop the server, which ends its connections."""
        _as_postgres("pg_ctl", "-D", str(self.folder / "data"), "-m", "fast", "-w", "stop")

    def psql(self, *arguments: str) -> "subprocess.Popen[str]":
        """A client that reads statements from its standard input, if the arguments have none."""
        connection = ("-h", str(self.folder), "-U", POSTGRES_USER)
        return subprocess.Popen(
            [*_PSQL, "-v", "ON_ERROR_STOP=1", *connection, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run_sql(self, statements: str) -> str:
        """Run statements to their end; what they print. Raises: RuntimeError."""
        client = self.psql()
        printed, _ = client.communicate(statements)
        if client.returncode:
            raise RuntimeError(printed)
        return printed

    def process_ids(self) -> tuple[int, ...]:
        """The server's processes: the first one, and those that it started."""
        first = (self.folder / "data" / "postmaster.pid").read_text().split()[0]
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return tuple(map(int, (first, *children)))


def _as_postgres(command: str, *arguments: str) -> None:
    """PostgreSQL refuses to run as root."""
    program = [str(POSTGRES_BIN / command), *arguments]
    if os.geteuid() == 0:
        program = ["runuser", "-u", POSTGRES_USER, "--", *program]
    subprocess.run(program, check=True, stdout=subprocess.DEVNULL, cwd="/")
