"""Checks while an export is received that its file is complete.

At the end the trailer, the last line, must match the bytes before it. Evidence has a manifest
instead, which `ledger verify` checks. The entries of an export are not verified here.
"""

import csv
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Literal
from urllib.parse import urlencode

import msgspec

from ledger_client.messages import Request
from ledger_client.plans.search import Order
from ledger_client.plans.stream import LINE_BYTES_MAX
from ledger_client.results import Exported
from ledger_core.api import ExportTrailer, TrailerLine
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.text import parse_size

Format = Literal["jsonl", "csv", "evidence"]

CSV_TRAILER: Final = "#trailer"
ZIP_END: Final = b"PK\x05\x06"
ZIP_END_BYTES: Final = 22


def export_request(query: str, *, format: Format, order: Order) -> Request:  # noqa: A002 - its name
    """The request for an export."""
    given = urlencode({"q": query, "format": format, "order": order})
    return Request(target=f"/v1/export?{given}", accept="*/*")


class ExportVerifier:
    """Checks one file against its trailer as its bytes are received. Mutable."""

    def __init__(self, format: Format) -> None:  # noqa: A002 - the parameter's name
        self._format: Final = format
        self._sha256: Final = hashlib.sha256()
        self._held = b""
        self._lines = 0
        self._bytes = 0

    def feed(self, piece: bytes) -> None:
        """Count and hash the next bytes of the file. Raises: MalformedError."""
        self._bytes += len(piece)
        if self._format == "evidence":
            self._sha256.update(piece)
            self._held = (self._held + piece)[-ZIP_END_BYTES:]
            return
        held = self._held + piece
        # The last line is held back: it may be the trailer, which does not cover itself.
        end = held.rfind(b"\n", 0, -1) + 1
        self._sha256.update(held[:end])
        self._lines += held.count(b"\n", 0, end)
        self._held = held[end:]
        if len(self._held) > LINE_BYTES_MAX:
            raise MalformedError(f"a line of the export is longer than {LINE_BYTES_MAX} bytes")

    def finish(self) -> Exported:
        """The result for a complete file. Raises: MalformedError for an incomplete one."""
        sha256 = self._sha256.hexdigest()
        if self._format == "evidence":
            if not self._held.startswith(ZIP_END):
                raise MalformedError("the evidence is cut short")
            return Exported(rows=None, tree_size=None, sha256=sha256, bytes_written=self._bytes)
        trailer = self._trailer()
        if trailer.sha256 != sha256:
            raise MalformedError(f"the export has SHA-256 {sha256}, its trailer {trailer.sha256}")
        if self._format == "jsonl" and trailer.rows != self._lines:
            raise MalformedError(f"the export has {self._lines} rows, its trailer {trailer.rows}")
        return Exported(
            rows=trailer.rows,
            tree_size=trailer.tree_size,
            sha256=sha256,
            bytes_written=self._bytes,
        )

    def _trailer(self) -> ExportTrailer:
        try:
            if self._format == "jsonl":
                return msgspec.json.decode(self._held, type=TrailerLine).trailer
            cells = next(csv.reader([self._held.decode()]))
            if cells[0] == CSV_TRAILER:
                return ExportTrailer(
                    rows=parse_size(cells[1]), sha256=cells[2], tree_size=parse_size(cells[3])
                )
        except (msgspec.MsgspecError, ValueError, IndexError, StopIteration, csv.Error):
            pass
        raise MalformedError("the export has no trailer: it is cut short")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new file that replaces the one at this path when the block ends without an error."""
    target = Path(path)
    part = target.with_name(f"{target.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
