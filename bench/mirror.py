"""Measures a mirror: from an acknowledgement to held and verified elsewhere, and how it catches up.

Log, mirror and load are processes on one machine. An entry is held when it is durable in the
mirror's own store, whose size is read every millisecond. How fast a mirror catches up is given for
all of the time and for its processor time: the log serves the bundles on the same cores.
"""

import json
import os
import subprocess
import threading
import time
import urllib.request
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from bench.append import ORIGIN, QUIET, load
from bench.events import event_stream
from bench.million import fill_log
from bench.rows import Row
from ledger.demo.child_service import Service, make_ledger
from ledger.log.publisher import INTERVAL_S
from ledger.mirror.data_dir import MirrorConfig, create_mirror
from ledger.service.data_dir import DirectoryPaths
from ledger.store.log import LogStore
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.keys import ED25519_COSIGNATURE

SAMPLES_PER_S = 50
LOADS = (
    (1_000, INTERVAL_S, ("--connections", "32", "--rate", "1000")),
    (1_000, 1.0, ("--connections", "32", "--rate", "1000")),
    (1_000, 0.2, ("--connections", "32", "--rate", "1000")),
    (10_000, 1.0, ("--connections", "4", "--rate", "100", "--batch", "100")),
    (10_000, 0.2, ("--connections", "4", "--rate", "100", "--batch", "100")),
)
"""Events a second, the seconds between two heads, and the load: single events, or batches."""
LAG_REACH_MS = 1_000.0
CATCH_UP_REACH = 30_000
MIRROR = ("mirror", "serve")
POLL_S = 0.001
WAIT_S = 600.0


def run(folder: Path, *, entries: int, seconds: float) -> list[Row]:
    """Measure on new ledgers in `folder`."""
    rows = []
    for rate, interval_s, flags in LOADS:
        rows += _lag(
            folder / f"lag-{rate}-{interval_s}",
            flags,
            interval_s=interval_s,
            seconds=seconds,
            rate=rate,
        )
    return rows + _catch_up(folder / "catch-up", entries=entries)


def _lag(
    folder: Path, load_flags: Sequence[str], *, interval_s: float, seconds: float, rate: int
) -> list[Row]:
    token = make_ledger(folder / "log", origin=ORIGIN)
    flags = (*QUIET, "--publish-interval-s", str(interval_s))
    with (
        Service(folder / "log", listen="127.0.0.1:0", flags=flags) as log,
        serving_mirror(folder, log.url, token) as mirror,
    ):
        store = mirror.store
        mirror.until_held(1)
        stop = threading.Event()
        sizes: list[tuple[int, float]] = []
        watching = threading.Thread(target=_watch, args=(store, sizes, stop))
        watching.start()
        loading = threading.Thread(
            target=load,
            args=(log.url, token, *load_flags),
            kwargs={"seconds": seconds + 1},
        )
        loading.start()
        time.sleep(1.0)
        acknowledged = list(_acknowledged(log.url, token, seconds=seconds))
        loading.join()
        mirror.until_held(acknowledged[-1][0] + 1)
        stop.set()
        watching.join()
    lags_ms = sorted((_held_at(sizes, index) - at_s) * 1e3 for index, at_s in acknowledged)
    name = f"acknowledged to held, {rate:,} events/s, published each {interval_s:g} s"
    return [
        Row(f"{name}, p50", lags_ms[len(lags_ms) // 2], "ms"),
        Row(
            f"{name}, p99",
            lags_ms[int(len(lags_ms) * 0.99)],
            "ms",
            reach=LAG_REACH_MS if (rate, interval_s) == LOADS[0][:2] else None,
            at_most=True,
        ),
    ]


def _acknowledged(url: str, token: str, *, seconds: float) -> Iterator[tuple[int, float]]:
    """The indices of single events beside the load, each with the time of its answer."""
    deadline_s = time.monotonic() + seconds
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    events = islice(event_stream(2), int(seconds * SAMPLES_PER_S * 2))
    while time.monotonic() < deadline_s:
        request = urllib.request.Request(f"{url}/v1/events", data=next(events), headers=headers)
        with urllib.request.urlopen(request) as answer:
            index = json.load(answer)["results"][0]["index"]
        yield index, time.monotonic()
        time.sleep(1 / SAMPLES_PER_S)


def _watch(store: LogStore, sizes: list[tuple[int, float]], stop: threading.Event) -> None:
    """Note each new size of a store, and when it was seen, the one at the stop too."""
    is_last = False
    while not is_last:
        is_last = stop.wait(POLL_S)
        size = store.head().tree_size
        if not sizes or size > sizes[-1][0]:
            sizes.append((size, time.monotonic()))


def _held_at(sizes: list[tuple[int, float]], index: int) -> float:
    """When an entry was first seen in the store."""
    return sizes[bisect_right(sizes, index, key=lambda each: each[0])][1]


def _catch_up(folder: Path, *, entries: int) -> list[Row]:
    token = make_ledger(folder / "log", origin=ORIGIN)
    fill_log(folder / "log", entries)
    with Service(folder / "log", listen="127.0.0.1:0", flags=QUIET) as log:
        _until_quiet(log.process_id)
        with serving_mirror(folder, log.url, token) as mirror:
            mirror.until_held(1)
            start_s, start_cpu_s = time.monotonic(), processor_s(mirror.process_id)
            first = mirror.store.head().tree_size
            mirror.until_held(entries)
            took_s = time.monotonic() - start_s
            cpu_s = processor_s(mirror.process_id) - start_cpu_s
    held = entries - first
    return [
        Row(
            f"a new mirror catches up, {entries:,} entries",
            held / took_s,
            "events/s",
            reach=CATCH_UP_REACH,
        ),
        Row("the same, a second of the mirror's processor time", held / cpu_s, "events/s"),
    ]


class ServedMirror(NamedTuple):
    """A mirror that is served, and its store."""

    process_id: int
    store: LogStore

    def until_held(self, tree_size: int) -> None:
        """Wait until it holds so many entries."""
        deadline_s = time.monotonic() + WAIT_S
        while self.store.head().tree_size < tree_size:
            if time.monotonic() > deadline_s:
                raise SystemExit(f"the mirror did not get {tree_size:,} entries in {WAIT_S:g} s")
            time.sleep(POLL_S)


@contextmanager
def serving_mirror(folder: Path, url: str, token: str) -> Iterator[ServedMirror]:
    """A mirror of the log in `folder/log`, served until the block ends; made if there is none."""
    if not (folder / "mirror").exists():
        token_file = folder / "token"
        token_file.write_text(token)
        signer = CosignatureSigner.generate(
            "bench.example/mirror", algorithm=ED25519_COSIGNATURE, seed=os.urandom(32)
        )
        policy = DirectoryPaths(folder / "log").policy.read_bytes()
        config = MirrorConfig(log_url=url, token_file=str(token_file))
        create_mirror(folder / "mirror", config, policy, [signer])
    with (
        Service(
            folder / "mirror",
            listen="127.0.0.1:0",
            command=MIRROR,
            flags=QUIET,
            stderr=subprocess.DEVNULL,
        ) as service,
        closing(LogStore.open(folder / "mirror" / "log")) as store,
    ):
        yield ServedMirror(service.process_id, store)


def _until_quiet(process_id: int) -> None:
    """Wait until a process has nothing to do: a service that has started indexes its log."""
    while True:
        before_s = processor_s(process_id)
        time.sleep(1.0)
        if processor_s(process_id) - before_s < 0.1:
            return


def processor_s(process_id: int) -> float:
    """The processor time of a process, in user mode and in the kernel."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
