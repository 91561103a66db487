"""Reads files of records: JSON lines, or documents that wrap many records; gzip or plain.

Exports are mostly JSON lines. CloudTrail delivers gzip files that hold one document,
`{"Records": […]}`, other products pages of `items`, `value` or `entries`, and people print both
over many lines. Three shapes are read, whatever the file is called:

* a line that is a record: the record;
* a line that is an array, or an object with one of the format's wrappers: each element;
* a first line that only opens such a document: the whole file is one, read as such a line.

Several values on one line, as `}{`, or over many lines, as `jq` prints them, and a comma after the
last one are read too.

Anything else on a line is yielded as it is, for the mapping to refuse with a reason.
"""

import gzip
import io
import json
import re
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import msgspec

from ledger_client.collect.importers.auditd import group_lines
from ledger_client.extras import missing_extra
from ledger_core.tlog.errors import MalformedError

DOCUMENT_BYTES_MAX = 256 * 1024 * 1024
"""For one line, or a document over several lines, after decompression."""
ZSTD_PART_BYTES = 4096

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_BOM = b"\xef\xbb\xbf"


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
_may_be_several = re.compile(rb"\}\s*\{").search
_BETWEEN = " \t\r\n,"
_scan_value = json.JSONDecoder().raw_decode
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
    start = stream.peek(len(_ZSTD_MAGIC))
    plain = cast("BinaryIO", stream)
    if start.startswith(_GZIP_MAGIC):
        plain = cast("BinaryIO", gzip.GzipFile(fileobj=stream))
    elif start.startswith(_ZSTD_MAGIC):
        plain = cast("BinaryIO", io.BufferedReader(_Zstandard(stream)))
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


class _Zstandard(io.RawIOBase):
    """The plain bytes of zstd frames, one after another. Raises: MalformedError for damage."""

    def __init__(self, stream: "io.BufferedReader[Any]") -> None:
        try:
            import zstandard
        except ModuleNotFoundError as error:
            raise missing_extra("reading zstd files", error) from None
        self._module = zstandard
        self._stream = stream
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._compressed = b""
        self._plain = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            while not self._plain and self._read_compressed():
                if self._frame.eof:
                    self._frame = self._module.ZstdDecompressor().decompressobj()
                self._plain = self._frame.decompress(self._compressed)
                self._compressed = self._frame.unused_data
        except self._module.ZstdError as error:
            raise MalformedError(f"damaged zstd data: {error}") from error
        if not self._plain and not self._frame.eof:
            raise MalformedError("damaged zstd data: the file ends inside a frame")
        part, self._plain = self._plain[: len(buffer)], self._plain[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    def _read_compressed(self) -> bool:
        # A small part, because one byte may become very many.
        self._compressed = self._compressed or self._stream.read1(ZSTD_PART_BYTES)
        return bool(self._compressed)


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
        if number == 1:
            text = text.removeprefix(_BOM)
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
        if document.endswith(b",") or _may_be_several(document):
            # Raises if there are several values.
            msgspec.json.decode(document, type=msgspec.Raw)
        # The search is cheap, and most records have no such key.
        if any(f'"{wrapper}"'.encode() in document for wrapper in wrappers):
            members = _decode_object(document)
            for wrapper in wrappers:
                wrapped = bytes(members.get(wrapper, b""))
                if wrapped.startswith(b"["):
                    yield from map(bytes, _decode_array(wrapped))
                    return
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        if values := _split(document):
            for value in values:
                yield from _unwrap(value, wrappers)
            return
    yield document


def _split(document: bytes) -> list[bytes]:
    """Return the values of a text that holds several, or an array; [] if it is not such a text."""
    try:
        text = document.decode()
    except UnicodeDecodeError:
        return []
    values: list[bytes] = []
    is_array = text.startswith("[")
    at = _skip_between(text, int(is_array))
    while text[at:] != ("]" if is_array else ""):
        try:
            _, end = _scan_value(text, at)
        except (ValueError, RecursionError):
            return []
        values.append(text[at:end].encode())
        at = _skip_between(text, end)
    return values if values != [document] else []


def _skip_between(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BETWEEN:
        at += 1
    return at
