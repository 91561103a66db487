"""Answers whose head and body are one text."""

import pytest
from aiohttp import HttpVersion, HttpVersion10, HttpVersion11, web
from aiohttp.test_utils import make_mocked_request

from ledger.runtime.whole_answer import WholeAnswer


def test_an_answer_is_its_head_its_length_its_date_and_its_body() -> None:
    answer = WholeAnswer(body=b"[1]", status=207, headers={"Cache-Control": "no-store"})
    whole = answer.take_bytes(make_mocked_request("POST", "/"))
    assert whole is not None
    head, _, body = whole.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[:3] == [
        b"HTTP/1.1 207 Multi-Status",
        b"Cache-Control: no-store",
        b"Content-Length: 3",
    ]
    assert lines[3].startswith(b"Date: ")
    assert lines[3].endswith(b" GMT")
    assert body == b"[1]"
    assert answer.keep_alive


@pytest.mark.parametrize(
    ("method", "status", "version"),
    [("HEAD", 200, HttpVersion11), ("GET", 304, HttpVersion11), ("GET", 200, HttpVersion10)],
)
def test_aiohttp_writes_an_answer_to_head_an_empty_one_and_the_last_one(
    method: str, status: int, version: HttpVersion
) -> None:
    answer = WholeAnswer(body=b"", status=status)
    assert answer.take_bytes(make_mocked_request(method, "/", version=version)) is None
    closing = WholeAnswer(body=b"[1]")
    closing.force_close()
    assert closing.take_bytes(make_mocked_request("GET", "/")) is None


def test_answers_of_a_kind_share_a_head_but_not_what_is_added_to_one() -> None:
    def head_of(answer: WholeAnswer) -> list[bytes]:
        whole = answer.take_bytes(make_mocked_request("GET", "/"))
        assert whole is not None
        return whole.partition(b"\r\nContent-Length")[0].split(b"\r\n")[1:]

    def make() -> WholeAnswer:
        return WholeAnswer(b"[1]", headers={"Content-Type": "a/b"}, kind="a kind of this test")

    plain = [b"Content-Type: a/b"]
    added, before = make(), make()
    added.headers["Vary"] = "Accept"
    assert head_of(added) == [*plain, b"Vary: Accept"]
    assert head_of(before) == plain
    added = make()
    added.headers["Vary"] = "Accept"
    assert head_of(added) == [*plain, b"Vary: Accept"]
    assert head_of(make()) == plain


def test_no_header_can_begin_another_one() -> None:
    answer: web.Response = WholeAnswer(body=b"", headers={"Allow": "GET\r\nX: y"})
    assert isinstance(answer, WholeAnswer)
    with pytest.raises(ValueError, match="control character"):
        answer.take_bytes(make_mocked_request("GET", "/"))
