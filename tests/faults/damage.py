"""Damaged files of a ledger that is not running: what `fsck` says, and what `serve` then answers.

A bit is flipped, a page zeroed, a file cut short or replaced by an older copy of itself. `fsck`
should name all of it. A service that starts must answer the truth, an error, or an answer that says
that it is not complete.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from ledger.demo.child_service import Service
from ledger_core.tlog.errors import UnavailableError
from tests.faults.outcome import Damaged, Problem
from tests.faults.subjects import LEDGER_FLAGS, PREPARED_EVENTS, LedgerSubject
from tests.files import files_below

PAGE_BYTES: Final = 4096
FSCK_MAX_S: Final = 60.0

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
VOLATILE: Final = ("took_ms", "index_lag", "head", "checkpoint", "published", "cursor")


def prepare(scratch: Path) -> LedgerSubject:
    """Make `scratch/older`, and `scratch/newer` with more events, an erasure and a later head."""
    subject, older, newer = LedgerSubject(), scratch / "older", scratch / "newer"
    subject.prepare(older)
    shutil.copytree(older, newer)
    with Service(newer, listen="127.0.0.1:0", flags=LEDGER_FLAGS) as service:
        assert subject.work(newer, iter([service.url]))
    return subject


def damages(scratch: Path, subject: LedgerSubject, rng: random.Random) -> Iterator[Damaged]:
    """Damaged copies of `scratch/newer` without end, a file and a kind drawn for each."""
    prepared, older = scratch / "newer", scratch / "older"
    folder = scratch / "damaged"
    shutil.copytree(prepared, folder)
    truth, _ = _answers(folder, subject)
    shutil.rmtree(folder)
    files = sorted(
        path.relative_to(prepared)
        for path in files_below(prepared)
        if path.stat().st_size and not path.name.endswith("lock.mdb") and path.name != "writer.lock"
    )
    while True:
        file = rng.choice(files)
        kind, change = rng.choice(sorted(_KINDS.items()))
        shutil.copytree(prepared, folder)
        place = change(folder / file, older / file, rng)
        if (folder / file).read_bytes() != (prepared / file).read_bytes():
            yield _judge(folder, subject, (str(file), kind, place), truth)
        shutil.rmtree(folder)


def _judge(
    folder: Path, subject: LedgerSubject, damage: tuple[str, str, str], truth: dict[str, Any]
) -> Damaged:
    problems = []
    checked = subprocess.run(
        [sys.executable, "-P", "-m", "ledger", "fsck", str(folder)],
        capture_output=True,
        text=True,
        timeout=FSCK_MAX_S,
        check=False,
    )
    if checked.returncode < 0:
        problems.append(Problem("died by a signal", f"fsck by {_signal(checked.returncode)}"))
    if "Traceback" in checked.stderr:
        problems.append(Problem("traceback", checked.stderr.splitlines()[-1][:200]))
    answers, death = _answers(folder, subject)
    if death < 0:
        problems.append(Problem("died by a signal", f"serve by {_signal(death)}"))
    problems += (
        Problem("false answer", f"to {target}")
        for target, answer in answers.items()
        if answer is not None and answer != truth[target]
    )
    return Damaged(*damage, checked.returncode != 0, answers != truth, problems)


def _signal(code: int) -> str:
    return signal.Signals(-code).name


def _answers(folder: Path, subject: LedgerSubject) -> tuple[dict[str, Any], int]:
    """The answers by what was asked, and how the service ended. None: an error, or incomplete.

    Empty when the service does not start.
    """
    answers: dict[str, Any] = {}
    service = Service(folder, listen="127.0.0.1:0", flags=LEDGER_FLAGS, is_silent=True)
    with suppress(UnavailableError), service as running, suppress(OSError, HTTPException):
        for target in ASKED:
            answer = subject.ask(running.url, target)
            answers[target] = _comparable(answer.body) if answer.status == 200 else None
    return answers, service.exit_code or 0


def _comparable(body: bytes) -> Any:
    with suppress(ValueError):
        value = json.loads(body)
        if isinstance(value, dict):
            if value.get("complete") is False:
                return None
            return {key: each for key, each in value.items() if key not in VOLATILE}
        return value
    return body


def _flip(file: Path, _older: Path, rng: random.Random) -> str:
    data = bytearray(file.read_bytes())
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)
    file.write_bytes(data)
    return f"in byte {at}"


def _zero(file: Path, _older: Path, rng: random.Random) -> str:
    data = bytearray(file.read_bytes())
    page = rng.randrange(-(-len(data) // PAGE_BYTES))
    part = data[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]
    data[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = bytes(len(part))
    file.write_bytes(data)
    return str(page)


def _cut(file: Path, _older: Path, rng: random.Random) -> str:
    data = file.read_bytes()
    size = rng.randrange(len(data))
    if len(data) > PAGE_BYTES:
        size -= size % PAGE_BYTES
    file.write_bytes(data[:size])
    return f"to {size} bytes"


def _restore(file: Path, older: Path, _rng: random.Random) -> str:
    if older.is_file():
        file.write_bytes(older.read_bytes())
    return "from before"


_KINDS: Final[dict[str, Callable[[Path, Path, random.Random], str]]] = {
    "a flipped bit": _flip,
    "a zeroed page": _zero,
    "cut": _cut,
    "an older copy": _restore,
}
