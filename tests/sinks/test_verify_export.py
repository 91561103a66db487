"""`ledger verify-export`: altered, missing, foreign and wrapped lines of a copy."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from click.testing import CliRunner, Result

from ledger.follow.entries import Entry
from ledger.sinks.ocsf import to_ocsf
from ledger.sinks.record import make_record
from ledger_client import LedgerClient
from ledger_client.audit.copy_check import ranges
from ledger_client.cli.verify_export import command
from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.hashing import leaf_hash
from tests.service.serving import Ledger, event, serving_new
from tests.sinks.sinking import ORIGIN


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    with serving_new(tmp_path_factory.mktemp("copy")) as ledger:
        events = [event(reason=f"né {n}", context={"ratio": n / 7}) for n in range(300)]
        assert ledger.append(*events, query="?wait=witnessed").status == 200
        yield ledger


@pytest.fixture(scope="module")
def entries(ledger: Ledger) -> list[Entry]:
    policy = ledger.directory / "policy"
    with LedgerClient(ledger.url, ledger.tokens["read"], policy=policy) as client:
        return [Entry(each.index, each.leaf, leaf_hash(each.leaf)) for each in client.events()]


@pytest.fixture(scope="module")
def lines(entries: list[Entry]) -> list[bytes]:
    return [make_record(entry, ORIGIN).json for entry in entries]


def check(ledger: Ledger, tmp_path: Path, lines: list[bytes], *more: str) -> Result:
    file = tmp_path / "copy.jsonl"
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    return CliRunner().invoke(command, [str(file), *options_of(ledger, tmp_path), *more])


def options_of(ledger: Ledger, tmp_path: Path) -> list[str]:
    token = tmp_path / "token"
    token.write_text(ledger.tokens["read"])
    policy = str(ledger.directory / "policy")
    return ["--url", ledger.url, "--policy", policy, "--token-file", str(token), "--json"]


def told(result: Result) -> Any:
    (line,) = [each for each in result.stdout.splitlines() if each.startswith('{"verified"')]
    return json.loads(line)


def test_a_whole_copy_is_verified(ledger: Ledger, tmp_path: Path, lines: list[bytes]) -> None:
    result = check(ledger, tmp_path, lines + lines[:5])
    assert result.exit_code == 0, result.output
    assert told(result)["verified"]
    assert (told(result)["entries"], told(result)["repeated"]) == (len(lines), 5)


def test_wrapped_lines_are_understood(
    ledger: Ledger, tmp_path: Path, lines: list[bytes], entries: list[Entry]
) -> None:
    wrapped = [
        json.dumps({"_index": "audit", "_source": {"@timestamp": "x", **json.loads(lines[0])}}),
        json.dumps({"preview": False, "result": {"_raw": lines[1].decode()}}),
        json.dumps({"attributes": [1, {"message": lines[2].decode()}]}),
    ]
    copy = [text.encode() for text in wrapped]
    copy += [to_ocsf(make_record(entry, ORIGIN)).json for entry in entries[3:]]
    result = check(ledger, tmp_path, copy[::-1])
    assert result.exit_code == 0, result.output
    assert told(result)["without_content"] == 0


def test_missing_entries_are_named(ledger: Ledger, tmp_path: Path, lines: list[bytes]) -> None:
    result = check(ledger, tmp_path, lines[5:100] + lines[101:200] + lines[203:290])
    assert isinstance(result.exception, VerificationError)
    assert told(result)["missing"] == [[100, 100], [200, 202]]
    wide = told(check(ledger, tmp_path, lines[5:290], "--from", "0", "--to", str(len(lines))))
    assert wide["missing"] == [[0, 4], [290, len(lines) - 1]]
    chosen = told(check(ledger, tmp_path, lines[5:200] + lines[203:], "--query", "action:x"))
    assert chosen["verified"]


def altered(line: bytes, **values: Any) -> bytes:
    return json.dumps({**json.loads(line), **values}).encode()


def test_attributes_beside_raw_data_are_said_to_be_unproven(
    ledger: Ledger, tmp_path: Path, lines: list[bytes], entries: list[Entry]
) -> None:
    copy = [to_ocsf(make_record(entry, ORIGIN)).json for entry in entries[:2]] + lines[2:]
    assert told(check(ledger, tmp_path, copy))["ocsf"] == 2
    assert told(check(ledger, tmp_path, lines))["ocsf"] == 0


def test_a_false_record_beside_its_true_raw_data_is_altered(
    ledger: Ledger, tmp_path: Path, lines: list[bytes], entries: list[Entry]
) -> None:
    false = json.loads(lines[3])
    false["event"]["outcome"] = "failure"
    place = {name: false[name] for name in ("index", "leaf_hash", "origin")}
    shown = json.dumps({**false, "raw_data": entries[3].leaf.decode(), "unmapped": place}).encode()
    faults = told(check(ledger, tmp_path, [*lines[:3], shown, *lines[4:]]))["faults"]
    assert faults == ["line 4: its content is not that of its leaf hash: altered"]


def test_a_name_that_stands_twice_is_named(
    ledger: Ledger, tmp_path: Path, lines: list[bytes]
) -> None:
    twice = b'{"event":{"action":"nothing.happened"},' + lines[3][1:]
    within = json.dumps({"message": twice.decode()}).encode()
    faults = told(check(ledger, tmp_path, [*lines[:3], twice, within, *lines[4:]]))["faults"]
    assert faults[0].startswith("line 4: 'event' stands twice")
    assert faults[1].startswith("line 5: 'event' stands twice")


def test_a_line_without_an_end_is_not_kept(
    ledger: Ledger, tmp_path: Path, lines: list[bytes]
) -> None:
    long = b'{"a":"' + b"x" * (1 << 26)
    tracemalloc.start()
    try:
        with (tmp_path / "copy.jsonl").open("wb") as file:
            file.write(long)
            file.write(b"\n" + b"\n".join(lines))
        del long
        tracemalloc.reset_peak()
        result = CliRunner().invoke(
            command, [str(tmp_path / "copy.jsonl"), *options_of(ledger, tmp_path)]
        )
        assert tracemalloc.get_traced_memory()[1] < 1 << 25
    finally:
        tracemalloc.stop()
    assert told(result)["faults"] == ["line 1: over 1048576 bytes"]


def test_altered_lines_are_named(ledger: Ledger, tmp_path: Path, lines: list[bytes]) -> None:
    content = json.loads(lines[7])
    content["event"]["outcome"] = "failure"
    changed = [
        *lines[:7],
        json.dumps(content).encode(),
        altered(lines[8], leaf_hash="00" * 32),
        altered(lines[9], origin="other.example/log"),
        altered(lines[10], index=10_000),
        b"not json",
        b'{"a":1}',
        altered(lines[13], index="x"),
        *lines[14:],
    ]
    result = check(ledger, tmp_path, changed)
    assert isinstance(result.exception, VerificationError)
    faults = told(result)["faults"]
    wants = [
        "line 8: its content",
        "line 9: its content",
        "line 10: of another log",
        "line 11: the log has no entry 10000",
        "line 12: not JSON",
        "line 13: no index",
        "line 14: index or leaf_hash",
        "line 9: entry 8 has another leaf hash in the log",
    ]
    assert [fault[: len(want)] for fault, want in zip(faults, wants, strict=True)] == wants
    assert told(result)["missing"] == [[9, 13]]


def forged(line: bytes, **values: Any) -> dict[str, Any]:
    """A line of another event, with the leaf hash that this one has."""
    content: dict[str, Any] = json.loads(line)
    content["event"]["actor"] = {"id": "somebody_else"}
    if values:
        whole = {name: content[name] for name in ("event", "received", "v")}
        content |= {"leaf_hash": leaf_hash(rfc8785.dumps(whole)).hex(), **values}
    return content


@pytest.mark.parametrize("lacks", ["received", "event", "v"])
def test_a_part_of_a_content_is_altered(
    ledger: Ledger, tmp_path: Path, lines: list[bytes], lacks: str
) -> None:
    content = forged(lines[3])
    del content[lacks]
    copy = [*lines[:3], json.dumps(content).encode(), *lines[4:]]
    told_of = told(check(ledger, tmp_path, copy))
    assert told_of["faults"] == ["line 4: its content is not that of its leaf hash: altered"]
    assert told_of["without_content"] == 0


def test_raw_data_that_is_no_text_is_altered(
    ledger: Ledger, tmp_path: Path, lines: list[bytes]
) -> None:
    content = forged(lines[3])
    place = {name: content.pop(name) for name in ("index", "leaf_hash", "origin")}
    shown = json.dumps({"unmapped": place, "raw_data": content}).encode()
    assert told(check(ledger, tmp_path, [*lines[:3], shown, *lines[4:]]))["faults_total"] == 1


def test_a_line_outside_of_the_range_is_compared_too(
    ledger: Ledger, tmp_path: Path, lines: list[bytes]
) -> None:
    copy = [*lines[:200], json.dumps(forged(lines[200], index=200)).encode()]
    for bounds in (("--to", "100"), ("--from", "5", "--to", "10"), ()):
        told_of = told(check(ledger, tmp_path, copy, *bounds))
        assert told_of["faults"] == [
            "line 201: entry 200 has another leaf hash in the log: altered"
        ], bounds
        assert told_of["missing"] == []
    assert told(check(ledger, tmp_path, lines[:200], "--from", "5", "--to", "10"))["verified"]


def test_a_range_that_compares_nothing_or_too_little_is_refused(
    ledger: Ledger, tmp_path: Path, lines: list[bytes]
) -> None:
    done = check(ledger, tmp_path, lines[:50], "--from", "100", "--to", "50")
    assert "--from 100 is not below --to 50" in done.output
    for bounds, reason in (
        (("--from", "100"), "the copy ends at entry 49, before --from 100"),
        (("--to", "9999"), f"--to 9999: the log has {len(lines)} entries"),
    ):
        done = check(ledger, tmp_path, lines[:50], *bounds)
        assert isinstance(done.exception, VerificationError)
        assert reason in str(done.exception)


def test_what_stands_around_an_entry_is_said_to_be_unproven(
    ledger: Ledger, tmp_path: Path, lines: list[bytes]
) -> None:
    beside = [
        json.dumps({"event": {"action": "other"}, "_raw": lines[0].decode()}).encode(),
        altered(lines[1], actor="somebody else"),
    ]
    told_of = told(check(ledger, tmp_path, beside + lines[2:]))
    assert (told_of["verified"], told_of["with_more"]) == (True, 2)
    assert told(check(ledger, tmp_path, lines))["with_more"] == 0


def test_extracted_names_beside_the_line_hide_no_alteration(
    ledger: Ledger, tmp_path: Path, lines: list[bytes]
) -> None:
    def extracted(raw: bytes) -> bytes:
        names = {name: json.loads(raw)[name] for name in ("index", "leaf_hash", "origin")}
        return json.dumps({"result": {**names, "_raw": raw.decode()}}).encode()

    told_of = told(check(ledger, tmp_path, [extracted(lines[0]), *lines[1:]]))
    assert (told_of["verified"], told_of["without_content"]) == (True, 0)
    false = json.dumps(forged(lines[0])).encode()
    told_of = told(check(ledger, tmp_path, [extracted(false), *lines[1:]]))
    assert told_of["faults"] == ["line 1: its content is not that of its leaf hash: altered"]


def test_an_empty_copy_verifies_nothing(ledger: Ledger, tmp_path: Path) -> None:
    assert isinstance(check(ledger, tmp_path, []).exception, VerificationError)


def test_ranges() -> None:
    assert list(ranges([0, 1, 3, 7, 8])) == [(0, 1), (3, 3), (7, 8)]
    assert list(ranges([])) == []
