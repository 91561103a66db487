"""Measures the recorder: the time of a call of `record`, the rate of events, the sender's memory.

Each measurement runs in its own process, `python -m bench.record MODE …`, so none affects another.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from bench.rows import Row
from ledger.demo.child_service import Service, make_ledger
from ledger_client import Recorder

ORIGIN = "bench.example/audit"
QUIET = ("--log-level", "warning")
AWAY = "http://127.0.0.1:1"
CALL_REACH_US = 25.0
IMPORT_REACH_MS = 60.0
IMPORTS = 9
FLOW_REACH = 20_000
MEMORY_REACH_MB = 50.0
RATE_PER_S = 1_000
WAIT_S = 600.0
EVENT: Any = {
    "actor": {"type": "user", "id": "u_12345", "session": "s_9f3a61c0de"},
    "target": ("record", "r_0000777"),
    "source": {
        "ip": "198.51.100.9",
        "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    },
    "request_id": "0123456789abcdef",
    "trace_id": "0123456789abcdef0123456789abcdef",
    "tenant": "t_001",
}


def run(folder: Path, *, entries: int, seconds: float) -> list[Row]:
    """Measure on a new ledger in `folder`; `entries` events are spooled to measure the memory."""
    directory = folder / "record"
    token = make_ledger(directory, origin=ORIGIN)
    common = ("--token", token, "--policy", str(directory / "policy"), "--seconds", str(seconds))
    rows = [
        Row(
            name="import of ledger_client with its recorder",
            figure=_import_ms(),
            unit="ms",
            reach=IMPORT_REACH_MS,
            at_most=True,
        )
    ]
    for fsync in ("interval", "each"):
        figures = _measure("call", *common, "--fsync", fsync, spool=folder / f"spool-{fsync}")
        reach = CALL_REACH_US if fsync == "interval" else None
        name = f"record, fsync {fsync}, ledger away"
        rows += [
            Row(
                name=f"{name}, mean",
                figure=figures["mean_us"],
                unit="µs",
                reach=reach,
                at_most=True,
            ),
            Row(name=f"{name}, p99", figure=figures["p99_us"], unit="µs"),
        ]
    _measure("fill", *common, "--entries", str(entries), spool=folder / "spool-full")
    with Service(directory, listen="127.0.0.1:0", flags=QUIET) as service:
        served = (*common, "--url", service.url)
        figures = _measure("rate", *served, spool=folder / "spool-rate")
        for part in ("p50", "p99"):
            rows.append(
                Row(
                    name=f"record at {RATE_PER_S:,} a second while they are sent, {part}",
                    figure=figures[f"{part}_us"],
                    unit="µs",
                )
            )
        figures = _measure("flow", *served, spool=folder / "spool-flow")
        rows.append(
            Row(
                name="from record to verified and durable, one process",
                figure=figures["events_per_s"],
                unit="events/s",
                reach=FLOW_REACH,
            )
        )
        figures = _measure("drain", *served, spool=folder / "spool-full")
        rows.append(
            Row(
                name=f"memory of the sender with {entries:,} events spooled",
                figure=figures["grown_mb"],
                unit="MB",
                reach=MEMORY_REACH_MB,
                at_most=True,
            )
        )
    return rows


def _import_ms() -> float:
    """The median time of a process that imports the recorder, less that of an empty one."""

    def median_s(statement: str) -> float:
        seconds = []
        for _ in range(IMPORTS):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            seconds.append(time.perf_counter() - start)
        return sorted(seconds)[IMPORTS // 2]

    return (median_s("from ledger_client import Recorder, audited") - median_s("pass")) * 1e3


def _measure(mode: str, *flags: str, spool: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.record", mode, "--spool", str(spool), *flags]
    figures: dict[str, float] = json.loads(subprocess.check_output(command))
    return figures


def _open(options: argparse.Namespace, **more: Any) -> Recorder:
    return Recorder(
        options.url,
        options.token,
        spool=options.spool,
        policy=options.policy,
        service="admin-web",
        fsync=options.fsync,
        exit_flush_s=0.0,
        **more,
    )


def call(options: argparse.Namespace) -> dict[str, float]:
    """The time of a call while the ledger can't be reached."""
    with _quiet_recorder(options) as recorder:
        return _timed(recorder, until_s=time.perf_counter() + options.seconds)


