"""The programs that faults are put to: what they do, and what must be true of them afterwards.

Each has a folder that `prepare` makes once and that each case copies. `work` asks the running
program for things and notes what it acknowledged. `judge` runs the program again without a fault
and holds its data against what was acknowledged.
"""

import atexit
import json
import secrets
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlencode

from ledger.mirror.data_dir import MirrorConfig, create_mirror
from ledger.service.data_dir import create_directory
from ledger.service.token_admin import make_token
from ledger_client import Recorder
from ledger_core.event.canonical import parse_leaf
from ledger_core.tlog.checkpoint import Checkpoint, parse_checkpoint
from ledger_core.tlog.errors import UnavailableError
from ledger_core.tlog.hashing import EMPTY_ROOT_HASH, leaf_hash
from ledger_core.tlog.note import parse_note
from ledger_core.tlog.policy import parse_policy
from ledger_core.tlog.tree import Frontier
from tests.faults import bounded
from tests.faults.acknowledged import (
    Acknowledged,
    Appended,
    Cosigned,
    Erased,
    Made,
    Recorded,
    acknowledge,
)
from tests.faults.forked import CLOCK_MAX_S, ForkedService
from tests.faults.outcome import Problem
from tests.faults.tlog_mirror_subject import TlogMirrorSubject
from tests.mirror.mirroring import SIGNER as MIRROR_SIGNER
from tests.service.check_log import check_log
from tests.service.serving import JSON, Answer, event, send
from tests.tlog.oracle import Oracle
from tests.witness.asking import add_checkpoint, check_cosigned
from tests.witness.logs import Log
from tests.witness.witnesses import SIGNERS, make_witness

ORIGIN: Final = "example.com/audit"
PREPARED_EVENTS: Final = 300
SUBJECT: Final = "p_%d"
TRIES: Final = 3
SETTLE_S: Final = 120.0


class Subject(Protocol):
    """A program that faults are put to."""

    name: str
    forked: tuple[str, ...] | None
    """More arguments with which the program runs in a fork of the harness, None where it can't."""

    def prepare(self, folder: Path) -> None:
        """Make the data that each case begins with."""

    def command(self, folder: Path) -> list[str]:
        """The program, as it runs with the fault."""

    def work(self, folder: Path, output: Iterator[str]) -> Acknowledged:
        """Ask the program for things until it is done or gone; returns what it acknowledged."""

    def judge(self, folder: Path, acknowledged: Acknowledged) -> list[Problem]:
        """Run the program without a fault; what is wrong with its data and answers."""


def judge(subject: Subject, folder: Path, acknowledged: Acknowledged) -> list[Problem]:
    """What is wrong; a log that does not verify, or an answer that can't be read, is false."""
    try:
        return subject.judge(folder, acknowledged)
    except Exception:  # noqa: BLE001 - whatever a false answer leads to is a result, not an end
        return [Problem("false answer", traceback.format_exc()[-1000:])]


