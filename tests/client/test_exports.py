"""Exports are proven row by row while they stream, and again offline by the proofs beside them."""

import io
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import msgspec
import pytest

from ledger_client.messages import Request, Response
from ledger_client.plans.export import ExportVerifier
from ledger_client.plans.export_proof import PART_ROWS, CheckedExport, check_export
from ledger_client.plans.export_rows import CsvRows, JsonRows, RowReader
from ledger_client.plans.heads import Heads
from ledger_client.plans.question import ask_query
from ledger_client.plans.stream import LINE_BYTES_MAX
from ledger_core.event.csv import format_header, format_rows, table_row
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.text import format_base64
from ledger_core.tlog.trust import TrustedLog
from tests.client.hosts import Host, entries, entry
from tests.client.trees import SmallLog

SIZE = 2 * PART_ROWS + 100
LOG = SmallLog([entry(n, actor=f"u_{n % 3}") for n in range(SIZE)])
FORMATS = ("jsonl", "csv")
ID = "an-export-of-this-test"


def row(format_: str, index: int, leaf: bytes) -> bytes:
    if format_ == "csv":
        return format_rows([table_row(index, leaf)]).encode()
    hash_ = format_base64(leaf_hash(leaf)).encode()
    return b'{"index":%d,%b,"leaf_hash":"%b"}\n' % (index, leaf[1:-1], hash_)


def rows(format_: str, *, actor: str = "u_1") -> list[bytes]:
    return [row(format_, n, leaf) for n, leaf in enumerate(LOG.leaves) if actor.encode() in leaf]


class Told:
    """A ledger that exports what a test tells it to; all else is true."""

    def __init__(self, format_: Any, data: bytes, *, said: dict[str, Any] | None = None) -> None:
        self.format: Any = format_
        count = data.count(b"\n")
        header = b"" if format_ == "jsonl" else format_header().encode()
        body = header + data
        trailer = {"rows": count, "sha256": sha256(body).hexdigest(), "tree_size": SIZE}
        self.trailer = trailer | (said or {})
        if format_ == "jsonl":
            body += msgspec.json.encode({"trailer": self.trailer}) + b"\n"
        self.body = body
        self.host = Host(LOG)
        self.host.lie = self._answer
        self.proofs = b""

    def _answer(self, request: Request, response: Response) -> Response:
        if request.target == f"/v1/export/trailer?id={ID}":
            return Response(status=200, body=msgspec.json.encode(self.trailer))
        return response

    def export(self, query: str = "actor:u_1", **options: Any) -> Any:
        verifier = ExportVerifier(
            self.format,
            question=ask_query(query, now_unix_us=0),
            heads=Heads(TrustedLog(LOG.policy)),
            export_id=ID,
            **options,
        )
        assert "proof=1" in verifier.request().target
        for start in range(0, len(self.body), 10_000):
            self.proofs += self.host.run(verifier.feed(self.body[start : start + 10_000]))
        exported, last = self.host.run(verifier.finish())
        self.proofs += last
        return exported

    def check(self, body: bytes | None = None, proofs: bytes | None = None) -> CheckedExport:
        return check_export(
            io.BytesIO(self.body if body is None else body),
            io.BytesIO(self.proofs if proofs is None else proofs),
            LOG.policy,
        )


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("order", ["oldest", "newest", "time", "time-newest"])
def test_each_row_is_proven_against_one_head(format_: str, order: str) -> None:
    true = rows(format_)
    told = Told(format_, b"".join(true[::-1] if "newest" in order else true))
    exported = told.export(order=order)
    assert exported.rows == len(true)
    assert exported.head.checkpoint.tree_size == SIZE
    asked = [target for target in told.host.targets if "/multi" in target]
    assert len(asked) == -(-len(true) // PART_ROWS)
    assert told.host.targets.count("/checkpoint") == 1
    checked = told.check()
    assert (checked.rows, checked.faults) == (len(true), ())
    assert checked.header.query == "actor:u_1"


@pytest.mark.parametrize("format_", FORMATS)
def test_rows_of_another_log_are_named(format_: str) -> None:
    forged = rows(format_)
    for number in (3, 7):
        forged[number] = row(format_, 3 * number + 1, entry(9_000 + number, actor="u_1"))
    told = Told(format_, b"".join(forged))
    with pytest.raises(
        VerificationError, match=r"rows 4 \(entry 10\), 8 \(entry 22\) of"
    ) as caught:
        told.export()
    assert {"checkpoint.note", "multi-proof.txt", "rows.txt"} <= set(caught.value.evidence)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda each: [each[0].replace(b"u_1", b"u_2"), *each[1:]], "row 1 .entry 1.: "),
        (lambda each: [*each[:5], each[4], *each[5:]], "row 6 .entry 13.: order of an export"),
        (lambda each: each[::-1], "order of an export"),
        (lambda each: [each[1], each[0]], "order of an export"),
    ],
)
def test_rows_that_are_altered_or_out_of_order_are_named(
    format_: str, change: Any, said: str
) -> None:
    with pytest.raises(VerificationError, match=said):
        Told(format_, b"".join(change(rows(format_)))).export()


