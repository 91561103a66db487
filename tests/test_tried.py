"""`docs/tried.md`: each row names a test that exists, and what no other test has is tried here."""

import ast
import json
import logging
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from ledger_client.collect.importers import FileMapper, load_format
from ledger_client.recording.logging_handlers import AuditHandler
from ledger_client.testing import MemoryRecorder
from ledger_core.event.secrets import mask

ROOT = Path(__file__).parents[1]
ROWS = [line for line in (ROOT / "docs" / "tried.md").read_text().splitlines() if line[:3] == "| ["]
CLOUDTRAIL = {
    "eventTime": "2026-11-25T02:03:36Z",
    "eventSource": "sts.amazonaws.com",
    "eventName": "AssumeRole",
    "userIdentity": {"type": "AWSService", "invokedBy": "ec2.amazonaws.com"},
    "sourceIPAddress": "AWS Internal",
}


@lru_cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text())
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return frozenset(each.name for each in tree.body if isinstance(each, kinds))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: re.findall(r"\[([^]]+)\]", row)[0])
def test_the_tests_that_a_row_names_exist(row: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
    assert named
    for file, test in named:
        assert test in names_in(file)
    # Nor does a row name a file alone.
    assert len(re.findall(r"`tests/", row)) == len(named)


def test_the_reports_are_many_and_each_is_there_once() -> None:
    # The second of one project may be written `#2`; its address has the project.
    reports = [each for row in ROWS for each in re.findall(r"\(https://github.com/([^)]+)\)", row)]
    assert len(reports) >= 90
    assert len(set(reports)) == len(reports)


def map_one(name: str, record: dict[str, Any]) -> dict[str, Any]:
    (event,) = load_format(name).map(json.dumps(record).encode())
    return event


def test_an_exec_into_a_pod_that_never_completes_is_a_success_with_a_note() -> None:
    event = map_one(
        "kubernetes",
        {
            "kind": "Event",
            "auditID": "a",
            "stage": "ResponseStarted",
            "verb": "create",
            "user": {"username": "kim"},
            "objectRef": {"resource": "pods", "subresource": "exec", "name": "api"},
            "responseStatus": {"code": 101},
            "requestReceivedTimestamp": "2026-11-25T02:03:36.123456Z",
        },
    )
    assert (event["action"], event["outcome"]) == ("pods.exec.create", "success")
    assert event["context"]["import_notes"] == ["stage: no later record of the request was found"]


def test_a_source_of_aws_that_is_no_address_is_a_service() -> None:
    event = map_one("cloudtrail", CLOUDTRAIL)
    assert event["source"] == {"service": "AWS Internal"}


def test_a_record_that_is_delivered_twice_has_one_id() -> None:
    raw = json.dumps(CLOUDTRAIL).encode()
    format_ = load_format("cloudtrail")
    first, second = (FileMapper(format_).explain(raw)[0].event["id"] for _ in range(2))
    assert first == second


AUDIT_ID = "msg=audit(1700000000.001:7):"
SYSCALL = f'type=SYSCALL {AUDIT_ID} syscall=59 success=yes auid=1000 uid=1000 comm="a" '


def test_a_quoted_argument_of_digits_is_text() -> None:
    lines = [SYSCALL, f'type=EXECVE {AUDIT_ID} argc=2 a0="nc" a1="3005"']
    event = map_one("auditd", {"lines": lines})
    assert event["reason"] == "nc 3005"


def test_the_words_of_a_process_title_are_apart() -> None:
    title = b"nc\x00-l\x003005".hex().upper()
    event = map_one("auditd", {"lines": [SYSCALL, f"type=PROCTITLE {AUDIT_ID} proctitle={title}"]})
    assert event["reason"] == "nc -l 3005"


@pytest.mark.parametrize("hashed", ["{SSHA512}zGQ4bm9uZQ==", "$2b$12$abcdefghijklmnopqrstuv"])
def test_a_hash_of_a_password_is_masked_by_its_key(hashed: str) -> None:
    change = {"path": "/userPassword", "before": hashed, "after": hashed}
    event = {"changes": [change], "context": {"password": hashed}}
    assert hashed not in str(mask(event))


def test_a_handler_leaves_a_log_record_as_it_was() -> None:
    recorder = MemoryRecorder(actor=("process", "shop"))
    record = logging.makeLogRecord(
        {
            "msg": "no %s",
            "args": ("money",),
            "levelno": 40,
            "exc_info": (OSError, OSError("x"), None),
        }
    )
    record.action = "payment.refunded"
    before = dict(record.__dict__)
    AuditHandler(recorder).handle(record)
    assert recorder.events.actions == ["payment.refunded"]
    assert record.__dict__ == before