class LedgerSubject:
    """`ledger serve` under single events, a batch, an erasure, searches and reads."""

    name = "ledger"
    serve: tuple[str, ...] = ("serve",)
    flags: tuple[str, ...] = ("--workers", "0")
    forked: tuple[str, ...] | None = ("--no-query-process",)

    def __init__(self) -> None:
        self._token = ""

    def prepare(self, folder: Path) -> None:
        create_directory(folder, origin=ORIGIN, seed=secrets.token_bytes(32))
        self._token = make_token(folder, name="admin", scopes=("admin",), tenant=None)
        (folder / "private.toml").write_text(
            '[[fields]]\npath = "/targets/*/name"\nsubject = "/targets/*/id"\n', encoding="utf-8"
        )
        with ForkedService(folder, listen="127.0.0.1:0", flags=JUDGE_FLAGS) as service:
            for _ in range(2):
                events = [_event(number) for number in range(PREPARED_EVENTS // 2)]
                assert self._append(service.url, [], *events)
            _wait_until_indexed(service.url, self._token, PREPARED_EVENTS)

    def command(self, folder: Path) -> list[str]:
        flags = ("--listen", "127.0.0.1:0", *LEDGER_FLAGS, *self.flags)
        return [sys.executable, "-P", "-m", "ledger", *self.serve, str(folder), *flags]

    def work(self, folder: Path, output: Iterator[str]) -> Acknowledged:
        acknowledged: Acknowledged = []
        url = next(output, "").strip().rpartition(" ")[2]
        if not url.startswith("http"):
            return acknowledged
        with suppress(OSError, HTTPException):
            for number in range(4):
                self._append(url, acknowledged, _event(1000 + number))
                self._ask_for_head(url, acknowledged)
            self._append(url, acknowledged, *(_event(2000 + number) for number in range(40)))
            subject = SUBJECT % 7
            body = json.dumps({"subject": subject, "reason": "asked for"}).encode()
            if self.ask(url, "/v1/private/erasures", body).status == 200:
                acknowledge(acknowledged, Erased(subject))
            self.ask(url, f"/v1/events?{urlencode({'q': 'action:record.viewed'})}")
            self._append(url, acknowledged, _event(3000))
            self._ask_for_head(url, acknowledged)
        return acknowledged

    def judge(self, folder: Path, acknowledged: Acknowledged) -> list[Problem]:
        flags = (*LEDGER_FLAGS, *self.flags, *(self.forked or ()))
        try:
            with ForkedService(
                folder, listen="127.0.0.1:0", command=self.serve, flags=flags
            ) as service:
                return list(self.problems(folder, service.url, acknowledged))
        except UnavailableError as error:
            return [Problem("does not start", str(error))]

    def is_settled(self, _url: str) -> bool:
        """Whether the service comes to the state in which all its answers are final."""
        return True

    def problems(self, folder: Path, url: str, acknowledged: Acknowledged) -> Iterator[Problem]:
        """What is wrong with the data and answers of a service that runs."""
        log = check_log(url, self._token, parse_policy((folder / "policy").read_bytes()))
        places = {str(parse_leaf(leaf).event.id): at for at, leaf in enumerate(log.leaves)}
        heads: dict[int, Checkpoint] = {}
        for result in (each.result for each in acknowledged):
            match result:
                case Appended(event_id, index) if event_id not in places:
                    yield Problem("lost", f"the event at index {index}")
                case Appended(event_id, index) if places[event_id] != index:
                    yield Problem("moved", f"from index {index} to {places[event_id]}")
                case Erased(subject) if self._can_open(url, subject, log.leaves):
                    yield Problem("lost", f"the erasure of {subject}")
                case Checkpoint():
                    heads[result.tree_size] = result
        yield from _other_heads(heads, log.leaves)
        found = _wait_until_indexed(url, self._token, log.size)
        if found != log.size:
            yield Problem("false answer", f"a search finds {found} of {log.size} events")

    def _can_open(self, url: str, subject: str, leaves: tuple[bytes, ...]) -> bool:
        for index, leaf in enumerate(leaves):
            targets = parse_leaf(leaf).event.targets
            if isinstance(targets, tuple | list) and any(each.id == subject for each in targets):
                answer = self.ask(url, f"/v1/events/{index}").json()
                return bool(answer.get("private"))
        return False

    def _append(self, url: str, acknowledged: Acknowledged, *events: dict[str, Any]) -> bool:
        body = json.dumps({"events": events}).encode()
        answer = self.ask(url, "/v1/events", body)
        if answer.status == 200:
            results = answer.json()["results"]
            acknowledge(acknowledged, *(Appended(each["id"], each["index"]) for each in results))
        return answer.status == 200

    def _ask_for_head(self, url: str, acknowledged: Acknowledged) -> None:
        answer = self.ask(url, "/checkpoint")
        if answer.status == 200:
            acknowledge(acknowledged, parse_checkpoint(parse_note(answer.text).text))

    def ask(self, url: str, target: str, body: bytes | None = None) -> Answer:
        headers = {"Authorization": f"Bearer {self._token}"}
        if body is not None:
            headers["Content-Type"] = JSON
        method = "GET" if body is None else "POST"
        return send(url, target, method=method, body=body, headers=headers)


# Clocks are set by years: a start would want a decision.
CLOCK_FLAGS: Final = ("--clock-behind-max-s", "1000000000", "--clock-ahead-max-s", "1000000000")
LEDGER_FLAGS: Final = ("--log-level", "error", "--publish-interval-s", "0.02", *CLOCK_FLAGS)
JUDGE_FLAGS: Final = (*LEDGER_FLAGS, "--no-query-process")
"""Without the start of one more process; the programs that faults are put to have it."""


def _event(number: int) -> dict[str, Any]:
    return event(
        targets=[{"type": "patient", "id": SUBJECT % (number % 50), "name": f"name {number}"}],
        context={"number": number},
    )


def _other_heads(heads: dict[int, Checkpoint], leaves: tuple[bytes, ...]) -> Iterator[Problem]:
    """The heads that were shown and are no beginning of the log."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf_hash(leaf))
        head = heads.get(frontier.size)
        if head is not None and head.root_hash != frontier.root():
            yield Problem("false answer", f"the head of size {frontier.size} has another root")
    if max(heads, default=0) > len(leaves):
        yield Problem("lost", f"a head of size {max(heads)} was shown, the log has {len(leaves)}")


def _wait_until_indexed(url: str, token: str, want: int) -> int:
    """The number of events that a search finds, once it is `want` or does not grow any more."""
    headers = {"Authorization": f"Bearer {token}"}
    deadline_s = time.monotonic() + CLOCK_MAX_S
    while True:
        answer = send(url, "/v1/events?limit=1", method="GET", body=None, headers=headers)
        found = int(answer.json()["total"]) if answer.status == 200 else -1
        if found >= want or time.monotonic() > deadline_s:
            return found
        time.sleep(0.05)


class WorkersSubject(LedgerSubject):
    """The same with two front ends."""

    name = "ledger, 2 workers"
    flags = ("--workers", "2")
    forked = None


class MirrorSubject(LedgerSubject):
    """`ledger mirror serve`, which copies the second half of a log whose service stays up."""

    name = "mirror"
    serve = ("mirror", "serve")
    flags = ()

    def prepare(self, folder: Path) -> None:
        log = folder.with_name(f"{folder.name}-log")
        log_subject = LedgerSubject()
        log_subject.prepare(log)
        service = ForkedService(log, listen="127.0.0.1:0", flags=LEDGER_FLAGS)
        url = service.__enter__().url
        # It runs until the harness ends, since any case may still ask it.
        atexit.register(service.__exit__)
        token_file = folder.with_name(f"{folder.name}-token")
        token_file.write_text(make_token(log, name="mirror", scopes=("read",), tenant=None))
        config = MirrorConfig(log_url=url, token_file=str(token_file))
        create_mirror(folder, config, (log / "policy").read_bytes(), [MIRROR_SIGNER])
        self._token = make_token(folder, name="admin", scopes=("admin",), tenant=None)
        with ForkedService(
            folder, listen="127.0.0.1:0", command=self.serve, flags=LEDGER_FLAGS
        ) as mirror:
            self._wait_for(mirror.url, PREPARED_EVENTS)
        assert log_subject.work(log, iter([url]))
        self._size = _published(url).tree_size

    def work(self, folder: Path, output: Iterator[str]) -> Acknowledged:
        acknowledged: Acknowledged = []
        url = next(output, "").strip().rpartition(" ")[2]
        if url.startswith("http"):
            with suppress(OSError, HTTPException):
                for size in (PREPARED_EVENTS, self._size):
                    self._wait_for(url, size)
                    self._ask_for_head(url, acknowledged)
                self.ask(url, f"/v1/events?{urlencode({'q': 'action:record.viewed'})}")
        return acknowledged

    def problems(self, folder: Path, url: str, acknowledged: Acknowledged) -> Iterator[Problem]:
        """As of a ledger, once it has the whole log."""
        if not self._wait_for(url, self._size):
            yield Problem("does not start", f"it does not come to size {self._size}")
        yield from super().problems(folder, url, acknowledged)

    def is_settled(self, url: str) -> bool:
        return self._wait_for(url, self._size, wait_s=SETTLE_S)

    def _wait_for(self, url: str, size: int, *, wait_s: float = CLOCK_MAX_S) -> bool:
        """Whether the mirror shows a head of this size in time."""
        deadline_s = time.monotonic() + wait_s
        while _published(url).tree_size < size:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.02)
        return True


def _published(url: str) -> Checkpoint:
    answer = send(url, "/checkpoint", method="GET", body=None, headers={})
    if answer.status != 200:
        return Checkpoint(ORIGIN, 0, EMPTY_ROOT_HASH)
    return parse_checkpoint(parse_note(answer.text).text)


class InitSubject:
    """`ledger init` in a new folder."""

    name = "ledger init"
    forked: tuple[str, ...] | None = ()

    def prepare(self, folder: Path) -> None:
        folder.mkdir()

    def command(self, folder: Path) -> list[str]:
        made = ("init", str(folder / "ledger"), "--origin", ORIGIN)
        return [sys.executable, "-P", "-m", "ledger", *made]

    def work(self, folder: Path, output: Iterator[str]) -> Acknowledged:
        acknowledged: Acknowledged = []
        if any(line.startswith("next:") for line in output):
            acknowledge(acknowledged, Made())
        return acknowledged

    def judge(self, folder: Path, acknowledged: Acknowledged) -> list[Problem]:
        """A ledger that was made starts; one that was not starts, or is made by what is said."""
        root = folder / "ledger"
        is_made = bool(acknowledged)
        if not is_made:
            again = self._run_again(folder)
            is_made = again.code == 0
            if not is_made and f"remove {root} and run ledger init again" in again.errors:
                shutil.rmtree(root)
                is_made = self._run_again(folder).code == 0
        try:
            with ForkedService(root, listen="127.0.0.1:0", flags=JUDGE_FLAGS):
                pass
        except UnavailableError:
            refusal = "" if is_made else again.errors
            kind = "lost" if acknowledged else "does not start"
            return [Problem(kind, f"the new ledger does not start; init again says: {refusal}")]
        return []

    def _run_again(self, folder: Path) -> bounded.Ended:
        return bounded.run(*self.command(folder)[4:])


class WitnessSubject:
    """`ledger witness serve`, asked to cosign a log that grows."""

    name = "witness"
    forked: tuple[str, ...] | None = ()
    _log = Log("example.com/log", Oracle([b"leaf %d" % number for number in range(64)]))
    _vkeys = (str(SIGNERS[0].verifier),)

    def prepare(self, folder: Path) -> None:
        make_witness(folder, [self._log], signers=SIGNERS[:1])

    def command(self, folder: Path) -> list[str]:
        listen = ("--listen", "127.0.0.1:0", "--log-level", "error")
        return [sys.executable, "-P", "-m", "ledger", "witness", "serve", str(folder), *listen]

    def work(self, folder: Path, output: Iterator[str]) -> Acknowledged:
        acknowledged: Acknowledged = []
        url = next(output, "").strip().rpartition(" ")[2]
        size = 0
        if url.startswith("http"):
            with suppress(OSError, HTTPException):
                for larger in range(4, 33, 4):
                    answer = add_checkpoint(url, self._log.grow(size, larger))
                    if answer.status != 200:
                        break
                    check_cosigned(answer, self._log.note(larger), self._vkeys)
                    acknowledge(acknowledged, Cosigned(larger))
                    size = larger
        return acknowledged

    def judge(self, folder: Path, acknowledged: Acknowledged) -> list[Problem]:
        sizes = [
            0,
            *(each.result.size for each in acknowledged if isinstance(each.result, Cosigned)),
        ]
        try:
            with ForkedService(
                folder,
                listen="127.0.0.1:0",
                command=("witness", "serve"),
                flags=("--log-level", "error"),
            ) as service:
                return list(self._problems(service.url, sizes[-1]))
        except UnavailableError as error:
            return [Problem("does not start", str(error))]

    def _problems(self, url: str, size: int) -> Iterator[Problem]:
        """The witness must refuse every earlier size, and go on from what it cosigned."""
        if size:
            earlier = add_checkpoint(url, self._log.grow(0, size - 1))
            if earlier.status == 200:
                yield Problem("lost", f"the head of size {size}: size {size - 1} was cosigned")
        # The last request may have been kept and its answer lost.
        going_on = [add_checkpoint(url, self._log.grow(old, 40)).status for old in (size, size + 4)]
        if 200 not in going_on:
            yield Problem("does not start", f"it does not go on from size {size}: {going_on}")


class RecorderSubject:
    """An application that records with `fsync="each"` while the ledger is away."""

    name = "recorder"
    forked: tuple[str, ...] | None = None
    count = 12

    def __init__(self) -> None:
        self.token = ""

    def prepare(self, folder: Path) -> None:
        create_directory(folder / "ledger", origin=ORIGIN, seed=secrets.token_bytes(32))
        self.token = make_token(
            folder / "ledger", name="app", scopes=("append", "read"), tenant=None
        )

    def command(self, folder: Path) -> list[str]:
        settings = {
            "url": "http://127.0.0.1:1",
            "token": self.token,
            "spool": str(folder / "spool"),
            "policy": str(folder / "ledger" / "policy"),
            "tenant": "t",
            "count": self.count,
            "options": {"fsync": "each"},
        }
        return [sys.executable, "-m", "tests.recording.programs", "some", json.dumps(settings)]

    def work(self, folder: Path, output: Iterator[str]) -> Acknowledged:
        acknowledged: Acknowledged = []
        # The program ends only when it has tried to send them; it is ended before.
        lines = islice(output, self.count)
        for line in lines:
            if line.endswith("\n") and line != "None\n":
                acknowledge(acknowledged, Recorded(line.strip()))
        return acknowledged

    def judge(self, folder: Path, acknowledged: Acknowledged) -> list[Problem]:
        flags = JUDGE_FLAGS
        with ForkedService(folder / "ledger", listen="127.0.0.1:0", flags=flags) as service:
            policy = folder / "ledger" / "policy"
            recorder = Recorder(
                service.url, self.token, spool=folder / "spool", policy=policy, linger_s=0.01
            )
            deadline_s = time.monotonic() + CLOCK_MAX_S
            missing = [
                each.result.event_id for each in acknowledged if isinstance(each.result, Recorded)
            ]
            while missing and time.monotonic() < deadline_s:
                missing = [each for each in missing if self.logged(service.url, each) is None]
            recorder.close()
        return [Problem("lost", f"the recorded event {each}") for each in missing]

    def logged(self, url: str, event_id: str) -> Any:
        """The event as the ledger has it, or None."""
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = send(url, f"/v1/events/{event_id}", method="GET", body=None, headers=headers)
        return answer.json()["event"] if answer.status == 200 else None


SUBJECTS: Final = (
    *(LedgerSubject, WorkersSubject, InitSubject, MirrorSubject, WitnessSubject),
    *(RecorderSubject, TlogMirrorSubject),
)
