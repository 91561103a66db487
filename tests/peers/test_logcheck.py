"""A program on Go's libraries reads our tiles, proofs come out of them, and faults are seen.

The log lies in a folder, as our tile code writes it and any web server can serve it, so that a test
can put a fault anywhere.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ledger_core.tlog.checkpoint import Checkpoint, SignedCheckpoint, format_checkpoint
from ledger_core.tlog.hashing import HASH_BYTES, Hash, leaf_hash
from ledger_core.tlog.note import Signer
from ledger_core.tlog.text import format_base64
from ledger_core.tlog.tile import (
    TILE_WIDTH,
    TileRef,
    encode_bundle,
    tile_rows,
)
from ledger_core.tlog.tree import Frontier
from ledger_core.tlog.witness import cosign
from tests.peers.logcheck import LogCheckError, logcheck
from tests.witness.witnesses import SIGNERS

pytestmark = pytest.mark.go

ORIGIN = "example.com/tiles"
SIGNER = Signer.generate(ORIGIN, seed=b"t" * 32)
NOW = 1_790_000_000
ENTRIES = [b"entry %d" % number for number in range(66_000)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]


def head(tree_size: int, leaves: list[Hash] = LEAVES) -> str:
    """The checkpoint of a size, signed and cosigned with both kinds of key."""
    frontier = Frontier()
    for leaf in leaves[:tree_size]:
        frontier.append(leaf)
    checkpoint = Checkpoint(ORIGIN, tree_size, frontier.root())
    text = format_checkpoint(checkpoint)
    signed = SignedCheckpoint(checkpoint, (SIGNER.sign(text),))
    return cosign(signed, SIGNERS, time_unix_s=NOW).note


def write_log(folder: Path, tree_size: int) -> None:
    """The files of a log: its checkpoint, its entries, and its tiles level by level."""
    _write(folder, "checkpoint", head(tree_size).encode())
    for start in range(0, tree_size, TILE_WIDTH):
        entries = ENTRIES[start : min(start + TILE_WIDTH, tree_size)]
        path = TileRef(None, start // TILE_WIDTH, len(entries)).path
        _write(folder, path, encode_bundle(entries))
    level, row = 0, LEAVES[:tree_size]
    while row:
        above = []
        for start in range(0, len(row), TILE_WIDTH):
            hashes = row[start : start + TILE_WIDTH]
            path = TileRef(level, start // TILE_WIDTH, len(hashes)).path
            _write(folder, path, b"".join(hashes))
            if len(hashes) == TILE_WIDTH:
                above.append(tile_rows(b"".join(hashes))[-HASH_BYTES:])
        level, row = level + 1, above


def _write(folder: Path, path: str, data: bytes) -> None:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it has
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    lines = [f"log {SIGNER.verifier}"]
    lines += [f"witness w{number} {each.verifier}" for number, each in enumerate(SIGNERS)]
    lines += ["group both all w0 w1", "quorum both", ""]
    file = tmp_path / "policy"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.mark.parametrize("tree_size", [1, 255, 256, 257, 700, 65_536, 65_793])
def test_leaves_an_older_head_and_cosignatures_are_verified(
    tmp_path: Path, policy: Path, tree_size: int
) -> None:
    write_log(tmp_path / "log", tree_size)
    old = tmp_path / "old"
    old.write_text(head(tree_size // 2 + 1), encoding="utf-8")
    indices = sorted({0, tree_size // 3, tree_size - 1})
    with served(tmp_path / "log") as url:
        report = logcheck(
            url,
            policy,
            leaves={index: format_base64(LEAVES[index]) for index in indices},
            old=old,
            reads_entries=tree_size < 1000,
        )
    assert (report["origin"], report["size"]) == (ORIGIN, tree_size)
    assert report["included"] == indices
    assert report["old_size"] == tree_size // 2 + 1
    assert report["entries"] == (tree_size if tree_size < 1000 else 0)
    assert report["cosigners"] == [{"name": SIGNERS[0].verifier.name, "time": NOW}] * 2


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _rewrite(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def _checkpoint(log: Path) -> str:
    return (log / "checkpoint").read_text(encoding="utf-8")


FAULTS: dict[str, Callable[[Path], None]] = {
    "a changed hash": lambda log: _flip(log / "tile/0/000"),
    "a changed hash in a partial tile": lambda log: _flip(log / "tile/1/000.p/2"),
    "a changed entry": lambda log: _flip(log / "tile/entries/001"),
    "a missing tile": lambda log: (log / "tile/0/001").unlink(),
    "an older checkpoint of a fork": lambda log: _rewrite(
        log.parent / "old", head(300, [sha256(leaf).digest() for leaf in LEAVES])
    ),
    "a cosignature too few": lambda log: _rewrite(
        log / "checkpoint", _checkpoint(log)[:-1].rpartition("\n")[0] + "\n"
    ),
    "another size": lambda log: _rewrite(
        log / "checkpoint", _checkpoint(log).replace("\n700\n", "\n701\n")
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(tmp_path: Path, policy: Path, fault: str) -> None:
    log, old = tmp_path / "log", tmp_path / "old"
    write_log(log, 700)
    old.write_text(head(300), encoding="utf-8")
    FAULTS[fault](log)
    with served(log) as url, pytest.raises(LogCheckError):
        logcheck(url, policy, leaves={3: format_base64(LEAVES[3])}, old=old, reads_entries=True)


def test_a_leaf_at_another_index_is_refused(tmp_path: Path, policy: Path) -> None:
    write_log(tmp_path / "log", 700)
    with served(tmp_path / "log") as url, pytest.raises(LogCheckError, match="leaf 4"):
        logcheck(url, policy, leaves={4: format_base64(LEAVES[3])})
