"""Compares recording, importing and appending of an older commit with this tree, in one run.

    git archive COMMIT | tar -x -C OLDER
    python -m bench.compare OLDER

Both trees measure by turns, in processes of their own, and the least of the rounds counts: so a
machine with other load changes both alike. Beside much load the least is luck: of appends the
medians are printed too. The figures are seconds of processor time, not of the clock; of an append
it is that of the service. A ratio below 1 means that this tree is faster.
"""

import argparse
import contextlib
import http.client
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

THIS = Path(__file__).resolve().parents[1]
ROUNDS = 5
CALLS = 4_000
CHUNK = 100
RECORDS = 2_000
WARMING = 50
SHORT_ROUNDS = 10
BATCHES = 20
BATCH = 100
AWAY = "http://127.0.0.1:1"
ORIGIN = "bench.example/audit"
QUIET = ("--log-level", "warning")
EVENT: Any = {
    "actor": {"type": "user", "id": "u_12345", "session": "s_9f3a61c0de"},
    "target": ("record", "r_0000777"),
    "source": {"ip": "198.51.100.9", "user_agent": "Mozilla/5.0 (X11; Linux x86_64)"},
    "request_id": "0123456789abcdef",
    "tenant": "t_001",
}
ROW = {f"column_{number}": number for number in range(20)}
CLOUDTRAIL: Any = {
    "eventVersion": "1.08",
    "userIdentity": {"type": "IAMUser", "userName": "jo", "arn": "arn:aws:iam::1:user/jo"},
    "eventTime": "2026-11-25T02:03:36Z",
    "eventSource": "iam.amazonaws.com",
    "eventName": "AttachUserPolicy",
    "awsRegion": "us-east-1",
    "sourceIPAddress": "203.0.113.9",
    "userAgent": "aws-cli/2.0",
    "requestParameters": {"userName": "kim", "policyArn": "arn:aws:iam::aws:policy/Admin"},
    "responseElements": None,
    "eventType": "AwsApiCall",
}
KUBERNETES: Any = {
    "kind": "Event",
    "level": "Metadata",
    "stage": "ResponseComplete",
    "verb": "delete",
    "user": {"username": "kim", "groups": ["admins"]},
    "sourceIPs": ["203.0.113.9"],
    "objectRef": {"resource": "secrets", "namespace": "shop", "name": "db"},
    "responseStatus": {"code": 200},
    "requestReceivedTimestamp": "2026-11-25T02:03:36.123456Z",
    "stageTimestamp": "2026-11-25T02:03:36.223456Z",
}


