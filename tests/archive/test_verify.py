"""A whole archive is checked from the bucket alone, and what is wrong with it is named."""

import asyncio
import gzip
import os
import ssl
import struct
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from zlib import crc32

import msgspec
import pytest

from ledger.object_storage import object_store
from ledger.object_storage.object_store import Bucket
from ledger.object_storage.objects import parse_record
from ledger.object_storage.place import Place
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.index.segment import SegmentRecord
from ledger.store.index.segment_file import MAGIC, DamagedSegmentError, SegmentFile
from ledger_client import OlderHeadError
from ledger_core.query.analyzer import ANALYSIS
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from tests.archive.archiving import SMALL, ArchivedFolder, BadStore, Reply
from tests.archive.seaweed import ObjectServer
from tests.archive.verifying import verify
from tests.client.syslog.certificates import Authority

DATA = ("tile/entries/000", "tile/entries/001", "tile/entries/002.p/88", "tile/0/000", "tile/0/001",
        "tile/0/002.p/88", "tile/1/000.p/2")  # fmt: skip


def damaged(data: bytes) -> Iterator[bytes]:
    """Other bytes: a flipped bit, cut short, longer, empty; inside of a gzip too."""
    middle = len(data) // 2
    yield data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    yield data[:-1]
    yield b""
    if data.startswith(b"\x1f\x8b"):
        plain = gzip.decompress(data)
        yield gzip.compress(plain.replace(b'"u_1"', b'"u_2"', 1)) + b"\0"
        yield plain.replace(b'"u_1"', b'"u_2"', 1)


def test_each_damaged_object_is_named_and_nothing_else(
    folder: ArchivedFolder, place: Place, store: ObjectServer
) -> None:
    for name in DATA[1:3] + DATA[4:]:
        whole = store.read(place.bucket, f"log/{name}")
        for data in damaged(whole):
            store.write(place.bucket, f"log/{name}", data)
            (fault,) = verify(place, folder.policy, faults=1)["faults"]
            assert fault.startswith(f"{name} is damaged"), (name, data[:40])
        store.write(place.bucket, f"log/{name}", whole)
    assert verify(place, folder.policy)["verified"]


def test_each_missing_object_is_named_and_nothing_else(
    folder: ArchivedFolder, place: Place, store: ObjectServer
) -> None:
    for name in DATA:
        whole = store.read(place.bucket, f"log/{name}")
        store.delete(place.bucket, f"log/{name}")
        report = verify(place, folder.policy, faults=1)
        assert report["faults"] == [f"{name} is missing"]
        store.write(place.bucket, f"log/{name}", whole)
    assert verify(place, folder.policy)["verified"]


def test_several_faults_are_all_named(
    folder: ArchivedFolder, place: Place, store: ObjectServer
) -> None:
    store.delete(place.bucket, "log/tile/1/000.p/2")
    store.delete(place.bucket, "log/tile/entries/001")
    store.write(place.bucket, "log/tile/0/000", b"\0" * 8192)
    faults = verify(place, folder.policy, faults=3)["faults"]
    assert sorted(fault.partition(" is ")[0] for fault in faults) == [
        "tile/0/000",
        "tile/1/000.p/2",
        "tile/entries/001",
    ]


def test_a_segment_that_nothing_proves_is_said_to_be_unproven(
    folder: ArchivedFolder, place: Place, store: ObjectServer
) -> None:
    for name in ("tile/1/000.p/2", "tile/0/000", "tile/entries/000"):
        store.delete(place.bucket, f"log/{name}")
    faults = verify(place, folder.policy, faults=4)["faults"]
    assert any("do not have the root of the head" in fault for fault in faults)


def test_swapped_bundles_are_both_named(
    folder: ArchivedFolder, place: Place, store: ObjectServer
) -> None:
    one, other = (store.read(place.bucket, f"log/tile/entries/00{number}") for number in (0, 1))
    store.write(place.bucket, "log/tile/entries/000", other)
    store.write(place.bucket, "log/tile/entries/001", one)
    verify(place, folder.policy, faults=2)


def test_a_checkpoint_that_is_gone_forged_or_of_another_tree_verifies_nothing(
    folder: ArchivedFolder, place: Place, store: ObjectServer
) -> None:
    note = store.read(place.bucket, "log/checkpoint")
    store.delete(place.bucket, "log/checkpoint")
    with pytest.raises(VerificationError, match="has no checkpoint"):
        verify(place, folder.policy)
    store.write(place.bucket, "log/checkpoint", note.replace(b"\n600\n", b"\n256\n"))
    with pytest.raises(VerificationError):
        verify(place, folder.policy)
    store.write(place.bucket, "log/checkpoint", b"\xff\n" * 1000)
    with pytest.raises(MalformedError):
        verify(place, folder.policy)
    store.write(place.bucket, "log/checkpoint", b"x" * ((1 << 20) + 1))
    with pytest.raises(MalformedError, match="at most"):
        verify(place, folder.policy)


