"""Reads files of records: JSON lines, documents that wrap many records, and four other forms.

Exports are mostly JSON lines. CloudTrail delivers gzip files that hold one document,
`{"Records": […]}`, other products pages of `items`, `value` or `entries`, and people print both
over many lines. Three shapes are read, whatever the file is called:

* a line that is a record: the record;
* a line that is an array, or an object with one of the format's wrappers: each element;
* a first line that only opens such a document, or has some of its records: the whole file is one,
  read as such a line.

Several values on one line, as `}{`, or over many lines, as `jq` prints them, and a comma after the
last one, in a wrapper too, are read.

Anything else on a line is yielded as it is, for the mapping to refuse with a reason.

Of a format with other lines (`auditd`, `csv`, `journal`, `windows-xml`) each record becomes a JSON
object. A file of such a format that begins with `{` or `[` is read as JSON. Files may be compressed
with gzip or zstd, and be UTF-16 if they begin with its mark, as those of PowerShell do.
"""

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, cast

import msgspec

from ledger_client.collect.importers.auditd import group_lines
from ledger_client.collect.importers.csv_rows import read_rows
from ledger_client.collect.importers.journal import read_entries
from ledger_client.collect.importers.windows import read_events
from ledger_client.extras import missing_extra
from ledger_core.tlog.errors import MalformedError

DOCUMENT_BYTES_MAX = 256 * 1024 * 1024
"""For one line, or a document over several lines, after decompression."""
RECORD_BYTES_MAX = 16 * 1024 * 1024
"""For one record. A leaf has 64 KiB; this bounds what the values of a record take in memory."""
COMMAS_MAX = 1 << 19
"""In a document that is decoded in one step. The records of one with more are cut one by one, since
a reference to each of `[0,0,0,…` takes fifty times its length."""
MENDING_STEPS_MAX = 4
"""One that is no JSON is taken apart, or its commas are removed, so often; then it is a record."""
ZSTD_PART_BYTES = 256
"""Compressed bytes decoded at once: a block of 4 bytes may hold 128 KiB, so 8 MiB at most."""
READ_AHEAD_BYTES = 256
"""At the start of a file, to tell JSON from other forms."""
BUFFER_BYTES = 64 * 1024

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record of a file."""

    raw: bytes
    line: int
    """Counted from 1; for a record of a document, the line where the document starts."""
    file_offset: int
    """Bytes of the file read so far, compressed or not, for a progress bar."""


Lines = Literal["json", "auditd", "csv", "journal", "windows-xml"]
"""The form of a file. An event of auditd becomes `{"lines": […]}`, one of Windows `{"xml": …}`."""

Numbered = Iterator[tuple[int, bytes]]
"""Records, and the number of the line where each starts."""


_Stream: TypeAlias = "io.BufferedReader[Any]"

_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_may_be_several = re.compile(rb"\}\s*\{").search
_BETWEEN = " \t\r\n,"
_scan_value = json.JSONDecoder().raw_decode
# `{`, `[`, `[{`, `{"Records": [` and the like.
_opens_document = re.compile(rb'\[\s*\{?|\{\s*("[A-Za-z]*"\s*:\s*(\[\s*\{?)?)?').fullmatch
# `[{…},` and `{"Records":[{…},`: a record stands on the first line, and the array goes on.
_holds_records = re.compile(rb'(\[|\{\s*"[A-Za-z]*"\s*:\s*\[)\s*\{.*,', re.DOTALL).fullmatch
_find_commas = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|,[\s,]*+', re.DOTALL)
"""Commas, with those that follow them; strings are matched to be left alone."""


def read_records(
    source: Path | io.BufferedIOBase,
    *,
    wrappers: Collection[str] = (),
    lines: Lines = "json",
    columns: Sequence[str] = (),
    document_bytes_max: int = DOCUMENT_BYTES_MAX,
) -> Iterator[Record]:
    """Yield the records of a file; blank lines are skipped. `columns` are those of a CSV file.

    An open stream, such as standard input, need not be seekable, and stays open.

    Raises: MalformedError for damaged gzip data and for a line that is too long, after the records
    before it; OSError.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield from read_records(
                file,
                wrappers=wrappers,
                lines=lines,
                columns=columns,
                document_bytes_max=document_bytes_max,
            )
        return
    counted = _Counted(source)
    record_bytes_max = min(RECORD_BYTES_MAX, document_bytes_max)
    try:
        stream = _plain(counted)
        start = stream.peek(READ_AHEAD_BYTES)[:READ_AHEAD_BYTES]
        if start.startswith(_BOM):
            stream.read(len(_BOM))
        plain = cast("BinaryIO", stream)
        is_json = start.removeprefix(_BOM).lstrip().startswith((b"{", b"["))
        if lines == "json" or (is_json and lines != "auditd"):
            raws = _json_records(plain, document_bytes_max, wrappers)
        elif lines == "csv":
            raws = _csv_rows(plain, record_bytes_max, columns)
        else:
            raws = _READERS[lines](plain, record_bytes_max)
        for line, raw in raws:
            if len(raw) > record_bytes_max:
                raise MalformedError(
                    f"line {line}: a record has {len(raw)} bytes, the most is {record_bytes_max}"
                )
            yield Record(raw=raw, line=line, file_offset=counted.bytes_read)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise MalformedError(f"damaged gzip data: {error}") from error


