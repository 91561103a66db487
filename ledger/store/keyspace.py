"""This page lists every key and value that the store writes.

Integers in keys are big-endian, so that LMDB's byte order is numeric order.

    DIR/log      the log: the entries, the tree, and the index of ids
      entries      0x00 ‖ u64 leaf_index     leaf bytes: one row for each entry of the open bundle
                   0x01 ‖ u64 bundle_index   one zstd frame of the 256 entries of a full bundle,
                                             each behind its u16 length (c2sp.org/tlog-tiles)
      tiles        u8 level ‖ u64 index      a full tile: 511 hashes, 16,352 bytes, row by row from
                                             the leaves; a partial one: its leaves, 32 bytes each
      ids          16 bytes of the event id  u64 leaf_index; of an event that was pruned, behind it
                                             16 bytes of the SHA-256 of its tenant, if it had one
                   id ‖ 16 bytes             u64 leaf_index: the event of another tenant with an id
                                             that was taken; SHA-256 of the tenant, cut to 16 bytes
      checkpoints  u64 tree_size             the signed note that was published first with this
                                             size; old ones are thinned out (store/kept_heads.py)
      meta         "format"                  "1", "1-pruned" once there is a minimum index, or
                                             "1-released" once entries left for an archive
                   "minimum"                 u64 minimum index ‖ u64 index of the event of the last
                                             pruning (store/minimum_index.py)
                   "released", "released_token_events", "head_times" ‖ u64
                                             of released entries (store/released.py)
                   "origin"                  UTF-8
                   "engine"                  the LMDB version that made the files, "0.9.36"
                   "tree"                    u64 tree_size ‖ 32 bytes root hash
                   "renewed"                 the signed note that was published last, if the one in
                                             checkpoints is older: a head gets new cosignatures
                   "thinned"                 for each level of thinning: u64 size of the last head
                                             that was looked at ‖ u64 its span of time
                   "token_events"            for each event about a token: u64 leaf_index
                   "pruned_token_events"     what those that were pruned said, as JSON
                   "pruned_holds"            as JSON, the holds that pruned events leave in
                                             force (`hold_events`)

    DIR/access   access tokens, and events about them
      tokens       SHA-256 of the token      a TokenRecord as JSON
      outbox       u64 sequence number       0x01 ‖ 16 bytes of the SHA-256 of what follows ‖ an
                                             event as JSON that the log has yet to take in; in
                                             version 0.1 the event alone
      meta         "format"                  "1"

    DIR/private  erasable values, each under the key of its subject (store/erasable_values.py)
      subjects     SHA-256 of the subject    u64 slot
      values       the commitment's text     u64 slot ‖ a secretbox of the value's opening as JSON
      by_subject   SHA-256 of the subject ‖ the commitment
                                             nothing
      erasing      SHA-256 of the subject    u64 slot ‖ the event that records it, as JSON
      meta         "format"                  "1"
                   "engine"                  as above
                   "slots"                   u64 number of slots
      keys         a file, 72 bytes a slot: a secretbox of the subject's key under that of
                   DIR/private.key, overwritten with zeros when the subject is erased

    DIR/heads    the heads that a witness has cosigned
      logs         SHA-256 of the origin     the origin and then the log's vkeys, each a line; then
                                             the line "cosigned", once the log has a head
      heads        SHA-256 of the origin     u64 cosigned at, in seconds since 1970 ‖ the signed
                                             note: the log's signatures, then the witness's own
      meta         "format"                  "1"
                   "engine"                  as above
                   "keys"                    the vkeys of the witness itself, each a line

    DIR/logs/<SHA-256 of the origin>   a log whose entries are sent to a mirror (ledger/tlog_mirror)
      entries, tiles, checkpoints, meta    as in DIR/log; `ids` and `checkpoints` stay empty
      meta         "keys"                  the vkeys of the mirror itself, each a line
                   "log_keys"              the vkeys of the log, each a line
                   "pending"               the signed note of the checkpoint that entries may be
                                           sent for: with the log's signatures
                   "mirrored"              the signed note of the checkpoint that was cosigned last:
                                           the log's signatures, then the mirror's own

A full tile is 16,352 bytes because that and LMDB's 16-byte page header are four pages exactly. The
first 8,192 of them are the public tile. The rows of the open bundle sort before all bundles, so a
new bundle is always the last key and LMDB fills its pages whole.
"""

import struct
from typing import Final

from ledger_core.tlog.hashing import HASH_BYTES, Hash

FORMAT_VERSION: Final = b"1"
PRUNED_FORMAT: Final = b"1-pruned"
"""Of a log with a minimum index."""
RELEASED_FORMAT: Final = b"1-released"
"""Of a log with entries that are in an archive alone, with a minimum index or without."""
LOG_FORMATS: Final = frozenset({FORMAT_VERSION, PRUNED_FORMAT, RELEASED_FORMAT})

ENTRIES: Final = b"entries"
TILES: Final = b"tiles"
IDS: Final = b"ids"
CHECKPOINTS: Final = b"checkpoints"
META: Final = b"meta"
TOKENS: Final = b"tokens"
OUTBOX: Final = b"outbox"
SUBJECTS: Final = b"subjects"
VALUES: Final = b"values"
BY_SUBJECT: Final = b"by_subject"
ERASING: Final = b"erasing"
LOGS: Final = b"logs"
HEADS: Final = b"heads"

META_FORMAT: Final = b"format"
META_ORIGIN: Final = b"origin"
META_ENGINE: Final = b"engine"
META_TREE: Final = b"tree"
META_RENEWED: Final = b"renewed"
META_THINNED: Final = b"thinned"
META_TOKEN_EVENTS: Final = b"token_events"
META_PRUNED_TOKEN_EVENTS: Final = b"pruned_token_events"
META_PRUNED_HOLDS: Final = b"pruned_holds"
META_MINIMUM: Final = b"minimum"
META_RELEASED: Final = b"released"
META_RELEASED_TOKEN_EVENTS: Final = b"released_token_events"
META_HEAD_TIMES: Final = b"head_times"
META_KEYS: Final = b"keys"
META_LOG_KEYS: Final = b"log_keys"
META_PENDING: Final = b"pending"
META_MIRRORED: Final = b"mirrored"
META_SLOTS: Final = b"slots"
META_BOUND: Final = b"bound"

U64_BYTES: Final = 8

_TAGGED_U64 = struct.Struct(">BQ")
_OPEN_ENTRY_TAG = 0
_BUNDLE_TAG = 1

encode_u64 = struct.Struct(">Q").pack


def decode_u64(value: bytes) -> int:
    """The integer in eight big-endian bytes. Raises: struct.error for any other length."""
    number: int = struct.unpack(">Q", value)[0]
    return number


def open_entry_key(leaf_index: int) -> bytes:
    return _TAGGED_U64.pack(_OPEN_ENTRY_TAG, leaf_index)


def bundle_key(bundle_index: int) -> bytes:
    return _TAGGED_U64.pack(_BUNDLE_TAG, bundle_index)


def tile_key(*, level: int, index: int) -> bytes:
    return _TAGGED_U64.pack(level, index)


def encode_tree(*, tree_size: int, root_hash: Hash) -> bytes:
    return encode_u64(tree_size) + root_hash


def decode_tree(value: bytes) -> tuple[int, Hash]:
    """Tree size and root hash. Raises: ValueError for a wrong length."""
    if len(value) != U64_BYTES + HASH_BYTES:
        raise ValueError(f"the stored tree has {len(value)} bytes, want {U64_BYTES + HASH_BYTES}")
    return decode_u64(value[:U64_BYTES]), value[U64_BYTES:]
