"""Changes a stored entry, as an intruder with access to the disk could: only the demo uses it.

The entry is changed inside its compressed bundle, which is then compressed again, so only the
hashes of the tree reveal the change.
"""

from pathlib import Path

import zstandard

from ledger.store import keyspace
from ledger.store.log import LogStore
from ledger_core.tlog.tile import TILE_WIDTH, decode_bundle, encode_bundle


def alter_entry(log: Path, leaf_index: int, *, before: bytes, after: bytes) -> None:
    """Replace bytes of a stored entry, bypassing every check of the store.

    Raises: ValueError when the entry does not hold `before`, or the lengths differ.
    """
    if len(before) != len(after):
        raise ValueError(f"want {len(before)} bytes in place of as many, got {len(after)}")
    store = LogStore.open(log, readonly=False)
    try:
        bundle_index, offset = divmod(leaf_index, TILE_WIDTH)
        with store.environment.write() as transaction:
            row_key, key = keyspace.open_entry_key(leaf_index), keyspace.bundle_key(bundle_index)
            row = transaction.get(keyspace.ENTRIES, row_key)
            if row is not None:
                transaction.put(keyspace.ENTRIES, row_key, _replaced(row, before, after))
                return
            frame = transaction.get(keyspace.ENTRIES, key)
            leaves = decode_bundle(zstandard.ZstdDecompressor().decompress(frame or b""))
            leaves[offset] = _replaced(leaves[offset], before, after)
            frame = zstandard.ZstdCompressor().compress(encode_bundle(leaves))
            transaction.put(keyspace.ENTRIES, key, frame)
    finally:
        store.close()


def _replaced(leaf: bytes, before: bytes, after: bytes) -> bytes:
    if before not in leaf:
        raise ValueError("the entry does not contain the bytes to replace")
    return leaf.replace(before, after, 1)