def _plain(counted: "_Counted") -> _Stream:
    """Return the file as UTF-8, without its compression."""
    stream = _buffered(counted)
    start = stream.peek(len(_ZSTD_MAGIC))
    if start.startswith(_GZIP_MAGIC):
        stream = _buffered(cast("io.RawIOBase", gzip.GzipFile(fileobj=stream)))
    elif start.startswith(_ZSTD_MAGIC):
        stream = _buffered(_Zstandard(stream))
    if stream.peek(2)[:2] in _UTF16_BOMS:
        stream = _buffered(_Utf16(stream))
    return stream


def _buffered(raw: io.RawIOBase) -> _Stream:
    return io.BufferedReader(raw, BUFFER_BYTES)


class _Counted(io.RawIOBase):
    """A stream that counts the bytes read from it."""

    def __init__(self, source: io.BufferedIOBase) -> None:
        self._source = source
        self.bytes_read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._source.read1(len(buffer))
        buffer[: len(part)] = part
        self.bytes_read += len(part)
        return len(part)


class _Zstandard(io.RawIOBase):
    """The plain bytes of zstd frames, one after another. Raises: MalformedError for damage."""

    def __init__(self, stream: _Stream) -> None:
        try:
            import zstandard
        except ModuleNotFoundError as error:
            raise missing_extra("reading zstd files", error) from None
        self._module = zstandard
        self._stream = stream
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._compressed = b""
        self._plain = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            while not self._plain and self._read_compressed():
                if self._frame.eof:
                    self._frame = self._module.ZstdDecompressor().decompressobj()
                self._plain = memoryview(self._frame.decompress(self._compressed))
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


