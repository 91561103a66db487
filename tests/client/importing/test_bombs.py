"""A small file costs what its size gives, whatever it becomes when it is decoded."""

import io
import time
import tracemalloc
from collections.abc import Callable

import pytest
import zstandard

from ledger_client.collect.importers import record_reader
from ledger_client.collect.importers.auditd import parse_event
from ledger_client.collect.importers.expressions import Expression, RecordReader
from ledger_client.collect.importers.record_reader import RECORD_BYTES_MAX, Lines, read_records
from ledger_client.collect.importers.windows import parse_xml
from ledger_core.tlog.errors import MalformedError

TIMES_LARGER = 8
LINEAR_MAX = 24
"""A cost that grows with the square is 64 times as large."""


HEAD = "type=EXECVE msg=audit(1364481363.243:24287): "


def records_of(text: str, lines: Lines) -> int:
    return sum(1 for _ in read_records(io.BytesIO(text.encode() + b"<Event></Event>"), lines=lines))


def pairs_of(text: str) -> object:
    return Expression(["parse_pairs(text)"]).evaluates[0](
        RecordReader(any_case=False), {"text": text}
    )


def packed(plain_bytes: int) -> bytes:
    """One line, as zstd of a few hundred bytes."""
    packer = zstandard.ZstdCompressor(write_content_size=False)
    return packer.compress(b"x" * plain_bytes)


@pytest.mark.parametrize(
    ("make", "size"),
    [(packed, 1 << 21), (lambda count: b"{}{} " * count, 2_000)],
    ids=["a compressed line", "values one after another"],
)
def test_the_cost_grows_as_the_file_does(make: Callable[[int], bytes], size: int) -> None:
    def cost_s(data: bytes) -> float:
        start_s = time.process_time()
        assert sum(1 for _ in read_records(io.BytesIO(data)))
        return time.process_time() - start_s

    small, large = make(size), make(size * TIMES_LARGER)
    cost_s(small)  # What is made once is made.
    assert min(cost_s(large) for _ in range(2)) < LINEAR_MAX * max(
        min(cost_s(small) for _ in range(3)), 0.001
    )


@pytest.mark.parametrize(
    ("work", "unit", "count"),
    [
        (lambda text: parse_xml(f"<Event>{text}</Event>"), "<a/>", 2_000),
        (lambda text: records_of(text, "windows-xml"), "<?xml ", 500),
        (lambda text: records_of(text, "windows-xml"), "</Events ", 500),
        (lambda text: parse_event([HEAD + text]), "a{}='b{}=1' ", 500),
        (pairs_of, "a", 1_000),
        (pairs_of, "a=", 1_000),
        (pairs_of, "a= ", 1_000),
        (pairs_of, "a=',x", 1_000),
    ],
    ids=[
        *("elements of one name", "declarations", "ends of a list", "quoted fields", "a word"),
        *("signs", "signs and blanks", "quotes"),
    ],
)
def test_the_cost_of_a_record_grows_as_it_does(
    work: Callable[[str], object], unit: str, count: int
) -> None:
    def cost_s(units: int) -> float:
        text = "".join(unit.format(each, each) for each in range(units)) + ",x"
        start_s = time.process_time()
        work(text)
        return time.process_time() - start_s

    cost_s(count)
    small_s = max(min(cost_s(count) for _ in range(3)), 0.001)
    assert min(cost_s(count * TIMES_LARGER) for _ in range(2)) < LINEAR_MAX * small_s


def test_an_argument_with_thousands_of_digits_is_none() -> None:
    parsed = parse_event([f"{HEAD}a0=ls a{'1' * 5_000}=x"])
    assert parsed is not None
    assert parsed["arguments"] == "ls"


def test_an_event_of_auditd_has_an_end() -> None:
    line = b"type=X msg=audit(1.000:1): a=x\n"
    source = io.BytesIO(line * 30_000)
    with pytest.raises(MalformedError, match="an event has more than 65536 bytes"):
        list(read_records(source, lines="auditd", document_bytes_max=1 << 16))
    assert source.tell() < 1 << 18


@pytest.mark.parametrize(
    ("data", "records"),
    [
        (b"[" + b"0," * 30_000 + b"0]", 30_001),
        (b'{"Records":[' + b"0," * 30_000 + b"0]}", 30_001),
        (b'{"Records":0' + b',"":0' * 30_000 + b"}", 1),
        (b"{} " * 20_000, 20_000),
    ],
    ids=["an array", "a wrapped array", "an object", "values one after another"],
)
def test_a_document_of_many_values_takes_a_few_times_its_length(
    monkeypatch: pytest.MonkeyPatch, data: bytes, records: int
) -> None:
    monkeypatch.setattr(record_reader, "COMMAS_MAX", 1_000)
    source = io.BytesIO(data)
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_records(source, wrappers=("Records",))) == records
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 16 * len(data) + (1 << 18)


@pytest.mark.parametrize(
    ("data", "records"),
    [
        (b'{"Records":[{"a":1}' + b"," * 5_000 + b"]}", [b'{"a":1}']),
        (b'{"Records":[{"a":1}' + b" ," * 5_000 + b"]}", [b'{"a":1}']),
        (b"[" * 300 + b"NaN" + b"]" * 300, [b"[" * 296 + b"NaN" + b"]" * 296]),
    ],
    ids=["commas", "commas and blanks", "arrays in arrays"],
)
def test_what_is_no_json_is_mended_a_few_times_and_then_left(
    data: bytes, records: list[bytes]
) -> None:
    found = read_records(io.BytesIO(data), wrappers=("Records",))
    assert [record.raw for record in found] == records


@pytest.mark.parametrize(
    ("lines", "start"),
    [
        ("json", b'{"a":"'),
        ("auditd", b"type=SYSCALL msg=audit(1.2:3): a="),
        ("csv", b'a,b\n1,"'),
        ("journal", b"MESSAGE\n" + (RECORD_BYTES_MAX + 1).to_bytes(8, "little")),
        ("windows-xml", b"<Event>"),
    ],
)
def test_a_record_that_is_far_too_long_ends_the_import(lines: Lines, start: bytes) -> None:
    source = io.BytesIO(start + b"x" * (RECORD_BYTES_MAX + 1))
    with pytest.raises(MalformedError, match=rf"{RECORD_BYTES_MAX}|too long"):
        list(read_records(source, lines=lines))
