"""Measures a witness over HTTP: durable cosigned heads a second, and the cost of ML-DSA-44."""

import argparse
import json
import secrets
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from bench.heads import log_signer
from bench.rows import Row, format_table
from ledger.demo.child_service import Service
from ledger.witness.data_dir import create_witness
from ledger.witness.store import HeadStore
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.keys import ED25519_COSIGNATURE, MLDSA44_COSIGNATURE

LOGS = 64
HEADS_REACH = 2_000
KINDS = (
    ("Ed25519", (ED25519_COSIGNATURE,), HEADS_REACH),
    ("Ed25519 and ML-DSA-44", (ED25519_COSIGNATURE, MLDSA44_COSIGNATURE), None),
)


def run(folder: Path, *, seconds: float) -> list[Row]:
    """Measure on new witnesses in `folder`."""
    rows = []
    for number, (kind, algorithms, reach) in enumerate(KINDS):
        directory = folder / f"witness{number}"
        _make_witness(directory, algorithms)
        with Service(
            directory,
            listen="127.0.0.1:0",
            command=("witness", "serve"),
            flags=("--log-level", "error"),
        ) as service:
            many = _load(service.url, LOGS, seconds)
        _make_witness(folder / f"lone{number}", algorithms)
        with Service(
            folder / f"lone{number}",
            listen="127.0.0.1:0",
            command=("witness", "serve"),
            flags=("--log-level", "error"),
        ) as service:
            one = _load(service.url, 1, seconds)
        rows += [
            Row(
                name=f"cosigned heads, {LOGS} logs, {kind}",
                figure=many["heads_per_s"],
                unit="heads/s",
                reach=reach,
            ),
            Row(name=f"cosigned head of a lone log, {kind}, p50", figure=one["p50_ms"], unit="ms"),
        ]
    return rows


def _make_witness(directory: Path, algorithms: tuple[int, ...]) -> None:
    paths = create_witness(
        directory,
        [
            CosignatureSigner.generate(
                "bench.example/w", algorithm=algorithm, seed=secrets.token_bytes(32)
            )
            for algorithm in algorithms
        ],
    )
    with closing(HeadStore.open(paths.heads, readonly=False)) as store:
        for number in range(LOGS):
            verifier = log_signer(number).verifier
            store.add_log(verifier.name, [str(verifier)])


def _load(url: str, logs: int, seconds: float) -> dict[str, float]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bench.heads", url),
            *("--logs", str(logs), "--seconds", str(seconds)),
        ],
        stdout=subprocess.PIPE,
        check=True,
    )
    figures: dict[str, float] = json.loads(done.stdout)
    if figures["failures"]:
        raise SystemExit(f"{figures['failures']:.0f} requests failed: the figure would be false")
    return figures


def main() -> None:
    """Measure this alone, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0)
    seconds = parser.parse_args().seconds
    folder = Path(__file__).parent / "data" / "witness"
    shutil.rmtree(folder, ignore_errors=True)
    print(format_table(run(folder, seconds=seconds)))
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
