"""Every hit in the audit events of eight products, judged one by one; all else must pass."""

import json
from pathlib import Path

import pytest

from ledger_core.event.secrets import find

SESSION = "true: an STS session token under its own name; AWS hides it, who recorded these did not"
SIGNED = "true: a signed URL of Azure's storage; whoever has it reads or writes the blob"

JUDGED = {
    ("aws_cloudtrail", 103, "responseElements.credentials.sessionToken", "token"): SESSION,
    ("aws_cloudtrail", 146, "responseElements.credentials.sessionToken", "token"): SESSION,
    ("aws_cloudtrail", 147, "responseElements.credentials.sessionToken", "token"): SESSION,
    ("aws_cloudtrail", 148, "responseElements.credentials.sessionToken", "token"): SESSION,
    ("azure_activity", 186, "uri", "url-secret"): SIGNED,
    ("azure_activity", 187, "uri", "url-secret"): SIGNED,
    ("azure_activity", 188, "uri", "url-secret"): SIGNED,
    ("azure_activity", 190, "uri", "url-secret"): SIGNED,
}


@pytest.mark.shared
def test_every_hit_in_the_samples_is_listed_and_judged(shared_dir: Path) -> None:
    hits = set()
    for file in sorted((shared_dir / "samples").glob("*.jsonl")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if line.strip():
                record = json.dumps(json.loads(line)).encode()
                hits |= {(file.stem, number, hit.path, hit.rule) for hit in find(record)}
    assert hits == JUDGED.keys()