@pytest.mark.parametrize("format_", FORMATS)
def test_rows_that_answer_another_query_are_named(format_: str) -> None:
    other = rows(format_, actor="u_2")
    with pytest.raises(VerificationError, match=r"row 1 \(entry 2\): .* does not meet the query"):
        Told(format_, b"".join(other)).export()


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(
    "said",
    [{"rows": 1}, {"sha256": "0" * 64}, {"tree_size": SIZE + 1}, {"tree_size": 7}],
)
def test_a_trailer_of_another_export_is_refused(format_: str, said: dict[str, Any]) -> None:
    with pytest.raises((MalformedError, VerificationError), match="trailer"):
        Told(format_, b"".join(rows(format_)), said=said).export()


@pytest.mark.parametrize("format_", FORMATS)
def test_an_export_that_is_cut_short_is_refused(format_: str) -> None:
    told = Told(format_, b"".join(rows(format_)))
    told.body = told.body[:-200] if format_ == "csv" else told.body[:-500]
    with pytest.raises(MalformedError, match="cut short"):
        told.export()


def test_a_false_multi_proof_is_no_proof() -> None:
    told = Told("csv", b"".join(rows("csv")))

    def lie(request: Request, response: Response) -> Response:
        if request.target != "/v1/proofs/multi":
            return told._answer(request, response)
        lines = response.body.split(b"\n")
        lines[-2] = format_base64(bytes(32)).encode()
        return replace(response, body=b"\n".join(lines))

    told.host.lie = lie
    with pytest.raises(VerificationError, match="the proof of rows 1 to 716 is false"):
        told.export()


@pytest.mark.parametrize("format_", FORMATS)
def test_offline_each_row_that_is_altered_is_named_and_the_others_are_proven(format_: str) -> None:
    true = rows(format_)
    told = Told(format_, b"".join(true))
    told.export()
    altered = told.body.replace(true[4], true[4].replace(b"u_1", b"u_2"))
    faults = told.check(altered).faults
    assert [fault.startswith("row 5 (entry 13): ") for fault in faults] == [True, False]
    assert "the file has 716 rows and SHA-256" in faults[1]
    dropped = told.check(told.body.replace(true[4], b"")).faults
    assert any("can't be proven" in fault or "ends after row" in fault for fault in dropped)
    swapped = told.check(told.body.replace(true[4] + true[5], true[5] + true[4])).faults
    assert "order of an export" in swapped[0]
    added = told.body.replace(true[-1], true[-1] + true[-1])
    assert any("it has no proof" in fault for fault in told.check(added).faults)
    forged = told.body.replace(true[4], row(format_, 13, entry(13, actor="u_1", at=14)))
    assert "the rows 1 to 716 can't be proven" in told.check(forged).faults[0]


def test_a_trailer_that_is_a_row_too_is_none() -> None:
    told = Told("jsonl", b"".join(rows("jsonl")))
    told.export()
    event = rows("jsonl", actor="u_2")[0].rstrip(b"}\n")
    told.body = told.body.replace(b'{"trailer"', event + b',"trailer"')
    with pytest.raises(MalformedError, match="ends within a row"):
        told.check()
    with pytest.raises(MalformedError, match="no trailer"):
        told.export()


@pytest.mark.parametrize(
    "last",
    [
        lambda trailer: trailer | {"rows": trailer["rows"] - 1},
        lambda trailer: trailer | {"sha256": "0" * 64},
        lambda trailer: trailer | {"tree_size": SIZE - 1},
    ],
)
def test_offline_the_trailer_in_the_file_is_that_of_its_rows(last: Any) -> None:
    told = Told("jsonl", b"".join(rows("jsonl")))
    told.export()
    changed = msgspec.json.encode({"trailer": last(told.trailer)}) + b"\n"
    body = told.body[: told.body.rindex(b'{"trailer"')]
    assert told.check(body + changed).faults == (
        "the last line of the file is not the trailer that the proofs have",
    )


def test_a_trailer_with_another_member_is_none() -> None:
    told = Told("jsonl", b"".join(rows("jsonl")), said={"complete": True})
    with pytest.raises(MalformedError, match="no trailer"):
        told.export()
    told = Told("jsonl", b"".join(rows("jsonl")))
    told.export()
    with pytest.raises(MalformedError, match="ends within a row"):
        told.check(told.body[:-3] + b',"complete":true}}\n')


def test_a_trailer_of_no_rows_is_needed_too() -> None:
    told = Told("jsonl", b"")
    told.export("actor:nobody")
    assert not told.check().faults
    assert told.check(b"").faults


