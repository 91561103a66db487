"""Answers of HTTP/1.1, however they are cut into pieces on their way."""

import http.client
import io
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_client.answer_reader import (
    HEAD_BYTES_MAX,
    HEADERS_MAX,
    LINE_BYTES_MAX,
    AnswerReader,
    NoAnswerError,
    NotHttpError,
)

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

# The bytes of an answer, its body, whether the connection ends with it.
ANSWERS = {
    "a length": (OK + b"Content-Length: 4\r\n\r\nfine", b"fine", False),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 4\r\n\r\nfine", b"fine", False),
    "lines without a carriage return": (
        b"HTTP/1.1 200 OK\nContent-Length: 4\n\nfine",
        b"fine",
        False,
    ),
    "a folded line": (OK + b"X: a\r\n b\r\nContent-Length: 4\r\n\r\nfine", b"fine", False),
    "close": (OK + b"Connection: Close\r\nContent-Length: 4\r\n\r\nfine", b"fine", True),
    "version 1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nfine", b"fine", True),
    "version 1.0, kept": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nfine",
        b"fine",
        False,
    ),
    "until the end": (OK + b"\r\nfine", b"fine", True),
    "chunks": (CHUNKED + b"2\r\nfi\r\n2;a=b\r\nne\r\n0\r\n\r\n", b"fine", False),
    "a trailer": (CHUNKED + b"04\r\nfine\r\n0\r\nX: y\r\n\r\n", b"fine", False),
    "no body": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", False),
    "an interim answer": (
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 4\r\n\r\nfine",
        b"fine",
        False,
    ),
}

REFUSED = {
    "another protocol": b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
    "another version": b"HTTP/2.0 200 OK\r\n\r\n",
    "no status": b"HTTP/1.1 twohundred OK\r\n\r\n",
    "half a head": OK,
    "half a body": OK + b"Content-Length: 5\r\n\r\nfine",
    "half a chunk": CHUNKED + b"5\r\nfine",
    "no last chunk": CHUNKED + b"4\r\nfine\r\n",
    "a negative chunk": CHUNKED + b"-1\r\nfine",
    "a chunk of a signed size": CHUNKED + b"+4\r\nfine\r\n0\r\n\r\n",
    "a chunk of underscores": CHUNKED + b"0_4\r\nfine\r\n0\r\n\r\n",
    "a chunk longer than its size": CHUNKED + b"3\r\nfine\r\n0\r\n\r\n",
    "a huge chunk": CHUNKED + b"f" * 16 + b"\r\n",
    "a huge length": OK + b"Content-Length: " + b"9" * 19 + b"\r\n\r\n",
    "a long line": OK + b"X: " + b"y" * LINE_BYTES_MAX + b"\r\n\r\n",
    "a long line of a chunk": CHUNKED + b"4;" + b"y" * (LINE_BYTES_MAX + 1),
    "an endless head": OK + b"X: y\r\n" * HEAD_BYTES_MAX,
    "many headers": OK + b"X: y\r\n" * (HEADERS_MAX + 1) + b"\r\n",
    "many trailers": CHUNKED + b"0\r\n" + b"X: y\r\n" * (HEADERS_MAX + 1) + b"\r\n",
}


class Received:
    """A socket that has received some bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        assert mode == "rb"
        return io.BytesIO(self._data)


def reader_of(pieces: Iterator[bytes]) -> AnswerReader:
    return AnswerReader(lambda: next(pieces, b""))


def cut(data: bytes, places: list[int]) -> Iterator[bytes]:
    ends = [*sorted({place % len(data) for place in places} - {0}), len(data)]
    return (data[start:end] for start, end in zip([0, *ends], ends, strict=False))


@pytest.mark.parametrize("name", ANSWERS)
@given(places=st.lists(st.integers(0, 1000), max_size=8))
def test_an_answer_is_read_however_it_is_cut(name: str, places: list[int]) -> None:
    data, body, is_last = ANSWERS[name]
    reader = reader_of(cut(data, places))
    head = reader.read_head()
    assert b"".join(reader.pieces(head)) == body
    assert head.is_last == is_last
    assert not reader.has_more


@pytest.mark.parametrize("name", ANSWERS)
def test_the_standard_library_reads_the_same(name: str) -> None:
    data, body, is_last = ANSWERS[name]
    answer = http.client.HTTPResponse(cast("socket.socket", Received(data)))
    answer.begin()
    head = reader_of(iter([data])).read_head()
    assert (answer.status, answer.will_close, answer.read()) == (head.status, is_last, body)
    shown = {key.lower(): " ".join(value.split()) for key, value in answer.getheaders()}
    assert shown == head.headers


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_answer_is_refused(name: str) -> None:
    data = REFUSED[name]
    reader = reader_of(iter([data[at : at + 4096] for at in range(0, len(data), 4096)]))
    with pytest.raises(NotHttpError):
        b"".join(reader.pieces(reader.read_head()))


def test_a_connection_that_was_closed_before_an_answer_is_told_apart() -> None:
    with pytest.raises(NoAnswerError):
        reader_of(iter(())).read_head()


def test_a_folded_line_belongs_to_its_header_and_the_first_of_a_repeated_one_counts() -> None:
    data = OK + b"Retry-After: 7\r\n\t8\r\nRETRY-AFTER: 9\r\nX:y \r\nContent-Length: 0\r\n\r\n"
    headers = reader_of(iter([data])).read_head().headers
    assert (headers["retry-after"], headers["x"]) == ("7 8", "y")


def test_bytes_behind_an_answer_are_seen() -> None:
    reader = reader_of(iter([ANSWERS["a length"][0] + b"HTTP/1.1 200 OK\r\n"]))
    assert b"".join(reader.pieces(reader.read_head())) == b"fine"
    assert reader.has_more


@given(data=st.binary(max_size=200), places=st.lists(st.integers(0, 1000), max_size=4))
def test_any_bytes_are_an_answer_or_are_refused(data: bytes, places: list[int]) -> None:
    reader = reader_of(cut(OK + data, places))
    with suppress(NotHttpError):
        assert len(b"".join(reader.pieces(reader.read_head()))) <= len(data)
