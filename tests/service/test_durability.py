"""Acknowledged events survive SIGKILL: a real process, killed at random moments under load.

Each round serves the same ledger, loads it from several threads, and kills the process in the
middle. Then every acknowledgement that was ever given is held against what is served: the same
index, the same leaf, in the tree of a head that all heads seen before are the beginning of.
"""

import json
import queue
import random
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from ledger.service.data_dir import DirectoryPaths
from ledger_core.tlog.checkpoint import Checkpoint, parse_checkpoint
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.note import parse_note
from ledger_core.tlog.policy import Policy, parse_policy
from ledger_core.tlog.proof import parse_proof, parse_range_proof
from ledger_core.tlog.text import parse_hash
from ledger_core.tlog.tree import Frontier
from ledger_core.tlog.verify import check_inclusion
from tests.service.check_log import CheckedLog, check_log
from tests.service.serving import JSON, event, make_ledger, send

KILLS = 20
LOADERS = 4
ACKNOWLEDGED_BEFORE_KILL_MAX = 60
START_WAIT_S = 120.0
SEED = 4711


@contextmanager
def process(directory: Path, *, workers: int = 0) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The service as a process of its own, killed at the end at the latest."""
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "ledger", "serve", str(directory)),
            *("--listen", "127.0.0.1:0", "--publish-interval-s", "0.02", "--log-level", "error"),
            *("--workers", str(workers)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            assert selector.select(START_WAIT_S), "the service did not start"
        yield child.stdout.readline().split()[-1], child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


class Acknowledged:
    """The events that the service acknowledged, and every head that it signed."""

    def __init__(self) -> None:
        self.results: dict[int, dict[str, Any]] = {}
        self.heads: dict[int, Checkpoint] = {}
        self._lock = threading.Lock()

    def take(self, answer: dict[str, Any], events: list[dict[str, Any]]) -> None:
        """Keep an answer. No index may be given twice, no size have two roots."""
        with self._lock:
            for sent, result in zip(events, answer["results"], strict=True):
                assert result["id"] == sent["id"]
                known = self.results.setdefault(result["index"], result)
                assert (known["id"], known["leaf_hash"]) == (result["id"], result["leaf_hash"])
                if "proof" in result:
                    self._take_head(parse_proof(result["proof"]).checkpoint)
            if "range_proof" in answer:
                self._take_head(parse_range_proof(answer["range_proof"]).checkpoint)

    def _take_head(self, note: str) -> None:
        head = parse_checkpoint(parse_note(note).text)
        assert self.heads.setdefault(head.tree_size, head) == head


def load(
    url: str, token: str, acknowledged: Acknowledged, seed: int, done: "queue.Queue[None]"
) -> None:
    """Append until the service is gone, now and then the same again; tell of each answer."""
    rng = random.Random(seed)
    unanswered: list[dict[str, Any]] = []
    while True:
        events = unanswered or [event() for _ in range(rng.choice((1, 1, 1, 5, 300)))]
        body: Any = events[0] if len(events) == 1 else {"events": events}
        try:
            answer = send(
                url,
                "/v1/events?proof=1",
                method="POST",
                body=json.dumps(body).encode(),
                headers={"Authorization": f"Bearer {token}", "Content-Type": JSON},
            )
        except (OSError, HTTPException):
            return
        if answer.status == 503:  # From a front end whose sequencer was killed.
            assert answer.slug in ("writing-stopped", "unavailable"), answer.body
            return
        assert answer.status == 200, answer.body
        acknowledged.take(answer.json(), events)
        done.put(None)
        # The same again, as after an answer that was lost on its way.
        unanswered = events if not unanswered and rng.random() < 0.1 else []


@pytest.mark.parametrize(("workers", "kills"), [(0, KILLS), (2, 3)])
def test_what_was_acknowledged_survives_being_killed(
    tmp_path: Path, workers: int, kills: int
) -> None:
    directory = tmp_path / "ledger"
    token = make_ledger(directory)["admin"]
    policy = parse_policy(DirectoryPaths(directory).policy.read_bytes())
    rng = random.Random(SEED)
    acknowledged = Acknowledged()
    for number in range(kills):
        with process(directory, workers=workers) as (url, child):
            done: queue.Queue[None] = queue.Queue()
            threads = [
                threading.Thread(target=load, args=(url, token, acknowledged, seed, done))
                for seed in range(number * LOADERS, (number + 1) * LOADERS)
            ]
            for thread in threads:
                thread.start()
            for _ in range(rng.randrange(ACKNOWLEDGED_BEFORE_KILL_MAX)):
                done.get(timeout=START_WAIT_S)
            child.send_signal(signal.SIGKILL)
            for thread in threads:
                thread.join()
        if number % 5 == 4:
            hold_against_the_log(directory, token, policy, acknowledged)
    hold_against_the_log(directory, token, policy, acknowledged)
    assert len(acknowledged.results) > kills


def hold_against_the_log(
    directory: Path, token: str, policy: Policy, acknowledged: Acknowledged
) -> None:
    """Verify the whole log, and every acknowledgement and head against it."""
    with process(directory) as (url, child):
        log = check_log(url, token, policy)
        hashes = [leaf_hash(leaf) for leaf in log.leaves]
        for index, result in acknowledged.results.items():
            assert parse_hash(result["leaf_hash"]) == hashes[index]
        check_heads(acknowledged.heads, hashes, log)
        for index in random.Random(SEED).sample(sorted(acknowledged.results), 10):
            check_served(url, token, index, acknowledged.results[index], log)
        child.send_signal(signal.SIGTERM)
        assert child.wait(START_WAIT_S) == 0


def check_heads(heads: dict[int, Checkpoint], hashes: list[bytes], log: CheckedLog) -> None:
    """Every head that was ever signed is the beginning of the log as it is now."""
    frontier = Frontier()
    for size, each in enumerate([b"", *hashes]):
        if size:
            frontier.append(each)
        if size in heads:
            assert heads[size].root_hash == frontier.root()
    assert max(heads, default=0) <= len(hashes)
    assert frontier.root() == log.head.checkpoint.root_hash


def check_served(url: str, token: str, index: int, result: dict[str, Any], log: CheckedLog) -> None:
    """One event as it is read back, by its id, with its proof."""
    headers = {"Authorization": f"Bearer {token}"}
    answer = send(
        url, f"/v1/events/{result['id']}?proof=1", method="GET", body=None, headers=headers
    ).json()
    assert answer["index"] == index
    assert answer["received"] == result["received"]
    assert answer["leaf"].encode() == log.leaves[index]
    proof = parse_proof(answer["proof"])
    head = parse_checkpoint(parse_note(proof.checkpoint).text)
    check_inclusion(
        leaf_hash=parse_hash(result["leaf_hash"]),
        leaf_index=index,
        tree_size=head.tree_size,
        proof=proof.hashes,
        root_hash=head.root_hash,
    )


def test_a_service_that_is_told_to_stop_stops_and_leaves_all_published(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    token = make_ledger(directory)["admin"]
    policy = parse_policy(DirectoryPaths(directory).policy.read_bytes())
    acknowledged = Acknowledged()
    for number in (signal.SIGTERM, signal.SIGINT):
        with process(directory) as (url, child):
            done: queue.Queue[None] = queue.Queue()
            thread = threading.Thread(
                target=load, args=(url, token, acknowledged, int(number), done)
            )
            thread.start()
            for _ in range(10):
                done.get(timeout=START_WAIT_S)
            child.send_signal(number)
            assert child.wait(START_WAIT_S) == 0
            thread.join()
    hold_against_the_log(directory, token, policy, acknowledged)
