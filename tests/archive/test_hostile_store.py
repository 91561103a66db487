"""What a store may answer to a read, a list or a write: more than is right, and without an end."""

import asyncio
import tempfile
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from ledger.archive.sealed import read_sealed
from ledger.object_storage.bounded_http import ERROR_BYTES_MAX
from ledger.object_storage.object_store import Bucket
from ledger.object_storage.objects import SEGMENT_BYTES_MAX
from ledger.object_storage.s3_requests import (
    DEPTH_MAX,
    LIST_BYTES_MAX,
    TEXT_CHARS_MAX,
    Listed,
    ListPage,
    parse_list,
)
from ledger_core.tlog.errors import MalformedError, UnavailableError
from tests.archive.archiving import place_of
from tests.http_thread import HttpThread, QuietHandler, read_body

PIECE = b"<!--" + b"x" * (1 << 18) + b"-->"
SENT_MAX = 32 << 20
"""What a store without an end sends; whoever reads all of it fails the test."""

READ_MAX = LIST_BYTES_MAX + (8 << 20)
"""What is read of it, and what waits in the buffers of two sockets."""

Work = Callable[[Bucket], Coroutine[Any, Any, object]]


class Hostile(HttpThread):
    """A store that answers each request with one status, and a body that hardly ends."""

    def __init__(self, status: int, start: bytes = b"") -> None:
        self.sent = 0
        store = self

        class Handler(QuietHandler):
            def _answer(self) -> None:
                read_body(self)
                self.close_connection = True
                self.send_response(status)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                with suppress(OSError):
                    self._send(start)
                    while store.sent < SENT_MAX:
                        self._send(PIECE)

            def _send(self, data: bytes) -> None:
                if data:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
                    store.sent += len(data)

        for method in ("GET", "PUT"):
            setattr(Handler, f"do_{method}", Handler._answer)
        super().__init__(Handler)


def serving(length: int, pieces: Callable[[], Iterator[bytes]]) -> HttpThread:
    """A store that answers each read with these bytes."""

    class Handler(QuietHandler):
        def _answer(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            with suppress(OSError):
                for piece in pieces():
                    self.wfile.write(piece)

    Handler.do_GET = Handler._answer  # type: ignore[attr-defined]
    return HttpThread(Handler)


async def names(bucket: Bucket) -> list[str]:
    return [name async for name in bucket.names("index")]


async def read(bucket: Bucket) -> object:
    return await bucket.get("checkpoint", bytes_max=1000)


async def write(bucket: Bucket) -> object:
    return await bucket.create("probe", b"x")


@pytest.mark.parametrize("status", [200, 403, 404, 412, 503])
@pytest.mark.parametrize("work", [names, read, write])
def test_of_an_answer_without_an_end_no_more_is_read_than_is_right(status: int, work: Work) -> None:
    """The library read the pages of lists and the texts of errors whole, into memory."""
    with Hostile(status, b"<ListBucketResult>" if work is names else b"") as store:
        bucket = Bucket(place_of(store.url, "audit"))
        tracemalloc.start()
        try:
            with suppress(UnavailableError, MalformedError):
                asyncio.run(work(bucket))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    tries = max(1, sum(bucket.requests.values())) if status != 503 else 4
    assert store.sent < READ_MAX * tries
    assert peak < 3 * LIST_BYTES_MAX


def test_an_error_is_named_by_its_code_however_long_its_text_is() -> None:
    with Hostile(403, b"<Error><Code>AccessDenied</Code>") as store:
        said = "the credentials are refused: the store answers 403 Forbidden AccessDenied"
        with pytest.raises(UnavailableError, match=said):
            asyncio.run(read(Bucket(place_of(store.url, "audit"))))
    assert ERROR_BYTES_MAX < store.sent < SENT_MAX


def test_a_large_object_of_a_segment_goes_through_a_file() -> None:
    size = 48 << 20

    def pieces() -> Iterator[bytes]:
        yield from repeat(bytes(1 << 20), size >> 20)

    assert size < SEGMENT_BYTES_MAX
    name = f"parquet/00000000.{16 * 'a'}.v1.{16 * 'b'}.parquet"
    with serving(size, pieces) as server:
        tracemalloc.start()
        try:
            with pytest.raises(MalformedError, match="its name has the hash of another file"):
                asyncio.run(read_sealed(Bucket(place_of(server.url, "audit")), name))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < size // 4


def test_a_full_disk_for_temporary_files_is_named_as_that() -> None:
    said = "a temporary file can't be written: No space left on device"
    with (
        serving(5, lambda: iter([b"hello"])) as server,
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        bucket = Bucket(place_of(server.url, "audit"))
        with pytest.raises(UnavailableError, match=said):
            asyncio.run(bucket.get_into(full, "index/0", bytes_max=5))


def test_without_a_folder_for_temporary_files_a_check_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(UnavailableError, match=r"no temporary file can be made in .*gone"):
        asyncio.run(read_sealed(Bucket(place_of("http://127.0.0.1:1", "audit")), "index/0"))


def page(content: str) -> bytes:
    return f"<ListBucketResult>{content}</ListBucketResult>".encode()


def test_a_page_of_a_list_is_read() -> None:
    one = "<Contents><Key>a&amp;b</Key><Size>7</Size><Owner><ID>Key</ID></Owner></Contents>"
    assert parse_list(page(one)) == ListPage([Listed("a&b", 7)], "")
    following = "<IsTruncated>true</IsTruncated><NextContinuationToken>t=</NextContinuationToken>"
    assert parse_list(page(following + one)) == ListPage([Listed("a&b", 7)], "t=")
    encoded = "<EncodingType>url</EncodingType><Contents><Key>a%2Fb</Key><Size>0</Size></Contents>"
    assert parse_list(page(encoded)) == ListPage([Listed("a/b", 0)], "")
    assert parse_list(page("")) == ListPage([], "")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 100,
        b"<html></html>",
        page("<Contents><Key>a</Key></Contents>"),
        page("<Contents><Size>1</Size></Contents>"),
        page("<Contents><Key>a</Key><Size>-1</Size></Contents>"),
        page("<Contents><Key>a</Key><Size>9999999999999999</Size></Contents>"),
        page("<Contents><Key>a</Key><Size>\u0663</Size></Contents>"),
        page(f"<Contents><Key>{'a' * (TEXT_CHARS_MAX + 1)}</Key><Size>1</Size></Contents>"),
        page("<IsTruncated>true</IsTruncated>"),
        page(DEPTH_MAX * "<a>" + DEPTH_MAX * "</a>"),
        b'<!DOCTYPE l [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>' + page("&b;"),
        page("<Contents>")[:-10],
    ],
)
def test_a_page_that_is_none_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError, match="no list of a bucket: "):
        parse_list(data)


def test_the_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Proxy(QuietHandler):
        def _answer(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

    Proxy.do_GET = Proxy._answer  # type: ignore[attr-defined]
    endpoint = "http://store.example.com"
    with HttpThread(Proxy) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        bucket = Bucket(place_of(endpoint, "audit")._replace(insecure=True))
        found = asyncio.run(bucket.get("checkpoint", bytes_max=5))
    assert found is not None
    assert found.data == b"hello"
    assert asked == [f"{endpoint}/audit/log/checkpoint"]
