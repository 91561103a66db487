"""One entry of the log as a sink sends it.

    {"index":17,"leaf_hash":"9f…","origin":"example.com/audit","event":{…},"received":{…},"v":1}

Without the first three members it is the leaf, byte for byte, so whoever has the line can compute
the leaf hash: `ledger verify-export` does.
"""

from typing import Final

import msgspec

from ledger.follow.entries import Entry
from ledger_core.event.canonical import WholeLeaf

_decode: Final = msgspec.json.Decoder(WholeLeaf).decode


class Record(msgspec.Struct, frozen=True, gc=False):
    """An entry and the log that it is of. `json`: what the receiver gets, in the sink's form."""

    index: int
    leaf_hash: str
    origin: str
    leaf: bytes
    json: bytes

    def content(self) -> WholeLeaf:
        """The event and its receipt. Precondition: the leaf is of a log, so canonical."""
        return _decode(self.leaf)


def make_record(entry: Entry, origin: str) -> Record:
    """The record of an entry, in the native form."""
    leaf_hash = entry.leaf_hash.hex()
    head = msgspec.json.encode({"index": entry.index, "leaf_hash": leaf_hash, "origin": origin})
    return Record(entry.index, leaf_hash, origin, entry.leaf, head[:-1] + b"," + entry.leaf[1:])
