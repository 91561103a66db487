"""Our log is sent to Sunlight's mirror, which verifies, keeps and cosigns it."""

import gzip
import hashlib
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from ledger.mirror_push.mirror_client import AheadError
from ledger.store.log import LogStore
from ledger_core.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.cosignature import CosignatureVerifier
from ledger_core.tlog.keys import VerifierKey
from ledger_core.tlog.note import verify_note
from ledger_core.tlog.prove import plan_subtree_consistency
from ledger_core.tlog.signed_subtree import SignSubtree, format_sign_subtree
from ledger_core.tlog.tree import decompose, fold_right
from ledger_core.tlog.witness import parse_cosignatures
from tests.mirror_push.pushing import LOG_VKEY, PushedFolder
from tests.peers.witnesses import PeerWitness, sunlight
from tests.sinks.sinking import ORIGIN

pytestmark = [pytest.mark.go, pytest.mark.anyio]


@pytest.fixture(scope="module")
def mirror() -> Iterator[PeerWitness]:
    with sunlight([LOG_VKEY]) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> PushedFolder:
    return PushedFolder(tmp_path_factory.mktemp("pushed") / "ledger")


def verifier(mirror: PeerWitness) -> CosignatureVerifier:
    (vkey,) = mirror.mirror_vkeys
    return CosignatureVerifier(VerifierKey.parse(vkey))


def copy_of(mirror: PeerWitness) -> Path:
    """The files of its copy."""
    assert mirror.copies is not None
    return mirror.copies / hashlib.sha256(ORIGIN.encode()).hexdigest()


def check_copy(
    mirror: PeerWitness, folder: PushedFolder, head: SignedCheckpoint
) -> SignedCheckpoint:
    """Compare its copy with the log; the checkpoint with its cosignature."""
    cosigned = parse_signed_checkpoint((copy_of(mirror) / "checkpoint").read_bytes())
    assert cosigned.checkpoint == head.checkpoint
    verify_note(cosigned.as_note(), [verifier(mirror)])
    size = head.head.tree_size
    with closing(LogStore.open(folder.directory / "log")) as log:
        for index in range((size + 255) // 256):
            width = min(256, size - 256 * index)
            name = f"{index:03d}" if width == 256 else f"{index:03d}.p/{width}"
            kept = (copy_of(mirror) / "tile" / "entries" / name).read_bytes()
            bundle = gzip.decompress(kept) if kept.startswith(b"\x1f\x8b") else kept
            assert bundle == log.bundle(index=index, width=width)
            tile = (copy_of(mirror) / "tile" / "0" / name).read_bytes()
            assert tile == log.tile(level=0, index=index, width=width)
    return cosigned


async def test_sunlight_mirrors_our_log_and_signs_its_subtrees(
    mirror: PeerWitness, folder: PushedFolder
) -> None:
    heads = folder.heads(600, 1, 300)
    kept: list[int] = []
    keys = mirror.mirror_vkeys
    async with folder.clients(mirror.url, kept=kept, packages_max=2, vkeys=keys) as (client,):
        for head in heads[:2]:
            (signature,) = await client.push(head)
            verifier(mirror).check(head.as_note().text, signature)
    assert kept[-1] == 601
    check_copy(mirror, folder, heads[1])
    # Another process, which knows nothing of what the mirror has.
    async with folder.clients(mirror.url, vkeys=keys) as (client,):
        (signature,) = await client.push(heads[2])
        verifier(mirror).check(heads[2].as_note().text, signature)
        with pytest.raises(AheadError):
            await client.push(heads[0])
    cosigned = check_copy(mirror, folder, heads[2])
    check_subtree(mirror, folder, cosigned)


def check_subtree(mirror: PeerWitness, folder: PushedFolder, cosigned: SignedCheckpoint) -> None:
    """Ask for the signature of a part of the tree, and for that of a false one."""
    start, end = 512, 700
    with closing(LogStore.open(folder.directory / "log")) as log:
        root = fold_right(log.node_hashes(decompose(start, end)))
        plan = plan_subtree_consistency(start=start, end=end, tree_size=cosigned.head.tree_size)
        proof = log.prove(plan, decompose(start, end), cosigned.head)
    asked = SignSubtree(start, end, root, proof, cosigned)
    with urlopen(f"{mirror.url}/sign-subtree", data=format_sign_subtree(asked)) as answer:
        (signature,) = parse_cosignatures(answer.read())
    verifier(mirror).check_subtree(asked.subtree, signature)
    false = SignSubtree(start, end, bytes(32), proof, cosigned)
    with pytest.raises(HTTPError, match=re.escape("422")) as caught:
        urlopen(f"{mirror.url}/sign-subtree", data=format_sign_subtree(false))
    caught.value.close()
