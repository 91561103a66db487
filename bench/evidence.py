"""Measures bundles of evidence: their size against their events, and how fast they verify.

python -m bench.evidence [--events N]
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
import zlib
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from bench.rows import Row, format_table
from bench.varied import make_entry, varied_events
from ledger.query.leaf_cache import LeafCache
from ledger.service.queries.evidence import make_sources
from ledger.service.queries.store_proofs import prove_inclusion
from ledger.store.log import LogStore, create_log
from ledger.store.writer import LogWriter, NewEntry
from ledger_core.event.canonical import format_leaf
from ledger_core.event.reader import Reader
from ledger_core.event.times import format_time
from ledger_core.evidence.layout import ACTION
from ledger_core.evidence.page import Asked
from ledger_core.evidence.verifier import check_evidence
from ledger_core.evidence.writer import EvidenceWriter
from ledger_core.tlog.checkpoint import Checkpoint, SignedCheckpoint, format_checkpoint
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.hashing import HASH_BYTES, leaf_hash
from ledger_core.tlog.keys import ED25519_COSIGNATURE
from ledger_core.tlog.note import Signer
from ledger_core.tlog.policy import parse_policy
from ledger_core.tlog.prove import plan_multi
from ledger_core.tlog.tile import TILE_WIDTH

FOLDER: Final = Path(__file__).parent / "data" / "evidence"
ORIGIN: Final = "example.com/audit"
SIGNER: Final = Signer.generate(ORIGIN, seed=bytes(32))
WITNESS: Final = CosignatureSigner.generate(
    "witness.example/w1", algorithm=ED25519_COSIGNATURE, seed=bytes(32)
)
POLICY: Final = f"log {SIGNER.verifier}\nwitness w1 {WITNESS.verifier}\nquorum w1\n"
HEAD_EVENTS: Final = 1000
"""A head is published after so many events."""

SPARSE_STEP: Final = 20
SIZE_REACH: Final = 1.15
VERIFY_REACH_PER_S: Final = 30_000.0
MEMORY_REACH_MB: Final = 150.0


def run(folder: Path, *, events: int) -> list[Row]:
    """A bundle of all events of a log, and one of every 20th."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    create_log(folder / "log", origin=ORIGIN)
    _fill(folder / "log", events)
    rows = []
    for name, step in (("dense", 1), (f"every {SPARSE_STEP}th", SPARSE_STEP)):
        path = folder / f"{step}.zip"
        start_s = time.process_time()
        indices = range(0, events, step)
        count, leaf_bytes = _write(folder / "log", path, indices)
        wrote_s = time.process_time() - start_s
        rate, peak_mb = _verify(path, folder)
        size_bytes = path.stat().st_size
        hashes = len(plan_multi(indices=indices, tree_size=events).groups)
        what = f"evidence of {count:,} events, {name}"
        rows += [
            Row(f"{what}: size by compressed leaves", size_bytes / leaf_bytes, ""),
            Row(f"{what}: hashes that no proof can leave out, an event", hashes / count, ""),
            Row(
                f"{what}: size by compressed leaves and these hashes",
                size_bytes / (leaf_bytes + HASH_BYTES * hashes),
                "",
                SIZE_REACH,
                at_most=True,
            ),
            Row(f"{what}: bytes an event", size_bytes / count, "B"),
            Row(f"{what}: written", count / wrote_s, "/s of processor time"),
            Row(f"{what}: verified", rate, "/s of processor time", VERIFY_REACH_PER_S),
            Row(f"{what}: memory of the verifier", peak_mb, "MB", MEMORY_REACH_MB, at_most=True),
        ]
    shutil.rmtree(folder)
    return rows


