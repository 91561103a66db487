"""aics-tlog, another implementation, reads and verifies our log over HTTP with its own code."""

from collections.abc import Iterator

import aics_tlog
import msgspec
import pytest
from aics_tlog.checkpoint import checkpoint_from_note

from ledger_core.tlog.proof import parse_proof
from tests.service.check_log import check_ledger
from tests.service.serving import ORIGIN, QUICK, Ledger, event, serving_new

COUNT = 700


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A ledger with public entries: aics-tlog knows no tokens."""
    settings = msgspec.structs.replace(QUICK, public_entries=True)
    with serving_new(tmp_path_factory.mktemp("public"), settings) as ledger:
        ledger.append(*(event(reason=f"because {number} é") for number in range(COUNT)))
        check_ledger(ledger)
        yield ledger


@pytest.fixture(scope="module")
def reader(public: Ledger) -> aics_tlog.HttpTileReader:
    """Tiles over HTTP, by their code."""
    return aics_tlog.HttpTileReader(public.url, proxies={})


@pytest.fixture(scope="module")
def head(public: Ledger, reader: aics_tlog.HttpTileReader) -> aics_tlog.Checkpoint:
    """The published head, read and verified by their code with the log's key."""
    checkpoint, note = checkpoint_from_note(reader.read_checkpoint())
    key = aics_tlog.parse_vkey(public.ask("/v1/log").json()["verifier_keys"][0])
    result = aics_tlog.verify_checkpoint(note, key, expected_origin=ORIGIN)
    assert result.ok, result.error
    assert (result.size, result.root) == (checkpoint.size, checkpoint.root)
    return checkpoint


def test_every_tile_and_bundle_is_authentic_to_them(
    reader: aics_tlog.HttpTileReader, head: aics_tlog.Checkpoint
) -> None:
    report = aics_tlog.audit_tiles(reader, head.size, head.root)
    assert (report.size, report.tiles, report.bundles) == (head.size, 4, 3)
    assert aics_tlog.tree_root_from_tiles(reader, head.size) == head.root


def test_they_verify_our_inclusion_proofs(public: Ledger, head: aics_tlog.Checkpoint) -> None:
    for index in (0, 1, 255, 256, 511, 512, head.size - 1):
        leaf = public.ask(f"/v1/events/{index}").json()["leaf"].encode()
        proof = parse_proof(public.ask(f"/v1/proofs/inclusion?index={index}&size={head.size}").body)
        assert aics_tlog.verify_leaf_inclusion(leaf, index, head.size, proof.hashes, head.root)
        assert not aics_tlog.verify_leaf_inclusion(
            leaf + b" ", index, head.size, proof.hashes, head.root
        )


def test_proofs_that_they_make_from_our_tiles_are_ours(
    public: Ledger, reader: aics_tlog.HttpTileReader, head: aics_tlog.Checkpoint
) -> None:
    tiles = aics_tlog.VerifiedTileReader(reader, head.size, head.root)
    for index in (0, 300, head.size - 1):
        theirs = aics_tlog.inclusion_proof_from_tiles(tiles, index, head.size)
        ours = parse_proof(public.ask(f"/v1/proofs/inclusion?index={index}&size={head.size}").body)
        assert tuple(theirs) == ours.hashes
        leaf = public.ask(f"/v1/events/{index}").json()["leaf"].encode()
        assert aics_tlog.read_entry(tiles, index, head.size) == leaf
    for old in (1, 256, 300):
        theirs = aics_tlog.consistency_proof_from_tiles(tiles, old, head.size)
        ours_text = public.ask(f"/v1/proofs/consistency?from={old}&to={head.size}").text
        assert [aics_tlog.note.b64_encode(each) for each in theirs] == ours_text.splitlines()


def test_a_proof_of_ours_is_a_bundle_of_theirs(public: Ledger, head: aics_tlog.Checkpoint) -> None:
    found = public.ask("/v1/events/5?proof=1").json()
    proof = parse_proof(found["proof"])
    bundle = aics_tlog.Bundle(
        entry_bytes=found["leaf"].encode(),
        index=5,
        inclusion_proof=proof.hashes,
        checkpoint_note=proof.checkpoint,
    )
    key = aics_tlog.parse_vkey(public.ask("/v1/log").json()["verifier_keys"][0])
    result = aics_tlog.verify_bundle(bundle, key, expected_origin=ORIGIN)
    assert result.ok, result.error
    assert result.size == head.size
