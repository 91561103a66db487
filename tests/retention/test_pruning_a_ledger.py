"""`ledger retention` on a served ledger: planned, decided, removed; and what is left says so."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ledger.follow.entries import Entry
from ledger.sinks.record import make_record
from ledger.store import keyspace
from ledger.store.environment import Environment
from ledger.store.erasable_values import DATABASES
from ledger.store.log import LogStore
from ledger_client import LedgerClient, RejectedError, private
from ledger_client.cli.verify_export import command as verify_export
from ledger_core.evidence.verifier import check_evidence
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.proof import check_leaf, parse_proof
from tests.mirror.mirroring import make_mirror, mirroring, ready, state, wait_published
from tests.service.serving import ORIGIN, Ledger, event, make_ledger, new_id, serving
from tests.waiting import until

WAIT_S = 60.0
OLD = 560
KEPT = 150
MINIMUM = 512
MARKER = "Unmistakable-Quillfeather"
POLICY = f"""\
version = 1
approved_by = "records committee"
approved_on = "2026-11-01"
minimum_age_days = 0
minimum_entries = {KEPT}
"""


def run(directory: Path, *arguments: str, code: int = 0) -> str:
    """Run `ledger retention NAME DIR …`, or `ledger retention hold NAME DIR …`; its output."""
    words = list(arguments)
    words.insert(2 if words[0] == "hold" else 1, str(directory))
    return ledger_process("retention", *words, code=code)


def ledger_process(*words: str, code: int = 0) -> str:
    """Run a command in a process of its own: LMDB is open in this one while a ledger is served."""
    done = subprocess.run(
        [sys.executable, "-m", "ledger", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + (done.stderr if code else "")


def shown(directory: Path, *arguments: str) -> Any:
    return json.loads(run(directory, *arguments, "--json"))


def until_covered(directory: Path) -> None:
    until(lambda: shown(directory, "status")["stage"] == "covered")


def files_with(folder: Path, *texts: bytes) -> set[str]:
    """The files below a folder that have any of some bytes."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and any(text in path.read_bytes() for text in texts)
    }


def frames(directory: Path, end: int) -> list[bytes]:
    """The compressed bundles below an index."""
    with closing(LogStore.open(directory / "log")) as log:
        found = [
            log.environment.get(keyspace.ENTRIES, keyspace.bundle_key(index))
            for index in range(end // 256)
        ]
    return [frame for frame in found if frame is not None]


def private_values(directory: Path) -> list[bytes]:
    """The encrypted private values, as they are stored."""
    environment = Environment.open(directory / "private", DATABASES, readonly=True)
    with closing(environment), environment.read() as transaction:
        return [row for _, row in transaction.rows(keyspace.VALUES) if row]


def prune(directory: Path, tokens: dict[str, str]) -> None:
    """Decide a pruning and carry it out."""
    with serving(directory, tokens):
        run(directory, "apply", "--reason", "thirteen months are over", "--yes")
        until_covered(directory)
    run(directory, "remove")


@dataclass
class Pruned:
    """A ledger that was pruned and is served, and what was kept of it before."""

    ledger: Ledger
    leaf: bytes
    proof: str
    sent: dict[str, Any]
    tokens: dict[str, str]
    plan: dict[str, Any]
    before: set[str] = field(default_factory=set)
    frames: list[bytes] = field(default_factory=list)
    stays: bytes = b""
    copy: list[bytes] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pruned]:
    folder = tmp_path_factory.mktemp("pruned")
    directory = folder / "ledger"
    tokens = make_ledger(directory)
    sent = event(actor={"type": "user", "id": f"u_{MARKER}"}, reason=MARKER)
    with (
        serving(directory, tokens) as ledger,
        LedgerClient(
            ledger.url, tokens["admin"], policy=directory / "policy", state=folder / "state"
        ) as client,
    ):
        assert ledger.append(sent).status == 200
        client.append(
            {
                **event(),
                "targets": [{"id": "p_1", "name": private(f"Zoe {MARKER}", subject="p_1")}],
            }
        )
        old = [event(reason=f"{MARKER} {n}", tenant="acme" if n % 2 else None) for n in range(OLD)]
        assert ledger.append(*old).status == 200
        last = [event(action="record.kept") for _ in range(KEPT)]
        assert ledger.append(*last, query="?wait=witnessed").status == 200
        index = ledger.ask(f"/v1/events/{sent['id']}").json()["index"]
        answer = ledger.ask(f"/v1/events/{index}?proof=1").json()
        copy = [
            make_record(Entry(each.index, each.leaf, leaf_hash(each.leaf)), ORIGIN).json
            for each in client.events()
        ]
        with mirroring(folder / "mirror", make_mirror(folder / "mirror", ledger)) as mirror:
            wait_published(mirror, len(copy))
        (directory / "retention.toml").write_text(POLICY)
        plan = shown(directory, "plan")
    kept = Pruned(ledger, answer["leaf"].encode(), answer["proof"], sent, tokens, plan)
    kept.frames, kept.copy = frames(directory, MINIMUM), copy
    kept.before = files_with(directory, MARKER.encode(), *kept.frames)
    kept.values = private_values(directory)
    token_event = b'"action":"ledger.token.created"'  # The outbox had it.
    assert "access/data.mdb" in files_with(directory, token_event)
    prune(directory, tokens)
    assert files_with(directory, token_event) == set()
    with closing(LogStore.open(directory / "log")) as log:
        indices = range(MINIMUM, log.head().tree_size)
        kept.stays = b"".join(log.leaf(index) or b"" for index in indices)
        id_bytes = bytes.fromhex(sent["id"].replace("-", ""))
        assert log.is_pruned_of(id_bytes, None)
        assert not log.is_pruned_of(id_bytes, "acme")
    with serving(directory, tokens) as kept.ledger:
        yield kept


