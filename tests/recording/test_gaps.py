"""`ledger gaps`: numbers that are missing, and what accounts for them."""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_client import Entry, LedgerClient
from ledger_client.cli.gaps import find_gaps
from ledger_core.event.canonical import decode_event_object
from ledger_core.event.model import Received
from ledger_core.event.recorder_numbers import Numbers
from tests.recording.conftest import OpenRecorder, Running
from tests.service.check_log import check_log
from tests.service.serving import Ledger, make_ledger, new_id, serving
from tests.waiting import until

INSTANCE = "0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50"


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 5)), max_size=20), st.integers(1, 5))
def test_numbers_are_a_set(ranges: list[tuple[int, int]], first: int) -> None:
    numbers = Numbers((first, first + more) for first, more in ranges)
    expected = {n for first, more in ranges for n in range(first, first + more + 1)}
    assert {n for first, last in numbers for n in range(first, last + 1)} == expected
    assert all((n in numbers) == (n in expected) for n in range(70))
    pairs = list(numbers)
    assert all(b[0] > a[1] + 1 for a, b in itertools.pairwise(pairs))
    missing = set(range(first, max(expected, default=0))) - expected
    assert {n for a, b in numbers.holes(first) for n in range(a, b + 1)} == missing
    numbers.remove(first, first + 3)
    left = expected - set(range(first, first + 4))
    assert {n for a, b in numbers for n in range(a, b + 1)} == left


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    with serving(directory, tokens) as served:
        yield served


def numbered(seq: int, **more: Any) -> dict[str, Any]:
    return {
        "action": "a.b",
        "actor": {"id": "u_1"},
        "outcome": "success",
        "recorder": {"instance": INSTANCE, "seq": seq},
        **more,
    }


def append(ledger: Ledger, token: str, *events: dict[str, Any]) -> None:
    with LedgerClient(ledger.url, ledger.tokens[token], policy=ledger.policy) as client:
        client.append_many(list(events))


def gaps(ledger: Ledger, *arguments: str) -> tuple[int, Any]:
    check_log(ledger.url, ledger.tokens["admin"], ledger.policy)  # Until all is published.
    done = run_gaps(ledger, "--json", *arguments)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def run_gaps(ledger: Ledger, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "ledger", "gaps", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={
            "LEDGER_URL": ledger.url,
            "LEDGER_TOKEN": ledger.tokens["read"],
            "LEDGER_POLICY": str(ledger.directory / "policy"),
        },
    )


def test_a_verdict_says_of_which_entries_it_is(ledger: Ledger) -> None:
    append(ledger, "append", numbered(1), numbered(2))
    _, answer = gaps(ledger)
    entries = answer["entries"]
    assert answer["from"] == 0
    assert entries >= 2
    assert gaps(ledger, "--from", "1")[1]["entries"] == entries - 1
    for start, said in ((0, f"the entries 0 to {entries - 1}; "), (entries, "no entry was read")):
        done = run_gaps(ledger, "--from", str(start))
        assert "no unexplained gaps" in done.stdout
        assert said in done.stderr
        assert "as the ledger says" in done.stderr


def test_without_a_gap_all_is_well(ledger: Ledger) -> None:
    append(ledger, "append", numbered(2), numbered(1), numbered(3))
    code, answer = gaps(ledger)
    assert (code, answer["recorders"], answer["unexplained"]) == (0, [], 0)
    code, answer = gaps(ledger, "--all")
    assert code == 0
    assert answer["recorders"][0]["last"] == 3


def test_what_nobody_accounts_for_is_named(ledger: Ledger) -> None:
    append(ledger, "append", numbered(3), numbered(4), numbered(8), numbered(8))
    code, answer = gaps(ledger)
    (report,) = answer["recorders"]
    assert code == 1
    assert report["unexplained"] == [[1, 2], [5, 7]]
    assert report["repeated"] == [8]
    assert answer["unexplained"] == 5


def test_what_was_dropped_or_rejected_is_accounted_for_by_the_same_principal_alone(
    ledger: Ledger,
) -> None:
    append(
        ledger,
        "append",
        numbered(1),
        numbered(
            6,
            action="ledger.recorder.dropped",
            context={"dropped": {"instance": INSTANCE, "count": 2, "numbers": [[2, 3]]}},
        ),
        numbered(
            7,
            action="ledger.recorder.rejected",
            context={"rejected": {"recorder": {"instance": INSTANCE, "seq": 4}}},
        ),
    )
    forged = numbered(
        1,
        action="ledger.recorder.dropped",
        recorder={"instance": "another", "seq": 1},
        context={"dropped": {"instance": INSTANCE, "numbers": [[5, 5]]}},
    )
    append(ledger, "admin", forged)
    code, answer = gaps(ledger)
    report = next(r for r in answer["recorders"] if r["by"] == "append")
    assert code == 1
    assert report["unexplained"] == [[5, 5]]
    assert report["dropped"] == [[2, 3]]
    assert report["rejected"] == [[4, 4]]