def main() -> None:
    """Measure both trees by turns, and print the table."""
    parser = argparse.ArgumentParser(prog="bench.compare")
    parser.add_argument("older", type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only-append", action="store_true")
    options = parser.parse_args()
    trees = (options.older.resolve(), THIS)
    print("| measured, processor time | before | after | ratio |")
    print("|---|---:|---:|---:|")
    for mode in () if options.only_append else MODES:
        figures: list[list[float]] = [[] for _ in trees]
        for _ in range(options.rounds):
            for tree, found in zip(trees, figures, strict=True):
                found.append(_measure(tree, mode))
        _print_row(mode, figures)
    for events, name in ((BATCH, f"an event in a batch of {BATCH}"), (1, "a request of one event")):
        figures = _append(trees, options.rounds, events)
        _print_row(f"append, {name}, the service", figures)
        _print_row("the same, the medians", [[median(found)] for found in figures])


def _print_row(name: str, figures: Sequence[Sequence[float]]) -> None:
    before, after = (min(found) * 1e6 for found in figures)
    print(f"| {name} | {before:,.2f} µs | {after:,.2f} µs | {after / before:.2f} |", flush=True)


def _measure(tree: Path, mode: str) -> float:
    output = subprocess.check_output(
        _command(mode), env=_environ(tree), cwd=tree, stderr=subprocess.DEVNULL
    )
    return float(output)


def _command(mode: str) -> list[str]:
    return [sys.executable, "-P", str(Path(__file__).resolve()), "--mode", mode]


def _environ(tree: Path) -> dict[str, str]:
    path = f"{tree}:{tree / 'client'}"
    return {**os.environ, "PYTHONPATH": path, "LEDGER_RECORDER": "real", "LEDGER_WORKERS": "0"}


def _per_call(call: Callable[[], object], calls: int) -> float:
    """The least of many short measurements: what else the machine does makes some of them worse."""
    figures = []
    for _ in range(calls // CHUNK):
        start = time.thread_time()
        for _ in range(CHUNK):
            call()
        figures.append((time.thread_time() - start) / CHUNK)
    return min(figures)


@contextlib.contextmanager
def _recorder() -> Iterator[Any]:
    from ledger_client import Recorder, use_recorder

    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "ledger"
        _running().make_ledger(directory, origin=ORIGIN)
        yield use_recorder(
            Recorder(
                AWAY,
                None,
                spool=Path(folder) / "spool",
                policy=directory / "policy",
                fsync="none",
                exit_flush_s=0.0,
            )
        )
        sys.stdout.flush()
        os._exit(0)  # Nothing is sent, and the folder is in the way of the spool's end.


def record() -> float:
    """One call of `record`."""
    with _recorder() as recorder:
        return _shown(_per_call(lambda: recorder.record("record.opened", **EVENT), CALLS))


def audited() -> float:
    """One call of an audited function."""
    from ledger_client import audit_context
    from ledger_client import audited as decorate

    with _recorder(), audit_context(actor=("user", "u_1"), request_id="r-1"):

        @decorate("a.b", target=lambda number: ("record", number))
        def function(number: int) -> int:
            return number

        return _shown(_per_call(lambda: function(7), CALLS))


def diff() -> float:
    """Changes of an object of 20 members, of which one changed."""
    from ledger_client import diff as compare
    from ledger_client import snapshot

    after = {**ROW, "column_7": "changed"}
    return _shown(_per_call(lambda: compare(snapshot(ROW), after), CALLS))


def import_cloudtrail() -> float:
    """Map one record of CloudTrail."""
    return _map("cloudtrail", "eventID", CLOUDTRAIL)


def import_kubernetes() -> float:
    """Map one event of Kubernetes."""
    return _map("kubernetes", "auditID", KUBERNETES)


def serve() -> None:
    """Serve a new ledger until standard input ends; what a client needs is printed as JSON."""
    import psutil  # type: ignore[import-untyped] # it has no types

    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "ledger"
        running = _running()
        token = running.make_ledger(directory, origin=ORIGIN)
        with running.Service(directory, listen="127.0.0.1:0", flags=QUIET) as service:
            (process,) = (
                each
                for each in psutil.Process().children(recursive=True)
                if "serve" in each.cmdline()
            )
            print(json.dumps([service.url, token, process.pid]), flush=True)
            sys.stdin.read()


def _append(trees: Sequence[Path], rounds: int, batch: int) -> list[list[float]]:
    """The service's share of one event of a batch, in short rounds.

    Both trees serve at once and are asked by turns, so what else the machine does falls on both.
    """
    from bench.events import event_stream

    figures: list[list[float]] = [[] for _ in trees]
    with contextlib.ExitStack() as stack:
        served = [stack.enter_context(_serving(tree)) for tree in trees]
        events = [event_stream(1) for _ in trees]
        for (url, token, _), stream in zip(served, events, strict=True):
            _post(url, token, stream, count=WARMING, batch=batch)
        for _ in range(rounds * SHORT_ROUNDS):
            for (url, token, pid), stream, found in zip(served, events, figures, strict=True):
                used = _processor_ns(pid)
                _post(url, token, stream, count=BATCHES, batch=batch)
                found.append((_processor_ns(pid) - used) / 1e9 / (BATCHES * batch))
    return figures


@contextlib.contextmanager
def _serving(tree: Path) -> Iterator[tuple[str, str, int]]:
    """A service of a tree: its address, a token, and the number of its process."""
    with subprocess.Popen(
        _command("serve"),
        env=_environ(tree),
        cwd=tree,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.stdin.close()


def _processor_ns(pid: int) -> int:
    """What the threads of a process have used; psutil counts in hundredths of a second."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks)


def _post(url: str, token: str, events: Iterator[bytes], *, count: int, batch: int) -> None:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-ndjson"}
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    for _ in range(count):
        body = b"\n".join(islice(events, batch))
        connection.request("POST", "/v1/events", body, headers)
        connection.getresponse().read()
    connection.close()


def _map(name: str, id_key: str, record_: Any) -> float:
    try:
        importers = importlib.import_module("ledger_client.collect.importers")
        explain = importers.FileMapper(importers.load_format(name)).explain
    except ImportError:
        explain = importlib.import_module("ledger_client.importing").load_format(name).map
    raw = iter([json.dumps({**record_, id_key: str(n)}).encode() for n in range(RECORDS)])
    return _shown(_per_call(lambda: explain(next(raw)), RECORDS))


def _running() -> Any:
    """The module that runs a service, by its name in this tree or in an older one."""
    try:
        return importlib.import_module("ledger.demo.child_service")
    except ImportError:
        return importlib.import_module("ledger.cli.running")


def _shown(figure: float) -> float:
    print(figure, flush=True)
    return figure


MODES: dict[str, Callable[[], float]] = {
    "record": record,
    "@audited": audited,
    "snapshot and diff, 20 members": diff,
    "import, a record of CloudTrail": import_cloudtrail,
    "import, an event of Kubernetes": import_kubernetes,
}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--mode"]:
        {**MODES, "serve": serve}[sys.argv[2]]()
    else:
        main()
