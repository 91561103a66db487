"""Measures sinks: entries a second that each sends, and what all followers cost those who append.

Each sink runs in its process, as the service starts it, from the first entry of a log to its end.
The receivers run on the same machine: files, NATS and Kafka are the real ones; HTTP shapes go to a
receiver that reads a request and confirms it, and syslog to one that reads the bytes.

The cost of followers (`python -m bench followers`) is that of a mirror, a mirror of logs, an
archive, the starter set of alarms, and sinks to a file, HTTP and NATS together. Spans with and
without them take turns, so that other load on the machine falls on both, and each span begins when
all followers are at the end of the log.

    python -m bench.sinks receive            a receiver of HTTP, until it is ended
    python -m bench.sinks receive-syslog     one of syslog
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec

from bench.append import ORIGIN, QUIET, load
from bench.million import fill_log
from bench.mirror import processor_s, serving_mirror
from bench.rows import Row
from ledger.alarms.config import starter_alarms
from ledger.demo.child_service import Service, make_ledger
from ledger.follow.position import FollowerPaths, read_report
from ledger.mirror_push.config import KIND as MIRROR_KIND
from ledger.mirror_push.config import MirrorTarget, add_target, remove_target
from ledger.object_storage.config import KIND as ARCHIVE_KIND
from ledger.sinks.config import KIND, SinkConfig, add_sink
from ledger.store.log import LogStore
from ledger_core.tlog.policy import parse_policy
from tests.archive.seaweed import environment, object_server
from tests.peers.kafka import running_broker
from tests.sinks.test_jetstream import SUBJECT, make_stream, nats_server
from tests.tlog_mirror.sending import SIGNERS, make_tlog_mirror

RATE_PER_S: Final = 500
ROUNDS: Final = 5
RATIO_REACH: Final = 1.10
SETTLE_S: Final = 3.0
"""Seconds after followers began or ended: the service looks at their files once a second."""

POLL_S: Final = 0.005
WAIT_S: Final = 600.0
HTTP_TYPES: Final = ("http", "splunk", "elastic", "datadog", "otlp", "webhook")


def run(folder: Path, *, entries: int) -> list[Row]:
    """What each sink sends of so many entries a second, on new ledgers in `folder`."""
    directory = folder / "log"
    make_ledger(directory, origin=ORIGIN)
    bytes_each = fill_log(directory, entries)
    rows = [Row("bytes of an event", bytes_each, "B")]
    with ExitStack() as stack:
        http = stack.enter_context(_receiving("receive"))
        syslog = stack.enter_context(_receiving("receive-syslog"))
        nats_port = stack.enter_context(nats_server(folder / "nats"))
        make_stream(nats_port)
        broker = stack.enter_context(running_broker(folder / "kafka"))
        broker.make_topic("audit")
        sinks: dict[str, dict[str, Any]] = {
            "file": {"path": str(folder / "copy.jsonl")},
            **{each: {"url": f"http://127.0.0.1:{http}"} for each in HTTP_TYPES},
            "syslog": {"url": f"tcp://127.0.0.1:{syslog}"},
            "nats": {"url": f"nats://127.0.0.1:{nats_port}", "subject": SUBJECT},
            "kafka": {"url": f"kafka://127.0.0.1:{broker.plain_port}", "topic": "audit"},
        }
        sinks["elastic"]["index"] = "audit"
        for name, values in sinks.items():
            rows += _sent(directory, name, values, entries)
        http_url = sinks["http"]["url"]
        rows += _sent(directory, "http", {"url": http_url, "form": "ocsf"}, entries, " as OCSF")
        rows += _sent(directory, "http", {"url": http_url, "gzip": True}, entries, " with gzip")
    return rows


def _sent(
    directory: Path, type_: str, values: dict[str, Any], entries: int, how: str = ""
) -> list[Row]:
    """The rates of one sink, from its first confirmed batch to its last."""
    name = f"{type_}{how.replace(' ', '-')}"
    add_sink(directory, name, msgspec.convert({"type": type_, **values}, SinkConfig))
    FollowerPaths(directory, KIND, name).make()
    command = [sys.executable, "-m", "ledger.sinks.worker", str(directory), name]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        first = _until(directory, name, 1)
        start_s, start_cpu_s = time.monotonic(), processor_s(process.pid)
        _until(directory, name, entries)
        took_s = time.monotonic() - start_s
        cpu_s = processor_s(process.pid) - start_cpu_s
    finally:
        process.kill()
        process.wait()
    sent = entries - first
    return [
        Row(f"sink {type_}{how}", sent / took_s, "events/s"),
        Row(f"sink {type_}{how}, a second of its processor time", sent / cpu_s, "events/s"),
    ]


def _until(directory: Path, name: str, index: int, *, kind: str = KIND) -> int:
    """Wait until a follower is at an index or behind it; where it is."""
    deadline_s = time.monotonic() + WAIT_S
    while (report := read_report(directory, kind, name)).next_index < index:
        if time.monotonic() > deadline_s:
            raise SystemExit(f"{name} is at {report.next_index:,}: {report.state.error}")
        time.sleep(POLL_S)
    return report.next_index


def measure_cost(folder: Path, *, seconds: float) -> list[Row]:
    """What all followers cost the acknowledgement, in spans with and without them by turns."""
    directory = folder / "log"
    token = make_ledger(directory, origin=ORIGIN)
    flags = ("--connections", "32", "--rate", str(RATE_PER_S))
    spans: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    os.environ |= environment(folder)
    (key,) = parse_policy((directory / "policy").read_bytes()).logs
    make_tlog_mirror(folder / TLOG_MIRROR, [(key.verifier.name, str(key.verifier))])
    with ExitStack() as stack:
        http = stack.enter_context(_receiving("receive"))
        nats_port = stack.enter_context(nats_server(folder / "nats"))
        make_stream(nats_port)
        server = stack.enter_context(object_server(folder / "store"))
        log = stack.enter_context(Service(directory, listen="127.0.0.1:0", flags=QUIET))
        load(log.url, token, *flags, seconds=1)  # warm
        (directory / "archive.off").write_text(
            f'[bucket]\nurl = "s3://{server.make_bucket()}/log"\nendpoint = "{server.endpoint}"\n'
            "interval_s = 10\n"
        )
        (directory / "alarms.off").write_text(starter_alarms())
        for name, values in {
            "copy": {"type": "file", "path": str(folder / "copy.jsonl")},
            "siem": {"type": "http", "url": f"http://127.0.0.1:{http}"},
            "bus": {"type": "nats", "url": f"nats://127.0.0.1:{nats_port}", "subject": SUBJECT},
        }.items():
            add_sink(directory, name, msgspec.convert(values, SinkConfig))
        (directory / "sinks.toml").rename(directory / "sinks.off")
        for _ in range(ROUNDS):
            time.sleep(SETTLE_S)
            spans[False].append(load(log.url, token, *flags, seconds=seconds))
            with _following(folder, log.url, token):
                time.sleep(SETTLE_S)
                spans[True].append(load(log.url, token, *flags, seconds=seconds))
    rows, p99_ms = [], {}
    for is_followed, how in ((False, "alone"), (True, "beside all followers")):
        figures = {
            each: median(span[each] for span in spans[is_followed]) for each in spans[True][0]
        }
        p99_ms[is_followed] = figures["p99_ms"]
        name = f"acknowledgement at {RATE_PER_S} a second, {how}"
        rows.append(Row(f"{name}, p50", figures["p50_ms"], "ms"))
        rows.append(Row(f"{name}, p99", figures["p99_ms"], "ms"))
    ratio = p99_ms[True] / p99_ms[False]
    name = "p99 beside all followers, of alone"
    return [*rows, Row(name, ratio, "", reach=RATIO_REACH, at_most=True)]


FILES: Final = ("sinks", "alarms", "archive")
TLOG_MIRROR: Final = "tlog-mirror"


@contextmanager
def _following(folder: Path, url: str, token: str) -> Iterator[None]:
    """All followers of the log in `folder/log`, which are at its end when the block begins."""
    directory = folder / "log"
    for name in FILES:
        (directory / f"{name}.off").rename(directory / f"{name}.toml")
    try:
        with (
            serving_mirror(folder, url, token) as mirror,
            Service(
                folder / TLOG_MIRROR,
                listen="127.0.0.1:0",
                command=("tlog-mirror", "serve"),
                flags=("--log-level", "error"),
            ) as tlog_mirror,
        ):
            vkeys = tuple(str(signer.verifier) for signer in SIGNERS)
            add_target(directory, TLOG_MIRROR, MirrorTarget(url=tlog_mirror.url, vkeys=vkeys))
            store = LogStore.open(directory / "log")
            size = store.head().tree_size
            store.close()
            for name in ("copy", "siem", "bus"):
                _until(directory, name, size)
            _until(directory, "", size, kind="alarms")
            _until(directory, "bucket", size, kind=ARCHIVE_KIND)
            _until(directory, TLOG_MIRROR, size, kind=MIRROR_KIND)
            mirror.until_held(size)
            yield
            remove_target(directory, TLOG_MIRROR)
    finally:
        for name in FILES:
            (directory / f"{name}.toml").rename(directory / f"{name}.off")


@contextmanager
def _receiving(what: str) -> Iterator[int]:
    """A receiver in a process of its own until the block ends; its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.sinks", what], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def _confirm(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request as the receiver of its shape does when it has taken all of it."""
    while head := await _until_head(reader):
        path = head.split(b" ", 2)[1]
        lower = head.lower()
        at = lower.index(b"content-length:")
        body = await reader.readexactly(int(lower[at + 15 :].split(b"\r\n", 1)[0]))
        if path.endswith(b"/_bulk"):
            made = b'{"create":{"status":201}}'
            answer = (
                b'{"errors":false,"items":[' + b",".join([made] * (body.count(b"\n") // 2)) + b"]}"
            )
        elif path.endswith(b"/v1/logs"):
            answer = b""
        else:
            answer = b'{"text":"Success","code":0}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
        await writer.drain()
    writer.close()


async def _until_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


async def _swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(1 << 18):
        pass
    writer.close()


async def _receive(what: str) -> None:
    serve = {"receive": _confirm, "receive-syslog": _swallow}[what]
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(json.dumps(server.sockets[0].getsockname()[1]), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_receive(sys.argv[1]))
