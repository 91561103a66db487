"""`POST /v1/evidence`: the bundle holds what a search finds, and the log records who asked."""

import http.client
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.service.data_dir import DirectoryPaths
from ledger.service.queries import evidence as work
from ledger.store import log
from ledger_client import LedgerClient, private
from ledger_core.evidence import writer as writing
from ledger_core.evidence.findings import Evidence
from ledger_core.evidence.verifier import check_evidence
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.keys import ED25519_COSIGNATURE
from tests.client.liar import Liar, Message, no_lie
from tests.service.serving import Answer, Ledger, event, make_ledger, serving, serving_new

QUERIES = ("", "action:a.b", "action:a.* outcome:failure", "time:2026-11-25")
COUNT = 700


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    with serving_new(tmp_path_factory.mktemp("evidence")) as ledger:
        events = [
            event(
                action="a.b" if number % 2 else "a.c",
                outcome="failure" if number % 5 == 0 else "success",
                tenant="acme" if number % 7 == 0 else None,
                reason="<script>alert(1)</script>",
            )
            for number in range(COUNT)
        ]
        assert ledger.append(*events).status == 200
        yield ledger


def ask(ledger: Ledger, *, token: str = "admin", **members: Any) -> Answer:
    body = json.dumps(members).encode()
    return ledger.ask(
        "/v1/evidence", method="POST", body=body, token=token, content_type="application/json"
    )


def check(ledger: Ledger, answer: Answer, folder: Path, **arguments: Any) -> Evidence:
    assert answer.status == 200, answer.text
    path = folder / "evidence.zip"
    path.write_bytes(answer.body)
    return check_evidence(path, ledger.policy, **arguments)


@pytest.mark.parametrize("q", QUERIES)
def test_a_bundle_holds_what_a_search_finds(
    ledger: Ledger, tmp_path: Path, q: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "PART_EVENTS", 64)
    monkeypatch.setattr(log, "NODES_AT_ONCE", 10)
    page = ledger.ask(f"/v1/events?q={q.replace(' ', '%20')}&order=oldest&limit=1000").json()
    wanted = [each["index"] for each in page["events"]]
    seen: list[int] = []
    answer = ask(ledger, query=q, case="INC-7", reason="stolen account")
    assert answer.headers["Content-Type"] == "application/zip"
    evidence = check(ledger, answer, tmp_path, on_event=lambda index, _: seen.append(index))
    assert (evidence.faults, evidence.notes, evidence.unevaluated) == ((), (), "")
    assert seen == wanted
    stated = evidence.stated
    assert stated is not None
    assert (stated.token, stated.case, stated.reason) == ("admin", "INC-7", "stolen account")
    assert stated.head is not None
    recorded = ledger.ask(f"/v1/events/{stated.index}").json()
    assert recorded["received"]["by"] == "ledger"
    assert recorded["event"]["action"] == "ledger.evidence.exported"
    assert recorded["event"]["context"]["evidence"]["total"] == len(wanted)


def test_relative_times_are_resolved_and_the_page_is_text(ledger: Ledger, tmp_path: Path) -> None:
    evidence = check(ledger, ask(ledger, query="received:-1h.. action:a.b"), tmp_path)
    assert evidence.query.startswith("received:20")
    assert evidence.unevaluated == ""
    assert evidence.events == COUNT // 2
    with zipfile.ZipFile(tmp_path / "evidence.zip") as archive:
        page = archive.read("index.html").decode()
        readme = archive.read("README.txt").decode()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "default-src 'none'" in page
    assert f"The log found {COUNT // 2} events" in page
    assert "pip install" not in readme
    assert readme.startswith("Evidence from an audit log")
    for text in (page, readme):
        assert "verify_evidence.py" in text
        assert evidence.query.split(" ")[0].split("..")[0] in text


