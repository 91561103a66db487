"""The folder of sockets has a path that a socket can have, however long TMPDIR is."""

import socket
import tempfile
from pathlib import Path

import pytest

from ledger.runtime import socket_folder
from ledger.runtime.socket_folder import BASE_BYTES_MAX, make_socket_folder
from ledger.service.queries.handover import handover_path
from ledger_core.tlog.errors import UnavailableError


@pytest.mark.parametrize("length", [BASE_BYTES_MAX, BASE_BYTES_MAX + 1, 200])
def test_a_socket_can_be_bound_below_any_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    base = Path(tempfile.mkdtemp(dir="/tmp"))
    while len(str(base)) < length:
        base /= "x" * min(60, max(1, length - len(str(base)) - 1))
    base.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(base))
    folder = make_socket_folder("ledger-queries-")
    assert (folder.parent == base) == (length <= BASE_BYTES_MAX)
    assert folder.stat().st_mode & 0o777 == 0o700
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(handover_path(folder / "socket")))
    handover_path(folder / "socket").unlink()
    folder.rmdir()


def test_a_base_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_folder, "SHORT_BASE", "/none")
    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * 100)
    with pytest.raises(UnavailableError, match="no folder for sockets in /none"):
        make_socket_folder("ledger-queries-")
