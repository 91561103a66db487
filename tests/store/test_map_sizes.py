"""A full map: the error names the setting, and a larger map is all it takes to go on."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ledger.store.commit_errors import StorageFullError
from ledger.store.erasable_values import KEY_BYTES, PrivateStore, create_private, event_key
from ledger.store.tokens import AccessStore, create_access
from ledger.witness.store import HeadStore, create_heads
from ledger_core.event.commitments import Opening
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.keys import ED25519_COSIGNATURE
from tests.store.entries import SIGNER

TINY_BYTES = 1 << 17
KEY = bytes(KEY_BYTES)


def repeat(write: Callable[[int], object]) -> None:
    """Write more than a tiny map has room for."""
    for number in range(1000):
        write(number)


def test_tokens_name_their_setting(tmp_path: Path) -> None:
    path = tmp_path / "access"
    create_access(path)
    message = "/access is full: raise access_map_bytes and start"
    with (
        closing(AccessStore.open(path, map_bytes=TINY_BYTES)) as access,
        pytest.raises(StorageFullError, match=message),
    ):
        repeat(lambda _: access.enqueue(bytes(4000)))
    assert message in str(access.environment.failure)
    with closing(AccessStore.open(path)) as access:
        access.enqueue(bytes(4000))


def put(store: PrivateStore, number: int) -> None:
    """Store a value of 4 kB."""
    opening = Opening(path="/reason", salt="A" * 43, subject="u_1", value=f"{number} {'x' * 4000}")
    store.put([(event_key(str(number), None), opening)])


def test_private_values_name_their_setting(tmp_path: Path) -> None:
    path = tmp_path / "private"
    create_private(path)
    with (
        closing(PrivateStore.open(path, KEY, map_bytes=TINY_BYTES)) as store,
        pytest.raises(StorageFullError, match="/private is full: raise private_map_bytes and"),
    ):
        repeat(lambda number: put(store, number))
    with closing(PrivateStore.open(path, KEY)) as store:
        put(store, 1001)
        assert store.count("u_1") > 3


def test_a_witness_names_its_option(tmp_path: Path) -> None:
    path = tmp_path / "heads"
    own = CosignatureSigner.generate("example.com/w", algorithm=ED25519_COSIGNATURE, seed=bytes(32))
    create_heads(path, vkeys=[str(own.verifier)])
    keys = [str(SIGNER.verifier)]
    with (
        closing(HeadStore.open(path, readonly=False, map_bytes=TINY_BYTES)) as store,
        pytest.raises(StorageFullError, match="/heads is full: raise --map-bytes and start"),
    ):
        repeat(lambda number: store.add_log(f"example.com/{number}/{'x' * 150}", keys))
    with closing(HeadStore.open(path, readonly=False)) as store:
        store.add_log("example.com/another", keys)
