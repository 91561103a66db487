"""A log that is made, fed and verified by other people's code, and cosigned by our witness."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from aics_tlog import (
    Checkpoint,
    MerkleTree,
    Note,
    WitnessPolicy,
    format_vkey,
    parse_note,
    parse_vkey,
    sign_checkpoint,
    verify_checkpoint,
    vkey_from_ed25519,
)
from aics_witness import WitnessClient, WitnessConflict, WitnessRejected, merge_cosignatures
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.witness.asking import ask
from tests.witness.logs import Log
from tests.witness.witnesses import RunningWitness, our_witness

ORIGIN = "aics.example/log"
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
LOG_VKEY = vkey_from_ed25519(ORIGIN, KEY.public_key())
TREE = MerkleTree(b"entry %d" % number for number in range(300))


class AicsLog:
    """The log, as our witness's configuration names it."""

    origin = ORIGIN
    vkey = format_vkey(LOG_VKEY)


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[RunningWitness]:
    with our_witness(tmp_path / "w", [AicsLog()]) as running:
        yield running


def signed(tree_size: int, tree: MerkleTree = TREE) -> Note:
    return sign_checkpoint(Checkpoint(ORIGIN, tree_size, tree.root(tree_size)), KEY, ORIGIN)


def test_its_heads_are_cosigned_and_verified_by_their_code(witness: RunningWitness) -> None:
    ed25519 = parse_vkey(witness.vkeys[0])
    policy = WitnessPolicy(quorum=1, witnesses=(ed25519,), max_age_seconds=3600)
    with WitnessClient(witness.url, ed25519) as client:
        for tree_size in (0, 1, 7, 7, 256, 300):
            note = signed(tree_size).serialise()
            lines = client.submit(note, TREE.consistency_proof)
            merged = merge_cosignatures(note, lines)
            result = verify_checkpoint(parse_note(merged), LOG_VKEY, policy=policy)
            assert result.ok, result
            monitored = ask(witness.url, "GET", f"/{Log(ORIGIN).origin_hash.hex()}/checkpoint")
            assert verify_checkpoint(parse_note(monitored.body), LOG_VKEY, policy=policy).ok


def test_a_client_that_forgot_its_size_learns_it(witness: RunningWitness) -> None:
    ed25519 = parse_vkey(witness.vkeys[0])
    for tree_size in (100, 200):
        with WitnessClient(witness.url, ed25519) as client:
            client.submit(signed(tree_size).serialise(), TREE.consistency_proof)


def test_a_fork_of_it_is_refused(witness: RunningWitness) -> None:
    fork = MerkleTree(b"entry %d" % min(number, 50) for number in range(300))
    with WitnessClient(witness.url, parse_vkey(witness.vkeys[0])) as client:
        client.submit(signed(100).serialise(), TREE.consistency_proof)
        for tree_size in (100, 200):
            with pytest.raises((WitnessRejected, WitnessConflict)):
                client.submit(signed(tree_size, fork).serialise(), fork.consistency_proof)
