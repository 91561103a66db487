"""Durable writes: an error names the file, and nothing is left behind."""

import subprocess
import sys
from pathlib import Path

import pytest

WRITES = """
import resource, sys
from pathlib import Path
from ledger_client.runtime import files
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
try:
    getattr(files, sys.argv[1])(Path(sys.argv[2]), bytes(4096))
except OSError as error:
    print(error.filename)
"""
"""A write that the system refuses, as on a full disk, with a limit on the length of files."""


@pytest.mark.parametrize("write", ["create_file", "create_whole", "write_atomically"])
def test_a_write_that_the_disk_refuses_names_the_file(tmp_path: Path, write: str) -> None:
    path = tmp_path / "legal-holds.json"
    done = subprocess.run(
        [sys.executable, "-c", WRITES, write, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{path}\n"
