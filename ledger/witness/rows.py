"""The rows of a witness's store: those of a log and of its head, verified at each read.

One flipped bit of the disk could make a known log look like a new one, or replace its head. So each
read verifies the key against the origin, and on the head the signatures of the log and of the
witness. The row of a log is marked once it has a head, so a missing head is noticed.
"""

import struct
from functools import lru_cache
from hashlib import sha256
from typing import Final

from ledger.store import keyspace
from ledger.store.transaction import Transaction
from ledger.witness.known_log import (
    LOG_KEYS_MAX,
    KnownLog,
    decode_lines,
    decode_log,
    encode_log,
)
from ledger_core.tlog.checkpoint import Checkpoint, SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.cosignature import parse_verifier
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import EMPTY_ROOT_HASH
from ledger_core.tlog.note import check_algorithm, known_keys, verify_note
from ledger_core.tlog.policy import LOG_ALGORITHMS
from ledger_core.tlog.witness import cosigned_at

ROWS_CACHED_MAX: Final = 1_000


def put_log(transaction: Transaction[bytes], log: KnownLog, own: set[bytes]) -> None:
    """Store a log. `own`: the public keys of the witness. Raises: ValueError."""
    Checkpoint(log.origin, 0, EMPTY_ROOT_HASH)
    if not 1 <= len(log.vkeys) <= LOG_KEYS_MAX:
        raise ValueError(
            f"a log has 1 to {LOG_KEYS_MAX} keys, {log.origin} would have {len(log.vkeys)}"
        )
    verifiers = [parse_verifier(vkey) for vkey in log.vkeys]
    for verifier in verifiers:
        check_algorithm(verifier.key, *LOG_ALGORITHMS)
        if verifier.public_key in own:
            # Its own cosignatures would pass for signatures of the log.
            raise ValueError(f"{verifier.key!r} has a public key of this witness")
    known_keys(verifiers)
    transaction.put(keyspace.LOGS, row_key(log.origin), encode_log(log))


def mark(transaction: Transaction[bytes], log: KnownLog) -> None:
    """Mark a log as one that has a head."""
    if not log.has_head:
        transaction.put(keyspace.LOGS, row_key(log.origin), encode_log(log._replace(has_head=True)))


def read_rows(
    transaction: Transaction[bytes], key: bytes
) -> tuple[KnownLog | None, SignedCheckpoint | None]:
    """The log and the head under a key, both verified. Raises: MalformedError for damage."""
    log, head = transaction.get(keyspace.LOGS, key), transaction.get(keyspace.HEADS, key)
    if log is None and head is None:
        return None, None
    return _verified(key, log, head, transaction.require(keyspace.META, keyspace.META_KEYS))


@lru_cache(ROWS_CACHED_MAX)
def _verified(
    key: bytes, log_row: bytes | None, head_row: bytes | None, own_vkeys: bytes
) -> tuple[KnownLog, SignedCheckpoint | None]:
    """Decode and verify two rows; the same bytes are verified once. Raises: MalformedError."""
    try:
        if log_row is None:
            raise MalformedError("there is no log under the key of this head")
        log = decode_log(log_row)
        if row_key(log.origin) != key:
            raise MalformedError(f"the log {log.origin!a} is stored under a wrong key")
        if head_row is None:
            if log.has_head:
                raise MalformedError(f"the head of {log.origin!a} is missing")
            return log, None
        head = parse_signed_checkpoint(head_row[keyspace.U64_BYTES :])
        if head.checkpoint.origin != log.origin:
            raise MalformedError(f"the head of {head.checkpoint.origin!a} is under a wrong key")
        for vkeys in (log.vkeys, decode_lines(own_vkeys)):
            verify_note(head.as_note(), map(parse_verifier, vkeys))
        if keyspace.decode_u64(head_row[: keyspace.U64_BYTES]) != cosigned_at(head):
            raise MalformedError(f"the time of the head of {log.origin!a} is not its cosignature's")
    except (ValueError, VerificationError, struct.error) as error:
        raise MalformedError(
            f"row {key.hex()}: {error}; the store is damaged, and this witness must not sign"
        ) from error
    return log, head


def row_key(origin: str) -> bytes:
    """The SHA-256 of the origin, by which the protocol asks for a log's head."""
    return sha256(origin.encode()).digest()