def entry(event: dict[str, Any], by: str = "append") -> Entry:
    time = "2026-11-25T02:03:36.123456Z"
    read, _ = decode_event_object({"id": new_id(), "time": time, **event})
    received = Received(by=by, time=time)
    return Entry(index=0, event=read, received=received, leaf=b"", head=None, proof=None)


def reported(numbers: list[list[int]], *, seq: int = 9, **more: Any) -> dict[str, Any]:
    count = more.pop("count", sum(last - first + 1 for first, last in numbers))
    told = {"instance": INSTANCE, "count": count, "numbers": numbers}
    return numbered(seq, action="ledger.recorder.dropped", context={"dropped": told}, **more)


@pytest.mark.parametrize(
    "forged",
    [
        {key: value for key, value in reported([[2, 3]]).items() if key != "recorder"},
        reported([[2, 3]], count=1),
        reported([[2, 3]], seq=3),
        reported([[1, 3]]),
        reported([[2, 9]]),
    ],
    ids=["without a number", "a wrong count", "ahead of itself", "one is there", "itself"],
)
def test_a_report_that_its_recorder_can_not_have_made_explains_nothing(
    forged: dict[str, Any],
) -> None:
    events = [numbered(1), numbered(4), forged]
    (report,) = find_gaps(map(entry, events), is_whole=True)
    assert report.dropped == []
    assert report.claimed != []
    assert report.unexplained[0] in ((2, 2), (2, 3))


def test_a_report_that_its_recorder_made_explains_what_is_missing() -> None:
    events = [numbered(1), reported([[2, 3]], seq=5), numbered(4)]
    (report,) = find_gaps(map(entry, events), is_whole=True)
    assert (report.dropped, report.claimed, report.unexplained) == ([(2, 3)], [], [])
    # The next recorder on the spool folder reports what it could not read of the one before.
    other = {"recorder": {"instance": "another", "seq": 1}}
    events = [numbered(1), {**reported([[2, 3]]), **other}, numbered(4)]
    report = find_gaps(map(entry, events), is_whole=True)[0]
    assert (report.dropped, report.claimed, report.unexplained) == ([(2, 3)], [], [])


@pytest.mark.parametrize(
    "told",
    [5, {}, {"numbers": 5}, {"numbers": [5, [1], [2, 1], ["1", "2"], [0, 2**53 - 1], [1, 2, 3]]}],
)
def test_a_notice_that_is_malformed_accounts_for_nothing(ledger: Ledger, told: Any) -> None:
    for action in ("dropped", "rejected"):
        event = numbered(3, action=f"ledger.recorder.{action}", context={action: told})
        append(ledger, "append", event)
    code, answer = gaps(ledger)
    assert code == 1
    assert answer["recorders"][0]["unexplained"] == [[1, 2]]


def test_from_an_index_on_what_came_before_is_not_missed(ledger: Ledger) -> None:
    append(ledger, "append", *(numbered(seq) for seq in (1, 2, 3, 5)))
    check_log(ledger.url, ledger.tokens["admin"], ledger.policy)
    with LedgerClient(ledger.url, ledger.tokens["admin"], policy=ledger.policy) as client:
        indices = [e.index for e in client.events() if e.event.action == "a.b"]
    assert gaps(ledger, "--from", str(indices[2]))[1]["recorders"][0]["unexplained"] == [[4, 4]]
    code, answer = gaps(ledger, "--from", str(indices[3]))
    assert (code, answer["recorders"], answer["unexplained"]) == (0, [], 0)


def test_what_a_recorder_really_drops_is_accounted_for(
    open_recorder: OpenRecorder, running: Running, tmp_path: Path
) -> None:
    recorder = open_recorder(
        url="http://127.0.0.1:1", on_full="drop", spool_bytes_max=1 << 18, service="shop"
    )
    for _ in range(100):
        recorder.record("a.b", reason="x" * 4000)
    instance = recorder.status.instance
    recorder.close(0.1)
    second = open_recorder()
    second.record("a.b")
    assert second.flush(30)
    until(lambda: not (tmp_path / "spool" / str(instance)).exists())
    running.events()
    done = subprocess.run(
        [sys.executable, "-m", "ledger", "gaps", "--all"],
        capture_output=True,
        text=True,
        check=False,
        env={
            "LEDGER_URL": running.url,
            "LEDGER_TOKEN": running.token,
            "LEDGER_POLICY": str(running.policy),
            "PYTHONIOENCODING": "utf-8",
        },
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith(str(instance)))
    assert " dropped " in line
    assert " missing " not in line
    assert "shop" in line
