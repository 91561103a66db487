"""Witnesses to ask: ours as the process that a user starts, and aics-witness on its own server."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aics_tlog import format_vkey, parse_vkey
from aics_witness import LogConfig, Witness, WitnessStore, make_server
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger.demo.child_service import Service
from ledger.witness.data_dir import WitnessPaths, create_witness
from ledger.witness.store import HeadStore
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.keys import ED25519_COSIGNATURE, MLDSA44_COSIGNATURE

NAME = "witness.example/w1"
SIGNERS = tuple(
    CosignatureSigner.generate(NAME, algorithm=algorithm, seed=bytes([algorithm]) * 32)
    for algorithm in (ED25519_COSIGNATURE, MLDSA44_COSIGNATURE)
)
FLAGS = ("--log-level", "error")


class KnownLog(Protocol):
    """A log, as a witness's configuration names it."""

    @property
    def origin(self) -> str:
        """Its name."""

    @property
    def vkey(self) -> str:
        """Its key."""


@dataclass(frozen=True)
class RunningWitness:
    """A witness: its URL and the keys of its cosignatures."""

    url: str
    vkeys: tuple[str, ...]


def make_witness(
    directory: Path, logs: Sequence[KnownLog], *, signers: Sequence[CosignatureSigner] = SIGNERS
) -> WitnessPaths:
    """A witness of ours that knows these logs."""
    paths = create_witness(directory, signers)
    with closing(HeadStore.open(paths.heads, readonly=False)) as store:
        for log in logs:
            store.add_log(log.origin, [log.vkey])
    return paths


def serve_witness(directory: Path) -> Service:
    """`ledger witness serve`, a process of its own."""
    return Service(directory, listen="127.0.0.1:0", command=("witness", "serve"), flags=FLAGS)


@contextmanager
def our_witness(directory: Path, logs: Sequence[KnownLog]) -> Iterator[RunningWitness]:
    """Ours, new, with both kinds of key."""
    make_witness(directory, logs)
    with serve_witness(directory) as service:
        yield RunningWitness(service.url, tuple(str(signer.verifier) for signer in SIGNERS))


@contextmanager
def aics_witness(directory: Path, logs: Sequence[KnownLog]) -> Iterator[RunningWitness]:
    """aics-witness, new, on its own HTTP server in a thread."""
    directory.mkdir()
    store = WitnessStore(directory / "witness.db", create=True)
    witness = Witness(
        "aics.example/w1",
        Ed25519PrivateKey.from_private_bytes(b"a" * 32),
        store,
        [LogConfig(log.origin, (parse_vkey(log.vkey),), extension_lines=True) for log in logs],
    )
    server = make_server(witness)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield RunningWitness(server.url, (format_vkey(witness.vkey),))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        store.close()