def test_a_tenants_token_exports_its_tenants_events_alone(ledger: Ledger, tmp_path: Path) -> None:
    seen: list[bytes] = []
    answer = ask(ledger, token="read acme", query="action:a.*")
    evidence = check(ledger, answer, tmp_path, on_event=lambda _, leaf: seen.append(leaf))
    assert (evidence.faults, evidence.events) == ((), COUNT // 7)
    assert all(json.loads(leaf)["event"]["tenant"] == "acme" for leaf in seen)
    assert evidence.stated is not None
    assert (evidence.stated.tenant, evidence.stated.token) == ("acme", "read acme")


@pytest.mark.parametrize(
    ("members", "slug"),
    [
        ({"query": "actr:u_1"}, "query"),
        ({"query": 7}, "not-json"),
        ({"order": "newest"}, "not-json"),
        ({"case": ""}, "not-json"),
        ({"case": "x" * 257}, "not-json"),
        ({"reason": "nul \0"}, "string"),
        ({"disclose": ["/action"]}, "private"),
        ({"reason": "password=zxq-hunter-2-zxq"}, "secret"),
    ],
)
def test_what_can_not_be_recorded_is_refused_at_once(
    ledger: Ledger, members: dict[str, Any], slug: str
) -> None:
    before = ledger.ask("/v1/log").json()["tree_size"]
    answer = ask(ledger, **members)
    assert answer.slug == slug
    assert ledger.ask("/v1/log").json()["tree_size"] == before
    assert ask(ledger, token="append").slug == "scope-missing"
    assert ask(ledger, token="read", disclose=["/reason"]).slug == "scope-missing"


def test_an_export_that_fails_on_the_way_leaves_no_bundle_and_no_statement(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> dict[str, Any]:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(writing.EvidenceWriter, "state", fail)
    before = ledger.ask("/v1/log").json()["tree_size"]
    monkeypatch.setattr(work, "TURN_ROWS", 1)
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        ask(ledger, query="action:a.b")
    assert ledger.ask("/v1/log").json()["tree_size"] == before


def test_more_events_than_a_bundle_holds_are_refused(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "PARTS_MAX", 2)
    monkeypatch.setattr(writing, "PART_EVENTS", 10)
    assert ask(ledger, query="action:a.b").slug == "too-many-rows"


def test_private_values_are_disclosed_by_choice(tmp_path: Path) -> None:
    with serving_new(tmp_path) as ledger:
        policy = DirectoryPaths(ledger.directory).policy
        with LedgerClient(ledger.url, ledger.tokens["admin"], policy=policy) as client:
            for subject in ("u_1", "u_2"):
                client.append(
                    event(
                        reason=private(f"illness of {subject}", subject=subject),
                        context={"name": private(f"Name of {subject}", subject=subject)},
                    )
                )
            client.erase("u_2", reason="asked for")
            path = tmp_path / "disclosed.zip"
            written = client.evidence("action:record.viewed", path, disclose=["/context/*"])
            assert (written.evidence.events, written.evidence.disclosed) == (2, 1)
            with zipfile.ZipFile(path) as archive:
                values = archive.read("private/000000.jsonl")
                every = b"".join(map(archive.read, archive.namelist()))
            assert b"Name of u_1" in values
            assert b"illness" not in every
            assert b"Name of u_2" not in every
            plain = client.evidence("action:record.viewed", tmp_path / "plain.zip")
            assert plain.evidence.disclosed == 0


def test_the_bundle_of_an_earlier_export_is_no_answer(tmp_path: Path) -> None:
    with serving_new(tmp_path) as ledger, Liar(ledger.url) as liar:
        policy = DirectoryPaths(ledger.directory).policy
        with LedgerClient(liar.url, ledger.tokens["admin"], policy=policy) as client:
            client.append(event(), wait_witnessed=True)
            first = tmp_path / "first.zip"
            client.evidence("action:record.viewed", first)
            client.append(event(), wait_witnessed=True)

            def replay(message: Message) -> None:
                if message.target == "/v1/evidence":
                    message.body = first.read_bytes()

            liar.lie_to_client = replay
            with pytest.raises(VerificationError, match="of an earlier export"):
                client.evidence("action:record.viewed", tmp_path / "second.zip")
            liar.lie_to_client = no_lie
            assert client.evidence("action:record.viewed", tmp_path / "t.zip").evidence.events == 2


def test_a_missing_quorum_does_not_take_evidence_away(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    with serving(directory, tokens) as ledger:
        assert ledger.append(event(), event(), query="?wait=witnessed").status == 200
        published = ledger.policy
    witness = CosignatureSigner.generate(
        "witness.example/w2", algorithm=ED25519_COSIGNATURE, seed=bytes(32)
    )
    policy = directory / "policy"
    policy.write_text(
        policy.read_text().replace(
            "quorum none",
            f"witness w2 {witness.verifier} http://u:word@127.0.0.1:1/?k=KEY\nquorum w2",
        )
    )
    with serving(directory, tokens) as ledger:
        assert ledger.append(event()).status == 200
        shown = ledger.ask("/v1/log", token=None).text
        answer = ask(ledger, query="action:record.viewed")
        path = tmp_path / "evidence.zip"
        path.write_bytes(answer.body)
    with zipfile.ZipFile(path) as archive:
        inside = archive.read("policy").decode()
    assert "http://127.0.0.1:1/" in shown
    assert "http://127.0.0.1:1/\n" in inside
    assert not [secret for secret in ("word", "KEY") if secret in shown + inside]
    evidence = check_evidence(path, published)
    assert evidence.faults == ()
    assert evidence.events == 2
    assert evidence.stated is not None
    assert evidence.stated.head is None
    assert "w2" in evidence.stated.missing
    assert evidence.stated.missing.startswith("entry ")
