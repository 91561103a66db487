"""A bundle verifies as it was written and repacked, and whatever is changed in it is named."""

import json
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from docs.examples import verify_evidence
from ledger_core.event.commitments import Commitment, Opening, encode_salt, find_commitments
from ledger_core.evidence import page as page_module
from ledger_core.evidence import writer as writing
from ledger_core.evidence.findings import Evidence
from ledger_core.evidence.layout import STATED_BYTES_MAX
from ledger_core.evidence.page import Asked, PageWriter
from ledger_core.evidence.question import ask
from ledger_core.evidence.verifier import check_evidence
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.policy import format_policy, parse_policy
from tests.cli.conftest import run_here
from tests.client.hosts import W1, cosigned, entries, entry, event_id
from tests.conftest import TESTS_DIR
from tests.evidence.bundles import (
    SINCE_S,
    SIZE,
    Files,
    Maker,
    changed,
    edit_json,
    files_of,
    leaf_of,
    pack,
)

MAKER = Maker()
EVERY_BYTE = "TEST_EVERY_BYTE" in os.environ
"""Flips each byte in turn, which takes minutes; without it, a sample of them."""
INDICES = [3, 60, 61, 62, 150, 299]


def check(path: Path, maker: Maker = MAKER) -> Evidence:
    return check_evidence(path, maker.policy)


def independent(path: Path, maker: Maker = MAKER) -> dict[str, Any] | None:
    """The statement, by the verifier that stands in docs/examples; None if it refuses."""
    try:
        with zipfile.ZipFile(path) as archive:
            return verify_evidence.verify(archive, maker.policy_text)
    except Exception:  # noqa: BLE001 - whatever it raises, it refuses
        return None


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKER.write(tmp_path_factory.mktemp("bundle") / "evidence.zip")


def test_what_was_written_is_proven_and_says_by_what(bundle: Path) -> None:
    seen: list[int] = []
    evidence = check_evidence(bundle, MAKER.policy, on_event=lambda index, _: seen.append(index))
    assert (evidence.faults, evidence.notes, evidence.unevaluated) == ((), (), "")
    assert evidence.is_verified
    assert seen == INDICES
    assert (evidence.edition, evidence.events, evidence.span) == (2, 6, (3, 299))
    stated = evidence.stated
    assert stated is not None
    assert (stated.token, stated.case, stated.reason) == ("auditor", "INC-7", "stolen account")
    assert stated.index == SIZE + 1
    assert stated.head is not None
    assert stated.head.checkpoint.tree_size == SIZE + 3
    assert stated.statement.total == 6
    assert independent(bundle) == msgspec.to_builtins(stated.statement)


def test_each_event_existed_before_the_earliest_head_that_covers_it(bundle: Path) -> None:
    existed = check(bundle).existed
    assert existed is not None
    # Entry 3 is first covered by the head of size 50, and entry 299 by that of size 300.
    assert (existed.first_unix_s, existed.last_unix_s) == (SINCE_S + 53, SINCE_S + 303)
    # Entry 150 was covered by the head of size 200, 53 s after it was received.
    assert existed.delay_s_max == 53.0
    late = check(Maker(kept=()).write(bundle.with_name("late.zip"))).existed
    assert late is not None
    assert late.first_unix_s == late.last_unix_s == SINCE_S + 303


def test_a_head_without_the_quorum_shows_no_time(tmp_path: Path) -> None:
    maker = Maker()
    weak = Maker(witnesses=1)
    maker.first_head = lambda size: (  # type: ignore[method-assign]  # a log whose quorum grew
        weak.head(50) if size <= 50 else Maker.first_head(maker, size)
    )
    evidence = check(maker.write(tmp_path / "evidence.zip"))
    assert evidence.faults == ()
    assert evidence.notes == ("1 of the earlier heads do not meet your policy and show no time",)
    assert evidence.existed is not None
    assert evidence.existed.first_unix_s == SINCE_S + 103


def test_the_heads_in_a_bundle_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "HEADS_FREE", 4)
    monkeypatch.setattr(writing, "EVENTS_PER_HEAD", 100)
    path = Maker(kept=range(SIZE)).write(tmp_path / "evidence.zip", range(SIZE))
    assert check(path).faults == ()
    # Six for the events, and one for the statement.
    assert len(files_of(path)["heads.jsonl"].splitlines()) == 4 + 2 + 1


