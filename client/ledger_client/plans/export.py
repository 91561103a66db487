"""Checks an export while it is received: each row is proven, and the file is complete.

The rows of JSON lines and of CSV are gathered in parts of 1,024. Each must meet the question, stand
in its order, and be in the tree of one accepted head: a multi-proof is asked for each part. These
proofs are the file beside the export (`export_proof`), with which it is checked again offline.

At the end the trailer must match the rows: the last line of JSON lines, and for CSV the answer to a
second request, which names the export by an id (docs/adr/0027). Evidence has
a plan of its own (`evidence`).

Weak: an event that was withheld is not missed.
"""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import BinaryIO, Final
from urllib.parse import urlencode

import msgspec

from ledger_client.messages import Plan, Request
from ledger_client.plans.export_proof import (
    PART_ROWS,
    PROOF_BYTES_MAX,
    Format,
    ProofHeader,
    ProofPart,
    RowChecker,
    check_part,
    encode_line,
    row_reader,
)
from ledger_client.plans.export_rows import ExportRow
from ledger_client.plans.heads import Heads
from ledger_client.plans.question import Question
from ledger_client.plans.read import fetch_tile
from ledger_client.plans.search import Order
from ledger_client.responses import check_status, decode_answer
from ledger_client.results import Exported
from ledger_core.api import AskMulti
from ledger_core.search_answers import ExportTrailer, TrailerLine
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.policy import VerifiedHead
from ledger_core.tlog.tiled_tree import TiledTree
from ledger_core.tlog.tree import Node

ROWS_NAMED_MAX: Final = 10

LEFT_BYTES = 1 << 30
LEFT_PART = 20
"""What an answer leaves free on a disk: 1 GiB, or a twentieth of a small one."""


class ExportVerifier:
    """Checks one file as its bytes are received. Mutable."""

    def __init__(
        self,
        format: Format,  # noqa: A002 - the parameter's name
        *,
        question: Question,
        order: Order = "oldest",
        heads: Heads | None = None,
        export_id: str,
    ) -> None:
        """With `heads`, each row is proven. `export_id` is 16 to 64 letters and digits."""
        self._format: Final[Format] = format
        self._question: Final = question
        self._order: Final[Order] = order
        self._heads: Final = heads
        self._export_id: Final = export_id
        self._checker: Final = RowChecker(question, order)
        self._reader: Final = row_reader(format)
        self._sha256: Final = hashlib.sha256()
        self._waiting: list[ExportRow] = []
        self._rows = 0
        self._bytes = 0
        self._highest_index = -1
        self._head: VerifiedHead | None = None  # Once there is one, all rows are proven against it.

    def request(self) -> Request:
        """The request for the export."""
        given = {
            "q": self._question.text,
            "format": self._format,
            "order": self._order,
            "id": self._export_id,
        }
        if self._heads is not None:
            given["proof"] = "1"
        return Request(target=f"/v1/export?{urlencode(given)}", accept="*/*")

    def feed(self, piece: bytes) -> Plan[bytes]:
        """Check the next bytes of the file; the next bytes of its proofs.

        Raises: MalformedError, VerificationError, RejectedError.
        """
        self._bytes += len(piece)
        data, found = self._reader.feed(piece)
        self._sha256.update(data)
        if data:
            self._question.check_read()
        rows = list(found)
        for row, fault in self._checker.faults(rows):
            raise VerificationError(
                f"row {row.number} (entry {row.index}): {fault}", evidence={"row.leaf": row.leaf}
            )
        self._rows += len(rows)
        self._highest_index = max([self._highest_index, *(row.index for row in rows)])
        self._waiting += rows
        proofs = b""
        while len(self._waiting) >= PART_ROWS:
            proofs += yield from self._prove()
        return proofs

    def finish(self) -> Plan[tuple[Exported, bytes]]:
        """The result for a complete file, and the last bytes of its proofs.

        Raises: MalformedError for an incomplete file; as `feed`.
        """
        proofs = yield from self._prove()
        trailer = yield from self._trailer()
        self._check_trailer(trailer)
        exported = Exported(
            rows=trailer.rows,
            tree_size=trailer.tree_size,
            sha256=trailer.sha256,
            bytes_written=self._bytes,
            head=self._head,
        )
        return exported, proofs + encode_line(TrailerLine(trailer))

    def _check_trailer(self, trailer: ExportTrailer) -> None:
        sha256 = self._sha256.hexdigest()
        if trailer.sha256 != sha256:
            raise MalformedError(f"the export has SHA-256 {sha256}, its trailer {trailer.sha256}")
        if trailer.rows != self._rows:
            raise MalformedError(f"the export has {self._rows} rows, its trailer {trailer.rows}")
        size = None if self._head is None else self._head.checkpoint.tree_size
        if size is not None and trailer.tree_size > size:
            raise VerificationError(
                f"the trailer says a tree of size {trailer.tree_size}, the published head {size}"
            )
        if self._highest_index >= trailer.tree_size:
            raise VerificationError(
                f"the export holds the event at {self._highest_index}, its trailer a tree of size"
                f" {trailer.tree_size}"
            )

    def _prove(self) -> Plan[bytes]:
        """Prove the next rows that wait. Raises: VerificationError naming the unproven ones."""
        rows, self._waiting = self._waiting[:PART_ROWS], self._waiting[PART_ROWS:]
        if self._heads is None:
            return b""
        lines = b""
        if self._head is None:
            self._head = yield from self._heads.checkpoint()
            lines = encode_line(
                ProofHeader(
                    format=self._format,
                    order=self._order,
                    query=self._question.text,
                    checkpoint=self._head.note,
                )
            )
        if not rows:
            return lines
        size = self._head.checkpoint.tree_size
        for row in rows:
            if row.index >= size:
                raise VerificationError(
                    f"row {row.number} is entry {row.index}, past the published head of size {size}"
                )
        request = _multi_request(sorted(row.index for row in rows), tree_size=size)
        answer = check_status(request, (yield request))
        try:
            check_part(rows, answer, self._head)
        except VerificationError as error:
            raise VerificationError(
                (yield from _unproven(rows, self._head, error)),
                evidence={
                    "checkpoint.note": self._head.note.encode(),
                    "multi-proof.txt": answer,
                    "rows.txt": b"".join(
                        b"%d %s\n" % (row.index, row.leaf_hash.hex().encode()) for row in rows
                    ),
                },
            ) from error
        return lines + encode_line(ProofPart(rows=len(rows), proof=answer.decode()))

    def _trailer(self) -> Plan[ExportTrailer]:
        rest = self._reader.rest()
        if self._format == "jsonl":
            try:
                return msgspec.json.decode(rest, type=TrailerLine).trailer
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                raise MalformedError("the export has no trailer: it is cut short") from None
        if rest:
            raise MalformedError("the export ends within a row: it is cut short")
        request = Request(target=f"/v1/export/trailer?{urlencode({'id': self._export_id})}")
        return decode_answer(request, (yield request), ExportTrailer)


