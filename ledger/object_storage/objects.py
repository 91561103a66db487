"""The objects of an archive: their names below its prefix, and their bytes.

    checkpoint               the signed note that was published last
    tile/0/x001/x234/067     tiles and bundles, as c2sp.org/tlog-tiles names them
    tile/entries/273.p/112   a bundle, gzipped (Content-Encoding: gzip); here a partial one
    index/00000012.5f1a0c77d20b9e41.segment
                             a segment of the index: `ledger.store.index.segment_file`
    parquet/00000012.5f1a0c77d20b9e41.v1.93b885adfe0da089.parquet
                             a full segment as Parquet: `ledger.query.parquet_segments`
    archive.json             the format of the archive, and the origin of the log: `ArchiveRecord`
    probe                    shows at each start that the store overwrites nothing

The digits after the number of a segment of the index are those of a hash of the rules that made it
and of its root. Segments that other rules made have other names.
"""

import gzip
import hashlib
import re
import zlib
from typing import Final, Literal

import msgspec

from ledger.store.log import BUNDLE_BYTES_MAX
from ledger_core.query.analyzer import ANALYSIS
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.tile import TILE_WIDTH, TileRef

CHECKPOINT: Final = "checkpoint"
RECORD: Final = "archive.json"
PROBE: Final = "probe"
INDEX: Final = "index"
PARQUET: Final = "parquet"

NOTE_BYTES_MAX: Final = 1 << 20
RECORD_BYTES_MAX: Final = 1 << 16
SEGMENT_BYTES_MAX: Final = 1 << 30
SEGMENT_OBJECTS_MAX: Final = 8
"""Objects of one kind for one segment, as of several rules, that are looked at."""

TILE_BYTES_MAX: Final = 32 * TILE_WIDTH
GZIP_LEVEL: Final = 6

IMMUTABLE: Final = "public, max-age=31536000, immutable"
OBJECT_HEADERS: Final = {"Content-Type": "application/octet-stream", "Cache-Control": IMMUTABLE}

_GZIP: Final = b"\x1f\x8b\x08"
"""No bundle of events begins so: the third byte of a bundle begins an event, and is a brace."""
_GZIP_WINDOW: Final = 31
_NAME_DIGITS: Final = 16

match_index: Final = re.compile(r"index/(\d{8,10})\.[0-9a-f]{16}\.segment").fullmatch
match_parquet: Final = re.compile(
    r"parquet/(?P<segment>\d{8,10})\.(?P<root>[0-9a-f]{16})\.v\d+\.(?P<hash>[0-9a-f]{16})\.parquet"
).fullmatch
"""The segment, and the beginnings of its root and of the SHA-256 of the file."""


class ArchiveRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `archive.json`."""

    v: Literal[1] = 1
    origin: str


def parse_record(data: bytes) -> ArchiveRecord:
    """The content of `archive.json`. Raises: MalformedError."""
    try:
        return msgspec.json.decode(data, type=ArchiveRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"{RECORD}: {error}") from None


def index_name(segment: int, root: str) -> str:
    """The name of a segment of the index, made by the rules of this code, with this root."""
    digits = hashlib.sha256(f"{ANALYSIS}\n{root}".encode()).hexdigest()[:_NAME_DIGITS]
    return f"{INDEX}/{segment:08d}.{digits}.segment"


def is_named_for(name: str, sha256_hex: str) -> bool:
    """Whether the SHA-256 of a file of Parquet is the one in its name."""
    match = match_parquet(name)
    return match is not None and sha256_hex.startswith(match["hash"])


def pack(ref: TileRef, data: bytes) -> bytes:
    """A tile or a bundle as the archive stores it. The same data gives the same bytes."""
    return data if ref.level is not None else gzip.compress(data, GZIP_LEVEL, mtime=0)


def packed_bytes_max(ref: TileRef) -> int:
    """The largest size of an object of this name. gzip makes no bundle much longer."""
    return TILE_BYTES_MAX if ref.level is not None else BUNDLE_BYTES_MAX + (1 << 16)


def unpack(ref: TileRef, data: bytes) -> bytes:
    """Decode a tile or a bundle from its object, which the store may have decompressed.

    Raises: MalformedError.
    """
    if ref.level is not None or not data.startswith(_GZIP):
        return data
    inflating = zlib.decompressobj(_GZIP_WINDOW)
    try:
        plain = inflating.decompress(data, BUNDLE_BYTES_MAX + 1)
    except zlib.error as error:
        raise MalformedError(f"{ref.path} is no gzip: {error}") from None
    if len(plain) > BUNDLE_BYTES_MAX or not inflating.eof or inflating.unused_data:
        raise MalformedError(f"{ref.path} is too long, cut short, or followed by other bytes")
    return plain
