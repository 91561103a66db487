"""The bytes of keys and rows, which every log that was ever made has."""

import struct

import pytest

from ledger.store import keyspace

ROOT = bytes(range(32))


def test_keys_are_the_bytes_that_every_log_has() -> None:
    assert keyspace.open_entry_key(258).hex() == "00" + "0000000000000102"
    assert keyspace.bundle_key(258).hex() == "01" + "0000000000000102"
    assert keyspace.tile_key(level=3, index=258).hex() == "03" + "0000000000000102"
    assert keyspace.encode_u64(258).hex() == "0000000000000102"
    assert keyspace.decode_u64(bytes.fromhex("0000000000000102")) == 258


def test_the_order_of_keys_is_that_of_numbers_and_open_entries_come_first() -> None:
    keys = [keyspace.open_entry_key(number) for number in (0, 255, 256, 2**63)]
    keys += [keyspace.bundle_key(number) for number in (0, 255, 256, 2**63)]
    assert keys == sorted(keys)


def test_a_tree_is_read_back_and_one_of_another_length_is_refused() -> None:
    row = keyspace.encode_tree(tree_size=258, root_hash=ROOT)
    assert row == bytes.fromhex("0000000000000102") + ROOT
    assert keyspace.decode_tree(row) == (258, ROOT)
    for wrong in (row[:-1], row + b"\0", b""):
        with pytest.raises(ValueError, match=f"has {len(wrong)} bytes, want 40"):
            keyspace.decode_tree(wrong)
    with pytest.raises(struct.error):
        keyspace.decode_u64(bytes(7))
