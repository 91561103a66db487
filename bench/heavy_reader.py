"""Measures what a heavy reader costs those who append: acknowledgements quiet, and beside it.

The reader has a token of its own and asks as much as that may: searches that read every entry, and
whole exports, both without a pause. Quiet and busy spans take turns, so that other load on the
machine falls on both.

    python -m bench.heavy_reader URL TOKEN      the reader alone, until it is ended
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from statistics import median
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

from bench.append import ORIGIN, QUIET, load
from bench.million import fill_log
from bench.rows import Row
from ledger.demo.child_service import Service, make_ledger
from ledger.service.token_admin import make_token

RATE_PER_S = 200
ROUNDS = 5
RATIO_REACH = 2.0
SEARCHES = 4
EXPORTS = 2
QUERIES = (
    "NOT context.trace_id:0*",
    "NOT actor:u_00001",
    "NOT source.ip:198.51.100.0/24",
    "NOT context.request_id:f*",
)
BUSY = (429, 503)
"""What a service may say to so many requests."""
CHUNK_BYTES = 1 << 16


def run(folder: Path, *, entries: int, seconds: float) -> list[Row]:
    """Measure on a log of so many entries; `seconds` for each span."""
    directory = folder / "heavy_reader"
    token = make_ledger(directory, origin=ORIGIN)
    reader = make_token(directory, name="reader", scopes=("read",), tenant=None)
    fill_log(directory, entries)
    spans: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    flags = ("--connections", "32", "--rate", str(RATE_PER_S))
    with Service(directory, listen="127.0.0.1:0", flags=QUIET) as service:
        load(service.url, token, *flags, seconds=1)  # warm
        for _ in range(ROUNDS):
            spans[False].append(load(service.url, token, *flags, seconds=seconds))
            with _reading(service.url, reader):
                spans[True].append(load(service.url, token, *flags, seconds=seconds))
    rows, p99_ms = [], {}
    for is_busy, how in ((False, "quiet"), (True, "beside a heavy reader")):
        figures = {name: median(span[name] for span in spans[is_busy]) for name in spans[True][0]}
        p99_ms[is_busy] = figures["p99_ms"]
        name = f"acknowledgement at {RATE_PER_S} a second, {how}"
        rows.append(Row(name=f"{name}, p50", figure=figures["p50_ms"], unit="ms"))
        rows.append(Row(name=f"{name}, p99", figure=figures["p99_ms"], unit="ms"))
    ratio = p99_ms[True] / p99_ms[False]
    name = "p99 beside a heavy reader, of quiet"
    return [*rows, Row(name=name, figure=ratio, unit="", reach=RATIO_REACH, at_most=True)]


@contextmanager
def _reading(url: str, token: str) -> Iterator[None]:
    """A heavy reader in a process of its own until the block ends."""
    command = [sys.executable, "-m", "bench.heavy_reader", url, token]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        if not process.stdout.readline():  # Its first answer has begun.
            raise SystemExit("the reader ended: the figures would be false")
        yield
        if process.poll() is not None:
            raise SystemExit("the reader ended: the figures would be false")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _ask(url: str, token: str, targets: Iterator[str], has_begun: threading.Event) -> None:
    """Ask without a pause, and read each answer to its end."""
    for target in targets:
        request = Request(f"{url}{target}", headers={"Authorization": f"Bearer {token}"})
        try:
            with urlopen(request) as answer:
                has_begun.set()
                while answer.read(CHUNK_BYTES):
                    pass
        except HTTPError as error:
            error.close()
            if error.code not in BUSY:
                # Refused at once, it would be asked again at once: a load of another kind.
                print(f"{target}: {error.code}", file=sys.stderr)
                os._exit(1)


def main() -> None:
    """Read until the process is ended."""
    url, token = sys.argv[1:]
    searches = [f"/v1/events?limit=1000&q={quote(query)}" for query in QUERIES]
    has_begun = threading.Event()
    for number in range(SEARCHES + EXPORTS):
        targets = cycle(["/v1/export"] if number < EXPORTS else searches)
        args = (url, token, targets, has_begun)
        threading.Thread(target=_ask, args=args, daemon=True).start()
    has_begun.wait()
    print("reading", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
