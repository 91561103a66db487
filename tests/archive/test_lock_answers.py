"""What a store may answer when it is asked for a lock: nonsense, no end, byte by byte."""

import threading
import time
import tracemalloc
from collections.abc import Callable

import pytest

from ledger.archive.object_lock import ANSWER_BYTES_MAX, read_lock
from ledger.object_storage.place import Place
from tests.archive.archiving import place_of
from tests.http_thread import HttpThread, QuietHandler

LOCK = """<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule>
<DefaultRetention><Mode>%s</Mode><Days>%s</Days></DefaultRetention></Rule></ObjectLockConfiguration>"""
UNTIL = "x-amz-object-lock-retain-until-date"


def ask(
    answer: Callable[[QuietHandler], None], *, until: str = "2099-01-01T00:00:00Z"
) -> tuple[str, bool]:
    """The lock that a store with this answer is said to have, and whether it is safe."""

    class Handler(QuietHandler):
        pass

    def head(handler: QuietHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "5")
        handler.send_header(UNTIL, until)
        handler.end_headers()

    for method, does in (("GET", answer), ("HEAD", head)):
        setattr(Handler, f"do_{method}", does)
    with HttpThread(Handler) as server:
        place: Place = place_of(server.url, "audit")
        found = read_lock(place._replace(timeout_s=1.0), "probe")
    return str(found), found.is_safe


def text(body: str) -> Callable[[QuietHandler], None]:
    """An answer with this body."""

    def answer(handler: QuietHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body.encode())

    return answer


def test_a_lock_is_read() -> None:
    said, is_safe = ask(text(LOCK % ("COMPLIANCE", 7)))
    assert (said, is_safe) == ("compliance until 2099-01-01T00:00:00Z", True)


@pytest.mark.parametrize(
    ("body", "until"),
    [
        (LOCK % ("COMPLIANCE", "seven"), "2099-01-01T00:00:00Z"),
        (LOCK % ("COMPLIANCE", 7), "never"),
        ("<not xml", "2099-01-01T00:00:00Z"),
    ],
)
def test_an_answer_that_is_none_is_no_lock(body: str, until: str) -> None:
    said, is_safe = ask(text(body), until=until)
    assert said.startswith("not known, so objects may be deleted: the store "), said
    assert not is_safe


def test_words_of_an_answer_are_printed_as_text() -> None:
    said, is_safe = ask(text(LOCK % ("\x9b31m" + "x" * 1000, 7)))
    assert len(said) < 300
    assert said.isprintable()
    assert not is_safe


@pytest.mark.parametrize("status", [200, 403])
def test_an_answer_without_an_end_is_left(status: int) -> None:
    sent = [0]

    def endless(handler: QuietHandler) -> None:
        handler.send_response(status)
        handler.end_headers()
        piece = b"<!--" + b"x" * (1 << 16)
        while sent[0] < 40 * ANSWER_BYTES_MAX:
            handler.wfile.write(piece)
            sent[0] += len(piece)

    tracemalloc.start()
    try:
        said, is_safe = ask(endless)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "answers without an end, or not in time" in said
    assert not is_safe
    assert peak < 5 * ANSWER_BYTES_MAX
    assert sent[0] < 20 * ANSWER_BYTES_MAX


def test_an_answer_that_comes_byte_by_byte_is_left() -> None:
    ended = threading.Event()

    def slow(handler: QuietHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not ended.wait(0.2):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    begun = time.monotonic()
    try:
        said, is_safe = ask(slow)
    finally:
        ended.set()
    assert time.monotonic() - begun < 60
    assert "answers without an end, or not in time" in said
    assert not is_safe
