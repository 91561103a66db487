"""The rows of an export as its bytes are received: each with its index, leaf hash and leaf.

A row of JSON lines holds the leaf's own bytes; one of CSV holds all that the leaf is made of. Both
have the leaf hash beside it, so a row that was altered is named by itself.
"""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from ledger_client.plans.stream import LINE_BYTES_MAX
from ledger_core.event.canonical import parse_leaf
from ledger_core.event.csv import COLUMNS, read_row
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import Hash, leaf_hash
from ledger_core.tlog.text import decode_text, excerpt, parse_hash, parse_size

_match_line = re.compile(rb'\{"index":([0-9]{1,19}),(.*),"leaf_hash":"([^"]{1,64})"\}').fullmatch
"""Parts a line of JSON into its index, the inside of its leaf, and its leaf hash."""

_INDEX: Final = COLUMNS.index("index")
_LEAF_HASH: Final = COLUMNS.index("leaf_hash")


@dataclass(frozen=True, slots=True)
class ExportRow:
    """A row; `number` counts the rows from 1. A row whose leaf is another one has a `fault`."""

    number: int
    index: int
    leaf_hash: Hash
    leaf: bytes
    fault: str = ""


class RowReader(Protocol):
    """Reads the rows of one format from pieces of bytes. Mutable."""

    def feed(self, piece: bytes) -> tuple[bytes, Iterator[ExportRow]]:
        """The bytes that are complete rows now, and these rows, to be read before the next piece.

        Raises: MalformedError; so does the iterator.
        """

    def rest(self) -> bytes:
        """The bytes after the last row that `feed` gave."""


class JsonRows:
    """Reads lines of JSON. The last line is held back: it may be the trailer."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._rows = 0

    def feed(self, piece: bytes) -> tuple[bytes, Iterator[ExportRow]]:
        """As `RowReader.feed`."""
        self._held += piece
        # Only a piece that ends a line is searched: a server may send a line byte by byte.
        end = self._held.rfind(b"\n", 0, -1) + 1 if b"\n" in piece else 0
        lines = _take(self._held, end)
        return lines, self._read(lines)

    def rest(self) -> bytes:
        """The last line, complete or not."""
        return bytes(self._held)

    def _read(self, lines: bytes) -> Iterator[ExportRow]:
        for line in lines.split(b"\n")[:-1]:
            self._rows += 1
            parts = _match_line(line)
            if parts is None:
                raise MalformedError(f"row {self._rows} is not an event with its leaf hash")
            leaf = b"{%b}" % parts[2]
            with _naming_row(self._rows):
                index, hash_ = parse_size(parts[1].decode()), parse_hash(decode_text(parts[3]))
            try:
                parse_leaf(leaf)
                fault = "" if leaf_hash(leaf) == hash_ else "its leaf has another leaf hash"
            except MalformedError as error:
                fault = str(error)
            yield ExportRow(self._rows, index, hash_, leaf, fault)


class CsvRows:
    """Reads records of CSV, behind their header."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._is_quoted = False  # At the end of what is held.
        self._rows = -1  # The header is number 0.

    def feed(self, piece: bytes) -> tuple[bytes, Iterator[ExportRow]]:
        """As `RowReader.feed`."""
        start = len(self._held)
        self._held += piece
        is_quoted = self._is_quoted
        # A line break within quotation marks ends no record. Only the new piece is searched.
        parts = piece.split(b'"')
        self._is_quoted ^= len(parts) % 2 == 0
        end, at = 0, start
        for part in parts:
            if not is_quoted and (found := part.rfind(b"\n")) >= 0:
                end = at + found + 1
            at += len(part) + 1
            is_quoted = not is_quoted
        records = _take(self._held, end)
        return records, self._read(records)

    def rest(self) -> bytes:
        """The bytes of a record that has no end."""
        return bytes(self._held)

    def _read(self, records: bytes) -> Iterator[ExportRow]:
        # The default is less than a cell of JSON may have; a larger one of the program is kept.
        csv.field_size_limit(max(csv.field_size_limit(), LINE_BYTES_MAX))
        reader = csv.reader(io.StringIO(_text(records), newline=""), strict=True)
        while (cells := self._next(reader)) is not None:
            self._rows += 1
            if self._rows == 0:
                if tuple(cells) != COLUMNS:
                    raise MalformedError("the columns are not those of an export")
                continue
            yield self._row(cells)

    def _next(self, reader: Iterator[list[str]]) -> list[str] | None:
        try:
            return next(reader, None)
        except csv.Error as error:
            raise MalformedError(f"row {self._rows + 1} is no CSV: {excerpt(str(error))}") from None

    def _row(self, cells: list[str]) -> ExportRow:
        with _naming_row(self._rows):
            if len(cells) != len(COLUMNS):
                raise MalformedError(f"it has {len(cells)} cells, want {len(COLUMNS)}")
            index, hash_ = parse_size(cells[_INDEX]), _hash(cells[_LEAF_HASH])
        try:
            _, leaf = read_row(cells)
        except (MalformedError, VerificationError) as error:
            return ExportRow(self._rows, index, hash_, b"", str(error))
        return ExportRow(self._rows, index, hash_, leaf)


class _naming_row:  # noqa: N801 - used as a function
    """Names the row in a MalformedError. A class, because a generator costs a microsecond more."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, MalformedError):
            raise MalformedError(f"row {self._number}: {error}") from error


def _hash(text: str) -> Hash:
    if re.fullmatch("[0-9a-f]{64}", text) is None:
        raise MalformedError(f"not a leaf hash in hex: {excerpt(text)}")
    return bytes.fromhex(text)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise MalformedError("the export is not UTF-8") from None


def _take(held: bytearray, end: int) -> bytes:
    """Remove the first bytes of what is held. Raises: MalformedError when too much is left."""
    taken = bytes(held[:end])
    del held[:end]
    if len(held) > LINE_BYTES_MAX:
        raise MalformedError(f"a row of the export is longer than {LINE_BYTES_MAX} bytes")
    return taken
