"""The publisher offers a head by a file, and takes the cosignatures of this very offer."""

import asyncio
from pathlib import Path

import pytest

from ledger.log.mirror_peer import (
    HeadRecord,
    MirrorPeer,
    cosigned_path,
    offered_path,
    read_head,
    write_head,
)
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.errors import UnavailableError
from ledger_core.tlog.note import Signature
from ledger_core.tlog.policy import PolicyWitness
from tests.tlog_mirror.sending import SIGNERS, WAIT_S, tree

pytestmark = pytest.mark.anyio

HEAD = tree().signed(7)
TEXT = HEAD.as_note().text


@pytest.fixture
def peer(tmp_path: Path) -> MirrorPeer:
    (tmp_path / "mirrors.toml").touch()
    witness = PolicyWitness("m1", SIGNERS[0].verifier, None)
    return MirrorPeer(witness, directory=tmp_path, timeout_s=1.0)


def answer(folder: Path, number: int, *signatures: Signature) -> None:
    whole = SignedCheckpoint(HEAD.checkpoint, (*HEAD.signatures, *signatures))
    write_head(cosigned_path(folder, "a"), HeadRecord(number=number, note=whole.note))


async def offered(folder: Path) -> HeadRecord:
    async with asyncio.timeout(WAIT_S):
        while True:
            if (record := read_head(offered_path(folder))) is not None:
                return record
            await asyncio.sleep(0.01)


async def test_the_cosignature_of_an_offer_is_taken(tmp_path: Path, peer: MirrorPeer) -> None:
    peer._timeout_s = WAIT_S  # type: ignore[misc]
    asking = asyncio.create_task(peer.ask(HEAD))
    record = await offered(tmp_path)
    assert record.note == HEAD.note
    assert not peer.is_due
    good = SIGNERS[0].sign(TEXT, time_unix_s=5)
    # An answer to an earlier offer, of another key, or without a true signature is none.
    answer(tmp_path, record.number - 1, good)
    answer(tmp_path, record.number, SIGNERS[1].sign(TEXT, time_unix_s=5))
    forged = Signature(good.name, good.key_id, good.signature[:-1] + b"?")
    answer(tmp_path, record.number, forged)
    answer(tmp_path, record.number, SIGNERS[1].sign(TEXT, time_unix_s=5), good)
    assert await asking == (good,)
    assert (peer.status.error, peer.status.cosigned_size) == (None, 7)
    assert peer.status.cosigned_at_unix_s == 5


async def test_a_renewal_is_another_offer(tmp_path: Path, peer: MirrorPeer) -> None:
    with pytest.raises(UnavailableError, match="no cosignature of size 7 came in 1 s"):
        await peer.ask(HEAD)
    first = await offered(tmp_path)
    answer(tmp_path, first.number, SIGNERS[0].sign(TEXT, time_unix_s=5))
    assert peer.failures == 1
    assert peer.is_due
    with pytest.raises(UnavailableError):
        await peer.ask(HEAD)
    assert (await offered(tmp_path)).number > first.number


async def test_other_mirrors_share_an_offer(tmp_path: Path, peer: MirrorPeer) -> None:
    other = CosignatureSigner.generate(
        "example.com/n", algorithm=SIGNERS[0].verifier.key.algorithm, seed=b"n" * 32
    )
    witness = PolicyWitness("m2", other.verifier, None)
    second = MirrorPeer(witness, directory=tmp_path, timeout_s=WAIT_S)
    peer._timeout_s = WAIT_S  # type: ignore[misc]
    asking = [asyncio.create_task(each.ask(HEAD)) for each in (peer, second)]
    record = await offered(tmp_path)
    signers = (SIGNERS[0], other)
    for name, signer in zip("ab", signers, strict=True):
        signature = signer.sign(TEXT, time_unix_s=5)
        whole = SignedCheckpoint(HEAD.checkpoint, (*HEAD.signatures, signature))
        write_head(cosigned_path(tmp_path, name), HeadRecord(number=record.number, note=whole.note))
    found = await asyncio.gather(*asking)
    assert [signature.name for (signature,) in found] == ["example.com/m", "example.com/n"]
    assert await offered(tmp_path) == record


async def test_without_the_file_of_mirrors_it_fails_at_once(
    tmp_path: Path, peer: MirrorPeer
) -> None:
    (tmp_path / "mirrors.toml").unlink()
    with pytest.raises(UnavailableError, match=r"there is no mirrors\.toml"):
        await peer.ask(HEAD)


async def test_a_file_that_a_crash_cut_short_counts_as_none(tmp_path: Path) -> None:
    write_head(offered_path(tmp_path), HeadRecord(number=1, note=HEAD.note))
    whole = offered_path(tmp_path).read_bytes()
    for cut in (0, 10, len(whole) - 5):
        offered_path(tmp_path).write_bytes(whole[:cut])
        assert read_head(offered_path(tmp_path)) is None