def _fill(path: Path, events: int) -> None:
    writer = LogWriter.open(path)
    supply = varied_events(events)
    while chunk := list(islice(supply, HEAD_EVENTS)):
        writer.commit([make_entry(*each) for each in chunk])
        received_us = chunk[-1][2]
        head = _sign(writer, received_us // 10**6 + 2)
        writer.commit([], checkpoints=[(head.head.tree_size, head.note)])
    writer.close()


def _sign(writer: LogWriter, time_unix_s: int) -> SignedCheckpoint:
    checkpoint = Checkpoint(ORIGIN, writer.head.tree_size, writer.head.root_hash)
    text = format_checkpoint(checkpoint)
    cosignature = WITNESS.sign(text, time_unix_s=time_unix_s)
    return SignedCheckpoint(checkpoint, (SIGNER.sign(text), cosignature))


def _write(log: Path, path: Path, indices: range) -> tuple[int, int]:
    """Write a bundle; the number of its events, and the bytes of their leaves, compressed."""
    store = LogStore.open(log)
    head = store.published()
    if head is None:
        raise AssertionError("a head was published")
    size = head.head.tree_size
    asked = Asked(
        origin=ORIGIN,
        tree_size=size,
        query="",
        token="bench",
        time=format_time(1_790_000_000_000_000),
    )
    sources = make_sources(store, head.head)
    writer = EvidenceWriter(asked, sources, head=head, policy=POLICY)
    cache, packer, packed = LeafCache(store, bytes_max=0), zlib.compressobj(6), 0
    with path.open("wb") as file:
        for start in range(0, len(indices), TILE_WIDTH):
            some = indices[start : start + TILE_WIDTH]
            for index, leaf in zip(some, cache.leaves(some), strict=True):
                writer.add(index, leaf)
                packed += len(packer.compress(leaf + b"\n"))
            file.write(writer.drain())
        packed += len(packer.flush())
        stated = writer.state()
        store.close()
        leaf, later, proof = _record(log, stated)
        grown = LogStore.open(log)
        writer._sources = make_sources(grown, head.head)  # type: ignore[misc]  # noqa: SLF001 - the log was opened again
        writer.finish(leaf, proof=proof, head=later)
        grown.close()
        file.write(writer.drain())
    return len(indices), packed


def _record(log: Path, stated: dict[str, object]) -> tuple[bytes, SignedCheckpoint, str]:
    """Append the statement; its leaf, a head over it, and its proof."""
    event = {
        "actor": {"id": "bench", "type": "ledger.token"},
        "action": ACTION,
        "outcome": "success",
        "context": {"evidence": stated},
        "id": f"0192f0c1-7c1a-7c3a-9d2f-{os.urandom(6).hex()}",
    }
    read = Reader(lambda: "", lambda: 1_790_000_000_000_000).read(msgspec.json.encode(event))
    leaf = format_leaf(
        event_json=read.event_json,
        by="ledger",
        received_time=format_time(1_798_000_000_000_000),
    )
    writer = LogWriter.open(log)
    entry = NewEntry(read.id_bytes, leaf, leaf_hash(leaf), read.event_json, time_filled=False)
    (placed,) = writer.commit([entry])
    head = _sign(writer, 1_798_000_001)
    proof = prove_inclusion(writer.store, leaf_index=placed.leaf_index, head=head)
    writer.close()
    return leaf, head, proof


def _verify(path: Path, folder: Path) -> tuple[float, float]:
    """Events a second of processor time, and the peak memory of a process that verifies."""
    policy = folder / "policy"
    policy.write_text(POLICY, encoding="utf-8")
    command = [sys.executable, "-m", "bench.evidence", "--verify", str(path), str(policy)]
    run_ = subprocess.run(command, check=True, capture_output=True, text=True)
    rate, peak_mb = map(float, run_.stdout.split())
    return rate, peak_mb


def _verify_here(path: Path, policy: Path) -> None:
    trusted = parse_policy(policy.read_bytes())
    start_s = time.process_time()
    evidence = check_evidence(path, trusted)
    took_s = time.process_time() - start_s
    if not evidence.is_verified or evidence.existed is None:
        raise AssertionError(evidence.faults)
    print(evidence.events / took_s, _peak_mb())


def _peak_mb() -> float:
    """The peak memory of this process. getrusage would give that of its parent, if larger."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (each for each in status.splitlines() if each.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.evidence")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--verify", nargs=2, type=Path)
    arguments = parser.parse_args()
    if arguments.verify:
        _verify_here(*arguments.verify)
    else:
        print(format_table(run(FOLDER, events=arguments.events)))


if __name__ == "__main__":
    main()
