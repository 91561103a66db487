"""Data directories of earlier versions open, verify, grow and erase with today's code."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from ledger.query.segment_builder import SegmentBuilder, check_index
from ledger.store.index.index_store import IndexStore, IndexWriter
from ledger.store.log import LogStore
from ledger_client import LedgerClient
from ledger_core.tlog.policy import parse_policy
from tests.service.check_log import check_log
from tests.service.serving import event, serving
from tests.witness.witnesses import serve_witness

ARCHIVE = Path(__file__).parents[1] / "data" / "92e0b35.tar.xz"
PLAIN_EVENTS = 300
SEGMENT_ENTRIES = 128


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def test_an_old_ledger_passes_fsck_and_its_index_is_made_anew(old: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ledger", "fsck", str(old / "ledger")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    log, path = LogStore.open(old / "ledger" / "log"), old / "ledger" / "index"
    assert (path / "data.mdb").exists()
    index = IndexStore(path, segment_entries=SEGMENT_ENTRIES)
    assert check_index(log, index) == 0
    writer = IndexWriter.open(path, segment_entries=SEGMENT_ENTRIES)
    assert not (path / "data.mdb").exists()
    builder = SegmentBuilder(log, writer)
    while builder.seal_next():
        pass
    writer.close()
    assert check_index(log, index) == log.head().tree_size // SEGMENT_ENTRIES == 2
    log.close()


def test_an_old_ledger_is_read_searched_appended_to_cosigned_and_erased_from(old: Path) -> None:
    ledger, policy = old / "ledger", old / "ledger" / "policy"
    tokens = json.loads((old / "tokens.json").read_text(encoding="utf-8"))
    with serve_witness(old / "witness") as witness:
        text = policy.read_text(encoding="utf-8").replace("http://127.0.0.1:1", witness.url)
        policy.write_text(text, encoding="utf-8")
        with (
            serving(ledger, tokens) as served,
            LedgerClient(served.url, tokens["admin"], policy=policy) as client,
        ):
            head = client.checkpoint()
            assert head.cosignatures
            entries = {str(entry.event.id)[-12:]: entry for entry in client.query()}
            for number in range(PLAIN_EVENTS):
                assert entries[f"{number:012x}"].event.reason == f"ticket OPS-{number % 13}"
            failed = list(client.query("action:login.failed actor.id:u_3"))
            assert len(failed) == len([n for n in range(PLAIN_EVENTS + 2) if n % 21 == 3])

            kept, erased = (entries[f"{number:012x}"].index for number in (300, 301))
            assert client.event(kept).private == {"/context/diagnosis": "F41.1"}
            assert client.event(erased).private == {}
            client.erase("u_kept", reason="GDPR request 8")
            assert client.event(kept).private == {}

            receipt = client.append(event())
            assert receipt.head is not None
            assert receipt.head.checkpoint.tree_size > head.checkpoint.tree_size
            assert receipt.head.cosignatures
            assert served.ask("/v1/events/0", token="revoked").status == 401
            check_log(served.url, tokens["admin"], parse_policy(policy.read_bytes()))