@pytest.mark.parametrize("format_", FORMATS)
def test_offline_proofs_of_another_export_prove_nothing(format_: str) -> None:
    told = Told(format_, b"".join(rows(format_)))
    told.export()
    other = Told(format_, b"".join(rows(format_, actor="u_2")))
    other.export("actor:u_2")
    assert told.check(proofs=other.proofs).faults
    without_end = told.proofs[: told.proofs.rindex(b'{"trailer"')]
    assert told.check(proofs=without_end).faults == (
        "the proofs have no trailer: they are cut short",
    )
    renamed = told.proofs.replace(b'"query":"actor:u_1"', b'"query":"actor:u_2"')
    assert "does not meet the query" in told.check(proofs=renamed).faults[0]
    stranger = SmallLog(entries(3), key="another")
    with pytest.raises(VerificationError):
        check_export(io.BytesIO(told.body), io.BytesIO(told.proofs), stranger.policy)
    for wrong in (b"", b"{}\n", told.proofs[20:], b"x" * 100, told.proofs + b"x"):
        with pytest.raises(MalformedError):
            told.check(proofs=wrong)


@pytest.mark.parametrize("query", ["since:-24h", "received:>-24h", "actor:u_1 since:-1h"])
def test_offline_no_event_meets_a_query_of_an_unknown_day(query: str) -> None:
    told = Told("csv", b"".join(rows("csv")))
    told.export()
    assert not told.check().question.unread
    checked = told.check(proofs=told.proofs.replace(b"actor:u_1", query.encode(), 1))
    assert checked.question.unread == "it has times relative to an unknown day"


@pytest.mark.parametrize("format_", FORMATS)
def test_offline_a_trailer_says_no_tree_that_its_head_or_its_rows_contradict(format_: str) -> None:
    told = Told(format_, b"".join(rows(format_)))
    told.export()
    for size, is_right in ((SIZE, True), (SIZE + 1, False), (5, False)):
        body, proofs = (
            data.replace(b'"tree_size":%d}' % SIZE, b'"tree_size":%d}' % size)
            for data in (told.body, told.proofs)
        )
        assert (not told.check(body, proofs).faults) == is_right


def test_offline_a_line_that_can_be_read_in_two_ways_is_none() -> None:
    told = Told("jsonl", b"".join(rows("jsonl")))
    told.export()
    for before, after in (
        (b'{"v":1,', b'{"v":1,"query":"outcome:denied",'),
        (b'{"rows":716,"proof', b'{"rows":1,"rows":716,"proof'),
        (b'{"trailer":{', b'{"trailer":{"rows":1,'),
    ):
        assert before in told.proofs
        with pytest.raises(MalformedError, match="is not as an export writes it"):
            told.check(proofs=told.proofs.replace(before, after, 1))
    twice = told.body.replace(b'{"trailer":{', b'{"trailer":{"rows":1,')
    with pytest.raises(MalformedError, match="ends within a row"):
        told.check(twice)


def test_no_byte_of_the_proofs_can_be_changed_unnoticed() -> None:
    told = Told("csv", b"".join(rows("csv")[:12]))
    told.export()
    header, _, rest = told.proofs.partition(b"\n")
    for place in range(0, len(rest), 9):
        changed = rest[:place] + bytes([rest[place] ^ 1]) + rest[place + 1 :]
        try:
            faults = told.check(proofs=b"%b\n%b" % (header, changed)).faults
        except MalformedError:
            continue
        # A tree as large as the head or smaller may have been that of the export.
        assert faults or place >= rest.rindex(b'"tree_size"')


def pieces_of(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_rows_of_csv_come_together_from_any_pieces(size: int) -> None:
    leaves = [entry(1, actor='a"\r\nb"'), entry(2, actor="\n\r\n"), entry(3)]
    data = format_header().encode() + b"".join(row("csv", n, each) for n, each in enumerate(leaves))
    reader, got, taken = CsvRows(), [], b""
    for piece in pieces_of(data, size):
        records, found = reader.feed(piece)
        taken += records
        got += [(each.index, each.leaf, each.fault) for each in found]
    assert got == [(n, each, "") for n, each in enumerate(leaves)]
    assert (taken, reader.rest()) == (data, b"")


@pytest.mark.parametrize("reader", [CsvRows, JsonRows])
@pytest.mark.parametrize("piece", [b'"' + b"\r\n" * 8000, b"x" * 20_000])
def test_a_row_without_an_end_is_refused_after_so_many_bytes(
    reader: Callable[[], RowReader], piece: bytes
) -> None:
    rows_ = reader()
    first, again = piece, piece[1:]  # Which goes on within the quotation marks.

    def read() -> None:
        for part in (first, *[again] * 400):
            list(rows_.feed(part)[1])

    with pytest.raises(MalformedError, match=r"longer than|is not an event"):
        read()
    assert len(rows_.rest()) <= LINE_BYTES_MAX + len(piece)
