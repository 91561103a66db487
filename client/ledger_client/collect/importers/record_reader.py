"""Reads files of records: JSON lines, or documents that wrap many records; gzip or plain.

Exports are mostly JSON lines. CloudTrail delivers gzip files that hold one document,
`{"Records": […]}`, other products pages of `items`, `value` or `entries`, and people print both
over many lines. Three shapes are read, whatever the file is called:

* a line that is a record: the record;
* a line that is an array, or an object with one of the format's wrappers: each element;
* a first line that only opens such a document: the whole file is one, read as such a line.

Anything else on a line is yielded as it is, for the mapping to refuse with a reason.
"""

import gzip
import io
import re
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import msgspec

from ledger_client.collect.importers.auditd import group_lines
from ledger_core.tlog.errors import MalformedError

DOCUMENT_BYTES_MAX = 256 * 1024 * 1024
"""For one line, or a document over several lines, after decompression."""

_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record of a file."""

    raw: bytes
    line: int
    """Counted from 1; for a record of a document, the line where the document starts."""
    file_offset: int
    """Bytes of the file read so far, compressed or not, for a progress bar."""


Lines = Literal["json", "auditd"]
"""The kind of lines in a file; those of auditd become `{"lines": […]}`, one for each event."""

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
# `{`, `[`, `[{`, `{"Records": [` and the like.
_opens_document = re.compile(rb'\[\s*\{?|\{\s*("[A-Za-z]*"\s*:\s*(\[\s*\{?)?)?').fullmatch


def read_records(
    source: Path | io.BufferedIOBase,
    *,
    wrappers: Collection[str] = (),
    lines: Lines = "json",
    document_bytes_max: int = DOCUMENT_BYTES_MAX,
) -> Iterator[Record]:
    """Yield the records of a file; blank lines are skipped.

    An open stream, such as standard input, need not be seekable, and stays open.

    Raises: MalformedError for damaged gzip data and for a line that is too long, after the records
    before it; OSError.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield from read_records(
                file, wrappers=wrappers, lines=lines, document_bytes_max=document_bytes_max
            )
        return
    counted = _Counted(source)
    stream = io.BufferedReader(counted)
    is_gzip = stream.peek(len(_GZIP_MAGIC)).startswith(_GZIP_MAGIC)
    plain = cast("BinaryIO", gzip.GzipFile(fileobj=stream) if is_gzip else stream)
    try:
        raws = (
            _audit_events(plain, document_bytes_max)
            if lines == "auditd"
            else (
                (number, raw)
                for number, document in _documents(plain, document_bytes_max, is_json=True)
                for raw in _unwrap(document, wrappers)
            )
        )
        for line, raw in raws:
            yield Record(raw=raw, line=line, file_offset=counted.read_bytes)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise MalformedError(f"damaged gzip data: {error}") from error


class _Counted(io.RawIOBase):
    """A stream that counts the bytes read from it."""

    def __init__(self, source: io.BufferedIOBase) -> None:
        self._source = source
        self.read_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._source.read1(len(buffer))
        buffer[: len(part)] = part
        self.read_bytes += len(part)
        return len(part)


def _audit_events(plain: BinaryIO, bytes_max: int) -> Iterator[tuple[int, bytes]]:
    for number, lines in group_lines(_documents(plain, bytes_max, is_json=False)):
        texts = [line.decode(errors="backslashreplace") for line in lines]
        yield number, msgspec.json.encode({"lines": texts})


def _documents(plain: BinaryIO, bytes_max: int, *, is_json: bool) -> Iterator[tuple[int, bytes]]:
    """Yield each line and its number, or the whole file if its first line only opens a document."""
    number = 0
    is_first = is_json
    while text := plain.readline(bytes_max + 1):
        number += 1
        if is_first and _opens_document(text.strip()):
            text += plain.read(bytes_max + 1 - len(text))
        if len(text) > bytes_max:
            raise MalformedError(f"line {number} has more than {bytes_max} bytes")
        if document := text.strip():
            is_first = False
            yield number, document


def _unwrap(document: bytes, wrappers: Collection[str]) -> Iterator[bytes]:
    """Yield the records that a document wraps, or the document itself."""
    try:
        if document.startswith(b"["):
            yield from map(bytes, _decode_array(document))
            return
        # The search is cheap, and most records have no such key.
        if any(f'"{wrapper}"'.encode() in document for wrapper in wrappers):
            members = _decode_object(document)
            for wrapper in wrappers:
                wrapped = bytes(members.get(wrapper, b""))
                if wrapped.startswith(b"["):
                    yield from map(bytes, _decode_array(wrapped))
                    return
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    yield document
