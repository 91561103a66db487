"""The hashes of a Merkle tree.

    MTH({})      = SHA-256()
    MTH({d})     = SHA-256(0x00 ‖ d)                          a leaf hash
    MTH(D[0:n])  = SHA-256(0x01 ‖ MTH(D[0:k]) ‖ MTH(D[k:n]))  a node hash, k the largest 2^i < n

The first byte keeps leaves and nodes apart: without it, the 64 bytes under a node could be
presented as a leaf. SHA-256 is the format; there is no option for it.

Example: the root over the leaves `a` and `b` is `node_hash(leaf_hash(b"a"), leaf_hash(b"b"))`.

Source: RFC 6962 §2.1.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import TypeAlias

Hash: TypeAlias = bytes
"""32 raw bytes. Base64 and hex exist at the edges of the process only."""

HASH_BYTES = 32

LEAF_PREFIX = b"\x00"
NODE_PREFIX = b"\x01"

# A copy of a hash that has read its prefix is made faster than a new hash.
_begin_leaf = sha256(LEAF_PREFIX).copy
_begin_node = sha256(NODE_PREFIX).copy

EMPTY_ROOT_HASH: Hash = sha256().digest()

SIZE_MAX = 2**63 - 1
"""The largest tree: sizes, indices and times fit a signed 64-bit integer of every reader."""


def leaf_hash(leaf: bytes) -> Hash:
    """The hash of one entry. Cost: one SHA-256. Source: RFC 6962 §2.1."""
    return sha256(LEAF_PREFIX + leaf).digest()


def leaf_hashes(leaves: Iterable[bytes]) -> list[Hash]:
    """The hashes of entries; a third faster than `leaf_hash` of each."""
    hashes = []
    for leaf in leaves:
        hash_ = _begin_leaf()
        hash_.update(leaf)
        hashes.append(hash_.digest())
    return hashes


def node_hash(left: Hash, right: Hash) -> Hash:
    """The hash of an inner node over its two subtrees. Source: RFC 6962 §2.1."""
    return sha256(NODE_PREFIX + left + right).digest()


def node_hashes(row: bytes) -> list[Hash]:
    """The hashes of the nodes over neighbours of a row. Precondition: an even number of hashes."""
    hashes = []
    # Two neighbours are hashed as they lie: they need not be cut apart.
    for start in range(0, len(row), 2 * HASH_BYTES):
        hash_ = _begin_node()
        hash_.update(row[start : start + 2 * HASH_BYTES])
        hashes.append(hash_.digest())
    return hashes


def check_hashes(hashes: Sequence[Hash], count_max: int) -> None:
    """Raise ValueError unless these are hashes, and no more than a proof of their kind has."""
    if len(hashes) > count_max:
        raise ValueError(f"a proof of this kind has at most {count_max} hashes, got {len(hashes)}")
    if any(len(node) != HASH_BYTES for node in hashes):
        raise ValueError(f"a hash has {HASH_BYTES} bytes")