def rate(options: argparse.Namespace) -> dict[str, float]:
    """The time of a call at a steady rate, while the sender works in the same process."""
    with _quiet_recorder(options) as recorder:
        until_s = time.perf_counter() + options.seconds
        return _timed(recorder, until_s=until_s, interval_s=1 / RATE_PER_S)


def flow(options: argparse.Namespace) -> dict[str, float]:
    """The rate from the first `record` to the last verified acknowledgement, in events a second."""
    with _quiet_recorder(options) as recorder:
        started_s = time.perf_counter()
        count = 0
        while time.perf_counter() < started_s + options.seconds:
            recorder.record("user.role_changed", **EVENT)
            count += 1
        if not recorder.flush(WAIT_S):
            raise SystemExit("some events were not sent")
        return {"events_per_s": count / (time.perf_counter() - started_s)}


def fill(options: argparse.Namespace) -> dict[str, float]:
    """Leave `entries` events in the spool and exit at once, as a killed process does."""
    recorder = _open(options)
    for _ in range(options.entries):
        recorder.record("user.role_changed", **EVENT)
    json.dump({"recorded": options.entries}, sys.stdout)
    sys.stdout.flush()
    os._exit(0)


def drain(options: argparse.Namespace) -> dict[str, float]:
    """The peak memory while a full spool is sent, beyond that of a process with an empty spool."""
    with Recorder(
        options.url, options.token, spool=f"{options.spool}-empty", policy=options.policy
    ) as idle:
        idle.record("user.role_changed", **EVENT)
        idle.flush(WAIT_S)
    before = most = _resident_bytes()
    recorder = _open(options)
    deadline_s = time.monotonic() + WAIT_S
    while any(Path(options.spool).glob("*-*/*.segment")):
        if time.monotonic() > deadline_s:
            raise SystemExit("some events were not sent")
        most = max(most, _resident_bytes())
        time.sleep(0.02)
    recorder.close()
    return {"grown_mb": (most - before) / 1e6, "whole_mb": most / 1e6}


def _resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _quiet_recorder(options: argparse.Namespace) -> Recorder:
    """Open a recorder and warm it up: its files are open, its threads run."""
    recorder = _open(options, spool_bytes_max=8 << 30)
    for _ in range(1_000):
        recorder.record("user.role_changed", **EVENT)
    if options.url == AWAY:
        # After a failure the sender waits between attempts, so it takes no time from the calls.
        while not recorder.status.failures:
            time.sleep(0.01)
    elif not recorder.flush(WAIT_S):
        raise SystemExit("the ledger took no event")
    return recorder


def _timed(
    recorder: Recorder, *, until_s: float, interval_s: float | None = None
) -> dict[str, float]:
    pause = threading.Event()
    times_s = []
    due_s = time.perf_counter()
    while (now_s := time.perf_counter()) < until_s:
        if interval_s is not None:
            due_s += interval_s
            pause.wait(max(0.0, due_s - now_s))
        started_s = time.perf_counter()
        recorder.record("user.role_changed", **EVENT)
        times_s.append(time.perf_counter() - started_s)
    times_s.sort()
    count = len(times_s)
    return {
        "mean_us": sum(times_s) / count * 1e6,
        "p50_us": times_s[count // 2] * 1e6,
        "p99_us": times_s[int(count * 0.99)] * 1e6,
    }


MODES = {mode.__name__: mode for mode in (call, rate, flow, fill, drain)}


def main() -> None:
    """Run one measurement and print its figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--url", default=AWAY)
    parser.add_argument("--token", required=True)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--spool", required=True)
    parser.add_argument("--fsync", default="interval")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--entries", type=int, default=1_000_000)
    options = parser.parse_args()
    json.dump(MODES[options.mode](options), sys.stdout)


if __name__ == "__main__":
    main()