def test_the_plan_counts_what_goes(pruned: Pruned) -> None:
    plan = pruned.plan
    assert (plan["minimum_before"], plan["minimum_after"], plan["entries"]) == (0, MINIMUM, MINIMUM)
    assert sum(plan["tenants"].values()) == MINIMUM
    assert plan["tenants"]["acme"] > 200
    assert plan["oldest"] <= plan["newest"]
    assert plan["stored_bytes"] == sum(map(len, pruned.frames))
    assert {"rule": f"minimum_entries = {KEPT}", "first_kept": plan["tree_size"] - KEPT} in plan[
        "bounds"
    ]


def test_no_byte_of_what_was_pruned_is_left(pruned: Pruned) -> None:
    assert "log/data.mdb" in pruned.before
    assert "private/data.mdb" not in pruned.before  # Values are encrypted there.
    # A part of the last bundle with the marker stays, so the bytes of kept entries are no find.
    directory = pruned.ledger.directory
    assert files_with(directory, *pruned.frames) == set()
    marks = [f'"{MARKER} {n}"'.encode() for n in range(OLD)]
    gone = [mark for mark in marks if mark not in pruned.stays]
    assert len(gone) > 400
    assert files_with(directory, f"u_{MARKER}".encode(), *gone) == set()


def test_the_private_values_of_pruned_events_are_gone(pruned: Pruned) -> None:
    assert pruned.values
    assert files_with(pruned.ledger.directory, *pruned.values) == set()
    report = json.loads(ledger_process("fsck", str(pruned.ledger.directory), "--json"))
    assert report["problems"] == []
    assert report["private_values"] == 0


