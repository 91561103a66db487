"""Searches in a process of their own: the same answers, and no harm when it is killed."""

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest

from ledger.demo.child_service import Service
from ledger.query.leaf_cache import LeafCache
from ledger.query.segment_builder import build_segment
from ledger.service.data_dir import DirectoryPaths
from ledger.service.queries.job import QueryOptions
from ledger.store.index.index_writer import write_segment
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.log import LogStore
from ledger_client import LedgerClient, private
from tests.query.events import make_entries, make_log, random_event
from tests.service.check_log import check_ledger
from tests.service.serving import QUICK, Answer, Ledger, event, make_ledger, serving, serving_new
from tests.service.streams import lines_of
from tests.waiting import until

WAIT_S = 120.0
EVENTS = 3000
OWN_PROCESS = msgspec.structs.replace(QUICK, query_process=True)
MODULE = b"ledger.service.queries.process"
TARGETS = (
    "/v1/events?q=action:a.*&limit=20&proof=1&facets=action",
    "/v1/events?q=NOT+reason:nothing&order=time&limit=30",
    "/v1/events?limit=1000",
    "/v1/events?limit=1000&proof=1",
    "/v1/events?q=action:no.such&limit=3",
    "/v1/actors/u_1/timeline",
    "/v1/sources/203.0.113.0%2F24/seen",
    "/v1/fields",
    "/v1/export?q=action:a.b",
    "/v1/export?format=csv",
)

COLLECTING = """
import gc, os, sys, threading, time
from ledger.service.queries.process import main

def collect():
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.01)
    while True:
        time.sleep(0.1)
        gc.collect()
        print("collected", flush=True)

threading.Thread(target=collect, daemon=True).start()
main()
"""
"""The query process, with a collection of garbage every tenth of a second."""


