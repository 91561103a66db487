"""The proofs of an export in a file of their own, beside it: `events.csv.proof`.

    {"v":1,"format":"csv","order":"oldest","query":"…","checkpoint":"…"}
    {"rows":1024,"proof":"witnessed-ledger/multi-proof@v1\\n…"}        the next 1,024 rows
    {"rows":317,"proof":"…"}
    {"trailer":{"rows":1341,"sha256":"…","tree_size":1342}}

`checkpoint` is the signed head that all proofs are against. The leaf hashes of a part's rows, by
ascending index, are those of its multi-proof. The trailer covers the rows of the export: all its
bytes, but for its own last line of JSON. Nobody has signed query, order and trailer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from operator import lt
from typing import Annotated, BinaryIO, Final, Literal, Protocol, TypeVar

import msgspec

from ledger_client.plans.export_rows import CsvRows, ExportRow, JsonRows, RowReader
from ledger_client.plans.question import Question, ask_stated
from ledger_core.query.order import Order, Place, place_in
from ledger_core.search_answers import ExportTrailer, TrailerLine, parse_trailer
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import Hash
from ledger_core.tlog.multi_proof import parse_multi_proof
from ledger_core.tlog.policy import Policy, VerifiedHead
from ledger_core.tlog.text import excerpt
from ledger_core.tlog.verify import check_multi

PART_ROWS: Final = 1024
PROOF_BYTES_MAX: Final = PART_ROWS * 64 * 48
"""The longest multi-proof: 63 hashes of 45 characters a row, and the index."""

FAULTS_MAX: Final = 100
READ_BYTES: Final = 1 << 18

T = TypeVar("T", "ProofHeader", "ProofPart", TrailerLine)

Format = Literal["jsonl", "csv"]
"""What the ledger sends."""

FileFormat = Literal["jsonl", "csv", "parquet"]
"""What a file is of. Parquet is made of JSON lines, and has their proofs."""


class ProofHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line: what was asked, and the signed head of the tree."""

    v: Literal[1] = 1
    format: Format
    order: Order
    query: str
    checkpoint: str


class ProofPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The proof of the next rows."""

    rows: Annotated[int, msgspec.Meta(ge=1, le=PART_ROWS)]
    proof: str


def encode_line(line: ProofHeader | ProofPart | TrailerLine) -> bytes:
    """A line of the file."""
    return msgspec.json.encode(line) + b"\n"


def row_reader(format: Format) -> RowReader:  # noqa: A002 - its name
    """The reader of a format."""
    return CsvRows() if format == "csv" else JsonRows()


def check_part(rows: Sequence[ExportRow], proof: bytes, head: VerifiedHead) -> None:
    """Check the multi-proof of rows, in whatever order they stand.

    Raises: MalformedError; VerificationError when the leaf hashes are not in the tree.
    """
    by_index: dict[int, Hash] = {row.index: row.leaf_hash for row in rows}
    indices = sorted(by_index)
    multi = parse_multi_proof(proof, leaves_max=PART_ROWS)
    if len(by_index) != len(rows) or list(multi.indices) != indices:
        raise VerificationError("the multi-proof is of other entries")
    check_multi(
        leaf_hashes=[by_index[index] for index in indices],
        indices=indices,
        tree_size=head.checkpoint.tree_size,
        proof=multi.hashes,
        root_hash=head.checkpoint.root_hash,
    )


class RowChecker:
    """Checks rows by themselves: what they hold, their order, and that they meet a question.

    Mutable.
    """

    def __init__(self, question: Question, order: Order) -> None:
        self._question: Final = question
        self._order: Final[Order] = order
        self._last: tuple[Place, int] | None = None

    def faults(self, rows: Sequence[ExportRow]) -> list[tuple[ExportRow, str]]:
        """Those of the next rows that have a fault, each with its first one."""
        if self._are_right(rows):
            return []
        found = ((row, self._order_fault(row) or self._fault(row)) for row in rows)
        return [(row, fault) for row, fault in found if fault]

    def _are_right(self, rows: Sequence[ExportRow]) -> bool:
        """Whether rows in order of index have no fault; what this can't tell, `faults` finds.

        All rows are tested at once, in half of the time of a test for each.
        """
        if self._order != "oldest" or any(row.fault for row in rows):
            return False
        indices = [row.index for row in rows]
        first = -1 if self._last is None else self._last[1]
        if not all(map(lt, [first, *indices], indices)):
            return False
        if not all(map(self._question.matches, indices, [row.leaf for row in rows])):
            return False
        if indices:
            self._last = (indices[-1],), indices[-1]
        return True

    def _fault(self, row: ExportRow) -> str:
        """The fault of a row by itself: its cells, or that it does not meet the query."""
        if row.fault:
            return row.fault
        try:
            self._question.check_event(row.index, row.leaf)
        except VerificationError as error:
            return str(error)
        return ""

    def _order_fault(self, row: ExportRow) -> str:
        place: Place = (row.index,)
        if self._order != "oldest":
            try:
                place = place_in(self._order, row.index, row.leaf)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                return "its leaf has no time of an event"
        last, self._last = self._last, (place, row.index)
        if last is None or place > last[0]:
            return ""
        return f"order of an export: {row.index} stands behind {last[1]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedExport:
    """An export that was checked offline; it is proven when there are no faults.

    The first `tree_size` entries were searched, as the trailer says; None without one.
    """

    header: ProofHeader
    head: VerifiedHead
    rows: int
    tree_size: int | None
    faults: tuple[str, ...]
    question: Question


class Pieces(Protocol):
    """A file that is read piece by piece."""

    def read(self, size: int, /) -> bytes:
        """The next bytes; none at the end."""


def check_export(
    file: Pieces, proofs: BinaryIO, policy: Policy, *, is_table: bool = False
) -> CheckedExport:
    """Check an export by the proofs beside it, in constant memory.

    `is_table`: the lines were made of a table, which has no trailer.
    Raises: MalformedError for a file that can't be read; VerificationError for a head that the
    policy does not trust.
    """
    header = _decode(_line(proofs), ProofHeader, "the first line of the proofs")
    has_trailer = header.format == "jsonl" and not is_table
    return _FileCheck(header, policy, has_trailer).run(file, proofs)


@dataclass(slots=True)
class _FileCheck:
    header: ProofHeader
    policy: Policy
    has_trailer: bool
    rows: int = 0
    highest_index: int = -1
    faults: list[str] = field(default_factory=list)

    def run(self, file: Pieces, proofs: BinaryIO) -> CheckedExport:
        head = self.policy.check(self.header.checkpoint)
        question = ask_stated(self.header.query)
        checker = RowChecker(question, self.header.order)
        digest = _Digest(file, row_reader(self.header.format))
        rows = digest.rows()
        trailer: ExportTrailer | None = None
        while line := _line(proofs):
            if line.startswith(b'{"trailer":'):
                trailer = _decode(line, TrailerLine, "the last line of the proofs").trailer
                break
            part = _decode(line, ProofPart, "a line of the proofs")
            some = list(islice(rows, part.rows))
            self._check_part(some, part, head)
            for row, fault in checker.faults(some):
                self._add(row, fault)
            self.rows += len(some)
            self.highest_index = max([self.highest_index, *(row.index for row in some)])
        if proofs.read(1):
            raise MalformedError("the proofs go on behind their last line")
        for row in rows:
            self.rows += 1
            self._add(row, "it has no proof")
        self._check_trailer(trailer, digest, head)
        return CheckedExport(
            header=self.header,
            head=head,
            rows=self.rows,
            tree_size=None if trailer is None else trailer.tree_size,
            faults=tuple(self.faults),
            question=question,
        )

    def _check_part(self, rows: Sequence[ExportRow], part: ProofPart, head: VerifiedHead) -> None:
        span = f"the rows {self.rows + 1} to {self.rows + part.rows}"
        if len(rows) != part.rows:
            self._say(f"{span}: the file ends after row {self.rows + len(rows)}")
            return
        try:
            check_part(rows, part.proof.encode(), head)
        except (MalformedError, VerificationError) as error:
            self._say(f"{span} can't be proven: {error}")

    def _check_trailer(
        self, trailer: ExportTrailer | None, digest: "_Digest", head: VerifiedHead
    ) -> None:
        if trailer is None:
            self._say("the proofs have no trailer: they are cut short")
        elif (trailer.rows, trailer.sha256) != (self.rows, digest.sha256):
            self._say(
                f"the file has {self.rows} rows and SHA-256 {digest.sha256}, the proofs are of"
                f" {trailer.rows} rows and SHA-256 {excerpt(trailer.sha256)}"
            )
        elif not self.highest_index < trailer.tree_size <= head.checkpoint.tree_size:
            self._say(
                f"the trailer says a tree of size {trailer.tree_size}, the head one of"
                f" {head.checkpoint.tree_size}, and the last entry is {self.highest_index}"
            )
        if self.has_trailer and trailer is not None and digest.trailer != trailer:
            self._say("the last line of the file is not the trailer that the proofs have")

    def _add(self, row: ExportRow, fault: str) -> None:
        self._say(f"row {row.number} (entry {row.index}): {fault}")

    def _say(self, fault: str) -> None:
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(fault)
        elif len(self.faults) == FAULTS_MAX:
            self.faults.append("and more")


class _Digest:
    """Reads the rows of a file, and the SHA-256 of those that were read."""

    def __init__(self, file: Pieces, reader: RowReader) -> None:
        self._file = file
        self._reader = reader
        self._sha256 = sha256()
        self.trailer: ExportTrailer | None = None
        """The trailer in a file of JSON lines, once all rows were read."""

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def rows(self) -> Iterator[ExportRow]:
        while piece := self._file.read(READ_BYTES):
            data, rows = self._reader.feed(piece)
            self._sha256.update(data)
            yield from rows
        rest = self._reader.rest()
        if rest:
            self.trailer = parse_trailer(rest)
            if self.trailer is None:
                raise MalformedError("the file ends within a row: it is cut short")


def _line(proofs: BinaryIO) -> bytes:
    line = proofs.readline(PROOF_BYTES_MAX + 1)
    if len(line) > PROOF_BYTES_MAX:
        raise MalformedError(f"a line of the proofs is longer than {PROOF_BYTES_MAX} bytes")
    return line


def _decode(line: bytes, kind: type[T], name: str) -> T:
    """A line as `encode_line` writes it: another text may be read in two ways."""
    try:
        found = msgspec.json.decode(line, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise MalformedError(f"{name} is not one") from None
    if encode_line(found) != line:
        raise MalformedError(f"{name} is not as an export writes it")
    return found
