"""A load generator for witnesses: each log sends one head after the other, as fast as they go.

    python -m bench.heads URL --logs 64 --seconds 5

It runs in a process of its own and prints one JSON object. All logs have the same tree, so that a
proof is made once; each signs its own checkpoints. The requests are made beforehand.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator
from functools import cache
from urllib.parse import urlsplit

import uvloop

from bench.load import Connection
from ledger_core.tlog.checkpoint import Checkpoint, SignedCheckpoint, format_checkpoint
from ledger_core.tlog.hashing import Hash, leaf_hash, node_hash
from ledger_core.tlog.note import Signer
from ledger_core.tlog.prove import finish, plan_consistency
from ledger_core.tlog.tree import Node, decompose, fold_right
from ledger_core.tlog.witness import AddCheckpoint, format_add_checkpoint

HEADS_A_SECOND_MAX = 6_000
"""More than a witness may answer: so many are made beforehand for each second."""


def log_signer(number: int) -> Signer:
    """The key of a log of the load."""
    return Signer.generate(f"bench.example/log{number}", seed=number.to_bytes(32))


@cache
def _node(node: Node) -> Hash:
    if node.level == 0:
        return leaf_hash(b"%d" % node.index)
    left = Node(node.level - 1, 2 * node.index)
    return node_hash(_node(left), _node(Node(left.level, left.index + 1)))


@cache
def _root(tree_size: int) -> Hash:
    return fold_right(list(map(_node, decompose(0, tree_size))))


@cache
def _consistency(old_size: int) -> tuple[Hash, ...]:
    plan = plan_consistency(old_size=old_size, new_size=old_size + 1)
    return finish(plan, list(map(_node, plan.nodes)))


def _requests(signer: Signer, host: str, count: int) -> list[bytes]:
    """The heads of one log, each a leaf larger than the one before."""
    requests = []
    for size in range(1, count + 1):
        checkpoint = Checkpoint(signer.verifier.name, size, _root(size))
        signed = SignedCheckpoint(checkpoint, (signer.sign(format_checkpoint(checkpoint)),))
        body = format_add_checkpoint(AddCheckpoint(size - 1, _consistency(size - 1), signed))
        head = f"POST /add-checkpoint HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
        requests.append(f"{head}\r\n".encode() + body)
    return requests


class Heads:
    """Counts answers for one run."""

    def __init__(self, chains: list[list[bytes]], seconds: float) -> None:
        self._chains = chains
        self._seconds = seconds
        self._waiting: dict[Connection, Iterator[bytes]] = {}
        self._latencies_s: list[float] = []
        self._failures = 0
        self._end = 0.0

    async def run(self, host: str, port: int) -> dict[str, float]:
        """Load for the time given; the figures."""
        loop = asyncio.get_running_loop()
        for chain in self._chains:
            peer = (await loop.create_connection(lambda: Connection(self._answered), host, port))[1]
            self._waiting[peer] = iter(chain)
        start = time.perf_counter()
        self._end = start + self._seconds
        for peer, waiting in self._waiting.items():
            peer.send(next(waiting), due_s=start)
        await asyncio.sleep(self._seconds)
        latencies = sorted(self._latencies_s)
        return {
            "heads_per_s": len(latencies) / self._seconds,
            "p50_ms": latencies[len(latencies) // 2] * 1e3,
            "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
            "failures": self._failures,
        }

    def _answered(self, peer: Connection, status: int) -> None:
        now = time.perf_counter()
        self._latencies_s.append(now - peer.due_s)
        self._failures += status != 200
        if now < self._end:
            request = next(self._waiting[peer], None)
            if request is None:
                raise SystemExit("too few heads were made beforehand")
            peer.send(request, due_s=now)


def main() -> None:
    """Parse the command line, load, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--logs", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    parts = urlsplit(options.url)
    count = int(options.seconds * HEADS_A_SECOND_MAX / options.logs) + 1
    chains = [_requests(log_signer(n), parts.netloc, count) for n in range(options.logs)]
    heads = Heads(chains, options.seconds)
    json.dump(uvloop.run(heads.run(str(parts.hostname), int(parts.port or 80))), sys.stdout)


if __name__ == "__main__":
    main()
