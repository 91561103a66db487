"""Found events, as the answers of searches, pivots and streams show them."""

import msgspec

from ledger.query.answer import Row
from ledger_core.event.model import Received
from ledger_core.event.times import late_s
from ledger_core.search_answers import FoundEvent
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.text import format_base64


class _Timed(msgspec.Struct, frozen=True):
    """The time of an event."""

    time: str


class _Leaf(msgspec.Struct, frozen=True):
    """A leaf of the log with its event undecoded."""

    event: msgspec.Raw
    received: Received
    v: int


_decode_leaf = msgspec.json.Decoder(_Leaf).decode
_decode_timed = msgspec.json.Decoder(_Timed).decode


def make_found_event(row: Row, *, because: tuple[str, ...] = ()) -> FoundEvent:
    """A found event for an answer. Its leaf was checked when it was appended."""
    parts = _decode_leaf(row.leaf)
    return FoundEvent(
        index=row.index,
        event=parts.event,
        received=parts.received,
        leaf_hash=format_base64(leaf_hash(row.leaf)),
        leaf=row.leaf.decode(),
        late_s=late_s(_decode_timed(parts.event).time, parts.received.time),
        because=because,
    )
