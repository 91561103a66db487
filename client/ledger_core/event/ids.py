"""Identifiers of events (RFC 9562): version 7 for new events, version 8 for imported ones.

An id is the idempotency key for ever. So an importer derives it from the source record: the same
record gives the same id, and a second import adds nothing.
"""

import hashlib
import re

is_uuid = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
"""Whether a text is a UUID in its one form: lower case, with hyphens."""

UUID7_RANDOM_BYTES = 10
DERIVED_VERSION = 8
_UNIX_MS_END = 2**48
_DERIVED_TAG = b"witnessed-ledger/derived-id@v1"


def format_uuid7(*, unix_ms: int, random: bytes) -> str:
    """Write a UUID of version 7: 48 bits of time, then 74 of the 80 random bits given.

    Source: RFC 9562 §5.7.
    """
    if len(random) != UUID7_RANDOM_BYTES:
        raise ValueError(f"want {UUID7_RANDOM_BYTES} random bytes, got {len(random)}")
    if not 0 <= unix_ms < _UNIX_MS_END:
        raise ValueError(f"want a time of 48 bits, got {unix_ms} ms")
    # In texts and not by _format_uuid, in a third of its time: an application waits for this id.
    high, low = f"{unix_ms:012x}", random.hex()
    variant = "89ab"[random[2] >> 4 & 0x3]
    return f"{high[:8]}-{high[8:]}-7{low[1:4]}-{variant}{low[5:8]}-{low[8:]}"


def derived_id(source: str, canonical: bytes) -> str:
    """Write the UUID of version 8 that belongs to the record `canonical` of the format `source`.

    It holds 122 bits of SHA-256 over a tag, `source` and `canonical`, on a line each; `source` has
    no line end, so no two pairs give the same input.

    Source: RFC 9562 §5.8.
    """
    if "\n" in source:
        raise ValueError("a source's name is one line")
    digest = hashlib.sha256(b"\n".join((_DERIVED_TAG, source.encode(), canonical))).digest()
    return _format_uuid(digest[:16], version=DERIVED_VERSION)


def _format_uuid(octets: bytes, *, version: int) -> str:
    value = int.from_bytes(octets, "big")
    value = value & ~(0xF << 76) | version << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
