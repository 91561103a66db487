"""Files of records: JSON lines, or documents that wrap many; gzip or plain.

Exports are mostly JSON lines. CloudTrail delivers gzip files that hold one document,
`{"Records": […]}`, which people also print over many lines. Three shapes are understood, whatever
the file is called:

* a line that is a record: the record;
* a line that is `{"Records": […]}` or an array: each element;
* a first line that is only `{` or `[`: the whole file is one document, read as such a line.

Anything else on a line is handed on as it is, for the mapper to refuse with its reason.
"""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from ledger.tlog.errors import MalformedError

DOCUMENT_BYTES_MAX = 256 * 1024 * 1024
"""Of one line, or of a document over several lines, after decompression."""

_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record as it stands in its file."""

    raw: bytes
    line: int
    """Counted from 1; where the document starts for a record out of one."""
    file_offset: int
    """How far the file had been read, compressed or not: a progress bar's measure."""


class _Wrapper(msgspec.Struct):
    records: list[msgspec.Raw] = msgspec.field(name="Records")


_decode_wrapper = msgspec.json.Decoder(_Wrapper).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


def read_records(path: Path, *, document_bytes_max: int = DOCUMENT_BYTES_MAX) -> Iterator[Record]:
    """Read the records of a file one after another; blank lines are passed over.

    Raises: MalformedError for damaged gzip data and for a line that is too long, after the records
    before it; OSError.
    """
    with path.open("rb") as file:
        is_gzip = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        file.seek(0)
        plain = cast("BinaryIO", gzip.GzipFile(fileobj=file)) if is_gzip else file
        try:
            for line, document in _documents(plain, document_bytes_max):
                for raw in _unwrap(document):
                    yield Record(raw=raw, line=line, file_offset=file.tell())
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise MalformedError(f"damaged gzip data: {error}") from error


def _documents(plain: BinaryIO, bytes_max: int) -> Iterator[tuple[int, bytes]]:
    """Give each line with its number, or the whole file when its first line only opens it."""
    number = 0
    is_first = True
    while text := plain.readline(bytes_max + 1):
        number += 1
        if is_first and text.strip() in (b"{", b"["):
            text += plain.read(bytes_max + 1 - len(text))
        if len(text) > bytes_max:
            raise MalformedError(f"line {number} has more than {bytes_max} bytes")
        if document := text.strip():
            is_first = False
            yield number, document


def _unwrap(document: bytes) -> Iterator[bytes]:
    """Give the records of a document: what it wraps, or itself."""
    try:
        if document.startswith(b"["):
            yield from map(bytes, _decode_array(document))
        elif b'"Records"' in document[:64]:
            yield from map(bytes, _decode_wrapper(document).records)
        else:
            yield document
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        yield document
