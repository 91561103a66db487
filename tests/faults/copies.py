"""A ledger on its host, and all its copies on others: what each has, and what must be true of it.

    ledger   `ledger serve`, with its uploader and two sinks
    mirror   `ledger mirror serve`, `ledger tlog-mirror serve` to which the ledger sends its log,
             and `ledger serve --read-only` on the archive
    bucket   SeaweedFS behind a proxy that can fail, and the receivers of the sinks
    between  where all connections between these lead over, if it is one of the hosts

The sink `siem` sends to a receiver that keeps what it gets, `stuck` to one that accepts connections
and never reads, until `unstick`. All programs are processes of their own.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from ledger.demo.child_service import Service
from ledger.follow.position import read_report
from ledger.mirror.data_dir import MirrorConfig, create_mirror
from ledger.mirror_push.config import KIND as MIRRORS
from ledger.object_storage.config import KIND as ARCHIVES
from ledger.reader.data_dir import ReaderConfig, create_reader
from ledger.service.token_admin import make_token
from ledger.sinks.config import KIND as SINKS
from ledger.sinks.config import SinkConfig, add_sink
from ledger_core.tlog.checkpoint import parse_signed_checkpoint
from ledger_core.tlog.hashing import leaf_hash
from ledger_core.tlog.policy import parse_policy
from ledger_core.tlog.text import format_base64
from ledger_core.tlog.tree import Frontier
from tests.archive.archiving import BadStore
from tests.archive.seaweed import environment, object_server
from tests.faults.disks import Filler
from tests.faults.hosts import Host, Network, free_port
from tests.faults.toxics import HOST, Toxiproxy, toxiproxy
from tests.mirror.mirroring import SIGNER
from tests.service.check_log import check_log
from tests.service.serving import JSON, Answer, event, make_ledger, send
from tests.sinks.sinking import HttpPeer
from tests.tlog_mirror.sending import SIGNERS, make_tlog_mirror
from tests.waiting import until

WAIT_S: Final = 240.0
"""Half-open connections are noticed after 60 s, and a busy machine is slow."""

LOG_FLAGS: Final = ("--log-level", "error")
FLAGS: Final = (*LOG_FLAGS, "--workers", "0")
PUBLISHING: Final = ("--publish-interval-s", "0.05")
FIRST_EVENTS: Final = 300
LATER_EVENTS: Final = 10
MIRROR_DISK_BYTES: Final = 64 << 20
RETRY_MAX_S: Final = 2.0
SINK_TIMEOUT_S: Final = 5.0
PREFIX: Final = "log"


class Sizes(NamedTuple):
    """How many entries each has: acknowledged by the ledger, or confirmed elsewhere.

    `siem`: the receiver. `reader`: in the head that the reader of the bucket answers with.
    """

    ledger: int
    mirror: int
    bucket: int
    siem: int
    reader: int
    tlog_mirror: int


class StuckReceiver:
    """Accepts no connection and reads nothing: the system's own queue takes what fits."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.port = free_port(host)
        self._socket = host.run(lambda: socket.create_server((host.address, self.port)))

    def close(self) -> None:
        """End it: its connections are reset."""
        self._socket.close()


