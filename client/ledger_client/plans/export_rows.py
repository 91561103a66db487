"""The rows of an export as its bytes are received: each with its index, leaf hash and leaf.

A row of JSON lines holds the leaf's own bytes; one of CSV holds all that the leaf is made of. Both
have the leaf hash beside it, so a row that was altered is named by itself.
"""

import csv
import io
import re
from binascii import b2a_base64
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain, count
from typing import Final, Protocol

import msgspec

from ledger_client.plans.stream import LINE_BYTES_MAX
from ledger_core.event.canonical import parse_leaf
from ledger_core.event.csv import COLUMNS, read_row, read_rows
from ledger_core.event.leaf_batch import parse_batches
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import Hash, leaf_hashes
from ledger_core.tlog.text import decode_text, excerpt, parse_hash, parse_size

_INDEX_MEMBER: Final = b'{"index":'
_HASH_MEMBER: Final = b',"leaf_hash":"'

_find_rows: Final = re.compile(
    rb'\{"index":(0|[1-9][0-9]{0,17}),(.*),"leaf_hash":"([A-Za-z0-9+/]{43}=)"\}\n'
).findall
_ROW_BYTES: Final = len(b'{"index":,,"leaf_hash":""}\n')

_INDEX: Final = COLUMNS.index("index")
_LEAF_HASH: Final = COLUMNS.index("leaf_hash")


class ExportRow(msgspec.Struct, frozen=True, gc=False):
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
        """Read lines, all of them at once: one by one would take twice as long."""
        found = _find_rows(lines)
        leaves = [b"{%b}" % inside for _, inside, _ in found]
        hashes = leaf_hashes(leaves)
        is_plain = (
            len(lines) == sum(map(len, chain.from_iterable(found))) + _ROW_BYTES * len(found)
            and [text for _, _, text in found]
            == [b2a_base64(hash_, newline=False) for hash_ in hashes]
            and not _leaf_faults(leaves)
        )
        if not is_plain:
            yield from self._read_each(lines)
            return
        first = self._rows + 1
        self._rows += len(found)
        yield from map(
            ExportRow,
            range(first, first + len(found)),
            [int(digits) for digits, _, _ in found],
            hashes,
            leaves,
        )

    def _read_each(self, lines: bytes) -> Iterator[ExportRow]:
        """As `_read`, for lines of which one may be wrong."""
        indices, leaves, texts = [], [], []
        for number, line in enumerate(lines.split(b"\n")[:-1], self._rows + 1):
            comma, hash_at = line.find(b","), line.rfind(_HASH_MEMBER)
            if not (line.startswith(_INDEX_MEMBER) and 0 < comma < hash_at and line[-2:] == b'"}'):
                raise MalformedError(f"row {number} is not an event with its leaf hash")
            indices.append(line[len(_INDEX_MEMBER) : comma])
            leaves.append(b"{%b}" % line[comma + 1 : hash_at])
            texts.append(line[hash_at + len(_HASH_MEMBER) : -2])
        faults = _leaf_faults(leaves)
        for digits, leaf, text, hash_ in zip(
            indices, leaves, texts, leaf_hashes(leaves), strict=True
        ):
            self._rows += 1
            fault, stated = faults.get(leaf, "") if faults else "", hash_
            try:
                index = parse_size(digits.decode("ascii", "replace"))
                if text != b2a_base64(hash_, newline=False):
                    stated = parse_hash(decode_text(text))
                    fault = fault or "its leaf has another leaf hash"
            except MalformedError as error:
                raise MalformedError(f"row {self._rows}: {error}") from error
            yield ExportRow(self._rows, index, stated, leaf, fault)


def _leaf_faults(leaves: list[bytes]) -> dict[bytes, str]:
    """Why some of the leaves are none."""
    with suppress(MalformedError):
        deque(parse_batches(leaves), maxlen=0)
        return {}
    faults = {}
    for leaf in leaves:
        try:
            parse_leaf(leaf)
        except MalformedError as error:
            faults[leaf] = str(error)
    return faults


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
        # A line break within quotation marks ends no record. Only the new piece is searched, from
        # its end, where the last record's end is.
        is_quoted = self._is_quoted ^ bool(piece.count(b'"') & 1)
        self._is_quoted = is_quoted
        end, at = 0, len(piece)
        while not end and (found := piece.rfind(b"\n", 0, at)) >= 0:
            is_quoted ^= bool(piece.count(b'"', found, at) & 1)
            end, at = 0 if is_quoted else start + found + 1, found
        records = _take(self._held, end)
        return records, self._read(records)

    def rest(self) -> bytes:
        """The bytes of a record that has no end."""
        return bytes(self._held)

    def _read(self, records: bytes) -> Iterator[ExportRow]:
        # The default is less than a cell of JSON may have; a larger one of the program is kept.
        csv.field_size_limit(max(csv.field_size_limit(), LINE_BYTES_MAX))
        reader = csv.reader(io.StringIO(_text(records), newline=""), strict=True)
        try:
            rows = list(reader)
        except csv.Error as error:
            number = self._rows + reader.line_num
            raise MalformedError(f"line {number} is no CSV: {excerpt(str(error))}") from None
        if rows and self._rows < 0:
            if tuple(rows.pop(0)) != COLUMNS:
                raise MalformedError("the columns are not those of an export")
            self._rows = 0
        first = self._rows + 1
        self._rows += len(rows)
        found = read_rows(rows)
        if found is None:
            yield from map(_read_row, count(first), rows)
            return
        for number, (index, leaf), cells in zip(count(first), found, rows, strict=False):
            yield ExportRow(number, index, bytes.fromhex(cells[_LEAF_HASH]), leaf)


def _read_row(number: int, cells: list[str]) -> ExportRow:
    """One row of CSV. Raises: MalformedError when its cells are of no leaf and have no place."""
    try:
        index, leaf = read_row(cells)
    except (MalformedError, VerificationError) as error:
        with _naming_row(number):
            return ExportRow(number, *_place(cells), b"", str(error))
    return ExportRow(number, index, bytes.fromhex(cells[_LEAF_HASH]), leaf)


@contextmanager
def _naming_row(number: int) -> Iterator[None]:
    """Names the row in a MalformedError."""
    try:
        yield
    except MalformedError as error:
        raise MalformedError(f"row {number}: {error}") from error


def _place(cells: list[str]) -> tuple[int, Hash]:
    """The index and the leaf hash of a row. Raises: MalformedError."""
    if len(cells) != len(COLUMNS):
        raise MalformedError(f"it has {len(cells)} cells, want {len(COLUMNS)}")
    return parse_size(cells[_INDEX]), _hash(cells[_LEAF_HASH])


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
