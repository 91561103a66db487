"""The table of ids of a full segment, an object of an archive: which entry has which id.

    ids/00000012.0192f0c17c1a-0192f0c2a0ff.t.93b885adfe0da089.ids

    "ledger ids 1\\n" ‖ 32 bytes: SHA-256 of the leaf hashes of the entries ‖ 65,536 × row
    row      the id, 16 bytes ‖ u16, big-endian: the place of its entry in the segment; ascending

The name has the first and the last time of the ids of version 7 in the segment, in milliseconds and
hexadecimal digits, then `t` if all ids are of that version and `m` if others are among them, and
the beginning of the SHA-256 of the object. So the name says whether the segment can have an id: a
look-up reads few of many tables. Two tenants may have an event each with one id: two rows.

The table is no evidence. Its reader reads the entry that it names, and compares the id.
"""

import hashlib
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger_core.query.analyzer import decode_view
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import leaf_hashes

IDS: Final = "ids"
MAGIC: Final = b"ledger ids 1\n"
ID_BYTES: Final = 16
_HASH_BYTES: Final = 32
_ROW: Final = struct.Struct(">16sH")
_BODY_START: Final = len(MAGIC) + _HASH_BYTES
TABLE_BYTES: Final = _BODY_START + _ROW.size * SEGMENT_ENTRIES_MAX
"""The length of every table."""

_NAME_DIGITS: Final = 16
_TIME_BYTES: Final = 6
_VERSION: Final = 7
_VARIANT: Final = 0b10
_NO_TIMES: Final = ("f" * 12, "0" * 12)
"""The first and the last time where no id has one."""

match_ids = re.compile(
    r"ids/(\d{8,10})\.([0-9a-f]{12})-([0-9a-f]{12})\.([tm])\.([0-9a-f]{16})\.ids"
).fullmatch


@dataclass(frozen=True, slots=True)
class IdTableName:
    """The name of a table, and what it says."""

    name: str
    segment: int
    first_time: str
    last_time: str
    has_others: bool
    digits: str

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """The parts of a name; None for any other object."""
        match = match_ids(name)
        if match is None:
            return None
        return cls(name, int(match[1]), match[2], match[3], match[4] == "m", match[5])

    def may_have(self, low: bytes, last: bytes) -> bool:
        """Whether the segment may have an id from `low` to `last`."""
        if self.has_others:
            return True
        first, end = low[:_TIME_BYTES].hex(), last[:_TIME_BYTES].hex()
        return first <= self.last_time and self.first_time <= end


def encode_ids(segment: int, bundles: Iterable[Sequence[bytes]]) -> tuple[str, bytes]:
    """The name and the bytes of the table of a full segment, from its leaves by bundle.

    Cost: 3 µs an entry. Raises: MalformedError for another number of entries.
    """
    hash_ = hashlib.sha256()
    ids: list[bytes] = []
    for leaves in bundles:
        hash_.update(b"".join(leaf_hashes(leaves)))
        ids += [id_of(leaf) for leaf in leaves]
    if len(ids) != SEGMENT_ENTRIES_MAX:
        raise MalformedError(f"segment {segment} has {len(ids)} entries")
    times = sorted(each[:_TIME_BYTES].hex() for each in ids if _is_timed(each))
    first, last = (times[0], times[-1]) if times else _NO_TIMES
    rows = sorted((each, place) for place, each in enumerate(ids))
    data = b"".join([MAGIC, hash_.digest(), *(_ROW.pack(*row) for row in rows)])
    digits = hashlib.sha256(data).hexdigest()[:_NAME_DIGITS]
    kind = "t" if len(times) == len(ids) else "m"
    return f"{IDS}/{segment:08d}.{first}-{last}.{kind}.{digits}.ids", data


def id_of(leaf: bytes) -> bytes:
    """The id of an entry, 16 bytes."""
    return bytes.fromhex(decode_view(leaf).event.id.replace("-", ""))


def check_table(name: IdTableName, data: bytes) -> str:
    """Compare a table with its name; return the hash of its entries, in hexadecimal digits.

    Raises: MalformedError.
    """
    if not hashlib.sha256(data).hexdigest().startswith(name.digits):
        raise MalformedError(f"{name.name} is damaged: its name has the hash of another table")
    if len(data) != TABLE_BYTES or not data.startswith(MAGIC):
        raise MalformedError(f"{name.name} is no table of ids of this version")
    return data[len(MAGIC) : _BODY_START].hex()


def find_ids(data: bytes, *, low: bytes, last: bytes, most: int) -> list[int]:
    """Find the ids from `low` to `last`: their places in the segment, at most `most` of them.

    Precondition: `check_table`.
    """
    start, end = 0, SEGMENT_ENTRIES_MAX
    while start < end:
        middle = (start + end) // 2
        at = _BODY_START + middle * _ROW.size
        if data[at : at + ID_BYTES] < low:
            start = middle + 1
        else:
            end = middle
    places: list[int] = []
    while start < SEGMENT_ENTRIES_MAX and len(places) < most:
        found, place = _ROW.unpack_from(data, _BODY_START + start * _ROW.size)
        if found > last:
            break
        places.append(place)
        start += 1
    return places


def _is_timed(id_bytes: bytes) -> bool:
    """Whether an id begins with its time: version 7 of RFC 9562."""
    return id_bytes[6] >> 4 == _VERSION and id_bytes[8] >> 6 == _VARIANT
