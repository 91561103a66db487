"""Reading the records of files."""

import gzip
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from ledger_client.collect.importers import read_records
from ledger_core.tlog.errors import MalformedError


def _write(folder: Path, content: bytes) -> Path:
    path = folder / "records"
    path.write_bytes(content)
    return path


def _raws(path: Path) -> list[bytes]:
    return [record.raw for record in read_records(path, wrappers=("Records",))]


@pytest.mark.parametrize(
    ("content", "raws"),
    [
        (b"", []),
        (b"\n \r\n", []),
        (b'{"a":1}', [b'{"a":1}']),
        (b'{"a":1}\n{"a":2}\n', [b'{"a":1}', b'{"a":2}']),
        (b'{"a":1}\r\n\r\n{"a":2}\r\n', [b'{"a":1}', b'{"a":2}']),
        (b'{"Records":[{"a":1},{"a":2}]}', [b'{"a":1}', b'{"a":2}']),
        (b'{ "Records": [ {"a":1} ] }\n{"a":2}', [b'{"a":1}', b'{"a":2}']),
        (b'[{"a":1},\t{"a":2}]', [b'{"a":1}', b'{"a":2}']),
        (
            b'{\n "Records": [\n  {\n   "a": 1\n  },\n{"a":2}]\n}\n',
            [b'{\n   "a": 1\n  }', b'{"a":2}'],
        ),
        (b'[\n {"a":1},\n {"a":2}\n]\n', [b'{"a":1}', b'{"a":2}']),
        (b'{\n "a": 1\n}', [b'{\n "a": 1\n}']),
        (b'\xef\xbb\xbf{"a":1}\n{"a":2}', [b'{"a":1}', b'{"a":2}']),
        (b'\xef\xbb\xbf[\n{"a":1}]', [b'{"a":1}']),
        (
            b'{"a":"}{"}{"a":2} {"a":3}\n[]',
            [b'{"a":"}{"}', b'{"a":2}', b'{"a":3}'],
        ),
        (b'{"a":"} {"}', [b'{"a":"} {"}']),
        (b'{\n "a": 1\n}\n{\n "a": 2\n}\n', [b'{\n "a": 1\n}', b'{\n "a": 2\n}']),
        (b'[{"a":1},{"a":2},]', [b'{"a":1}', b'{"a":2}']),
        (b'[\n{"a":1},\n{"a":2},\n]\n', [b'{"a":1}', b'{"a":2}']),
        (b'[{"a":1},\n{"a":2},\n]\n', [b'{"a":1}', b'{"a":2}']),
        (b'[{"a":1},\n{"a":2}]\n', [b'{"a":1}', b'{"a":2}']),
        (b'{"Records":[{"a":1},\n{"a":2}]}\n', [b'{"a":1}', b'{"a":2}']),
        (b'{"Records":[{"a":",]"},{"a":2},]}', [b'{"a":",]"}', b'{"a":2}']),
        (b'{\n"Records": [\n{"a":1},\n]\n}\n', [b'{"a":1}']),
        (b'{"Records":[{"a":1},{"a":2', [b'{"Records":[{"a":1},{"a":2']),
        (b'[info] began\n{"a":1}\n', [b"[info] began", b'{"a":1}']),
        (b'{"a":1},\n{"a":2}\n', [b'{"a":1}', b'{"a":2}']),
        (b'{"Records":[{"a":1}]}{"Records":[{"a":2}]}', [b'{"a":1}', b'{"a":2}']),
    ],
)
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
def test_lines_wrappers_and_documents_are_read_plain_or_compressed(
    tmp_path: Path, content: bytes, raws: list[bytes], compress: Callable[[bytes], bytes]
) -> None:
    assert _raws(_write(tmp_path, compress(content))) == raws


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_compressed_parts_one_after_another_are_one_file(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    parts = (b'{"a":1}\n{"a"', b":2}\n", b"", b'{"a":3}\n')
    path = _write(tmp_path, b"".join(map(compress, parts)))
    assert _raws(path) == [b'{"a":1}', b'{"a":2}', b'{"a":3}']


@pytest.mark.parametrize("cut", [-1, -3, 9])
def test_damaged_zstd_is_told(tmp_path: Path, cut: int) -> None:
    path = _write(tmp_path, zstandard.compress(b'{"a":1}\n' * 100)[:cut])
    with pytest.raises(MalformedError, match="damaged zstd data"):
        _raws(path)
    path.write_bytes(zstandard.compress(b'{"a":1}\n') + b"junk")
    with pytest.raises(MalformedError, match="damaged zstd data"):
        _raws(path)


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b'{"a":',
        b"[1,",
        b'{"Records":7}',
        b'{"Records":[{"a":}]}',
        b"\xff",
        b"[" * 10_000,
    ],
)
def test_a_line_that_cannot_be_read_is_handed_on_and_the_next_one_is_read(
    tmp_path: Path, line: bytes
) -> None:
    content = b'{"a":1}\n' + line + b'\n{"a":2}\n'
    assert _raws(_write(tmp_path, content)) == [b'{"a":1}', line, b'{"a":2}']


