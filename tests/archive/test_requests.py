"""Requests to a store as operators have them: proxies, credentials, lost answers, other names."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ledger.archive.object_lock import read_lock
from ledger.object_storage import bounded_http, s3_requests
from ledger.object_storage.bounded_http import Answer, BoundedHttp
from ledger.object_storage.object_store import Bucket, Found
from ledger.object_storage.place import Place
from ledger_core.tlog.errors import UnavailableError
from tests.archive.archiving import SMALL, ArchivedFolder, BadStore, place_of
from tests.archive.seaweed import ObjectServer
from tests.archive.verifying import verify
from tests.http_thread import HttpThread, QuietHandler, read_body

STRANGE = ["a\x01b", "a b+c", "é%41", "&" * 200, "\ufffe", "plain"]
"""Names that XML has not, or has at several times their length."""


@contextmanager
def answering(
    status: int, body: bytes = b"", headers: dict[str, str] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """A server with one answer: its address, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(QuietHandler):
        def _answer(self) -> None:
            read_body(self)
            asked.append(self.path)
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    for method in ("GET", "PUT", "POST"):
        setattr(Handler, f"do_{method}", Handler._answer)
    with HttpThread(Handler) as server:
        yield server.url, asked


def get(place: Place) -> object:
    return asyncio.run(Bucket(place).get("checkpoint", bytes_max=1000))


ROLE = """[default]
region = us-east-1
role_arn = arn:aws:iam::123456789012:role/archive
source_profile = base
[profile base]
aws_access_key_id = a
aws_secret_access_key = b
"""


