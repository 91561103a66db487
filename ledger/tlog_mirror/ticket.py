"""Tickets: a pending checkpoint that the client keeps for the mirror and sends with its upload.

    0x01 ‖ HMAC-SHA256 of the note under the mirror's ticket key ‖ the signed note

The note is a checkpoint that was pending here once. While its upload runs, the log may have sent
larger ones, and the mirror keeps the latest alone. The key is the mirror's own, so nobody else can
make a ticket for a checkpoint that this mirror never compared with the ones before.
"""

import hmac
from hashlib import sha256
from typing import Final

from ledger_core.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from ledger_core.tlog.mirror import TICKET_BYTES_MAX

KEY_BYTES: Final = 32

_VERSION: Final = b"\x01"
_HEAD_BYTES: Final = len(_VERSION) + sha256().digest_size


def seal_ticket(checkpoint: SignedCheckpoint, key: bytes) -> bytes:
    """The ticket for a pending checkpoint; none for one that no ticket can hold."""
    note = checkpoint.note.encode()
    ticket = _VERSION + _code(note, key) + note
    return ticket if len(ticket) <= TICKET_BYTES_MAX else b""


def open_ticket(ticket: bytes, key: bytes, *, origin: str) -> SignedCheckpoint | None:
    """The checkpoint of a log in a ticket of this key, None for any other bytes."""
    note = ticket[_HEAD_BYTES:]
    if not hmac.compare_digest(ticket[:_HEAD_BYTES], _VERSION + _code(note, key)):
        return None
    checkpoint = parse_signed_checkpoint(note)
    return checkpoint if checkpoint.checkpoint.origin == origin else None


def _code(note: bytes, key: bytes) -> bytes:
    return hmac.digest(key, b"tlog-mirror ticket\n" + note, "sha256")
