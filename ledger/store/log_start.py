"""Reads before the first commit of a log's writer: the right edge, and the last time."""

from ledger.store import keyspace
from ledger.store.log import DamagedTreeError, LogStore
from ledger_core.event.canonical import parse_leaf
from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.hashing import HASH_BYTES
from ledger_core.tlog.tile import TILE_WIDTH
from ledger_core.tlog.tree import TreeHead


def check_right_edge(store: LogStore) -> None:
    """Compare the stored tree with its own head and with the last published checkpoint.

    Raises: VerificationError that says what disagrees; the log must not be served or grown then.
    Cost: reads at most 2·log2(n) nodes.
    """
    head = store.head()
    try:
        store.root_at(head.tree_size)
    except DamagedTreeError as error:
        raise VerificationError(
            f"the tiles of {store.path} give another root than its head of size {head.tree_size}: "
            f"{error}"
        ) from error
    index, width = divmod(head.tree_size, TILE_WIDTH)
    next_hash = store.environment.get(keyspace.TILES, keyspace.tile_key(level=0, index=index))
    if len(next_hash or b"") > width * HASH_BYTES or store.leaf(head.tree_size) is not None:
        raise VerificationError(
            f"{store.path} holds entries past its head of size {head.tree_size}"
        )
    published = store.published()
    if published is None:
        return
    evidence = {"published": published.note.encode()}
    if published.head.tree_size > head.tree_size:
        raise VerificationError(
            f"a head of size {published.head.tree_size} was signed, but {store.path} holds "
            f"{head.tree_size} entries: it looks like a restored backup",
            evidence=evidence,
        )
    signed_root = store.root_at(published.head.tree_size)
    if signed_root != published.head.root_hash:
        raise VerificationError(
            f"the signed head of size {published.head.tree_size} has the root "
            f"{published.head.root_hash.hex()}, but {store.path} now gives {signed_root.hex()}",
            evidence=evidence,
        )


def last_received_time(store: LogStore) -> str | None:
    """The time at which the last entry was received; later entries never get an earlier time."""
    tree_size = store.head().tree_size
    if tree_size == 0:
        return None
    leaf = store.leaf(tree_size - 1)
    if leaf is None:
        raise VerificationError(f"entry {tree_size - 1} of {store.path} is missing")
    return parse_leaf(leaf).received.time


def partial_tile_bytes(store: LogStore, head: TreeHead) -> list[bytes]:
    """The leaves of the partial tile of every level of the tree, level 0 first."""
    tiles: list[bytes] = []
    level = 0
    while head.tree_size >> (8 * level):
        index, width = divmod(head.tree_size >> (8 * level), TILE_WIDTH)
        leaves = store.tile(level=level, index=index, width=width) if width else b""
        if leaves is None:
            raise VerificationError(f"tile {level}/{index} has fewer than {width} hashes")
        tiles.append(leaves)
        level += 1
    return tiles