def _multi_request(indices: list[int], *, tree_size: int) -> Request:
    body = msgspec.json.encode(AskMulti(tree_size=tree_size, indices=tuple(indices)))
    return Request(
        method="POST",
        target="/v1/proofs/multi",
        accept="text/plain",
        content_type="application/json",
        body=body,
        answer_bytes_max=PROOF_BYTES_MAX,
    )


def _unproven(rows: list[ExportRow], head: VerifiedHead, error: VerificationError) -> Plan[str]:
    """The message that names the rows that are not in the tree, by the tree's own leaf hashes.

    The verdict stands even if the log withholds these.
    """
    span = f"rows {rows[0].number} to {rows[-1].number}"
    tree = TiledTree(head)
    nodes = {row.index: Node(0, row.index) for row in rows}
    try:
        tiles = {}
        for ref in tree.plan(nodes.values()):
            tiles[ref] = yield from fetch_tile(ref)
        tree.finish(nodes.values(), tiles)
    except (VerificationError, MalformedError, ValueError, UnavailableError) as failure:
        return f"{span} can't be proven: {error}; nor one by one: {failure}"
    wrong = [row for row in rows if tree.hash(nodes[row.index]) != row.leaf_hash]
    if not wrong:
        return f"the proof of {span} is false, though each of them is in the tree: {error}"
    named = ", ".join(f"{row.number} (entry {row.index})" for row in wrong[:ROWS_NAMED_MAX])
    more = f" and {len(wrong) - ROWS_NAMED_MAX} more" if len(wrong) > ROWS_NAMED_MAX else ""
    return (
        f"not in the tree of size {head.checkpoint.tree_size}: the rows {named}{more} of the export"
    )


def proof_path(path: str | os.PathLike[str]) -> Path:
    """The file of the proofs of an export."""
    target = Path(path)
    return target.with_name(f"{target.name}.proof")


def write_leaving_room(file: BinaryIO, data: bytes) -> None:
    """Write a part of an answer, which has no end if the service wants it so.

    Raises: OSError, also where less than `LEFT_BYTES` and less than a part of the disk would be
    left: whatever else uses the disk goes on.
    """
    disk = os.fstatvfs(file.fileno())
    left = disk.f_bavail * disk.f_frsize - len(data)
    least = min(LEFT_BYTES, disk.f_blocks * disk.f_frsize // LEFT_PART)
    if left < least:
        reason = f"{os.strerror(errno.ENOSPC)}: an answer has to leave {least:,} bytes free"
        raise OSError(errno.ENOSPC, reason, str(Path(file.name).parent))
    file.write(data)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new file that replaces the one at this path when the block ends without an error.

    Only its owner can read it. A link stays: the file that it names is replaced. The temporary name
    is unique, so two exports to one path don't meet.
    """
    target = Path(os.path.realpath(path))
    with NamedTemporaryFile(
        prefix=f".{target.name}.", suffix=".part", dir=target.parent, delete=False
    ) as made:
        part = Path(made.name)
    try:
        with part.open("wb") as file:
            yield file
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