class _Utf16(io.RawIOBase):
    """The UTF-8 bytes of a stream in UTF-16. Raises: MalformedError for damage."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-16")()
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        is_end = False
        while not self._ready and not is_end:
            part = self._stream.read1(BUFFER_BYTES)
            is_end = not part
            try:
                self._ready = self._decoder.decode(part, final=is_end).encode()
            except UnicodeError as error:
                raise MalformedError(f"damaged UTF-16: {error}") from error
        part, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def _json_records(plain: BinaryIO, bytes_max: int, wrappers: Collection[str]) -> Numbered:
    for number, document in _documents(plain, bytes_max, is_json=True):
        for raw in _unwrap(document, wrappers):
            yield number, raw


def _audit_events(plain: BinaryIO, bytes_max: int) -> Numbered:
    for number, lines in group_lines(_documents(plain, bytes_max, is_json=False), bytes_max):
        texts = [line.decode(errors="backslashreplace") for line in lines]
        yield number, msgspec.json.encode({"lines": texts})


def _journal_entries(plain: BinaryIO, bytes_max: int) -> Numbered:
    for number, entry in read_entries(plain, bytes_max):
        yield number, msgspec.json.encode(entry)


def _windows_events(plain: BinaryIO, bytes_max: int) -> Numbered:
    for number, text in read_events(plain, bytes_max):
        yield number, msgspec.json.encode({"xml": text.decode(errors="backslashreplace")})


def _csv_rows(plain: BinaryIO, bytes_max: int, columns: Sequence[str]) -> Numbered:
    for number, row in read_rows(plain, bytes_max, columns):
        yield number, row if isinstance(row, bytes) else msgspec.json.encode(row)


_READERS: dict[Lines, Callable[[BinaryIO, int], Numbered]] = {
    "auditd": _audit_events,
    "journal": _journal_entries,
    "windows-xml": _windows_events,
}


def _documents(plain: BinaryIO, bytes_max: int, *, is_json: bool) -> Numbered:
    """Yield each line and its number, or the whole file if its first line only opens a document."""
    number = 0
    is_first = is_json
    while text := plain.readline(bytes_max + 1):
        number += 1
        if is_first and (_opens_document(text.strip()) or _holds_records(text.strip())):
            text += plain.read(bytes_max + 1 - len(text))
        if len(text) > bytes_max:
            raise MalformedError(f"line {number} has more than {bytes_max} bytes")
        if document := text.strip():
            is_first = False
            yield number, document


def _unwrap(
    document: bytes, wrappers: Collection[str], steps_left: int = MENDING_STEPS_MAX
) -> Iterator[bytes]:
    """Yield the records that a document wraps, or the document itself."""
    try:
        if document.startswith(b"["):
            yield from _elements(document)
            return
        if document.endswith(b",") or _may_be_several(document):
            # Raises if there are several values.
            msgspec.json.decode(document, type=msgspec.Raw)
        # The search is cheap, and most records have no such key.
        if any(f'"{wrapper}"'.encode() in document for wrapper in wrappers):
            for wrapped in _wrapped(document, tuple(wrappers)):
                if wrapped.startswith(b"["):
                    yield from _elements(wrapped)
                    return
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        if steps_left and (text := _several(document)):
            for value in _cut(text):
                yield from _unwrap(value.encode(), wrappers, steps_left - 1)
            return
        tidy = _find_commas.sub(_without_last, document)
        if steps_left and tidy != document:
            yield from _unwrap(tidy, wrappers, steps_left - 1)
            return
    yield document


def _without_last(match: re.Match[bytes]) -> bytes:
    """What stands for commas: nothing behind the last item of an array."""
    is_last = match[0].startswith(b",") and match.string.startswith(b"]", match.end())
    return b"" if is_last else match[0]


def _elements(array: bytes) -> Iterator[bytes]:
    """Yield the elements of an array. Raises: MsgspecError, before the first, if it is none."""
    if array.count(b",") <= COMMAS_MAX:
        yield from map(bytes, _decode_array(array))
        return
    msgspec.json.decode(array, type=msgspec.Raw)
    for value in _cut(array.decode()):
        yield value.encode()


def _wrapped(document: bytes, wrappers: tuple[str, ...]) -> Iterator[bytes]:
    """Yield the values of these keys, as far as a document has them. Raises: MsgspecError."""
    members = msgspec.json.decode(document, type=_wrapper_type(wrappers))
    for number in range(len(wrappers)):
        yield bytes(getattr(members, f"field_{number}"))


@lru_cache(maxsize=16)
def _wrapper_type(wrappers: tuple[str, ...]) -> type[msgspec.Struct]:
    """A type with these keys alone: whatever else a document has is passed over."""
    names = {f"field_{number}": wrapper for number, wrapper in enumerate(wrappers)}
    fields = [(name, msgspec.Raw, msgspec.Raw()) for name in names]
    return msgspec.defstruct("Wrapper", fields, rename=names)


def _several(document: bytes) -> str:
    """The text of a document that holds several values, or a damaged array; "" for another one."""
    try:
        text = document.decode()
        first = last = ""
        for count, value in enumerate(_cut(text)):
            first, last = first if count else value, value
    except (ValueError, RecursionError):
        return ""
    return text if last and not (first is last and first == text) else ""


def _cut(text: str) -> Iterator[str]:
    """Yield the values of a text or an array, one by one. Raises: ValueError, RecursionError."""
    is_array = text.startswith("[")
    at = _skip_between(text, int(is_array))
    end = len(text)
    while at < end and not (is_array and at == end - 1 and text[at] == "]"):
        _, behind = _scan_value(text, at)
        yield text[at:behind]
        at = _skip_between(text, behind)
    if is_array and at == end:
        raise ValueError("the array has no end")


def _skip_between(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BETWEEN:
        at += 1
    return at
