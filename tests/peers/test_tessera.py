"""Tessera reads our log, and our witness cosigns a log that Tessera keeps."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from ledger.demo.child_service import Service, make_ledger
from ledger.demo.tampering import alter_entry
from ledger.service.data_dir import DirectoryPaths
from ledger.store.writer import LogWriter
from ledger_client import LedgerClient
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.keys import ED25519, SignerKey
from ledger_core.tlog.policy import parse_policy
from ledger_core.tlog.text import format_base64
from ledger_core.tlog.tile import decode_bundle
from ledger_core.tlog.tree import Frontier
from tests.peers.logcheck import LogCheckError, logcheck
from tests.peers.tessera import FsckError, fsck, grow_posix_log
from tests.store.entries import entries
from tests.witness.witnesses import our_witness

pytestmark = pytest.mark.go

ORIGIN = "example.com/audit"
EVENTS = 66_000
"""More than 65,536, so that there is a full tile of level 1, a partial one, and one of level 2."""

FLAGS = ("--log-level", "error", "--publish-interval-s", "0.2", "--public-entries")
BATCH = 10_000


@dataclass(frozen=True)
class LargeLedger:
    """A ledger of `EVENTS` events, not served, and what a reader needs."""

    paths: DirectoryPaths
    token: str
    vkey: str


@dataclass(frozen=True)
class PosixLog:
    """The log that the witness is told of."""

    origin: str
    vkey: str


@pytest.fixture(scope="module")
def large_ledger(tmp_path_factory: pytest.TempPathFactory) -> LargeLedger:
    directory = tmp_path_factory.mktemp("large") / "audit"
    token = make_ledger(directory, origin=ORIGIN)
    paths = DirectoryPaths(directory)
    with closing(LogWriter.open(paths.log)) as writer:
        for start in range(0, EVENTS, BATCH):
            writer.commit(entries(start, min(start + BATCH, EVENTS)))
    (log,) = parse_policy(paths.policy.read_bytes()).logs
    return LargeLedger(paths, token, str(log.verifier))


@pytest.fixture
def url(large_ledger: LargeLedger) -> Iterator[str]:
    with Service(large_ledger.paths.root, listen="127.0.0.1:0", flags=FLAGS) as service:
        yield service.url


def test_fsck_reads_every_entry_through_store_and_service(
    large_ledger: LargeLedger, url: str, tmp_path: Path
) -> None:
    with LedgerClient(url, policy=large_ledger.paths.policy) as client:
        checkpoint = client.checkpoint().checkpoint
    assert checkpoint.tree_size > EVENTS
    size, root = fsck(url, large_ledger.vkey, tmp_path, token=large_ledger.token)
    assert (size, root) == (checkpoint.tree_size, format_base64(checkpoint.root_hash))


def test_logcheck_reads_every_entry_through_store_and_service(
    large_ledger: LargeLedger, url: str
) -> None:
    report = logcheck(url, large_ledger.paths.policy, reads_entries=True)
    assert report["entries"] == report["size"] > EVENTS


def test_both_refuse_an_altered_entry(large_ledger: LargeLedger, tmp_path: Path) -> None:
    """One actor in entry 300 is changed on the disk; both programs fail to verify the log."""
    copy = DirectoryPaths(shutil.copytree(large_ledger.paths.root, tmp_path / "copy"))
    alter_entry(copy.log, 300, before=b'"record.viewed"', after=b'"record.vieweb"')
    with Service(copy.root, listen="127.0.0.1:0", flags=FLAGS) as service:
        with pytest.raises(LogCheckError):
            logcheck(service.url, copy.policy, reads_entries=True)
        with pytest.raises(FsckError):
            # It hangs where an entry is altered.
            fsck(
                service.url,
                large_ledger.vkey,
                tmp_path,
                token=large_ledger.token,
                limit_s=40,
            )


def test_our_witness_cosigns_a_log_that_tessera_keeps(tmp_path: Path) -> None:
    key = SignerKey("tessera.example/log", algorithm=ED25519, seed=b"t" * 32)
    log = PosixLog(key.verifier_key.name, str(key.verifier_key))
    with our_witness(tmp_path / "witness", [log]) as witness:
        policy = tmp_path / "policy"
        # Tessera's policy knows Ed25519 cosignatures (0x04) alone.
        policy.write_text(
            f"log {log.vkey}\nwitness w {witness.vkeys[0]} {witness.url}\nquorum w\n",
            encoding="utf-8",
        )
        heads = []
        for entries in (300, 700):
            grow_posix_log(tmp_path / "log", key=key.encode(), policy=policy, entries=entries)
            note = (tmp_path / "log" / "checkpoint").read_bytes()
            heads.append(parse_policy(policy.read_bytes()).check(note))
    assert [head.checkpoint.tree_size for head in heads] == [300, 1000]
    assert [len(head.cosignatures) for head in heads] == [1, 1]
    frontier = Frontier()
    for number, name in enumerate(("000", "001", "002", "003.p/232")):
        bundle = decode_bundle((tmp_path / "log" / "tile" / "entries" / name).read_bytes())
        assert len(bundle) == (256 if number < 3 else 232)
        for entry in bundle:
            frontier.append(leaf_hash(entry))
    assert frontier.root() == heads[-1].checkpoint.root_hash
