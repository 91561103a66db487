"""Commands read a file that a stranger made up to the limit of its kind, whatever its size."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ledger_client.runtime.files import TEXT_BYTES_MAX, read_limited
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.proof import PROOF_BYTES_MAX

HUGE_BYTES = 1 << 40
"""Without a byte on the disk: files of this kind unpack from a kilobyte."""


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        (("policy", "check", "huge"), 1 << 20),
        (("verify", "leaf", "proof", "--policy", "huge"), 1 << 20),
        (("verify", "leaf", "huge", "--policy", "policy"), PROOF_BYTES_MAX),
        (("query", "source:@huge", "--policy", "policy"), 64 << 20),
        (("query", "--policy", "huge"), 1 << 20),
        (("query", "--policy", "policy", "--token-file", "huge"), TEXT_BYTES_MAX),
        (("scan", "leaf", "--rules", "huge"), TEXT_BYTES_MAX),
        (("restore", "file:///nothing", "new", "--policy", "huge"), 1 << 20),
        (("mirror", "init", "new", "--log", "http://127.0.0.1:1", "--policy", "huge"), 1 << 20),
        (("serve", "new", "--read-only", "file:///nothing", "--policy", "huge"), 1 << 20),
    ],
)
def test_a_huge_file_is_refused_by_its_limit(
    tmp_path: Path, words: tuple[str, ...], limit: int
) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(HUGE_BYTES)
    for name in ("leaf", "proof"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "policy").write_text(
        "log atk.test/log+6a322a66+AQKWhoggxrOgXdVffl0zwO/rEoQ1A4jzoUCCTfb3rcB9\nquorum none\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "ledger", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30)),
    )
    assert f"huge has more than {limit} bytes" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


def test_a_file_of_the_limit_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"123")
    assert read_limited(file, 3) == b"123"
    with pytest.raises(MalformedError, match="more than 2 bytes"):
        read_limited(file, 2)