@pytest.mark.parametrize(
    ("config", "variables", "said"),
    [
        ("", {"AWS_PROFILE": "nobody"}, r"\(nobody\) could not be found"),
        ("[[", {}, "Unable to parse config file"),
        ("[default]\ncredential_process = /nonexistent/program\n", {}, "/nonexistent/program"),
        ("[default]\ncredential_process = /bin/echo no\n", {}, "Expecting value"),
        ("", {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://a.test/"}, "Unsupported host"),
        (ROLE, {}, "AssumeRole is answered by AccessDenied"),
    ],
)
def test_credentials_that_can_not_be_had_are_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: str,
    variables: dict[str, str],
    said: str,
) -> None:
    """What the AWS SDK raised was a traceback, and ended the process of an archive."""
    (tmp_path / "config").write_text(config)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    denied = b"<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>"
    with answering(403, denied) as (url, _):
        variables |= {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_ENDPOINT_URL_STS": url}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        place = place_of("http://127.0.0.1:1", "audit")
        with pytest.raises(UnavailableError, match=f"^s3://audit/log: the credentials: .*{said}"):
            get(place)
        assert read_lock(place, "probe").unknown


@pytest.mark.parametrize("scheme", ["", "http://", "http://user:pass@"])
def test_a_proxy_may_have_no_scheme(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    with answering(200, b"note") as (url, asked):
        monkeypatch.setenv("http_proxy", scheme + url.removeprefix("http://"))
        place = place_of("http://store.test:9000", "audit")._replace(insecure=True)
        assert get(place) == Found(b"note", None)
        assert asked == ["http://store.test:9000/audit/log/checkpoint"]


def test_no_proxy_may_name_a_port_and_a_proxy_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with answering(404) as (url, _):
        place = place_of(url, "audit")
        with pytest.raises(UnavailableError, match="the proxy: Connection refused"):
            get(place)
        monkeypatch.setenv("no_proxy", url.removeprefix("http://"))
        assert get(place) is None


@pytest.mark.parametrize(
    ("status", "code", "headers", "said"),
    [
        (301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-1"}, "the region eu-west-1"),
        (403, "RequestTimeTooSkewed", {}, "the clock of this host, or that of the store, is wrong"),
        (403, "AccessDenied", {"x-amz-bucket-region": "us-east-1"}, "the credentials are refused"),
        (400, "ExpiredToken", {"x-amz-bucket-region": "a b"}, "/checkpoint: the store answers 400"),
    ],
)
def test_a_refusal_says_what_to_change(
    status: int, code: str, headers: dict[str, str], said: str
) -> None:
    body = f"<Error><Code>{code}</Code></Error>".encode()
    with (
        answering(status, body, headers) as (url, _),
        pytest.raises(UnavailableError, match=f"{said}.*{code}"),
    ):
        get(place_of(url, "audit"))


def test_a_list_has_every_name(store: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A character that XML has not came as another one here. AWS names it by its number, and of
    that page nothing could be read.
    """
    monkeypatch.setattr(s3_requests, "LISTED_AT_ONCE", 3)
    bucket = Bucket(place_of(store.endpoint, store.make_bucket()))
    for name in STRANGE:
        store.write(bucket.place.bucket, f"log/index/{name}", b"x")

    async def names() -> list[str]:
        return [name async for name in bucket.names("index")]

    assert sorted(asyncio.run(names())) == sorted(f"index/{name}" for name in STRANGE)


def test_the_host_of_an_endpoint_may_be_in_upper_case(place: Place) -> None:
    upper = place.endpoint.replace("127.0.0.1", "LOCALHOST")
    assert get(place._replace(endpoint=upper)) is not None


def test_the_address_of_a_public_archive_may_have_spaces() -> None:
    with answering(200, b"note") as (url, asked):
        assert get(Place(f"{url}/the log/ü")) == Found(b"note", None)
        assert asked == ["/the%20log/%C3%BC/checkpoint"]


def test_china_has_a_domain_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    address = s3_requests.S3Address(Place("s3://audit/log", region="cn-north-1"))
    assert address.bucket_url == "https://s3.cn-north-1.amazonaws.com.cn/audit"


def test_an_upload_whose_answers_are_lost_is_whole_and_nothing_is_doubled(
    folder: ArchivedFolder, store: ObjectServer
) -> None:
    """The store has done each write when its connection breaks, so the second is refused: 412."""
    lost: list[str] = []

    def loses(method: str, path: str) -> bool:
        is_first = method == "PUT" and path not in lost
        lost.extend([path] if is_first else [])
        return is_first

    with BadStore(store.endpoint) as proxy:
        proxy.loses = loses
        place = place_of(proxy.endpoint, store.make_bucket())
        for _ in range(2):
            lost.clear()
            folder.grow(SMALL)
            folder.upload(Bucket(place))
            assert f"/{place.bucket}/log/checkpoint" in lost
    report = verify(place._replace(endpoint=store.endpoint), folder.policy)
    assert (report["verified"], report["tree_size"]) == (True, 2 * SMALL)


@pytest.mark.parametrize("size", [1000, 3 << 20])
def test_a_write_over_a_connection_that_was_closed_is_sent_again_as_a_whole(size: int) -> None:
    """Releases of aiohttp below 3.14.4 send an empty body then, which the store may keep."""
    got: list[int] = []

    class Handler(QuietHandler):
        answers = 1

        def _put(self) -> None:
            got.append(len(read_body(self)))
            if not self.answers:
                self.close_connection = True
                return
            self.answers -= 1
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    Handler.do_PUT = Handler._put  # type: ignore[attr-defined]

    async def write(bucket: Bucket) -> list[bool]:
        return [await bucket.create(f"tile/{each}", bytes(size)) for each in range(3)]

    with HttpThread(Handler) as server:
        assert all(asyncio.run(write(Bucket(place_of(server.url, "audit")))))
    assert got == [size] * 5


def test_a_connection_that_is_not_made_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when its first packet is lost: here by a server whose queue is full, in the first try."""
    monkeypatch.setattr(bounded_http, "CONNECT_TIMEOUT_S", 0.3)
    ask, asked = BoundedHttp.ask, list[str]()
    with answering(404) as (url, _), socket.socket() as full, socket.socket() as other:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        other.connect(full.getsockname())
        full_url = f"http://127.0.0.1:{full.getsockname()[1]}"

        async def ask_again(http: BoundedHttp, method: str, to: str, **options: Any) -> Answer:
            asked.append(to)
            return await ask(
                http, method, to if len(asked) == 1 else to.replace(full_url, url), **options
            )

        monkeypatch.setattr(BoundedHttp, "ask", ask_again)
        assert get(place_of(full_url, "audit")) is None
    assert len(asked) == 2
