"""Other implementations take what we make, and we take what they make."""

import aics_tlog
import pytest
from aics_tlog.tiles import materialise_tiles
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pymerkle import InmemoryTree

from ledger_core.tlog.checkpoint import Checkpoint, format_checkpoint, parse_checkpoint
from ledger_core.tlog.cosignature import CosignatureSigner, CosignatureVerifier
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.keys import ED25519_COSIGNATURE
from ledger_core.tlog.note import Note, Signer, Verifier, format_note, parse_note, verify_note
from ledger_core.tlog.policy import parse_policy
from ledger_core.tlog.prove import finish, plan_consistency, plan_inclusion
from ledger_core.tlog.tile import authenticate_tiles, decode_bundle, parse_tile_path, tiles_for
from ledger_core.tlog.tree import Frontier, Node
from ledger_core.tlog.verify import check_consistency, check_inclusion
from tests.tlog.oracle import oracle

SIZE = 70
TIME = 1679315147
SEED = bytes(range(32))
WITNESS_SEED = bytes(range(32, 64))
LOG = Signer.generate("example.com/audit", seed=SEED)
WITNESS = CosignatureSigner.generate(
    "witness.example/w1", algorithm=ED25519_COSIGNATURE, seed=WITNESS_SEED
)
TEXT = format_checkpoint(Checkpoint("example.com/audit", SIZE, oracle().root(SIZE)))


@pytest.fixture(scope="module")
def tree() -> aics_tlog.MerkleTree:
    return aics_tlog.MerkleTree(oracle().leaves)


def test_aics_tlog_takes_our_inclusion_proofs_and_we_take_theirs(
    tree: aics_tlog.MerkleTree,
) -> None:
    root = oracle().root(SIZE)
    for index in range(SIZE):
        plan = plan_inclusion(leaf_index=index, tree_size=SIZE)
        ours = finish(plan, [oracle().mth(i << n, (i + 1) << n) for n, i in plan.nodes])
        leaf = leaf_hash(oracle().leaves[index])
        assert aics_tlog.verify_inclusion(leaf, index, SIZE, ours, root)
        check_inclusion(
            leaf_hash=leaf,
            leaf_index=index,
            tree_size=SIZE,
            proof=tree.inclusion_proof(index, SIZE),
            root_hash=tree.root(SIZE),
        )


def test_aics_tlog_takes_our_consistency_proofs_and_we_take_theirs(
    tree: aics_tlog.MerkleTree,
) -> None:
    new_root = oracle().root(SIZE)
    for old in range(1, SIZE + 1):
        plan = plan_consistency(old_size=old, new_size=SIZE)
        ours = finish(plan, [oracle().mth(i << n, (i + 1) << n) for n, i in plan.nodes])
        assert aics_tlog.verify_consistency(old, SIZE, oracle().root(old), new_root, ours)
        check_consistency(
            old_size=old,
            new_size=SIZE,
            proof=tree.consistency_proof(old, SIZE),
            old_root=tree.root(old),
            new_root=tree.root(SIZE),
        )


def test_pymerkle_has_our_root_at_every_size() -> None:
    theirs = InmemoryTree(algorithm="sha256")
    ours = Frontier()
    for leaf in oracle().leaves:
        theirs.append_entry(leaf)
        ours.append(leaf_hash(leaf))
        assert theirs.get_root() == ours.root()


def test_aics_tlog_takes_our_checkpoint_with_its_cosignature() -> None:
    note = format_note(Note(TEXT, (LOG.sign(TEXT), WITNESS.sign(TEXT, time_unix_s=TIME))))
    result = aics_tlog.verify_checkpoint(
        aics_tlog.parse_note(note),
        aics_tlog.parse_vkey(str(LOG.verifier)),
        [aics_tlog.parse_vkey(str(WITNESS.verifier))],
        1,
        expected_origin="example.com/audit",
    )
    assert (result.ok, result.error) == (True, None)
    assert (result.size, result.root) == (SIZE, oracle().root(SIZE))
    assert result.timestamps == {"witness.example/w1": TIME}
    assert aics_tlog.parse_note(note).serialise() == note


def test_we_take_the_checkpoint_of_aics_tlog_with_its_cosignature() -> None:
    log_key = Ed25519PrivateKey.from_private_bytes(SEED)
    witness_key = Ed25519PrivateKey.from_private_bytes(WITNESS_SEED)
    head = aics_tlog.Checkpoint("example.com/audit", SIZE, oracle().root(SIZE))
    signed = aics_tlog.sign_checkpoint(head, log_key, "example.com/audit")
    _, line = aics_tlog.sign_cosignature(
        witness_key, "witness.example/w1", TIME, head.origin, head.size, head.root
    )
    text = aics_tlog.Note(signed.text, (*signed.signatures, line)).serialise()
    log_vkey = aics_tlog.format_vkey(
        aics_tlog.vkey_from_ed25519("example.com/audit", log_key.public_key())
    )
    witness_vkey = aics_tlog.format_vkey(
        aics_tlog.cosignature_vkey("witness.example/w1", witness_key.public_key())
    )
    policy = parse_policy(f"log {log_vkey}\nwitness w {witness_vkey}\nquorum w\n".encode())
    verified = policy.check(text)
    assert verified.checkpoint == parse_checkpoint(TEXT)
    assert verified.cosignatures == (("w", TIME),)
    # Ed25519 signs the same each time, so that the two implementations agree on every byte.
    assert text == format_note(Note(TEXT, (LOG.sign(TEXT), WITNESS.sign(TEXT, time_unix_s=TIME))))
    assert Verifier.parse(log_vkey) == LOG.verifier
    assert CosignatureVerifier.parse(witness_vkey) == WITNESS.verifier


def test_each_takes_a_plain_note_of_the_other() -> None:
    text = "not a checkpoint\n\nat all\n"
    ours = format_note(Note(text, (LOG.sign(text),)))
    key = aics_tlog.parse_vkey(str(LOG.verifier))
    assert aics_tlog.verify_note(aics_tlog.parse_note(ours), [key])
    line = aics_tlog.sign_note(text, Ed25519PrivateKey.from_private_bytes(SEED), key.name)
    theirs = parse_note(aics_tlog.Note(text, (line,)).serialise())
    assert len(verify_note(theirs, [LOG.verifier])) == 1


@pytest.mark.parametrize("size", [1, 255, 256, 257, 70_000])
def test_the_tiles_and_bundles_of_aics_tlog_are_ours(size: int) -> None:
    leaves = [b"%d" % index for index in range(size)]
    theirs = materialise_tiles(leaves)
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf_hash(leaf))
    every = [Node(0, index) for index in range(size)]
    refs = tiles_for(every, size)
    bundles = {path for path in theirs if path.startswith("tile/entries/")}
    assert {ref.path for ref in refs} == set(theirs) - bundles
    hashes = authenticate_tiles(
        tree_size=size, root_hash=frontier.root(), tiles={ref: theirs[ref.path] for ref in refs}
    )
    for index in {0, size // 2, size - 1}:
        assert hashes.hash(Node(0, index)) == leaf_hash(leaves[index])
    for path in bundles:
        ref = parse_tile_path(path)
        first = ref.index * 256
        assert decode_bundle(theirs[path]) == leaves[first : first + ref.width]
