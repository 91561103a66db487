"""Private values in the spool: an event and what opens its commitments are one frame.

    {"event": {…, "context": {"name": {"commitment": "47DE…"}}}, "private": [{"value": …}]}

That is also how they are sent. The value stands in the spool until the ledger has it, and then the
file goes (`Spool.retire`); nothing else of the recorder ever holds it, no dead letter and no log.
"""

import os
from collections.abc import Sequence
from typing import Any

import msgspec

from ledger_core.event.commitments import SALT_BYTES, Opening, find_commitments, hide, holds_private

__all__ = ["envelope", "hide_private", "holds_private"]


def hide_private(event: dict[str, Any]) -> tuple[dict[str, Any], tuple[Opening, ...]]:
    """Commitments in the places of private values. Raises: EventError where none may stand."""
    return hide(event, lambda: os.urandom(SALT_BYTES))


def envelope(head: bytes, tail: bytes, openings: Sequence[Opening]) -> tuple[bytes, bytes]:
    """What stands before and after an event's number, with the openings beside the event.

    To fit, the event may have lost a part, and with that a commitment, which nothing opens then.
    """
    event = msgspec.json.decode(_without_number(head, tail))
    found = {(each.path, each.hash) for each in find_commitments(event)}
    standing = [each for each in openings if (each.path, each.commitment) in found]
    return b'{"event":' + head, b'%b,"private":%b}' % (tail, msgspec.json.encode(standing))


def _without_number(head: bytes, tail: bytes) -> bytes:
    """An event of which its `recorder` is missing between two commas, or behind the last."""
    return head + b'"":0' + tail