def test_events_are_parted_and_parts_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "PART_EVENTS", 7)
    indices = [at for at in range(SIZE) if at % 3 or at > 200]
    path = MAKER.write(tmp_path / "evidence.zip", indices)
    seen: list[int] = []
    evidence = check_evidence(path, MAKER.policy, on_event=lambda index, _: seen.append(index))
    assert (evidence.faults, seen) == ((), indices)
    assert independent(path)
    names = [name for name in files_of(path) if name.endswith(".jsonl") and "/" in name]
    assert len(names) == -(-len(indices) // 7)


def test_no_events_prove_nothing(tmp_path: Path) -> None:
    evidence = check(MAKER.write(tmp_path / "evidence.zip", ()))
    assert (evidence.events, evidence.span, evidence.existed) == (0, None, None)
    assert (evidence.faults, evidence.is_verified) == ((), False)


def test_a_statement_without_a_proof_is_not_proven(tmp_path: Path) -> None:
    evidence = check(MAKER.write(tmp_path / "evidence.zip", is_proven=False))
    assert evidence.is_verified
    assert evidence.stated is not None
    assert (evidence.stated.head, evidence.stated.missing) == (None, "the witnesses are away")
    assert independent(tmp_path / "evidence.zip")


def test_a_tenants_events_alone_meet_the_question_of_its_token(tmp_path: Path) -> None:
    path = Maker(asked={"tenant": "acme"}).write(tmp_path / "evidence.zip")
    assert "does not meet" in check(path).faults[0]


def test_a_log_without_witnesses_states_no_time(tmp_path: Path) -> None:
    maker = Maker(witnesses=0)
    maker.policy = maker.log.policy
    evidence = check(maker.write(tmp_path / "evidence.zip"), maker)
    assert (evidence.faults, evidence.existed) == ((), None)
    assert files_of(tmp_path / "evidence.zip")["heads.jsonl"].count(b"\n") == 1


def test_a_query_of_an_earlier_language_is_not_called_false() -> None:
    """Written when ids were no words: then each event met `NOT u_1`."""
    folder = Path(TESTS_DIR) / "data"
    policy = parse_policy((folder / "evidence-2.policy").read_bytes())
    evidence = check_evidence(folder / "evidence-2.zip", policy)
    assert (evidence.faults, evidence.events, evidence.is_verified) == ((), 2, True)
    assert "version 1 of the language" in evidence.unevaluated
    stated = evidence.stated
    assert stated is not None
    assert (stated.statement.query, stated.statement.language) == ("NOT u_1", 1)


@pytest.mark.parametrize(
    ("query", "language", "met"),
    [
        ("action:user.changed", 1, True),
        ("action:User.changed", 1, False),
        ("action:User.changed", 2, True),
        ("NOT action:User.changed", 1, True),
        ("NOT action:User.changed", 2, False),
        ("action:user.* actor:u_1 index:0..9", 1, True),
        ("actor:u_2 OR actor:u_1", 1, True),
        ("actor:u_2", 1, False),
        ("NOT u_1", 1, None),
        ("actor:u_2 OR has:session", 1, None),
        ("actor:u_2", 3, None),
    ],
)
def test_each_version_of_the_language_has_its_rules(
    query: str, language: int, met: bool | None
) -> None:
    question = ask(query, None, language=language)
    assert bool(question.unevaluated()) is (met is None)
    if met is False:
        with pytest.raises(VerificationError, match="does not meet"):
            question.check(1, entry(1))
    else:
        question.check(1, entry(1))


# Repacking.


def test_a_bundle_may_be_unpacked_and_zipped_again(bundle: Path, tmp_path: Path) -> None:
    files = files_of(bundle)
    names = sorted(files, reverse=True)
    for number, (method, folder) in enumerate(
        ((zipfile.ZIP_STORED, ""), (zipfile.ZIP_DEFLATED, "case 7/"))
    ):
        path = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(path, "w", method) as archive:
            if folder:
                archive.mkdir(folder)
            archive.mkdir(f"{folder}events")
            for name in names:
                archive.writestr(f"{folder}{name}", files[name])
        evidence = check(path)
        assert (evidence.faults, evidence.notes, evidence.events) == ((), (), 6)


def test_another_program_packs_it_again(bundle: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "bundle")
    packed = tmp_path / "again.zip"
    shutil.make_archive(str(packed.with_suffix("")), "zip", tmp_path / "bundle")
    assert check(packed).faults == ()


def test_files_that_a_desktop_adds_are_a_note(bundle: Path) -> None:
    path = changed(
        bundle, lambda files: files.update({"__MACOSX/._policy": b"", "events/.DS_Store": b""})
    )
    evidence = check(path)
    assert evidence.faults == ()
    assert len(evidence.notes) == 2


def with_prefix(data: bytes) -> bytes:
    return b"#!/bin/sh\n" + data


def with_suffix(data: bytes) -> bytes:
    return data + b"more"


def with_comment(data: bytes) -> bytes:
    return data[:-2] + b"\x05\x00hello"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (with_prefix, "10 bytes before the first file"),
        (with_suffix, "4 bytes behind the end"),
        (with_comment, "a comment of 5 bytes"),
    ],
)
def test_what_a_zip_holds_beside_its_files_is_named(
    bundle: Path, tmp_path: Path, change: Callable[[bytes], bytes], named: str
) -> None:
    path = tmp_path / "odd.zip"
    path.write_bytes(change(bundle.read_bytes()))
    (fault,) = check(path).faults
    assert named in fault


