"""A damaged tile: the service gives no tile and no proof that would fail at the reader."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from ledger.service.data_dir import DirectoryPaths
from ledger.store import keyspace
from ledger.store.log import LogStore
from ledger_core.evidence.verifier import check_evidence
from ledger_core.tlog.hashing import HASH_BYTES
from tests.service.serving import JSON, event, make_ledger, serving

EVENTS = 300


# A leaf hash of the first tile, and one inner hash.
# `from_size`: a size whose consistency proof holds it.
@pytest.mark.parametrize(("hash_number", "has_tile", "from_size"), [(5, False, 5), (300, True, 90)])
def test_a_damaged_hash_is_neither_served_nor_part_of_a_proof(
    tmp_path: Path, hash_number: int, has_tile: bool, from_size: int
) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    with serving(directory, tokens) as ledger:
        for _ in range(2):
            assert ledger.append(*(event() for _ in range(EVENTS // 2))).status == 200
        assert ledger.append(event(), query="?proof=1").status == 200
    _damage(DirectoryPaths(directory).log, hash_number)
    with serving(directory, tokens) as ledger:
        tile = ledger.ask("/tile/0/000")
        assert tile.status == (200 if has_tile else 500)
        if not has_tile:
            assert tile.slug == "damaged"
        refused = 0
        for target in (
            *(f"/v1/proofs/inclusion?index={index}" for index in (4, 5, 90, 100, 256)),
            f"/v1/proofs/consistency?from=6&to={EVENTS + 1}",
            "/v1/events/4?proof=1",
            "/v1/events?limit=5&order=oldest&proof=1",
            "/v1/checkpoints",
        ):
            answer = ledger.ask(target)
            assert answer.status == 200 or answer.slug == "damaged", target
            refused += answer.status != 200
        assert refused > 0
        multi = json.dumps({"tree_size": EVENTS + 1, "indices": [4, 90]}).encode()
        for path, body in (("/v1/proofs/multi", multi), ("/v1/evidence", b"{}")):
            answer = ledger.ask(path, method="POST", body=body, content_type=JSON)
            assert has_tile or path != "/v1/proofs/multi" or answer.slug == "damaged"
            if answer.status != 200:
                assert answer.slug == "damaged", path
            elif path == "/v1/evidence":
                file = tmp_path / "evidence.zip"
                file.write_bytes(answer.body)
                assert not check_evidence(file, ledger.policy).faults
        # An acknowledgement whose proof can't be made says that the events are durable, and where.
        answer = ledger.append(event(), query=f"?proof=1&from_size={from_size}")
        assert (answer.status, answer.slug) == (500, "damaged")
        (result,) = answer.json()["results"]
        assert "in the log, durably, at the indices in `results`" in answer.json()["detail"]
        assert ledger.ask(f"/v1/events/{result['index']}").json()["event"]["id"] == result["id"]
        # The log goes on: its right edge is whole.
        assert ledger.append(event(), query="?proof=1").status == 200


def _damage(folder: Path, hash_number: int) -> None:
    key = keyspace.tile_key(level=0, index=0)
    with (
        closing(LogStore.open(folder, readonly=False)) as store,
        store.environment.write() as transaction,
    ):
        rows = bytearray(transaction.require(keyspace.TILES, key))
        rows[hash_number * HASH_BYTES] ^= 1
        transaction.put(keyspace.TILES, key, bytes(rows))