@pytest.mark.parametrize(
    ("content", "raws"),
    [
        (b'{"next":"x","items":[{"a":1},{"a":2}]}', [b'{"a":1}', b'{"a":2}']),
        (b'{"value": [{"a":1}]}', [b'{"a":1}']),
        (b'{"items": [\n{"a":1},\n{"a":2}\n]}\n', [b'{"a":1}', b'{"a":2}']),
        (b'[{\n"a":1},\n{"a":2}\n]\n', [b'{\n"a":1}', b'{"a":2}']),
        # What only looks like a wrapper is a record.
        (b'{"items":7}', [b'{"items":7}']),
        (b'{"a":{"items":[1]}}', [b'{"a":{"items":[1]}}']),
        (b'{"a":"\\"items\\""}', [b'{"a":"\\"items\\""}']),
        (b'{"entries":[{"a":1}]}', [b'{"entries":[{"a":1}]}']),
    ],
)
def test_only_the_wrappers_of_the_format_are_unwrapped(
    tmp_path: Path, content: bytes, raws: list[bytes]
) -> None:
    records = read_records(_write(tmp_path, content), wrappers=("items", "value"))
    assert [record.raw for record in records] == raws


@pytest.mark.parametrize("compress", [False, True])
def test_a_pipe_is_read_as_a_file_is(*, compress: bool) -> None:
    content = b"".join(b'{"a":%d}\n' % number for number in range(20_000))
    out, into = os.pipe()
    writing = threading.Thread(target=_pour, args=(into, content, compress))
    writing.start()
    with os.fdopen(out, "rb") as pipe:
        assert [record.raw for record in read_records(pipe)] == content.splitlines()
    writing.join()


def _pour(into: int, content: bytes, compress: bool) -> None:
    with os.fdopen(into, "wb") as pipe:
        pipe.write(gzip.compress(content) if compress else content)


def test_a_record_knows_its_line_and_how_far_the_file_was_read(tmp_path: Path) -> None:
    path = _write(tmp_path, b'\n{"a":1}\n\n{"Records":[{"a":2},{"a":3}]}\n')
    records = list(read_records(path, wrappers=("Records",)))
    assert [record.line for record in records] == [2, 4, 4]
    assert 0 < records[0].file_offset <= records[-1].file_offset == path.stat().st_size


def test_an_empty_wrapper_holds_no_record(tmp_path: Path) -> None:
    assert _raws(_write(tmp_path, b'{"Records":[]}\n[]\n{"a":1}')) == [b'{"a":1}']


def test_the_offset_of_a_compressed_file_counts_compressed_bytes(tmp_path: Path) -> None:
    path = _write(tmp_path, gzip.compress(b'{"a":1}\n' * 1_000))
    assert list(read_records(path))[-1].file_offset == path.stat().st_size


@pytest.mark.parametrize("cut", [-1, -9, 20])
def test_damaged_compression_is_told_after_the_records_before_it(tmp_path: Path, cut: int) -> None:
    path = _write(tmp_path, gzip.compress(b'{"a":1}\n')[:cut])
    with pytest.raises(MalformedError, match="damaged gzip data"):
        _raws(path)


def test_a_line_beyond_the_limit_is_malformed(tmp_path: Path) -> None:
    path = _write(tmp_path, b'{"a":1}\n' + b"x" * 11)
    records = read_records(path, document_bytes_max=10)
    assert next(records).raw == b'{"a":1}'
    with pytest.raises(MalformedError, match="line 2 has more than 10 bytes"):
        next(records)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_records(tmp_path / "absent"))