def test_an_older_archive_is_noticed_by_the_state_of_the_check_before(
    folder: ArchivedFolder, place: Place, store: ObjectServer, tmp_path: Path
) -> None:
    state = tmp_path / "archive.state"
    older = store.read(place.bucket, "log/checkpoint")
    folder.grow(300)
    folder.upload(Bucket(place))
    verify(place, folder.policy, "--state", str(state))
    folder.grow(1)
    folder.upload(Bucket(place))
    assert verify(place, folder.policy, "--state", str(state))["tree_size"] == 901
    store.write(place.bucket, "log/checkpoint", older)
    with pytest.raises(OlderHeadError, match="somebody put an older one back"):
        verify(place, folder.policy, "--state", str(state))
    assert verify(place, folder.policy)["tree_size"] == SMALL, "nothing else tells"


def test_a_store_that_does_not_answer_is_no_fault_of_the_archive(
    folder: ArchivedFolder, place: Place, store: ObjectServer
) -> None:
    with BadStore(store.endpoint) as bad:
        bad.fault = lambda _method, path: Reply(500) if "tile/0/001" in path else None
        with pytest.raises(UnavailableError, match="tile/0/001: the store answers 500"):
            verify(place, folder.policy, endpoint=bad.endpoint)


def test_an_archive_is_read_over_http_and_from_a_copy_on_a_disk(
    folder: ArchivedFolder, place: Place, store: ObjectServer, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    for name in store.names(place.bucket):
        path = copy / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.read(place.bucket, name))
    for url in (f"{store.endpoint}/{place.bucket}/log", (copy / "log").as_uri()):
        report = verify(Place(url), folder.policy)
        assert (report["tree_size"], report["bundles"], report["tiles"]) == (SMALL, 3, 4)
    (copy / "log/tile/0/001").write_bytes(b"")
    verify(Place((copy / "log").as_uri()), folder.policy, faults=1)


def test_a_list_without_an_end_is_left(
    folder: ArchivedFolder, place: Place, store: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "LISTED_MAX", 3)
    for number in range(4):
        store.write(place.bucket, f"log/index/{number}", b"")
    report = verify(place, folder.policy, faults=1)
    assert report["faults"] == ["index has more than 3 objects: the others are not checked"]
    with pytest.raises(MalformedError, match="more than 3"):
        folder.upload(Bucket(place))