def test_a_pruned_event_is_gone_and_the_answer_says_by_which_event(pruned: Pruned) -> None:
    ledger = pruned.ledger
    pruning = ledger.ask("/v1/log", token=None).json()["pruning"]
    assert pruning["minimum_index"] == MINIMUM
    recorded = ledger.ask(f"/v1/events/{pruning['event_index']}").json()["event"]
    assert recorded["action"] == "ledger.retention.pruned"
    context = recorded["context"]
    assert (context["minimum_index_before"], context["minimum_index"]) == (0, MINIMUM)
    assert context["reason"] == "thirteen months are over"
    assert context["tree_size"] == pruned.plan["tree_size"]
    assert context["policy_sha256"] == pruned.plan["policy_sha256"]
    assert len(context["root_hash"]) == 64
    for target in ("/v1/events/0", f"/v1/events/{pruned.sent['id']}", "/tile/entries/001"):
        answer = ledger.ask(target)
        assert (answer.status, answer.slug) == (410, "pruned"), target
        assert answer.json()["limit"] == MINIMUM
        assert f"the event at index {pruning['event_index']}" in answer.json()["detail"]
    assert ledger.ask(f"/v1/events/{MINIMUM}").status == 200
    assert ledger.ask("/tile/entries/002.p/1").status == 200
    assert ledger.ask("/v1/events/stream?from=3").slug == "pruned"
    assert ledger.ask(f"/v1/events/{new_id()}").slug == "no-event"


def test_its_tenant_alone_learns_that_an_id_was_pruned(pruned: Pruned) -> None:
    assert pruned.ledger.ask(f"/v1/events/{pruned.sent['id']}").slug == "pruned"
    assert (
        pruned.ledger.ask(f"/v1/events/{pruned.sent['id']}", token="read acme").slug == "no-event"
    )


def test_saved_proofs_and_saved_heads_go_on_verifying(pruned: Pruned, tmp_path: Path) -> None:
    ledger = pruned.ledger
    proof = parse_proof(pruned.proof.encode())
    check_leaf(proof, leaf_hash(pruned.leaf), ledger.policy.check(proof.checkpoint))
    size = ledger.ask("/v1/log", token=None).json()["published_size"]
    for target in (
        f"/v1/proofs/inclusion?index={proof.leaf_index}&size={size}",
        f"/v1/proofs/consistency?from={proof.leaf_index + 1}&to={size}",
    ):
        answer = ledger.ask(target, token=None, accept="application/json")
        assert answer.status == 200, answer.body
    state = next(ledger.directory.parent.glob("state*"))
    with LedgerClient(
        ledger.url, pruned.tokens["admin"], policy=ledger.directory / "policy", state=state
    ) as client:
        assert client.append(event()).index >= OLD
        found = client.search("action:record.kept")
        assert found.total == KEPT
        assert found.minimum_index == MINIMUM


def test_an_id_of_a_pruned_event_is_refused_for_ever(pruned: Pruned) -> None:
    answer = pruned.ledger.append(pruned.sent)
    assert answer.status == 422
    (result,) = answer.json()["results"]
    assert result["error"]["type"] == "/v1/problems#id-pruned"
    with (
        LedgerClient(
            pruned.ledger.url, pruned.tokens["admin"], policy=pruned.ledger.directory / "policy"
        ) as client,
        pytest.raises(RejectedError),
    ):
        client.append({**pruned.sent, "reason": "another"})


def test_no_search_finds_it_and_each_zero_says_that_it_was_pruned(pruned: Pruned) -> None:
    for query in (f"actor:u_{MARKER}", "id:" + pruned.sent["id"], "until:2026-01-01"):
        answer = pruned.ledger.ask(f"/v1/events?q={query}").json()
        assert (answer["total"], answer["total_exact"], answer["complete"]) == (0, True, True), (
            query
        )
        (hint,) = [hint for hint in answer["hints"] if hint["kind"] == "pruned"]
        assert "the entries below index 512, received before 20" in hint["text"]
        assert "the event at index" in hint["text"]
        assert not any("damaged" in hint["text"] for hint in answer["hints"])
    every = pruned.ledger.ask("/v1/events?limit=1000&order=oldest").json()
    assert every["total"] == every["tree_size"] - MINIMUM == len(every["events"])
    assert every["minimum_index"] == every["events"][0]["index"] == MINIMUM
    assert "unreadable" not in every
    by_time = pruned.ledger.ask("/v1/events?limit=1000&order=time").json()
    assert {e["index"] for e in by_time["events"]} == {e["index"] for e in every["events"]}


