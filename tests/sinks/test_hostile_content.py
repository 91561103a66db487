"""Hostile content of an event can't add a header, a line or a record to what a sink sends."""

import email
import hashlib
import json

import pytest

from ledger.follow.entries import Entry
from ledger.sinks import mail, syslog
from ledger.sinks.config import SinkConfig
from ledger.sinks.http_receiver import SHAPES
from ledger.sinks.ocsf import to_ocsf
from ledger.sinks.record import Record, make_record

HOSTILE = (
    'x\r\nBcc: evil@example.com\r\n\r\nbody\r\n.\r\nQUIT\r\n"]=\\ 12 <14>1 '
    '{"create":{}}\u2028\u2029\u0085\x0b\x0c\x1b[31m\u202e'
)
TIME = "2026-11-25T02:03:36.123456Z"
ORIGIN = 'example.com/a"]x'


@pytest.fixture
def record() -> Record:
    event = {
        "id": "01920000-0000-7000-8000-000000000000",
        "time": TIME,
        "actor": {"type": HOSTILE, "id": HOSTILE, "name": HOSTILE},
        "action": "a.b",
        "outcome": "failure",
        "reason": HOSTILE,
        "source": {"service": HOSTILE, "user_agent": HOSTILE},
        "targets": [{"type": HOSTILE, "id": HOSTILE}],
        "context": {HOSTILE: HOSTILE},
        "tenant": HOSTILE,
    }
    received = {"by": HOSTILE, "time": TIME}
    leaf = json.dumps({"event": event, "received": received, "v": 1}, separators=(",", ":"))
    return make_record(Entry(7, leaf.encode(), hashlib.sha256(leaf.encode()).digest()), ORIGIN)


def test_a_mail_has_its_own_headers_alone_and_no_line_that_ends_it(record: Record) -> None:
    config = SinkConfig(
        type="smtp", url="smtp://localhost", to=("a@example.com",), sender="l@example.com"
    )
    raw = mail.format_mail([record], config, sent_unix_s=0).as_bytes()
    headers = email.message_from_bytes(raw)
    assert set(headers) == {
        *("Subject", "From", "To", "Content-Type", "Content-Transfer-Encoding", "MIME-Version"),
        *("Message-ID", "Date", "Auto-Submitted"),
    }
    assert headers["To"] == "a@example.com"
    assert b"." not in raw.splitlines()


def test_a_syslog_message_is_one_line_with_the_header_of_its_sink(record: Record) -> None:
    message = syslog.format_message(record)
    assert len(message.splitlines()) == 1
    header, _, data = message.partition(b" - a.b ")
    assert len(header.split(b" ")) == 4
    assert data.startswith(b'[ledger@32473 index="7"')
    assert b'origin="example.com/a\\"\\]x"] {' in data


@pytest.mark.parametrize("kind", ["http", "splunk", "elastic", "datadog", "webhook"])
@pytest.mark.parametrize("is_ocsf", [False, True])
def test_a_request_has_as_many_records_as_events(
    record: Record, kind: str, *, is_ocsf: bool
) -> None:
    sent = to_ocsf(record) if is_ocsf else record
    config = SinkConfig(type=kind, url="https://siem.example.com", index="i")  # type: ignore[arg-type]  # a name of the list above
    body = SHAPES[kind].encode([sent, sent], config).decode()
    if kind in {"datadog", "webhook"}:
        whole = json.loads(body)
        assert len(whole if kind == "datadog" else whole["records"]) == 2
        return
    lines = [json.loads(line) for line in body.removesuffix("\n").split("\n")]
    assert len(lines) == (4 if kind == "elastic" else 2)
    if kind == "elastic":
        assert [list(line) for line in lines[::2]] == [["create"], ["create"]]
