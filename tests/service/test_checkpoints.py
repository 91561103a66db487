"""`/v1/checkpoints` lists what was published, and the client verifies each head of the list."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

import pytest

from ledger.log.hold import read_own_head
from ledger.service.queries.store_proofs import prove_consistency
from ledger.store.log import LogStore
from ledger_client import LedgerClient
from ledger_core.api import Consistency
from ledger_core.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.note import NoteVerifier
from ledger_core.tlog.tree import TreeHead
from tests.service.serving import Ledger, event, serving_new


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    with serving_new(tmp_path_factory.mktemp("heads")) as ledger:
        for _ in range(4):
            assert ledger.append(event(), query="?wait=witnessed").status == 200
        yield ledger


def published(ledger: Ledger) -> list[int]:
    answer = ledger.ask("/v1/checkpoints", token=None).json()
    return [int(each["checkpoint"].split("\n")[1]) for each in answer["checkpoints"]]


def test_every_published_head_is_kept_and_pages_go_on(ledger: Ledger) -> None:
    sizes = published(ledger)
    assert sizes == sorted(set(sizes))
    latest = ledger.ask("/checkpoint", token=None).text
    assert sizes[-1] == int(latest.split("\n")[1])
    page = ledger.ask("/v1/checkpoints?limit=2", token=None).json()
    assert (len(page["checkpoints"]), page["next"]) == (2, sizes[2])
    assert page["published"] == latest
    rest = ledger.ask(f"/v1/checkpoints?from={page['next']}", token=None).json()
    assert len(rest["checkpoints"]) == len(sizes) - 2
    assert "next" not in rest
    assert ledger.ask("/v1/checkpoints?limit=0", token=None).slug == "bad-parameter"


def test_proofs_of_many_heads_are_made_beside_the_loop(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def noted(store: LogStore, *, old_size: int, head: TreeHead) -> Consistency:
        threads.append(threading.current_thread().name)
        return prove_consistency(store, old_size=old_size, head=head)

    monkeypatch.setattr("ledger.service.queries.heads.prove_consistency", noted)
    assert len(published(ledger)) == len(threads) > 1
    assert {name.rpartition("_")[0] for name in threads} == {"ledger-query"}


def test_a_head_that_is_shown_is_read_beside_the_loop_and_reaches_the_log_if_it_signed_it(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    reached: list[bytes] = []

    def noted_parse(data: bytes) -> SignedCheckpoint:
        threads.append(threading.current_thread().name)
        return parse_signed_checkpoint(data)

    def noted_read(data: bytes, origin: str, log_keys: Sequence[NoteVerifier]) -> SignedCheckpoint:
        reached.append(data)
        return read_own_head(data, origin, log_keys)

    monkeypatch.setattr("ledger.service.queries.heads.parse_signed_checkpoint", noted_parse)
    monkeypatch.setattr("ledger.log.publisher.read_own_head", noted_read)
    note = ledger.ask("/checkpoint", token=None).body
    text, _, line = note.partition(b"\n\n")
    forged = text.replace(b"\n", b"\next\n" * 20_000) + b"\n\n" + line
    stranger = b"\xe2\x80\x94 example.com/stranger " + b"A" * 8_000 + b"\n"
    for body, status in ((b"x" * 1_000_000, 422), (forged[:60_000], 422), (forged, 422)):
        answer = ledger.ask("/v1/checkpoints", method="POST", body=body, token=None)
        assert (answer.status, answer.slug) == (status, "checkpoint")
    assert not reached
    # Only signatures by keys of the policy go on, one of each.
    body = note + line * 30 + stranger * 30
    for token in (None, "read"):
        assert ledger.ask("/v1/checkpoints", method="POST", body=body, token=token).json()["known"]
    assert reached == [note] * 2
    assert {name.rpartition("_")[0] for name in threads} == {"ledger-query"}


def test_the_client_and_the_command_list_them_verified(ledger: Ledger) -> None:
    policy = ledger.directory / "policy"
    with LedgerClient(ledger.url, policy=policy) as client:
        found = list(client.kept_heads(2))
    assert [each.checkpoint.tree_size for each in found] == [n for n in published(ledger) if n >= 2]
    assert all(each.head for each in found)
    command = [sys.executable, "-m", "ledger", "heads", "--limit", "1", "--json"]
    run = subprocess.run(
        [*command, "--url", ledger.url, "--policy", str(policy)],
        capture_output=True,
        text=True,
        check=True,
    )
    shown = json.loads(run.stdout)
    assert (shown["tree_size"], shown["meets_policy"]) == (published(ledger)[0], True)
    assert "--from" in run.stderr