def test_a_list_of_pages_that_name_nothing_is_left(
    place: Place, store: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (
        b"<ListBucketResult><Name>b</Name><Prefix/><KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys>"
        b"<IsTruncated>true</IsTruncated><NextContinuationToken>next</NextContinuationToken>"
        b"</ListBucketResult>"
    )

    async def names(place: Place) -> list[str]:
        return [name async for name in Bucket(place).names("index")]

    monkeypatch.setattr(object_store, "TIMEOUTS_MAX", 0.1)
    with BadStore(store.endpoint) as bad:
        bad.fault = lambda _method, path: Reply(200, page) if "list-type" in path else None
        with pytest.raises(MalformedError, match="its list named nothing in 1 s"):
            asyncio.run(names(place._replace(endpoint=bad.endpoint, timeout_s=10)))


@pytest.mark.parametrize("part", ["whole", "range"])
def test_an_object_that_is_longer_than_its_answer_said_is_left(part: str) -> None:
    """A server may say one length of a range and send another: all of it was kept in memory."""
    piece, pieces_max = bytes(1 << 20), 256
    sent: list[int] = []

    class Endless(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True
            self.send_response(206 if "Range" in self.headers else 200)
            self.send_header("Content-Range", "bytes 0-4/5")
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Last-Modified", "Wed, 25 Nov 2026 02:03:36 GMT")
            self.send_header("ETag", '"a"')
            self.end_headers()
            with suppress(OSError):
                for _ in range(pieces_max):
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    sent.append(len(piece))

        def log_message(self, *_arguments: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    server.daemon_threads = False
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        host, port = server.server_address[:2]
        bucket = Bucket(Place("s3://bucket", endpoint=f"http://{host!s}:{port}", anonymous=True))
        got = (
            bucket.get("checkpoint", bytes_max=1000)
            if part == "whole"
            else bucket.get_range("index/1", start=0, length=5)
        )
        with pytest.raises(MalformedError, match=r"has more than the .* bytes that are right"):
            asyncio.run(_run(got))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert len(sent) < pieces_max // 4


async def _run(work: Awaitable[object]) -> object:
    return await work


def test_no_redirect_leads_from_https_to_a_host_without_it(tmp_path: Path) -> None:
    asked: list[str] = []

    class Near(BaseHTTPRequestHandler):
        """A host that only this machine reaches."""

        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Print nothing."""

    class Redirecting(Near):
        def do_GET(self) -> None:
            asked.append("front")
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{near.server_port}/latest/meta-data")
            self.send_header("Content-Length", "0")
            self.end_headers()

    authority = Authority(tmp_path)
    certificate, key, _ = authority.issue("front")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Near) as near,
        ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as front,
    ):
        front.socket = context.wrap_socket(front.socket, server_side=True)
        threads = [Thread(target=each.serve_forever, args=(0.05,)) for each in (near, front)]
        for thread in threads:
            thread.start()
        try:
            url = f"https://127.0.0.1:{front.server_port}/log"
            place = Place(url, ca_file=str(authority.certificate), timeout_s=5)
            with pytest.raises(UnavailableError):
                asyncio.run(Bucket(place).get("checkpoint", bytes_max=100))
        finally:
            near.shutdown()
            front.shutdown()
            for thread in threads:
                thread.join()
    assert set(asked) == {"front"}


def test_what_is_no_file_in_a_copy_is_no_object(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "checkpoint")
    (tmp_path / "tile").mkdir()
    bucket = Bucket(Place(f"file://{tmp_path}", timeout_s=10))
    for name in ("checkpoint", "tile"):
        with pytest.raises(MalformedError, match=f"{name} is no file"):
            asyncio.run(bucket.get(name, bytes_max=1))
    assert asyncio.run(bucket.get("tile/none", bytes_max=1)) is None
    assert asyncio.run(bucket.get("checkpoint/none", bytes_max=1)) is None


def segment_file(
    tables: dict[str, list[int]] | bytes,
    columns: dict[str, list[int]] | None = None,
    body: bytes = b"",
) -> bytes:
    """The file of a segment with this head, or with these parts, and a right checksum."""
    record = {field.name: "" for field in msgspec.structs.fields(SegmentRecord)}
    head = (
        tables
        if isinstance(tables, bytes)
        else msgspec.json.encode(
            {
                "segment": 0,
                "entries": SEGMENT_ENTRIES_MAX,
                "analysis": ANALYSIS,
                "record": record | {"terms": 0, "block_bytes": 0},
                "tables": tables,
                "columns": columns or {},
            }
        )
    )
    return MAGIC + struct.pack("<II", len(head), crc32(head)) + head + body


def table_file(table: bytes) -> bytes:
    return segment_file({"a": [0, len(table), crc32(table)]}, body=table)


@pytest.mark.parametrize(
    "data",
    [
        segment_file(b"junk"),
        segment_file(b'{"x":' + b"[" * 60_000),
        segment_file(b'{"analysis":"\xff"}'),
        segment_file({"a": [-(1 << 40), 4, 0]}),
        segment_file({"a": [0, 1 << 62, 0]}),
        segment_file({"a": [0, 1 << 80, 0]}),
        segment_file({"a": [0, 0, 0]}),
        table_file(struct.pack("<I", 5) + b"abc"),
        table_file(struct.pack("<I", 0) + b"a\0b"),
        table_file(struct.pack("<III", 1, 0xFFFFFFFF, 0) + b"x"),
        segment_file({}, {"a": [0, 4, crc32(b"body")], "b": [0, 4, crc32(b"body")]}, b"body"),
    ],
)  # fmt: skip
def test_a_segment_that_nobody_made_is_damaged(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "segment"
    path.write_bytes(data)
    with pytest.raises(DamagedSegmentError):
        SegmentFile.open(path, 0, analysis=ANALYSIS, entries=SEGMENT_ENTRIES_MAX).check()


def test_a_segment_without_parts_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    path.write_bytes(segment_file({}))
    SegmentFile.open(path, 0, analysis=ANALYSIS, entries=SEGMENT_ENTRIES_MAX).check()


@pytest.mark.parametrize("data", [b"", b"[]", b'{"x":' + b"[" * 60_000, b'{"origin":"\xff"}'])
def test_a_record_that_nobody_made_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError, match=r"archive\.json"):
        parse_record(data)


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3://Bucket", "s3://b/..", "s3://bucket/a//b", "ftp://host/x", "file:relative",
     "s3://bucket/.hidden", "http://bucket.example/log", "https://u:p@host/x", "bucket"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(MalformedError, match="url: "):
        Place(url).check()
