"""Data directories of earlier versions open, verify, grow and erase with today's code."""

import json
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ledger.query.segment_builder import SegmentBuilder, check_index
from ledger.service.data_dir import DirectoryPaths
from ledger.service.old_values import bind_old_values
from ledger.service.private_fields import PrivateFields, opened_values
from ledger.service.secret_stores import open_private
from ledger.service.token_admin import make_token
from ledger.store import keyspace
from ledger.store.erasable_values import PrivateStore, event_key
from ledger.store.index.index_store import IndexStore
from ledger.store.index.index_writer import IndexWriter
from ledger.store.log import LogStore
from ledger.store.tokens import TokenScope
from ledger.store.unbound_values import is_bound, unbound
from ledger_client import LedgerClient
from ledger_core.event.commitments import Commitment, Opening, encode_salt
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


def _commitment(entry: dict[str, Any]) -> dict[str, str]:
    commitment: dict[str, str] = entry["event"]["context"]["diagnosis"]
    return commitment


def test_a_copied_commitment_of_an_old_ledger_opens_nothing_in_another_event(old: Path) -> None:
    ledger = old / "ledger"
    tokens = json.loads((old / "tokens.json").read_text(encoding="utf-8"))
    for name, tenant in (("evil", "evil"), ("reader", None)):
        scopes: tuple[TokenScope, ...] = ("append", "read", "private")
        tokens[name] = make_token(ledger, name=name, scopes=scopes, tenant=tenant)
    found = f"/v1/events/{_event_id(300)}"
    with serving(ledger, tokens) as served:
        commitment = _commitment(served.ask(found).json())
        for token, tenant in (("evil", "evil"), ("reader", None)):
            copied = event(context={"diagnosis": commitment}, tenant=tenant)
            assert served.append(copied, token=token).status == 200
            answer = served.ask(f"/v1/events/{copied['id']}", token=token).json()
            assert _commitment(answer) == commitment
            assert not answer.get("private")
        (opening,) = served.ask(found, token="reader").json()["private"]
        assert opening["value"] == "F41.1"
    with serving(ledger, tokens) as served:
        assert served.ask(found).json()["private"] == [opening]


def test_old_values_open_nothing_while_the_event_that_they_came_with_can_not_be_read(
    old: Path,
) -> None:
    paths = DirectoryPaths(old / "ledger")
    with closing(LogStore.open(paths.log, readonly=False)) as log:
        leaf = log.leaf(log.index_of(bytes.fromhex(_event_id(300).replace("-", ""))) or 0) or b""
        key = keyspace.bundle_key(0)
        with log.environment.write() as transaction:
            row = transaction.require(keyspace.ENTRIES, key)
            transaction.put(keyspace.ENTRIES, key, bytes(len(row)))
        with closing(_private(paths)) as store:
            bind_old_values(store, log)
            fields = PrivateFields(store, (), log.index_for)
            assert not is_bound(store.environment)
            assert opened_values(fields, leaf) == []
            with log.environment.write() as transaction:
                transaction.put(keyspace.ENTRIES, key, row)
    with closing(LogStore.open(paths.log)) as log, closing(_private(paths)) as store:
        bind_old_values(store, log)
        assert is_bound(store.environment)
        assert not unbound(store.environment)
        ((_, opening),) = opened_values(PrivateFields(store, (), log.index_for), leaf)
        assert opening.value == "F41.1"
        assert store.count("u_kept") == 1


def test_an_old_value_whose_event_was_never_logged_opens_nothing_and_is_erased(old: Path) -> None:
    paths = DirectoryPaths(old / "ledger")
    never = Opening("/context/diagnosis", "u_never", encode_salt(bytes(32)), "F41.2")
    with closing(_private(paths)) as store, closing(LogStore.open(paths.log)) as log:
        store.put([(b"", never)])
        bind_old_values(store, log)
        assert is_bound(store.environment)
        key = event_key(_event_id(1), None)
        assert store.find(Commitment(never.path, never.commitment), key) is None
        assert store.count("u_never") == 1
        store.erase("u_never", event_json=b"{}")
        assert store.count("u_never") == 0
        assert not unbound(store.environment)


def _private(paths: DirectoryPaths) -> PrivateStore:
    return open_private(paths, make_key=lambda: b"")


def _event_id(number: int) -> str:
    return f"00000000-0000-7000-8000-{number:012x}"
