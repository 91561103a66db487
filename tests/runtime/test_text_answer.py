"""The answers of the small services."""

from ledger.runtime.text_answer import HEADERS, Answer, health_answer, text_answer
from ledger_core.tlog.errors import UnavailableError


def test_an_answer_has_the_headers_that_it_needs() -> None:
    assert text_answer(200, "").headers() == {
        **HEADERS,
        "Content-Type": "text/plain; charset=utf-8",
    }
    busy = text_answer(503, "too many uploads run", retry_after_s=2)
    assert (busy.body, busy.headers()["Retry-After"]) == ("too many uploads run\n", "2")
    page = Answer(200, "<p>", "text/html", content_policy="default-src 'none'")
    assert page.headers()["Content-Security-Policy"] == "default-src 'none'"
    assert page.response().body == b"<p>"


def test_health_says_what_failed() -> None:
    assert health_answer(None) == text_answer(200, "ok")
    assert health_answer(UnavailableError("the disk is full")) == Answer(503, "the disk is full\n")