def test_bytes_between_files_and_comments_of_files_are_named(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files_of(bundle).items():
            info = zipfile.ZipInfo(name)
            info.comment = b"hidden" if name == "policy" else b""
            archive.writestr(info, data)
            if name == "policy":
                assert archive.fp is not None
                archive.fp.write(b"x" * 100)
                archive.start_dir = archive.fp.tell()
    faults = check(path).faults
    assert any("comments of 1 files" in fault for fault in faults)
    assert any("100 bytes between the files" in fault for fault in faults)


# Tampering.


def alter_leaf(files: Files) -> None:
    files["events/000000.jsonl"] = files["events/000000.jsonl"].replace(b"success", b"failure", 1)


def drop_leaf(files: Files) -> None:
    name = "events/000000.jsonl"
    files[name] = files[name].split(b"\n", 1)[1]


def lose_newline(files: Files) -> None:
    files["events/000000.jsonl"] = files["events/000000.jsonl"][:-1]


def move_index(files: Files) -> None:
    name = "events/000000.multi-proof"
    files[name] = files[name].replace(b"60-62", b"61-63")


def index_past_the_tree(files: Files) -> None:
    name = "events/000000.multi-proof"
    files[name] = files[name].replace(b" 299\n", b" 305\n")


def lose_proof(files: Files) -> None:
    del files["events/000000.multi-proof"]


def lose_part(files: Files) -> None:
    del files["events/000000.jsonl"]


def repeat_part(files: Files) -> None:
    for ending in ("jsonl", "multi-proof"):
        files[f"events/000001.{ending}"] = files[f"events/000000.{ending}"]
    edit_json(files, "manifest.json", parts=2)


def hide_part(files: Files) -> None:
    lose_part(files)
    lose_proof(files)
    edit_json(files, "manifest.json", parts=0, events=0)


def other_events(files: Files) -> None:
    other = files_of(MAKER.write(Path(files["path"].decode()), [3, 60, 61, 62, 151, 299]))
    for name in ("events/000000.jsonl", "events/000000.multi-proof"):
        files[name] = other[name]


def statement_of_another(files: Files) -> None:
    maker = Maker(asked={"reason": "curiosity", "query": "action:user.*"})
    other = files_of(maker.write(Path(files["path"].decode()), [3]))
    for name in ("statement.leaf.json", "statement.tlog-proof", "heads.jsonl"):
        files[name] = other[name]


def forge_statement(files: Files) -> None:
    name = "statement.leaf.json"
    files[name] = files[name].replace(b"stolen account", b"routine review")


def forge_statement_without_proof(files: Files) -> None:
    del files["statement.tlog-proof"]


def rewrite_query(files: Files) -> None:
    files["query.txt"] = b"actor:u_2\n"


def test_the_page_tells_for_whom_and_by_which_session_and_credential_it_was_done() -> None:
    hostile = "\x1b[31m\u202e<b>"
    principal = {"type": "user", "id": f"u_88{hostile}", "name": 'Kim" root'}
    actor = {"id": "u_5", "session": "s_9", "credential": "tok_17", "on_behalf_of": principal}
    page = PageWriter(
        Asked(
            origin=f"log{hostile}",
            tree_size=8,
            query="",
            token="reader",
            time="2026-11-25T02:03:36Z",
        )
    )
    page.add(7, leaf_of({"action": "a.b", "outcome": "denied", "actor": actor}, at=0))
    text = page.finish()
    shown = "on behalf of user u_88\ufffd[31m\ufffd&lt;b&gt; &quot;Kim\\&quot; root&quot;"
    assert f"<td>u_5<br>{shown}<br>session s_9<br>credential tok_17</td>" in text
    assert "\u202e" not in text


def test_an_id_on_the_page_does_not_look_like_another() -> None:
    asked = Asked(origin="log", tree_size=1, query="", token="reader", time="2026-11-25T02:03:36Z")
    page = PageWriter(asked)
    other = {"type": "user", "id": "\u0430dmin"}
    actor = {**other, "session": "a\u217emin", "on_behalf_of": other}
    event = {"action": "a.b", "outcome": "denied", "actor": actor, "targets": [other]}
    page.add(0, leaf_of(event, at=0))
    text = page.finish()
    shown = "user &lt;U+0430&gt;dmin"
    assert f"<td>{shown}<br>on behalf of {shown}<br>session a&lt;U+217E&gt;min</td>" in text
    assert f"<td>{shown}</td>" in text


def test_the_page_has_the_earliest_events_in_the_order_of_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(page_module, "ROWS_MAX", 3)
    page = PageWriter(
        Asked(origin="log", tree_size=8, query="", token="reader", time="2026-11-25T02:03:36Z")
    )
    times = ("05", "02", "09", "01", "02", "07")
    for index, day in enumerate(times):
        event = {"action": f"a.b{index}", "outcome": "denied", "actor": {"id": "u_1"}}
        page.add(index, leaf_of({**event, "time": f"2026-11-{day}T00:00:00.000000Z"}, at=0))
    text = page.finish()
    assert re.findall(r"<td>a\.b(\d)<br>", text) == ["3", "1", "4"]
    assert "The earliest 3 of 6 events" in text


def rewrite_readme(files: Files) -> None:
    files["README.txt"] = files["README.txt"].replace(b"does not show", b"shows too")


def rewrite_page(files: Files) -> None:
    files["index.html"] += b"<script>alert(1)</script>"


def weaken_policy(files: Files) -> None:
    files["policy"] = format_policy([MAKER.log.signer.verifier]).encode()


def older_head(files: Files) -> None:
    files["checkpoint"] = MAKER.head(299).note.encode()


def drop_head(files: Files) -> None:
    *lines, _ = files["heads.jsonl"].splitlines(keepends=True)
    files["heads.jsonl"] = b"".join(lines)


def forked_head(files: Files) -> None:
    fork = Maker(leaves=entries(SIZE, actor="u_9"))
    line = msgspec.json.decode(files["heads.jsonl"].splitlines()[0])
    line["checkpoint"] = fork.head(50).note
    rest = files["heads.jsonl"].splitlines(keepends=True)[1:]
    files["heads.jsonl"] = b"".join([msgspec.json.encode(line), b"\n", *rest])


def repeat_head(files: Files) -> None:
    files["heads.jsonl"] = files["heads.jsonl"].splitlines(keepends=True)[0] * 3


def garble_heads(files: Files) -> None:
    files["heads.jsonl"] = b"{}\n"


def claim_more(files: Files) -> None:
    edit_json(files, "manifest.json", events=7)


def add_file(files: Files) -> None:
    files["events/../../etc/passwd"] = b"root"


def add_second_part(files: Files) -> None:
    files["events/000001.jsonl"] = b"{}\n"


def lengthen_leaf(files: Files) -> None:
    files["events/000000.jsonl"] = b" " * (1 << 21)


TAMPERINGS: list[tuple[Callable[[Files], None], str]] = [
    (alter_leaf, "events/000000.jsonl"),
    (drop_leaf, "events/000000.jsonl"),
    (lose_newline, "events/000000.jsonl"),
    (move_index, "events/000000.jsonl"),
    (index_past_the_tree, "events/000000.jsonl"),
    (lose_proof, "events/000000.jsonl"),
    (lose_part, "events/000000.jsonl"),
    (repeat_part, "events/000001.jsonl"),
    (hide_part, "statement.leaf.json"),
    (other_events, "statement.leaf.json"),
    (statement_of_another, "statement.leaf.json"),
    (forge_statement, "statement.tlog-proof"),
    (forge_statement_without_proof, "statement.tlog-proof"),
    (rewrite_query, "query.txt"),
    (rewrite_readme, "README.txt"),
    (rewrite_page, "index.html"),
    (weaken_policy, "policy"),
    (older_head, "events/000000.jsonl"),
    (drop_head, "heads.jsonl"),
    (forked_head, "heads.jsonl"),
    (repeat_head, "heads.jsonl"),
    (garble_heads, "heads.jsonl"),
    (claim_more, "manifest.json"),
    (add_file, "etc/passwd"),
    (add_second_part, "events/000001.jsonl"),
    (lengthen_leaf, "events/000000.jsonl"),
]


@pytest.mark.parametrize(("change", "named"), TAMPERINGS)
def test_what_was_changed_is_named(
    bundle: Path, tmp_path: Path, change: Callable[[Files], None], named: str
) -> None:
    path = tmp_path / "evidence.zip"
    path.write_bytes(bundle.read_bytes())

    def apply(files: Files) -> None:
        files["path"] = str(tmp_path / "other.zip").encode()
        change(files)
        del files["path"]

    path = changed(path, apply)
    faults = check(path).faults
    assert any(named in fault.partition(": ")[0] for fault in faults), faults
    # The example reads no earlier head but that of the statement.
    assert (independent(path) is None) == (change is not forked_head)


def test_an_honest_reader_of_a_rewritten_statement_is_told_that_it_is_not_proven(
    bundle: Path,
) -> None:
    def change(files: Files) -> None:
        forge_statement(files)
        forge_statement_without_proof(files)
        edit_json(files, "manifest.json", statement_missing="trust me")

    evidence = check(changed(bundle, change))
    assert evidence.stated is not None
    assert evidence.stated.head is None
    assert evidence.stated.missing == "trust me"


def rewrite_texts_without_proof(files: Files) -> None:
    """Write another page and state it, as anybody can once nothing proves the statement."""
    old = sha256(files["index.html"]).hexdigest().encode()
    files["index.html"] = b"<p>u_2 did all of it</p>"
    new = sha256(files["index.html"]).hexdigest().encode()
    assert old in files["statement.leaf.json"]
    files["statement.leaf.json"] = files["statement.leaf.json"].replace(old, new)
    forge_statement_without_proof(files)
    edit_json(files, "manifest.json", statement_missing="\x1b[2Jthe log records it")


def test_a_rewritten_page_is_said_to_be_proven_by_nothing(bundle: Path, tmp_path: Path) -> None:
    true = check(bundle)
    assert (true.are_texts_proven, true.notes) == (True, ())
    path = changed(bundle, rewrite_texts_without_proof)
    evidence = check(path)
    assert evidence.is_verified
    assert not evidence.are_texts_proven
    assert "can have written README.txt and index.html" in evidence.notes[0]
    policy = tmp_path / "policy"
    policy.write_text(MAKER.policy_text)
    said = run_here("verify", path, "--policy", policy)
    assert said.code == 0, said.err
    assert "export  not proven: \ufffd[2Jthe log records it" in said.out
    assert "texts  README.txt and index.html may say anything" in said.out
    as_json = json.loads(run_here("verify", path, "--policy", policy, "--json").out)
    assert as_json["texts_proven"] is False
    command = [sys.executable, str(verify_evidence.__file__), str(path), str(policy)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "\x1b" not in run.stdout
    assert "nothing proves README.txt, index.html" in run.stdout


def test_a_page_of_the_largest_events_is_no_larger_than_a_verifier_reads(tmp_path: Path) -> None:
    changes = [{"path": f"/k{n}", "before": "&" * 110, "after": "<" * 110} for n in range(250)]
    event = {"action": "a.b", "outcome": "denied", "actor": {"id": "u_1"}, "changes": changes}
    leaves = [leaf_of({**event, "id": event_id(n)}, at=n) for n in range(SIZE)]
    maker = Maker(leaves=leaves)
    path = maker.write(tmp_path / "evidence.zip", range(SIZE))
    assert check(path, maker).faults == ()
    page = files_of(path)["index.html"].decode()
    assert page.count("the rest stands in the folder") == SIZE
    assert len(page.encode()) / SIZE * page_module.ROWS_MAX < STATED_BYTES_MAX


def test_a_part_is_closed_by_its_private_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "PRIVATE_BYTES", 1)
    maker = disclosing()
    path = maker.write(tmp_path / "evidence.zip")
    assert check(path, maker).faults == ()
    events = [data for name, data in files_of(path).items() if re.match("events/.*jsonl", name)]
    assert [data.count(b"\n") for data in events] == [2, 4], "the event at 60 closes its part"


def test_a_statement_of_another_principal_or_action_is_malformed(bundle: Path) -> None:
    event = msgspec.json.decode(files_of(bundle)["statement.leaf.json"])["event"]
    for leaf in (
        leaf_of(event, at=1001, by="auditor"),
        leaf_of(event | {"action": "user.changed"}, at=1001),
        leaf_of(event | {"context": {"evidence": {"v": 2}}}, at=1001),
        entry(1),
        b"{}",
    ):
        replaced = files_of(bundle) | {"statement.leaf.json": leaf}
        with pytest.raises(MalformedError, match=r"statement\.leaf\.json"):
            check(pack(bundle.with_name("other.zip"), replaced))


@pytest.mark.parametrize(
    "name",
    [
        *("README.txt", "index.html", "query.txt", "policy", "checkpoint", "heads.jsonl"),
        *("statement.leaf.json", "manifest.json"),
    ],
)
def test_a_bundle_without_one_of_its_files_is_malformed(bundle: Path, name: str) -> None:
    with pytest.raises(MalformedError, match=name):
        check(changed(bundle, lambda files: files.pop(name)))


@pytest.mark.parametrize("manifest", [b"", b"{}", b"\xff", b'{"v": 3}', b'{"v": 2}', b"[" * 9999])
def test_a_manifest_of_another_form_is_malformed(bundle: Path, manifest: bytes) -> None:
    with pytest.raises(MalformedError, match=r"manifest\.json: |evidence of edition 3"):
        check(changed(bundle, lambda files: files.update({"manifest.json": manifest})))


def test_the_policy_of_the_reader_decides(bundle: Path) -> None:
    stranger = Maker(key="another")
    with pytest.raises(VerificationError, match="checkpoint"):
        check_evidence(bundle, stranger.policy)
    strict = replace(MAKER.policy, quorum="w3")
    with pytest.raises(VerificationError, match="quorum"):
        check_evidence(bundle, strict)
    all_three = parse_policy(MAKER.policy_text.replace("group g 2", "group g 3").encode())
    with pytest.raises(VerificationError, match="quorum"):
        check_evidence(bundle, all_three)
    alone = parse_policy(MAKER.policy_text.replace("quorum g", "quorum none").encode())
    assert check_evidence(bundle, alone).faults == ()


def test_a_weaker_policy_inside_is_noted(bundle: Path, tmp_path: Path) -> None:
    either = parse_policy(MAKER.policy_text.encode())
    assert check_evidence(bundle, either).notes == ()
    pair = "group h all w1 w2\nquorum h"
    strict = parse_policy(MAKER.policy_text.replace("group g 2 w1 w2 w3\nquorum g", pair).encode())
    (note,) = check_evidence(bundle, strict).notes
    assert "weaker than yours: w1 and w3 alone meet it" in note


def test_a_bundle_of_a_bare_log_is_refused_by_a_policy_with_witnesses(tmp_path: Path) -> None:
    maker = Maker(witnesses=1)
    path = maker.write(tmp_path / "evidence.zip")
    with pytest.raises(VerificationError, match="quorum"):
        check(path, maker)


# Disclosed values.

SALT = bytes(32)
MULTI_PROOF = b"witnessed-ledger/multi-proof@v1"


def disclosing(value: Any = "Ada", *, key: str = "name") -> Maker:
    escaped = key.replace("~", "~0").replace("/", "~1")
    opening = Opening(f"/context/{escaped}", "u_1", encode_salt(SALT), value)
    mail = Opening("/actor/name", "u_1", encode_salt(SALT), "ada@example.com")
    fields: dict[str, Any] = {
        "id": "0192f0c1-7c1a-7c3a-9d2f-000000009999",
        "actor": {"id": "u_1", "name": f"commitment.{mail.commitment}"},
        "action": "user.changed",
        "outcome": "success",
        "context": {key: {"commitment": opening.commitment}},
    }
    leaves = entries(SIZE)
    leaves[60] = leaf_of(fields, at=60, by="billing-api")
    return Maker(
        leaves=leaves,
        asked={"disclose": ("/context/*",)},
        openings={60: [opening, mail]},
    )


def test_disclosed_values_are_checked_against_their_commitments(tmp_path: Path) -> None:
    maker = disclosing()
    path = maker.write(tmp_path / "evidence.zip")
    evidence = check(path, maker)
    assert (evidence.faults, evidence.disclosed) == ((), 2)
    assert independent(path, maker)
    name = "private/000000.jsonl"
    assert b"Ada" in files_of(path)[name]
    assert not any(b"Ada" in data for each, data in files_of(path).items() if each != name)

    def lie(before: bytes, after: bytes) -> Callable[[Files], None]:
        return lambda files: files.update({name: files[name].replace(before, after)})

    for before, after in (
        (b"Ada", b"Eve"),
        (b"/context/name", b"/context/other"),
        (b'"index":60', b'"index":61'),
        (b'"index":60', b'"index":59'),
        (b"AAAA", b"AAAB"),
        (b'A"', b'B"'),
        (b"}", b""),
    ):
        lied = changed(path, lie(before, after))
        (fault, *_) = check(lied, maker).faults
        assert name in fault
        assert independent(lied, maker) is None
    dropped = changed(path, lambda files: files.pop(name))
    faults = check(dropped, maker).faults
    assert any("got 0 disclosed values, it states 2" in fault for fault in faults)
    assert independent(dropped, maker) is None


def test_an_event_is_searched_once_however_many_of_its_values_are_disclosed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[object] = []

    def note(event: Any) -> Iterator[Commitment]:
        searched.append(event)
        return find_commitments(event)

    monkeypatch.setattr("ledger_core.evidence.second_edition.find_commitments", note)
    maker = disclosing()
    assert check(maker.write(tmp_path / "evidence.zip"), maker).disclosed == 2
    assert len(searched) == 1


def test_the_example_reads_an_event_once_too_and_no_more_than_its_limits(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = disclosing()
    leaf, read = maker.leaves[60], Counter[bytes]()
    loads = json.loads

    def note(data: bytes, **options: Any) -> Any:
        read[data] += 1
        return loads(data, **options)

    with monkeypatch.context() as patched:
        patched.setattr("docs.examples.verify_evidence.json.loads", note)
        assert independent(maker.write(tmp_path / "evidence.zip"), maker)
    assert read[leaf] == 1

    name = "events/000000.multi-proof"
    long = changed(bundle, lambda files: files.update({name: b"%b\n0-3000000\n" % MULTI_PROOF}))
    tracemalloc.start()
    assert independent(long) is None
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()

    monkeypatch.setattr(verify_evidence, "BYTES_MAX", 1000)
    assert independent(bundle) is None


def test_a_disclosed_value_does_not_stand_twice_in_place_of_another(tmp_path: Path) -> None:
    maker = disclosing()
    path = maker.write(tmp_path / "evidence.zip")
    name = "private/000000.jsonl"

    def repeat(files: Files) -> None:
        first, _ = files[name].splitlines(keepends=True)
        files[name] = first + first

    repeated = changed(path, repeat)
    (fault,) = check(repeated, maker).faults
    assert "stands twice" in fault
    assert independent(repeated, maker) is None


def test_a_disclosed_value_has_no_second_value_beside_it(tmp_path: Path) -> None:
    maker = disclosing()
    path = maker.write(tmp_path / "evidence.zip")
    name = "private/000000.jsonl"

    def add(files: Files) -> None:
        # One reader of JSON takes the first value, another the last.
        files[name] = files[name].replace(b'"value":', b'"value":"Eve","value":')

    lied = changed(path, add)
    fault, *_ = check(lied, maker).faults
    assert "'value' stands twice in an object" in fault
    assert independent(lied, maker) is None


@pytest.mark.parametrize("key", ["a/b", "/", "~1", "a~0b/~", "", "0"])
def test_a_disclosed_value_may_stand_at_any_key(tmp_path: Path, key: str) -> None:
    maker = disclosing(key=key)
    path = maker.write(tmp_path / "evidence.zip")
    evidence = check(path, maker)
    assert (evidence.faults, evidence.disclosed) == ((), 2)
    assert independent(path, maker)


@pytest.mark.parametrize(
    "value",
    [1.0, 12.5, 2**53 - 1, None, True, "é\n\x1f\U0001f600", {"ﬀ": 1, "\U0001f600": [2.0, {}]}],
)
def test_the_example_reads_disclosed_values_of_all_kinds(tmp_path: Path, value: object) -> None:
    maker = disclosing(value)
    path = maker.write(tmp_path / "evidence.zip")
    assert check(path, maker).faults == ()
    assert independent(path, maker)


def test_parts_of_two_genuine_bundles_do_not_mix(tmp_path: Path) -> None:
    """Each file of a bundle, swapped with that of another genuine one, is noticed."""
    one = MAKER.write(tmp_path / "one.zip")
    other = Maker(asked={"query": "action:user.changed", "case": "INC-8"}).write(
        tmp_path / "other.zip", [5, 6, 250]
    )
    theirs = files_of(other)
    for name in files_of(one):
        if files_of(one)[name] == theirs[name]:
            continue
        path = pack(tmp_path / "mixed.zip", files_of(one) | {name: theirs[name]})
        assert check(path).faults, name


def test_no_flipped_byte_of_the_zip_changes_what_is_verified(bundle: Path, tmp_path: Path) -> None:
    """Each byte flipped is a fault or an error, or nothing that anybody reads from the .zip."""
    data = bundle.read_bytes()
    true = files_of(bundle)
    path = tmp_path / "flipped.zip"
    silent = 0
    step = 1 if EVERY_BYTE else 29
    for at in range(0, len(data), step):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        try:
            evidence = check(path)
        except (MalformedError, VerificationError):
            continue
        if not evidence.faults:
            silent += 1
            with zipfile.ZipFile(path) as archive:
                assert {name: archive.read(name) for name in archive.namelist()} == true
    assert silent < len(data) / step / 4


@pytest.mark.parametrize("name", ["statement.leaf.json", "statement.tlog-proof", "heads.jsonl"])
@pytest.mark.parametrize("flip", [0x01, 0x20])
def test_each_flipped_byte_of_a_file_is_noticed(
    bundle: Path, tmp_path: Path, name: str, flip: int
) -> None:
    files = dict(files_of(bundle))
    data = files[name]
    for at in range(0, len(data), 1 if EVERY_BYTE else 31):
        files[name] = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
        path = pack(tmp_path / "flipped.zip", files)
        try:
            evidence = check(path)
        except (MalformedError, VerificationError):
            continue
        # A note: without one cosignature a head has no quorum, and shows no time.
        assert evidence.faults or evidence.notes, (at, data[at - 20 : at + 20])


@pytest.mark.parametrize(
    "name",
    [
        *("manifest.json", "checkpoint", "events/000000.multi-proof", "events/000000.jsonl"),
        *("statement.leaf.json", "statement.tlog-proof", "query.txt", "policy", "README.txt"),
    ],
)
def test_each_range_of_bytes_of_a_file_is_noticed_when_it_changes(
    bundle: Path, tmp_path: Path, name: str
) -> None:
    """The ranges cover each byte."""
    files = dict(files_of(bundle))
    data = files[name]
    for start in range(0, len(data), 40):
        end = min(start + 40, len(data))
        flipped = bytes(byte ^ 1 for byte in data[start:end])
        files[name] = data[:start] + flipped + data[end:]
        path = pack(tmp_path / "flipped.zip", files)
        assert independent(path) is None, data[start:end]
        try:
            evidence = check(path)
        except (MalformedError, VerificationError):
            continue
        assert evidence.faults, data[start:end]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 64, 65, 127, 300])
def test_the_verifier_of_the_example_agrees_on_trees_of_all_shapes(
    tmp_path: Path, size: int
) -> None:
    maker = Maker(size=size, kept=range(1, size))
    path = maker.write(tmp_path / "evidence.zip", range(0, size, 3))
    assert check(path).faults == ()
    assert independent(path)


def test_the_example_runs_as_a_program(bundle: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy"
    policy.write_text(MAKER.policy_text)
    command = [sys.executable, str(verify_evidence.__file__), str(bundle), str(policy)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == "verified: 6 events; the log was asked: 'actor:u_1'\n"
    policy.write_text(MAKER.policy_text.replace("group g 2", "group g 3"))
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "NOT VERIFIED: no quorum of witnesses\n"


def test_one_note_of_a_witness_alone_is_no_quorum() -> None:
    note = cosigned(MAKER.log.note(50), (W1, 1))
    with pytest.raises(VerificationError):
        MAKER.policy.check(note)