def command_of(process_id: int) -> list[bytes]:
    """The command line of a process, empty when there is none."""
    try:
        return Path(f"/proc/{process_id}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def query_processes(directory: Path) -> dict[int, Path]:
    """The query processes of a ledger, with their sockets."""
    found = {}
    for entry in Path("/proc").iterdir():
        command = command_of(int(entry.name)) if entry.name.isdigit() else []
        if MODULE in command and os.fsencode(directory) in command:
            place = command.index(MODULE)
            found[int(entry.name)] = Path(os.fsdecode(command[place + 2]))
    return found


def fill(ledger: Ledger) -> None:
    events = [
        event(action=f"a.{'bcd'[number % 3]}", source={"ip": f"203.0.113.{number % 9}"})
        for number in range(EVENTS)
    ]
    for start in range(0, EVENTS, 1000):
        assert ledger.append(*events[start : start + 1000]).status == 200


def test_answers_are_those_of_a_service_that_searches_on_its_own_threads(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    with serving(directory, tokens, OWN_PROCESS) as ledger:
        fill(ledger)
        assert len(query_processes(directory)) == 1
        assert ledger.ask("/v1/events?q=actr:u").slug == "query"
        assert ledger.ask("/v1/events?cursor=nonsense").slug == "cursor"
        newest = event(action="z.last")
        assert ledger.append(newest).status == 200
        found = ledger.ask("/v1/events?limit=1").json()["events"]
        assert [each["event"]["id"] for each in found] == [newest["id"]]
        with lines_of(ledger, "/v1/events/stream?from=0&q=action:z.last&proof=1") as lines:
            assert next(line for line in lines if newest["id"] in line)
        id_ = "x" * 16
        rows = ledger.ask(f"/v1/export?id={id_}&format=csv").body.count(b"\n") - 1
        assert ledger.ask(f"/v1/export/trailer?id={id_}").json()["rows"] == rows
        assert ledger.ask("/readyz").json()["warnings"] == []
        answers = [comparable(ledger.ask(target)) for target in TARGETS]
    assert not query_processes(directory)
    with serving(directory, tokens) as ledger:
        assert not query_processes(directory)
        for target, answer in zip(TARGETS, answers, strict=True):
            assert answer == comparable(ledger.ask(target)), target


@pytest.mark.parametrize("in_process", [True, False])
def test_a_service_sets_a_segment_aside_that_is_of_another_log(
    tmp_path: Path, in_process: bool
) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    index = directory / "index"
    index.mkdir()
    make_log(tmp_path / "log", make_entries([random_event(random.Random(3), 0)])).close()
    with closing(LogStore.open(tmp_path / "log")) as log:
        other = build_segment(LeafCache(log, bytes_max=0), 0, 1, scratch=tmp_path)
    write_segment(index, 0, other, segment_entries=SEGMENT_ENTRIES_MAX)
    with serving(directory, tokens, QUICK if in_process else OWN_PROCESS) as ledger:
        appended = event(action="a.b")
        assert ledger.append(appended).status == 200
        (found,) = ledger.ask("/v1/events?q=action:a.b").json()["events"]
        assert found["event"]["id"] == appended["id"]
        until((index / "00000000.damaged").exists)


def comparable(answer: Answer) -> tuple[int, bytes]:
    """An answer without what differs from one time to the next."""
    if not answer.headers["Content-Type"].startswith("application/json"):
        return answer.status, answer.body
    value = answer.json()
    for name in ("took_ms", "cursor", "hints"):
        value.pop(name, None)
    for found in value.get("events", ()):
        found.pop("proof", None)
    return answer.status, json.dumps(value).encode()


def test_private_values_are_disclosed_and_erased_ones_are_not(tmp_path: Path) -> None:
    with serving_new(tmp_path, OWN_PROCESS) as ledger:
        policy = DirectoryPaths(ledger.directory).policy
        with LedgerClient(ledger.url, ledger.tokens["admin"], policy=policy) as client:
            for subject in ("u_1", "u_2"):
                client.append(event(reason=private(f"illness of {subject}", subject=subject)))
            both = client.evidence("", tmp_path / "both.zip", disclose=["/reason"])
            client.erase("u_2", reason="asked for")
            one = client.evidence("", tmp_path / "one.zip", disclose=["/reason"])
        assert (both.evidence.disclosed, one.evidence.disclosed) == (2, 1)


def test_the_query_process_listens_after_collections_of_garbage(tmp_path: Path) -> None:
    directory, path = tmp_path / "ledger", tmp_path / "socket"
    make_ledger(directory)
    options = QueryOptions(
        threads=1, waiting_max=1, streams_max=1, rows_max=1, time_s=1.0, private_map_bytes=1 << 20
    )
    arguments = [str(directory), str(path), msgspec.json.encode(options).decode()]
    command = [sys.executable, "-c", COLLECTING, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        until(path.exists)
        assert process.stdout is not None
        for _ in range(3):
            # Behind signs of life, if there are any.
            assert process.stdout.readline().lstrip(b".") == b"collected\n"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
        process.terminate()
        assert process.wait(WAIT_S) == 0


def test_a_killed_query_process_costs_answers_503_and_nothing_else(tmp_path: Path) -> None:
    with serving_new(tmp_path, OWN_PROCESS) as ledger:
        fill(ledger)
        readers = Readers(ledger)
        appended: list[int] = []
        ended = threading.Event()

        def append() -> None:
            while not ended.is_set():
                answer = ledger.append(event(action="beside"))
                appended.append(answer.status)

        writer = threading.Thread(target=append)
        writer.start()
        readers.start()
        killed: set[int] = set()
        for _ in range(2):
            before = readers.answered
            until(lambda before=before: readers.answered > before + 5)  # type: ignore[misc]  # its default
            (process_id,) = query_processes(ledger.directory)
            assert process_id not in killed
            os.kill(process_id, signal.SIGKILL)
            killed.add(process_id)
            until(lambda: not killed & set(query_processes(ledger.directory)))
        # Searches work again, and all that was acknowledged is found.
        before = readers.answered
        until(lambda: readers.answered > before + 5)
        ended.set()
        writer.join()
        readers.stop()
        assert set(appended) == {200}
        assert readers.wrong == []
        assert readers.refused_without_retry == 0
        total = ledger.ask("/v1/events?q=action:beside&limit=0").json()
        assert (total["total"], total["total_exact"]) == (len(appended), True)
        check_ledger(ledger)


def test_events_and_bundles_of_ordinary_size_wait_for_no_search(tmp_path: Path) -> None:
    with serving_new(tmp_path, OWN_PROCESS) as ledger:
        last = ledger.append(*(event() for _ in range(300))).json()["results"][-1]
        until(lambda: ledger.ask("/v1/log").json()["published_size"] > last["index"])
        targets = ("/v1/events/5", f"/v1/events/{last['id']}", "/tile/entries/000")
        (process_id,) = query_processes(ledger.directory)
        os.kill(process_id, signal.SIGSTOP)
        try:
            stopped = [ledger.ask(target) for target in targets]
        finally:
            os.kill(process_id, signal.SIGCONT)
        assert [answer.status for answer in stopped] == [200] * len(targets)
        assert [answer.body for answer in stopped] == [ledger.ask(each).body for each in targets]


class Readers:
    """Searches and exports without a pause, which hold each answer against what was stored."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(ask,))
            for ask in (self._search, self._search, self._export)
        ]
        self.answered = 0
        self.wrong: list[str] = []
        self.refused_without_retry = 0

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, ask: Callable[[], None]) -> None:
        while not self._ended.is_set():
            ask()

    def _search(self) -> None:
        try:
            query = quote("action:a.b OR NOT action:*")
            answer = self._ledger.ask(f"/v1/events?q={query}&limit=500")
        except (http.client.HTTPException, OSError):
            return  # As an export.
        if answer.status == 503:
            self.refused_without_retry += "Retry-After" not in answer.headers
            return
        found = answer.json()
        if answer.status != 200 or found["total"] != EVENTS // 3 or not found["complete"]:
            self.wrong.append(answer.text[:300])
        self.answered += 1

    def _export(self) -> None:
        try:
            answer = self._ledger.ask("/v1/export?q=action:a.c")
        except (http.client.HTTPException, OSError):
            return  # It was cut, and does not look whole.
        if answer.status == 503:
            self.refused_without_retry += "Retry-After" not in answer.headers
            return
        rows = answer.body.count(b"\n") - 1
        if answer.status != 200 or rows != EVENTS // 3 or b'{"trailer"' not in answer.body:
            self.wrong.append(f"{answer.status}: {rows} rows")
        self.answered += 1


def test_the_query_process_ends_with_a_service_that_is_killed(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    make_ledger(directory)
    with Service(directory, listen="127.0.0.1:0") as service:
        until(lambda: any(socket.exists() for socket in query_processes(directory).values()))
        (socket,) = query_processes(directory).values()
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        os.kill(service.process_id, signal.SIGKILL)
        until(lambda: not query_processes(directory))
    assert not socket.parent.exists()