class Copies:
    """All programs. `acknowledged` has the ids of events by index, as the ledger answered."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.on = network.hosts
        self.acknowledged: dict[int, str] = {}
        self._stack = ExitStack()
        self._services: dict[str, Service] = {}
        self.directory = folder / "ledger"
        self.mirror_directory = folder / "mirror"
        self.reader_directory = folder / "reader"
        self.tlog_mirror_directory = folder / "tlog-mirror"
        self.mirror_directory.mkdir()
        size = f"size={MIRROR_DISK_BYTES},mode=700"
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(self.mirror_directory)], check=True
        )
        self._stack.callback(subprocess.run, ["umount", "-l", str(self.mirror_directory)])
        self.tokens = make_ledger(self.directory)
        self.policy = parse_policy((self.directory / "policy").read_bytes())
        self.ports = {name: free_port(host) for name, host in self.on.items()}
        for name in ("reader", "tlog_mirror"):
            self.ports[name] = free_port(self.on["mirror"])
        self.ports["promoted"] = self.ports["mirror"]

        bucket = self.on["bucket"]
        self.environment = {**os.environ, **environment(folder)}
        self.store = bucket.run(
            lambda: self._stack.enter_context(object_server(folder / "seaweed"))
        )
        self.bucket_name = bucket.run(self.store.make_bucket)
        self.proxy = bucket.run(
            lambda: self._stack.enter_context(BadStore(self.store.endpoint, address=bucket.address))
        )
        self.siem = bucket.run(lambda: self._stack.enter_context(HttpPeer(address=bucket.address)))
        self.stuck: StuckReceiver | None = StuckReceiver(bucket)
        self._stack.callback(self._close_stuck)
        self.old_head = ""
        """A checkpoint that was in the bucket once."""
        self.filler: Filler | None = None
        """Of the mirror's disk, while it is full."""
        self.proxies: Toxiproxy | None = None
        if HOST in self.on:
            self.proxies = self._stack.enter_context(toxiproxy(self.on[HOST]))
        self._configure()

    @property
    def url(self) -> str:
        """Of the ledger."""
        return f"http://{self.on['ledger'].address}:{self.ports['ledger']}"

    def __enter__(self) -> Self:
        try:
            for name in ("ledger", "mirror", "tlog_mirror"):
                self.start(name)
            self.append(FIRST_EVENTS)
            self.wait_until(lambda: self.follower(ARCHIVES) >= self.size)
            self.old_head = self.bucket_head()
            self.append(LATER_EVENTS)
            self.wait_until(lambda: self.follower(ARCHIVES) >= self.size)
            self.start("reader")
            self.wait_until_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        for name in list(self._services):
            with suppress(Exception):
                self.kill(name)
        self._stack.close()

    def start(self, name: str) -> None:
        """Start one: `promoted` is the ledger that the mirror became."""
        host = self.host_of(name)
        directory, command, flags = {
            "ledger": (self.directory, ("serve",), (*FLAGS, *PUBLISHING)),
            "mirror": (self.mirror_directory, ("mirror", "serve"), FLAGS),
            "promoted": (self.mirror_directory, ("serve",), (*FLAGS, *PUBLISHING)),
            "reader": (self.reader_directory, ("serve",), FLAGS),
            "tlog_mirror": (self.tlog_mirror_directory, ("tlog-mirror", "serve"), LOG_FLAGS),
        }[name]
        listen = f"{host.address}:{self.ports[name]}"
        service = Service(directory, listen=listen, command=command, flags=flags)

        def start() -> None:
            # Where a test changed it, this process has the environment of no archive.
            before = dict(os.environ)
            os.environ.update(self.environment)
            try:
                service.__enter__()
            finally:
                os.environ.clear()
                os.environ.update(before)

        host.run(start)
        self._services[name] = service

    def host_of(self, name: str) -> Host:
        """Where a service runs."""
        return self.on["mirror" if name in {"reader", "promoted", "tlog_mirror"} else name]

    def stop(self, name: str) -> None:
        """End one as its operator does."""
        self._services.pop(name).__exit__()

    def kill(self, name: str) -> None:
        """End one by SIGKILL."""
        service = self._services.pop(name)
        os.kill(service.process_id, 9)
        service.__exit__()

    def ask(self, name: str, target: str, *, body: Any = None, token: str = "") -> Answer:
        """Ask a service from its own host."""
        host = self.host_of(name)
        headers = {"Authorization": f"Bearer {token or self.token(name)}", "Content-Type": JSON}
        url = f"http://{host.address}:{self.ports[name]}"
        data = None if body is None else json.dumps(body).encode()
        method = "GET" if body is None else "POST"
        return host.run(lambda: send(url, target, method=method, body=data, headers=headers))

    def token(self, name: str) -> str:
        """A token that may read there."""
        return {
            "ledger": self.tokens["admin"],
            "mirror": self._mirror_token,
            "reader": self._reader_token,
        }[name]

    def append(self, count: int) -> None:
        """Append events, which must be acknowledged."""
        events = [event() for _ in range(count)]
        answer = self.ask("ledger", "/v1/events", body={"events": events})
        assert answer.status == 200, answer.body
        for each in answer.json()["results"]:
            self.acknowledged[each["index"]] = each["id"]

    @property
    def size(self) -> int:
        """Entries of the ledger by its acknowledgements: it also logs events of its own."""
        return max(self.acknowledged, default=-1) + 1

    def sizes(self) -> Sizes:
        """How many entries each confirms now."""
        return Sizes(
            self.size,
            self.published_size("mirror"),
            self.follower(ARCHIVES),
            self.siem_size(),
            self.published_size("reader"),
            self.follower(MIRRORS),
        )

    def published_size(self, name: str) -> int:
        """The published size of a service, 0 when it doesn't answer."""
        with suppress(OSError, HTTPException, ValueError, KeyError):
            return int(self.ask(name, "/v1/log").json()["published_size"])
        return 0

    def follower(self, kind: str, name: str = "copy") -> int:
        """How far a follower of the ledger is."""
        return read_report(self.directory, kind, name).next_index

    def siem_size(self) -> int:
        """Entries that the receiver has without a gap."""
        there = {line["index"] for line in self.siem_lines()}
        return next(size for size in range(len(there) + 1) if size not in there)

    def siem_lines(self) -> list[Any]:
        """What the receiver got."""
        return [line for request in list(self.siem.requests) for line in request.lines()]

    def wait_until_all(self) -> None:
        """Wait until all copies have all that was acknowledged."""
        size = self.size
        until(lambda: min(self.sizes()) >= size, WAIT_S)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, as long as for all else here."""
        until(condition, WAIT_S)

    def unstick(self) -> None:
        """Put a receiver that reads in place of the one that doesn't, and take it away again."""
        assert self.stuck is not None
        bucket, port = self.on["bucket"], self.stuck.port
        self._close_stuck()
        unstuck = bucket.run(lambda: HttpPeer(address=bucket.address, port=port).__enter__())
        try:
            size = self.size
            until(lambda: self.follower(SINKS, "stuck") >= size, WAIT_S)
            indices = set(unstuck.indices())
            assert set(range(size)) <= indices, "the sink left out records"
        finally:
            unstuck.__exit__()
        self.stuck = StuckReceiver(bucket)

    def check(self) -> list[str]:
        """What is wrong with the ledger and its copies, which all have caught up."""
        wrong = []
        log = self.on["ledger"].run(lambda: check_log(self.url, self.tokens["admin"], self.policy))
        for index, event_id in self.acknowledged.items():
            if event_id.encode() not in log.leaves[index]:
                wrong.append(f"the ledger lost event {index}")
        mirror = self.on["mirror"]
        url = f"http://{mirror.address}:{self.ports['mirror']}"
        copy = mirror.run(lambda: check_log(url, self._mirror_token, self.policy))
        shared = min(copy.size, log.size)
        if shared < self.size or copy.leaves[:shared] != log.leaves[:shared]:
            wrong.append(f"the mirror has {copy.size} entries, or others than the ledger")
        hashes = [leaf_hash(leaf) for leaf in log.leaves]
        wrong += self._check_bucket(hashes) + self._check_tlog_mirror(hashes)
        got = {line["index"]: line["leaf_hash"] for line in self.siem_lines()}
        for index in range(self.size):
            if got.get(index) not in {hashes[index].hex(), None} or index not in got:
                wrong.append(f"the receiver lacks record {index}, or has another")
        return wrong

    def command(self, host: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run `ledger …` on a host."""
        command = [sys.executable, "-P", "-m", "ledger", *arguments]
        return self.on[host].run(
            lambda: subprocess.run(
                command, check=False, capture_output=True, text=True, env=self.environment
            )
        )

    def bucket_arguments(self, command: str, *more: str) -> tuple[str, ...]:
        """A command on the archive."""
        place = ("--endpoint", self.proxy.endpoint, "--insecure", "--json")
        policy = ("--policy", str(self.directory.with_name("policy")))
        return (command, self.place_url, *more, *policy, *place)

    @property
    def place_url(self) -> str:
        """Of the archive."""
        return f"s3://{self.bucket_name}/{PREFIX}"

    def bucket_head(self) -> str:
        """The checkpoint in the bucket, as it is stored."""
        bucket, name = self.on["bucket"], f"{PREFIX}/checkpoint"
        return bucket.run(lambda: self.store.read(self.bucket_name, name)).decode()

    def _check_bucket(self, hashes: list[bytes]) -> list[str]:
        done = self.command("bucket", *self.bucket_arguments("verify-archive"))
        if done.returncode:
            return [f"the archive is not verified: {done.stdout[-500:]}{done.stderr[-500:]}"]
        head = parse_signed_checkpoint(self.bucket_head().encode()).head
        frontier = Frontier()
        frontier.extend(hashes[: head.tree_size])
        if head.tree_size < self.size or frontier.root() != head.root_hash:
            return [f"the archive has {head.tree_size} entries, or others than the ledger"]
        return []

    def _check_tlog_mirror(self, hashes: list[bytes]) -> list[str]:
        directory = str(self.tlog_mirror_directory)
        checked = self.command("mirror", "tlog-mirror", "fsck", directory)
        if checked.returncode:
            return [f"the tlog-mirror is not in order: {checked.stdout}{checked.stderr[-500:]}"]
        frontier = Frontier()
        size, root = self._cosigned_by_tlog_mirror()
        frontier.extend(hashes[:size])
        if size < self.size or format_base64(frontier.root()) != root:
            return [f"the tlog-mirror cosigned {size} entries, or others than the ledger"]
        return []

    def _cosigned_by_tlog_mirror(self) -> tuple[int, str]:
        """The size and the root of the head that it cosigned last, which follows what it keeps."""

        def read() -> Any:
            command = ("tlog-mirror", "status", str(self.tlog_mirror_directory), "--json")
            return json.loads(self.command("mirror", *command).stdout)["logs"][0]

        size = self.size
        until(lambda: (read().get("tree_size") or 0) >= size, WAIT_S)
        log = read()
        return log["tree_size"], log["root_hash"]

    def _lead(self, route: str, url: str) -> str:
        """The URL by which a route reaches another host."""
        return url if self.proxies is None else self.proxies.lead(route, url)

    def _configure(self) -> None:
        archive = {
            "url": self.place_url,
            "endpoint": self._lead("bucket", self.proxy.endpoint),
            "insecure": True,
            "interval_s": 0.2,
            "retry_max_s": RETRY_MAX_S,
            "timeout_s": 5.0,
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in archive.items()]
        (self.directory / "archive.toml").write_text("\n".join(["[copy]", *lines, ""]))
        assert self.stuck is not None
        stuck_url = f"http://{self.on['bucket'].address}:{self.stuck.port}"
        siem_url = self._lead("siem", self.siem.url)
        for name, url in (("copy", siem_url), ("stuck", stuck_url)):
            config = SinkConfig(
                type="http",
                url=url,
                insecure=True,
                timeout_s=SINK_TIMEOUT_S,
                retry_max_s=RETRY_MAX_S,
            )
            add_sink(self.directory, name, config)
        policy = self.directory / "policy"
        # The hosts of the copies have their own: the ledger's may be gone.
        shutil.copyfile(policy, self.directory.with_name("policy"))
        token_file = self.directory.with_name("token")
        token_file.write_text(self.tokens["read"])
        log_url = self._lead("mirror", self.url)
        log = MirrorConfig(log_url=log_url, token_file=str(token_file), insecure=True)
        create_mirror(self.mirror_directory, log, policy.read_bytes(), [SIGNER])
        self._mirror_token = _reading_token(self.mirror_directory)
        reader = ReaderConfig(
            url=self.place_url,
            endpoint=self._lead("reader", self.proxy.endpoint),
            insecure=True,
            timeout_s=5.0,
            poll_s=0.2,
        )
        create_reader(self.reader_directory, reader, policy.read_bytes())
        self._reader_token = _reading_token(self.reader_directory)
        (key,) = self.policy.logs
        make_tlog_mirror(
            self.tlog_mirror_directory, [(key.verifier.name, str(key.verifier))], SIGNERS
        )
        mirror = self.on["mirror"]
        url = f"http://{mirror.address}:{self.ports['tlog_mirror']}"
        target = {
            "url": self._lead("tlog_mirror", url),
            "vkeys": [str(signer.verifier) for signer in SIGNERS],
            "insecure": True,
            "interval_s": 0.2,
            "retry_max_s": RETRY_MAX_S,
            "timeout_s": 5.0,
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in target.items()]
        (self.directory / "mirrors.toml").write_text("\n".join(["[copy]", *lines, ""]))

    def _close_stuck(self) -> None:
        if self.stuck is not None:
            self.stuck.close()
            self.stuck = None


def _reading_token(directory: Path) -> str:
    return make_token(directory, name="read", scopes=("read",), tenant=None)


class Answers:
    """What a copy answers while a fault lasts; `unverified` counts those that are not the log's."""

    def __init__(self, copies: Copies, name: str) -> None:
        self._copies, self._name = copies, name
        self._heads: list[tuple[int, bytes]] = []
        self._leaves: list[tuple[int, str]] = []
        self.refused = 0

    def look(self) -> None:
        """Ask for the head, and for the first entry, the last of the head and the one behind."""
        try:
            found = self._copies.ask(self._name, "/checkpoint")
            if found.status != 200:
                self.refused += 1
                return
            head = self._copies.policy.check(found.body).checkpoint
            self._heads.append((head.tree_size, head.root_hash))
            for index in (0, head.tree_size - 1, head.tree_size):
                answer = self._copies.ask(self._name, f"/v1/events/{index}")
                if answer.status == 200:
                    self._leaves.append((index, answer.json()["leaf"]))
                else:
                    self.refused += 1
        except (OSError, HTTPException):
            self.refused += 1  # It is away.

    @property
    def count(self) -> int:
        """The heads and entries that it answered with."""
        return len(self._heads) + len(self._leaves)

    def unverified(self) -> int:
        """How many are not those of the ledger, which is asked now, or heads that went back."""
        copies = self._copies
        log = copies.on["ledger"].run(
            lambda: check_log(copies.url, copies.tokens["admin"], copies.policy)
        )
        frontier, roots = Frontier(), {}
        for size, leaf in enumerate(log.leaves, start=1):
            frontier.append(leaf_hash(leaf))
            roots[size] = frontier.root()
        wrong = sum(size > 0 and roots.get(size) != root for size, root in self._heads)
        sizes = [size for size, _ in self._heads]
        wrong += sum(later < earlier for earlier, later in pairwise(sizes))
        return wrong + sum(
            index >= log.size or log.leaves[index].decode() != leaf for index, leaf in self._leaves
        )


def look_until(answers: list[Answers], seconds: float) -> None:
    """Look at copies for so long, at least once."""
    end_s = time.monotonic() + seconds
    while True:
        for each in answers:
            each.look()
        if time.monotonic() >= end_s:
            return
        time.sleep(0.05)
