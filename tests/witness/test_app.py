"""A witness over HTTP beside the table: what monitors and people read."""

import http.client
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ledger_core.tlog.policy import parse_policy
from ledger_core.tlog.witness import BODY_BYTES_MAX
from tests.witness.asking import add_checkpoint, ask, check_cosigned
from tests.witness.logs import Log
from tests.witness.witnesses import RunningWitness, our_witness

LOG = Log("example.com/log")
SILENT = Log("example.com/silent")
RUDE = Log("\u202e<script>alert(1)</script>&\"'<img/src=x>")


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWitness]:
    directory: Path = tmp_path_factory.mktemp("app") / "w"
    with our_witness(directory, [LOG, SILENT, RUDE]) as running:
        for log in (LOG, RUDE):
            check_cosigned(add_checkpoint(running.url, log.grow(0, 7)), log.note(7), running.vkeys)
        yield running


def monitored(log: Log) -> str:
    return f"/{log.origin_hash.hex()}/checkpoint"


def test_a_monitor_gets_the_head_with_the_signatures_of_the_log_and_the_witness(
    witness: RunningWitness,
) -> None:
    answer = ask(witness.url, "GET", monitored(LOG))
    assert (answer.status, answer.content_type) == (200, "text/plain; charset=utf-8")
    names = [f"w{number}" for number in range(len(witness.vkeys))]
    policy = [f"log {LOG.vkey}"]
    policy += [f"witness {name} {vkey}" for name, vkey in zip(names, witness.vkeys, strict=True)]
    policy += [f"group all all {' '.join(names)}", "quorum all", ""]
    head = parse_policy("\n".join(policy).encode()).check(answer.body)
    assert head.checkpoint == LOG.checkpoint(7)
    assert {name for name, _ in head.cosignatures} == set(names)


@pytest.mark.parametrize(
    "path",
    [
        monitored(SILENT),
        monitored(Log("example.com/nobody")),
        monitored(LOG).upper(),
        monitored(LOG)[:-1],
        f"{monitored(LOG)}/",
        "/checkpoint",
        "/add-checkpoint/",
    ],
)
def test_what_was_never_cosigned_is_not_found(witness: RunningWitness, path: str) -> None:
    assert ask(witness.url, "GET", path).status == 404


def test_each_path_takes_its_own_methods(witness: RunningWitness) -> None:
    for method, path in [
        ("GET", "/add-checkpoint"),
        ("PUT", "/add-checkpoint"),
        ("POST", monitored(LOG)),
        ("POST", "/"),
    ]:
        assert ask(witness.url, method, path).status == 405
    for path in (monitored(LOG), "/", "/healthz"):
        head = ask(witness.url, "HEAD", path)
        assert (head.status, head.body) == (200, b"")


def test_it_says_that_it_is_well(witness: RunningWitness) -> None:
    answer = ask(witness.url, "GET", "/healthz")
    assert (answer.status, answer.body) == (200, b"ok\n")


def test_a_body_without_an_announced_length_ends_at_the_limit(witness: RunningWitness) -> None:
    parts = urlsplit(witness.url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        while sent < 100 * BODY_BYTES_MAX:
            sent += 1 << 16
            yield b"x" * (1 << 16)

    try:
        connection.request("POST", "/add-checkpoint", chunks(), encode_chunked=True)
    except (BrokenPipeError, ConnectionResetError):
        # It hung up in the middle: that much was not read.
        assert sent < 100 * BODY_BYTES_MAX
    else:
        assert connection.getresponse().status == 413
    connection.close()
    assert ask(witness.url, "GET", "/healthz").status == 200


def test_a_body_that_says_it_is_compressed_is_not_inflated(witness: RunningWitness) -> None:
    parts = urlsplit(witness.url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
    connection.request("POST", "/add-checkpoint", LOG.grow(7, 7), {"Content-Encoding": "gzip"})
    # Taken as the bytes that they are.
    assert connection.getresponse().status == 200
    connection.close()


class Page(HTMLParser):
    """The elements of a page, its text, and its links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_the_keys_and_the_logs_and_runs_nothing(witness: RunningWitness) -> None:
    parts = urlsplit(witness.url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
    connection.request("GET", "/")
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    page = Page(text)
    for vkey in witness.vkeys:
        assert vkey in page.text
    for log in (LOG, SILENT, RUDE):
        assert log.origin.replace("\u202e", "\ufffd") in page.text
    # Nor does it turn the writing of others around.
    assert "\u202e" not in text
    # What a log calls itself is text, not a part of the page.
    assert not page.elements & {"script", "img", "iframe", "object", "link", "form"}
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "src"]
    links = {value for name, value in page.attributes if name == "href"}
    assert {monitored(log)[1:] for log in (LOG, RUDE)} < links
    assert ask(witness.url, "GET", f"/{monitored(LOG)[1:]}").status == 200
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"style=", text)
