"""Measures searches in a service: over HTTP, as exports, and their effect on acknowledgements."""

import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from urllib.parse import quote, urlsplit

from bench.append import ORIGIN, QUIET, RATE_PER_S, load
from bench.million import resident_mb
from bench.rows import Row, p95
from bench.varied import fill_log
from ledger.demo.child_service import Service, make_ledger
from ledger.service.data_dir import DirectoryPaths
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX

EXPORT_ROWS = 1_000_000
EXPORT_REACH_S = 30.0
EXPORT_REACH_MB = 200.0
PAUSE_REACH_MS = 20.0
SEALED_SEGMENTS = 6
READER_TURNS = 3
READER_RATE_PER_S = 200
READER_REACH = 2.0
READER_PATHS = (
    "/v1/events?q=outcome:success&limit=0&facets=actor,source,action,target.type",
    "/v1/events?q=actor:u_1*&facets=actor,source,action,target.type&histogram=day",
    "/v1/export?format=jsonl",
)
"""Each takes seconds, and `outcome:success` holds for nearly every event."""

_POLL_S = 0.05


def asked_over_http(
    directory: Path, token: str, queries: Sequence[str], *, rounds: int
) -> list[Row]:
    """First pages of a hundred, one after another over one connection."""
    with Service(directory, listen="127.0.0.1:0", flags=QUIET) as service:
        for query in queries:
            _search(service.url, token, query)
        took, seen = [], []
        for _ in range(rounds):
            for query in queries:
                start = time.perf_counter()
                took.append(_search(service.url, token, query))
                seen.append((time.perf_counter() - start) * 1e3)
    return [
        Row("two dimensions over HTTP, took_ms, p95", p95(took), "ms"),
        Row("two dimensions over HTTP, as the client sees it, p95", p95(seen), "ms"),
    ]


def exported(directory: Path, token: str, *, rows: int) -> list[Row]:
    """Exports of the first `rows` entries, as JSON lines and as CSV."""
    query = f"index:0..{rows - 1}"
    found = []
    for form in ("jsonl", "csv"):
        with (
            Service(directory, listen="127.0.0.1:0", flags=QUIET) as service,
            _peak_mb(service.process_id) as peak_mb,
        ):
            start = time.perf_counter()
            size = _export(service.url, token, query, form)
            seconds = time.perf_counter() - start
        found += [
            Row(
                f"export of {rows:,} rows as {form}, {size / 1e6:,.0f} MB",
                seconds,
                "s",
                reach=EXPORT_REACH_S * rows / EXPORT_ROWS,
                at_most=True,
            ),
            Row(
                f"memory of the service during it, {form}",
                peak_mb[-1],
                "MB",
                reach=EXPORT_REACH_MB,
                at_most=True,
            ),
        ]
    return found


def sealing(folder: Path, *, seconds: float) -> list[Row]:
    """Acknowledgements while segments are sealed, and the same with nothing to seal."""
    directory = folder / "sealing"
    token = make_ledger(directory, origin=ORIGIN)
    fill_log(DirectoryPaths(directory).log, SEALED_SEGMENTS * SEGMENT_ENTRIES_MAX)
    rows = []
    with Service(directory, listen="127.0.0.1:0", flags=QUIET) as service:
        for what in ("while segments are sealed", "nothing to seal"):
            before = _sealed(service.url)
            flags = ("--connections", "64", "--rate", str(RATE_PER_S))
            figures = load(service.url, token, *flags, seconds=seconds)
            sealed = _sealed(service.url) - before
            rows += [
                Row(
                    f"acknowledgement at {RATE_PER_S:,} a second, {what} ({sealed}), {name}",
                    figures[f"{name}_ms"],
                    "ms",
                )
                for name in ("p50", "p99", "max")
            ]
            while _sealed(service.url) < SEALED_SEGMENTS:
                time.sleep(_POLL_S)
    busy, idle = rows[2].figure, rows[5].figure
    return [
        *rows,
        Row(
            "the longest pause that sealing adds",
            max(0.0, busy - idle),
            "ms",
            reach=PAUSE_REACH_MS,
            at_most=True,
        ),
    ]


def beside_reader(directory: Path, token: str, *, seconds: float) -> list[Row]:
    """Acknowledgements of single events while heavy readers work, and the same while none does.

    Two searches with facets over everything and an export run all the time. Quiet and busy turns
    alternate, and the median of each kind counts, so that other work of the machine hits both.
    """
    quiet, busy = [], []
    with Service(directory, listen="127.0.0.1:0", flags=QUIET) as service:
        for _ in range(READER_TURNS):
            quiet.append(_acknowledged(service.url, token, seconds))
            with _reading(service.url, token):
                busy.append(_acknowledged(service.url, token, seconds))
    rate = f"acknowledgement at {READER_RATE_PER_S:,} a second"
    return [
        Row(f"{rate}, quiet, p99", median(quiet), "ms"),
        Row(f"{rate}, beside heavy readers, p99", median(busy), "ms"),
        Row(
            "p99 beside heavy readers, against quiet",
            median(busy) / median(quiet),
            "times",
            reach=READER_REACH,
            at_most=True,
        ),
    ]


def _acknowledged(url: str, token: str, seconds: float) -> float:
    """The p99 of acknowledgements in milliseconds."""
    flags = ("--connections", "16", "--rate", str(READER_RATE_PER_S))
    return load(url, token, *flags, seconds=seconds)["p99_ms"]


@contextmanager
def _reading(url: str, token: str) -> Iterator[None]:
    """Searches and an export, one after another on each of three connections."""
    is_over = threading.Event()

    def read(path: str) -> None:
        while not is_over.is_set():
            for _ in _get(url, token, path):
                if is_over.is_set():
                    _connections.kept[1].close()
                    break

    readers = [threading.Thread(target=read, args=(path,)) for path in READER_PATHS]
    for reader in readers:
        reader.start()
    try:
        yield
    finally:
        is_over.set()
        for reader in readers:
            reader.join()


def _search(url: str, token: str, query: str) -> float:
    answer = json.loads(b"".join(_get(url, token, f"/v1/events?q={quote(query)}")))
    assert answer["complete"], query
    took_ms: float = answer["took_ms"]
    return took_ms


def _export(url: str, token: str, query: str, form: str) -> int:
    """The bytes of an export, read as they come."""
    return sum(map(len, _get(url, token, f"/v1/export?q={quote(query)}&format={form}")))


def _sealed(url: str) -> int:
    index = json.loads(b"".join(_get(url, "", "/v1/log")))["index"]
    sealed: int = index["sealed_segments"]
    return sealed


_connections = threading.local()


def _get(url: str, token: str, path: str) -> Iterator[bytes]:
    """The body of an answer, over the kept connection to this service."""
    kept = getattr(_connections, "kept", None)
    if kept is None or kept[0] != url:
        kept = (url, http.client.HTTPConnection(urlsplit(url).netloc, timeout=600))
        _connections.kept = kept
    connection = kept[1]
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
    with connection.getresponse() as answer:
        assert answer.status == 200, answer.read()
        while piece := answer.read(1 << 20):
            yield piece


@contextmanager
def _peak_mb(process_id: int) -> Iterator[list[float]]:
    """The peak of the anonymous memory of a process inside the context, as the last item."""
    peak = [0.0]
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(_POLL_S):
            peak[0] = max(peak[0], resident_mb(process_id))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        is_over.set()
        watcher.join()
