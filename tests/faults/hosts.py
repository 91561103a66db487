"""Three hosts of one machine: network namespaces with a link between each two, which can fail.

A link that is cut loses every packet and tells nobody: neither end gets a reset, an error or a lost
carrier. That is done by a wrong hardware address for the other end, since it needs no firewall.
Needs root, unshare, nsenter's system call and `ip` and `tc` of iproute2.
"""

import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

PROGRAMS: Final = ("ip", "tc", "unshare")
NOBODY: Final = "02:00:00:00:00:ff"
"""The hardware address of no host."""
_CLONE_NEWNET: Final = 0x40000000


@dataclass(frozen=True)
class Host:
    """One host: its address, and the process that holds its namespace."""

    name: str
    address: str
    process_id: int
    _threads: ThreadPoolExecutor

    def run(self, work: Callable[[], T]) -> T:
        """Do something on this host: sockets and processes that it makes are there."""
        return self._threads.submit(work).result()


class Network:
    """The hosts by name, and the links between them."""

    def __init__(self, hosts: dict[str, Host]) -> None:
        self.hosts: Final = hosts

    def cut(self, one: str, other: str, *, one_way: bool = False) -> None:
        """Lose all packets from one to the other, and those back unless it is `one_way`."""
        for sender, receiver in ((one, other), (other, one))[: 1 if one_way else 2]:
            _ip(
                self.hosts[sender],
                *("neigh", "replace", self.hosts[receiver].address),
                *("lladdr", NOBODY, "dev", f"to-{receiver}", "nud", "permanent"),
            )

    def slow(self, one: str, other: str, *, kbit_s: int) -> None:
        """Let so many kilobits a second through from one to the other."""
        limit = ("rate", f"{kbit_s}kbit", "burst", "8kb", "latency", "2s")
        _in(self.hosts[one], "tc", "qdisc", "add", "dev", f"to-{other}", "root", "tbf", *limit)

    def forget_ended(self, name: str) -> None:
        """Let a host forget at once the connections of a process that ended, as a crash does."""
        path = Path("/proc/sys/net/ipv4/tcp_orphan_retries")
        self.hosts[name].run(lambda: path.write_text("1"))

    def mend(self, one: str, other: str) -> None:
        """End all that is wrong with a link."""
        for sender, receiver in ((one, other), (other, one)):
            device = f"to-{receiver}"
            address = self.hosts[receiver].address
            _in(self.hosts[sender], *("ip", "neigh", "del", address, "dev", device), is_tried=True)
            _in(self.hosts[sender], *("tc", "qdisc", "del", "dev", device, "root"), is_tried=True)


def missing_for_hosts() -> str:
    """Why there can be no such hosts here; empty when there can."""
    absent = [each for each in PROGRAMS if shutil.which(each, path=_path()) is None]
    if absent:
        return f"{', '.join(absent)} not installed: iproute2 and util-linux"
    if os.geteuid() or subprocess.run(["unshare", "--net", "true"], check=False).returncode:
        return "network namespaces need root"
    return ""


@contextmanager
def network(*names: str) -> Iterator[Network]:
    """Hosts with these names until the block ends. Their namespaces end with their processes."""
    with ExitStack() as stack:
        hosts = {}
        for number, name in enumerate(names, start=1):
            holder = stack.enter_context(
                subprocess.Popen(
                    ["unshare", "--net", "sh", "-c", "echo; exec cat"],
                    stdin=subprocess.PIPE,  # It ends with this process, however that ends.
                    stdout=subprocess.PIPE,
                )
            )
            stack.callback(holder.kill)
            assert holder.stdout is not None
            holder.stdout.readline()
            threads = ThreadPoolExecutor(1, f"host-{name}", _enter, (holder.pid,))
            stack.callback(threads.shutdown)
            hosts[name] = Host(name, f"10.77.0.{number}", holder.pid, threads)
        for host in hosts.values():
            _ip(host, "link", "set", "lo", "up")
            _ip(host, "addr", "add", f"{host.address}/32", "dev", "lo")
        for one, other in combinations(hosts.values(), 2):
            _ip(
                one,
                *("link", "add", f"to-{other.name}", "type", "veth"),
                *("peer", "name", f"to-{one.name}", "netns", str(other.process_id)),
            )
            for here, there in ((one, other), (other, one)):
                _ip(here, "link", "set", f"to-{there.name}", "up")
                route = (there.address, "dev", f"to-{there.name}", "src", here.address)
                _ip(here, "route", "add", *route)
        yield Network(hosts)


def free_port(host: Host) -> int:
    """A port of a host's own address that is free now."""

    def find() -> int:
        with socket.socket() as found:
            found.bind((host.address, 0))
            port: int = found.getsockname()[1]
            return port

    return host.run(find)


def _enter(process_id: int) -> None:
    """Put this thread into the network namespace of a process."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{process_id}/ns/net", "rb") as namespace:  # noqa: PTH123 - no file to read
        if libc.setns(namespace.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def _ip(host: Host, *arguments: str) -> None:
    _in(host, "ip", *arguments)


def _in(host: Host, *command: str, is_tried: bool = False) -> None:
    def run() -> None:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": _path()},
        )
        assert is_tried or not done.returncode, (command, done.stderr)

    host.run(run)


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
