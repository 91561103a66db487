"""Checks while an export is received that its file is complete.

At the end the trailer, the last line, must match the bytes before it. Each line of JSON is held
against the question. Evidence has a plan of its own (`evidence`).

Weak: no line of JSON or CSV is proven to be in the log here, and a row of CSV does not hold all of
its leaf, so it can't be held against the question.
"""

import csv
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Literal
from urllib.parse import urlencode

import msgspec

from ledger_client.messages import Request
from ledger_client.plans.question import Question
from ledger_client.plans.search import Order
from ledger_client.plans.stream import LINE_BYTES_MAX
from ledger_client.responses import adding_evidence
from ledger_client.results import Exported
from ledger_core.api import ExportTrailer, TrailerLine
from ledger_core.event.canonical import parse_leaf
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.text import format_base64, parse_size

Format = Literal["jsonl", "csv"]

CSV_TRAILER: Final = "#trailer"

_match_line = re.compile(rb'\{"index":([0-9]{1,19}),(.*),"leaf_hash":"([^"]*)"\}').fullmatch
"""Parts a line of JSON into its index, the inside of its leaf, and its leaf hash."""


def export_request(query: str, *, format: Format, order: Order) -> Request:  # noqa: A002 - its name
    """The request for an export."""
    given = urlencode({"q": query, "format": format, "order": order})
    return Request(target=f"/v1/export?{given}", accept="*/*")


class ExportVerifier:
    """Checks one file against its trailer as its bytes are received. Mutable."""

    def __init__(
        self,
        format: Format,  # noqa: A002 - the parameter's name
        *,
        question: Question | None = None,
        order: Order = "oldest",
    ) -> None:
        """Lines of JSON must be events that meet the question, in this order, when it is given."""
        self._format: Final = format
        self._question: Final = question if format == "jsonl" else None
        self._order: Final = order
        self._last_index: int | None = None
        self._highest_index = -1
        self._sha256: Final = hashlib.sha256()
        self._held = b""
        self._lines = 0
        self._bytes = 0

    def feed(self, piece: bytes) -> None:
        """Check, count and hash the next bytes of the file.

        Raises: MalformedError, VerificationError.
        """
        self._bytes += len(piece)
        held = self._held + piece
        # The last line is held back: it may be the trailer, which does not cover itself.
        end = held.rfind(b"\n", 0, -1) + 1
        self._sha256.update(held[:end])
        if self._question is not None:
            for line in held[:end].splitlines():
                with adding_evidence(lambda: {"line.json": line}):  # noqa: B023 - called at once
                    self._check_line(self._question, line)
        self._lines += held.count(b"\n", 0, end)
        self._held = held[end:]
        if len(self._held) > LINE_BYTES_MAX:
            raise MalformedError(f"a line of the export is longer than {LINE_BYTES_MAX} bytes")

    def finish(self) -> Exported:
        """The result for a complete file. Raises: MalformedError for an incomplete one."""
        sha256 = self._sha256.hexdigest()
        trailer = self._trailer()
        if trailer.sha256 != sha256:
            raise MalformedError(f"the export has SHA-256 {sha256}, its trailer {trailer.sha256}")
        if self._format == "jsonl" and trailer.rows != self._lines:
            raise MalformedError(f"the export has {self._lines} rows, its trailer {trailer.rows}")
        if self._highest_index >= trailer.tree_size:
            raise VerificationError(
                f"the export holds the event at {self._highest_index}, its trailer a tree of size"
                f" {trailer.tree_size}"
            )
        return Exported(
            rows=trailer.rows,
            tree_size=trailer.tree_size,
            sha256=sha256,
            bytes_written=self._bytes,
        )

    def _check_line(self, question: Question, line: bytes) -> None:
        parts = _match_line(line)
        if parts is None:
            raise MalformedError("a line of the export is not an event with its leaf hash")
        index, leaf = parse_size(parts[1].decode()), b"{%b}" % parts[2]
        parse_leaf(leaf)
        if format_base64(leaf_hash(leaf)).encode() != parts[3]:
            raise VerificationError(f"the event at {index} does not have the leaf hash beside it")
        question.check_event(index, leaf)
        last, self._last_index = self._last_index, index
        if (last is not None and (index <= last) == (self._order == "oldest")) or index == last:
            raise VerificationError(f"order of an export: {index} stands behind {last}")
        self._highest_index = max(self._highest_index, index)

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
