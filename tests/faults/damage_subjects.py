"""The programs whose files are damaged: what their check says of a folder, and what they answer."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from http.client import HTTPException
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote

from ledger.alarms.evaluator import Memory
from ledger.alarms.gaps import GapMemory
from ledger.alarms.worker import FIRED_FILE, MEMORY_FILE, FiredRecord, MemoryRecord
from ledger.demo.child_service import Service
from ledger.follow.entries import position_at
from ledger.follow.position import FollowerPaths, FollowerState
from ledger.query.parquet_segments import seal_missing
from ledger.query.segment_builder import SegmentBuilder
from ledger.runtime.records import write_record
from ledger.sinks.dead_letters import DeadLetters
from ledger.store.index.index_writer import IndexWriter
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.log import LogStore
from ledger.store.writer import LogWriter, entry_of
from ledger_client import Recorder
from ledger_client.recording.spool_reader import DAMAGED_FOLDER, count_waiting
from ledger_client.runtime.clock import unix_us
from ledger_core.event.canonical import decode_event_object, encode_event, format_leaf
from ledger_core.event.times import format_time
from ledger_core.tlog.errors import UnavailableError
from tests.faults import bounded
from tests.faults.forked import CLOCK_MAX_S, ForkedService
from tests.faults.outcome import Problem
from tests.faults.subjects import (
    JUDGE_FLAGS,
    LEDGER_FLAGS,
    PREPARED_EVENTS,
    LedgerSubject,
    MirrorSubject,
    RecorderSubject,
    WitnessSubject,
)
from tests.faults.tlog_mirror_subject import TlogMirrorSubject, serve_tlog_mirror
from tests.service.serving import event
from tests.tlog.oracle import Oracle
from tests.witness.asking import add_checkpoint, ask
from tests.witness.logs import FORK, Log

QUERIES: Final = (
    "",
    "action:record.viewed",
    "actor:u_1",
    "target:p_7",
    "context.number:42",
    "name",
)
ASKED: Final = (
    "/checkpoint",
    "/tile/0/000",
    "/tile/entries/000",
    *(f"/v1/events/{index}" for index in range(0, PREPARED_EVENTS, 37)),
    *(f"/v1/events?limit=50&q={quote(query)}" for query in QUERIES),
    *(f"/v1/proofs/inclusion?index={index}" for index in (0, 255, 299)),
    f"/v1/proofs/consistency?from=5&to={PREPARED_EVENTS}",
)
# What may differ between two answers that are both true.
VOLATILE: Final = {"took_ms", "index_lag", "head", "checkpoint", "published", "cursor"}
VOLATILE_HINTS: Final = {"searched"}
"""It says how many segments the index holds: fewer while a damaged one is made anew."""


class Examined(NamedTuple):
    """What came of a folder.

    `is_named`: its check found damage. `answers`: by what was asked; None is an error, or an answer
    that says that it is not complete. Empty when the program does not start.
    """

    is_named: bool
    answers: dict[str, Any]
    problems: list[Problem]


class Examiner(Protocol):
    """A program whose files are damaged."""

    name: str

    def prepare(self, older: Path, newer: Path) -> None:
        """Make a folder, and a later copy of it in which the program has done more."""

    def damaged_part(self, newer: Path) -> Path:
        """The folder below `newer` whose files are damaged."""

    def examine(self, folder: Path) -> Examined:
        """Check a folder and ask the program that has it."""


class ServiceExaminer:
    """`ledger fsck`, and the answers of a service."""

    name = "mirror"
    make: type[LedgerSubject] = MirrorSubject
    commands: tuple[tuple[str, ...], ...] = ()
    """Commands whose output is an answer; the folder is put for `{}`."""

    def __init__(self) -> None:
        self._subject = self.make()

    def prepare(self, older: Path, newer: Path) -> None:
        self._subject.prepare(older)
        self.add_to(older)
        shutil.copytree(older, newer)
        serve = self._subject.serve
        with ForkedService(
            newer, listen="127.0.0.1:0", command=serve, flags=LEDGER_FLAGS
        ) as service:
            assert self._subject.work(newer, iter([service.url]))

    def add_to(self, older: Path) -> None:
        """Add to the folder what the service did not make."""

    def damaged_part(self, newer: Path) -> Path:
        return newer

    def examine(self, folder: Path) -> Examined:
        is_named, problems = _fsck("fsck", str(folder))
        answers: dict[str, Any] = {}
        for command in self.commands:
            ended = bounded.run(*(str(folder) if each == "{}" else each for each in command))
            answers[command[0]] = ended.output if ended.code == 0 else None
            problems += _end_problems(command[0], ended)
        service = ForkedService(
            folder,
            listen="127.0.0.1:0",
            command=self._subject.serve,
            flags=JUDGE_FLAGS,
            stderr=subprocess.DEVNULL,
        )
        with suppress(UnavailableError), service as running, suppress(OSError, HTTPException):
            is_settled = self._subject.is_settled(running.url)
            for target in ASKED:
                if not is_settled:
                    answers[target] = None
                    continue
                answer = self._subject.ask(running.url, target)
                answers[target] = _comparable(answer.body) if answer.status == 200 else None
        return Examined(is_named, answers, [*problems, *_deaths(service)])


class LedgerExaminer(ServiceExaminer):
    """The same of a ledger with a sink and alarms."""

    name = "ledger"
    make = LedgerSubject
    commands = (
        (
            *(
                "sql",
                "SELECT action, count(*), sum(hash(leaf_hash)) FROM events GROUP BY 1 ORDER BY 1",
            ),
            *("{}", "--csv"),
        ),
        ("sink", "dead-letters", "{}", "siem", "--json"),
    )

    def add_to(self, older: Path) -> None:
        with closing(LogStore.open(older / "log")) as log:
            at_end = position_at(log, log.head().tree_size)
            refused = position_at(log, 7)
        sink = FollowerPaths(older, "sinks", "siem")
        sink.make()
        (older / "sinks.toml").write_text('[siem]\ntype = "file"\npath = "/tmp/sent.jsonl"\n')
        DeadLetters(sink).add(6, refused.last_leaf_hash, "HTTP 400")
        write_record(sink.position, at_end)
        write_record(sink.state, FollowerState(dead=1))
        alarms = FollowerPaths(older, "alarms", "")
        alarms.make()
        (older / "alarms.toml").write_text('[many]\nquery = "action:login.failed"\n')
        write_record(alarms.position, at_end)
        write_record(alarms.state, FollowerState())
        write_record(alarms.root / FIRED_FILE, FiredRecord(fired={"many": unix_us()}))
        memory = Memory(gaps={"gap": GapMemory(recorders=(("app", "r", 2),))})
        write_record(alarms.root / MEMORY_FILE, MemoryRecord(next_index=7, memory=memory))


class SealedLedgerExaminer(LedgerExaminer):
    """The same with a segment of the index and one of Parquet."""

    def add_to(self, older: Path) -> None:
        _fill_segment(older / "log")
        with closing(LogStore.open(older / "log")) as log:
            with closing(IndexWriter.open(older / "index")) as writer:
                builder = SegmentBuilder(log, writer)
                while builder.seal_next():
                    pass
            seal_missing(log, older / "parquet")
        super().add_to(older)


def _fill_segment(log: Path) -> None:
    """Append entries until the first segment of the index is full."""
    time = format_time(unix_us())
    with closing(LogWriter.open(log)) as writer:
        start = writer.head.tree_size
        leaves = (
            format_leaf(event_json=_plain_event(number), by="admin", received_time=time)
            for number in range(start, SEGMENT_ENTRIES_MAX)
        )
        while batch := list(islice(leaves, 4096)):
            writer.commit([entry_of(leaf) for leaf in batch])


def _plain_event(number: int) -> bytes:
    made = event(
        actor={"type": "user", "id": f"u_{number % 97}"},
        action=("record.viewed", "record.changed", "login.failed")[number % 3],
        context={"number": number % 1000},
    )
    return encode_event(decode_event_object(made)[0])


class WitnessExaminer:
    """`ledger witness fsck`, and what `ledger witness serve` cosigns afterwards."""

    name = "witness"
    _log = Log("example.com/log", Oracle([b"leaf %d" % number for number in range(64)]))
    _fork = Log("example.com/log", FORK)

    def prepare(self, older: Path, newer: Path) -> None:
        WitnessSubject().prepare(older)
        self._cosign(older, 0, 8)
        shutil.copytree(older, newer)
        self._cosign(newer, 8, 16)

    def damaged_part(self, newer: Path) -> Path:
        return newer

    def examine(self, folder: Path) -> Examined:
        is_named, problems = _fsck("witness", "fsck", str(folder))
        answers: dict[str, Any] = {}
        service = _serve_witness(folder)
        with suppress(UnavailableError), service as running, suppress(OSError, HTTPException):
            shown = ask(running.url, "GET", f"/{self._log.origin_hash.hex()}/checkpoint")
            answers["the head"] = shown.body if shown.status == 200 else None
            for name, body in (
                ("an earlier size", self._log.grow(8, 12)),
                ("another history", self._fork.grow(0, 16)),
                ("the next size", self._log.grow(16, 20)),
            ):
                answer = add_checkpoint(running.url, body)
                answers[name] = answer.status if answer.status in (200, 409) else None
        return Examined(is_named, answers, [*problems, *_deaths(service)])

    def _cosign(self, folder: Path, old: int, size: int) -> None:
        with _serve_witness(folder) as running:
            assert add_checkpoint(running.url, self._log.grow(old, size)).status == 200


class TlogMirrorExaminer:
    """`ledger tlog-mirror fsck`, and what `ledger tlog-mirror serve` shows and takes afterwards."""

    name = "tlog-mirror"

    def __init__(self) -> None:
        self._subject = TlogMirrorSubject()

    def prepare(self, older: Path, newer: Path) -> None:
        self._subject.prepare(older)
        self._send(older, 0, 300)
        shutil.copytree(older, newer)
        self._send(newer, 300, 601)

    def damaged_part(self, newer: Path) -> Path:
        return newer

    def examine(self, folder: Path) -> Examined:
        is_named, problems = _fsck("tlog-mirror", "fsck", str(folder))
        answers: dict[str, Any] = {}
        service = serve_tlog_mirror(folder)
        with suppress(UnavailableError), service as running, suppress(OSError, HTTPException):
            answers = self._subject.answers(running.url)
        return Examined(is_named, answers, [*problems, *_deaths(service)])

    def _send(self, folder: Path, old: int, size: int) -> None:
        with serve_tlog_mirror(folder) as running:
            self._subject.send(running.url, old, size)


class RecorderExaminer:
    """The spool that an application left: what the next recorder reports, and what it delivers."""

    name = "recorder"

    def __init__(self) -> None:
        self._subject = RecorderSubject()
        self._ids: list[str] = []

    def prepare(self, older: Path, newer: Path) -> None:
        self._subject.prepare(older)
        shutil.copytree(older, newer)
        with subprocess.Popen(
            self._subject.command(newer),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as program:
            assert program.stdout is not None
            lines: Iterator[str] = islice(program.stdout, self._subject.count)
            self._ids = [line.strip() for line in lines]
            program.kill()

    def damaged_part(self, newer: Path) -> Path:
        return newer / "spool"

    def examine(self, folder: Path) -> Examined:
        """A file that was moved aside is named damage, and is reported as an event of the log."""
        flags, spool = JUDGE_FLAGS, folder / "spool"
        with ForkedService(folder / "ledger", listen="127.0.0.1:0", flags=flags) as service:
            with Recorder(
                service.url,
                self._subject.token,
                spool=spool,
                policy=folder / "ledger" / "policy",
                linger_s=0.01,
            ) as recorder:
                # A recorder of its own makes the sender look for what others left.
                recorder.record("a.checked", actor="examiner")
                deadline_s = time.monotonic() + CLOCK_MAX_S
                while count_waiting(spool) and time.monotonic() < deadline_s:
                    time.sleep(0.02)
                recorder.flush(CLOCK_MAX_S)
            answers = {
                f"event {at}": self._subject.logged(service.url, event_id)
                for at, event_id in enumerate(self._ids)
            }
        return Examined((spool / DAMAGED_FOLDER).exists(), answers, [])


def _serve_witness(folder: Path) -> Service:
    return ForkedService(
        folder, listen="127.0.0.1:0", command=("witness", "serve"), flags=("--log-level", "error")
    )


_ENDED_BY_US: Final = (-signal.SIGKILL, -signal.SIGTERM)

EXAMINERS: Final = (
    *(LedgerExaminer, ServiceExaminer, WitnessExaminer, RecorderExaminer),
    TlogMirrorExaminer,
)


def _fsck(*arguments: str) -> tuple[bool, list[Problem]]:
    """Whether a check failed, and what is wrong with how it ended."""
    checked = bounded.run(*arguments)
    return checked.code != 0, _end_problems("fsck", checked)


def _end_problems(name: str, ended: bounded.Ended) -> list[Problem]:
    """What is wrong with how a command ended."""
    if ended.stacks is not None:
        return [Problem("hangs", f"{name}: {ended.stacks}")]
    problems = []
    if ended.code < 0:
        problems.append(_death(name, ended.code))
    if "Traceback" in ended.errors:
        problems.append(Problem("traceback", ended.errors.splitlines()[-1][:200]))
    return problems


def _deaths(service: Service) -> list[Problem]:
    code = service.exit_code or 0
    if code in _ENDED_BY_US:
        return [Problem("hangs", "serve does not start or does not end")]
    return [_death("serve", code)] if code < 0 else []


def _death(what: str, code: int) -> Problem:
    return Problem("died by a signal", f"{what} by {signal.Signals(-code).name}")


def _comparable(body: bytes) -> Any:
    with suppress(ValueError):
        value = json.loads(body)
        if isinstance(value, dict):
            if value.get("complete") is False:
                return None
            hints = [each for each in value.pop("hints", ()) if each["kind"] not in VOLATILE_HINTS]
            return {"hints": hints} | {key: value[key] for key in value.keys() - VOLATILE}
        return value
    return body