def test_exports_and_facets_are_of_what_is_kept(pruned: Pruned) -> None:
    lines = pruned.ledger.ask("/v1/export").text.splitlines()
    indices = [json.loads(line)["index"] for line in lines[:-1]]
    assert indices[0] == MINIMUM
    assert indices == list(range(MINIMUM, MINIMUM + len(indices)))
    facets = pruned.ledger.ask("/v1/events?limit=0&facets=tenant").json()["facets"]
    total = sum(value["count"] for value in facets[0]["values"])
    assert total < OLD + 2 - MINIMUM + 10
    ready = pruned.ledger.ask("/readyz")
    assert (ready.status, ready.json()["warnings"]) == (200, [])
    assert "ledger_minimum_index 512" in pruned.ledger.ask("/metrics").text
    status = json.loads(ledger_process("status", str(pruned.ledger.directory), "--json"))
    assert status["minimum_index"] == MINIMUM


def test_evidence_states_what_it_says_nothing_about(pruned: Pruned, tmp_path: Path) -> None:
    ask = {"query": "action:record.*", "reason": "an audit"}
    answer = pruned.ledger.ask(
        "/v1/evidence",
        method="POST",
        body=json.dumps(ask).encode(),
        content_type="application/json",
    )
    path = tmp_path / "evidence.zip"
    path.write_bytes(answer.body)
    found = check_evidence(path, pruned.ledger.policy)
    assert found.is_verified, found.faults
    assert found.stated is not None
    assert found.stated.statement.minimum_index == MINIMUM
    assert any("the entries below index 512 were pruned" in text for text in found.notes)


def test_a_copy_of_before_is_compared_with_what_is_left(pruned: Pruned, tmp_path: Path) -> None:
    ledger, file, token = pruned.ledger, tmp_path / "copy.jsonl", tmp_path / "token"
    token.write_text(pruned.tokens["read"])
    options = [str(file), "--url", ledger.url, "--policy", str(ledger.directory / "policy")]
    options += ["--token-file", str(token)]
    file.write_bytes(b"\n".join(pruned.copy))
    done = CliRunner().invoke(verify_export, options)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "the entries 0 to 511 were pruned in the log, so they are not compared" in done.output
    assert "the entries 512 to" in done.output
    file.write_bytes(b"\n".join(pruned.copy[:520] + pruned.copy[521:]))
    done = CliRunner().invoke(verify_export, options)
    assert "missing: entry 520" in done.output
    # Of this range the log has nothing to compare with, whatever else the copy holds.
    done = CliRunner().invoke(verify_export, [*options, "--from", "10", "--to", "20"])
    assert "has none of the entries 10 to 19 any more" in str(done.exception)
    assert "verified" not in done.stdout


def test_a_mirror_that_lacks_them_says_why_and_one_that_has_them_goes_on(
    pruned: Pruned, tmp_path: Path
) -> None:
    folder = tmp_path / "mirror"
    tokens = make_mirror(folder, pruned.ledger)
    with mirroring(folder, tokens) as mirror:
        until(lambda: "was pruned before this mirror had it" in str(ready(mirror)), "a warning")
        assert state(mirror)["tree_size"] == 0
    # A mirror that had them, and now asks the same log at another port.
    folder = pruned.ledger.directory.parent / "mirror"
    config = folder / "mirror.toml"
    config.write_text(re.sub(r"http://[0-9.:]+", pruned.ledger.url, config.read_text()))
    size = state(pruned.ledger)["tree_size"]
    assert size > len(pruned.copy)
    with mirroring(folder, tokens) as mirror:
        wait_published(mirror, size)
        assert "pruning" not in state(mirror)


def test_the_removal_is_an_event_too(pruned: Pruned) -> None:
    end = time.monotonic() + WAIT_S
    found: list[Any] = []
    while not found:
        assert time.monotonic() < end
        found = pruned.ledger.ask("/v1/events?q=action:ledger.retention.removed").json()["events"]
    assert found[0]["event"]["context"]["minimum_index"] == MINIMUM
    assert found[0]["event"]["targets"][0]["type"] == "ledger.event"
