"""Measures Tessera's POSIX log for `bench.peers`: under its own hammer, and under bench.load."""

import os
import shutil
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.request import urlopen

from bench.append import load
from bench.contender import CONNECTIONS, SYNCS_S, count_syncs, single_event_rows
from bench.rows import Row
from ledger_core.tlog.note import Signer

START_WAIT_S: Final = 30.0


def is_installed() -> bool:
    """Whether Tessera's log and its load generator are there."""
    return all(shutil.which(name) for name in ("posix", "hammer"))


def measure(folder: Path, *, seconds: float) -> list[Row]:
    """Run the log in a new folder and measure it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    signer = Signer.generate("bench.example/tessera", seed=os.urandom(32))
    private = folder / "key"
    private.write_text(signer.key.encode(), encoding="utf-8")
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = ["posix", "--storage_dir", str(folder / "log"), "--private_key", str(private),
               "--listen", f"127.0.0.1:{port}"]  # fmt: skip
    rows: list[Row] = []
    server = subprocess.Popen(command, stderr=(folder / "server.log").open("w"))
    try:
        _until_answered(f"{url}/checkpoint")
        for count in CONNECTIONS:
            flags = ("--path", "/add", "--connections", str(count))
            rows += single_event_rows("Tessera", count, load(url, "none", *flags, seconds=seconds))
        with count_syncs("Tessera", (server.pid,), rows):
            load(url, "none", "--path", "/add", "--connections", "32", seconds=SYNCS_S)
        rows.append(_hammered(url, str(signer.verifier), seconds=seconds))
    finally:
        server.terminate()
        server.wait()
    return rows


def _hammered(url: str, vkey: str, *, seconds: float) -> Row:
    """The entries that Tessera integrates a second under its own load generator."""
    command = [
        *("hammer", "--log_url", url, "--log_public_key", vkey, "--show_ui=false"),
        *("--max_write_ops", "100000", "--num_writers", "512", "--leaf_min_size", "480"),
        *("--num_readers_full", "0", "--num_readers_random", "0", "--max_read_ops", "0"),
        *("--dup_chance", "0", "--max_runtime", f"{round(2 * seconds) + 10}s"),
    ]
    hammer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(seconds / 2)  # Until its writers are all at work.
        first, start_s = _tree_size(url), time.monotonic()
        time.sleep(seconds)
        rate = (_tree_size(url) - first) / (time.monotonic() - start_s)
    finally:
        hammer.kill()
        hammer.wait()
    return Row("Tessera, entries integrated under its hammer, 512 writers", rate, "events/s")


def _free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port: int = server.getsockname()[1]
    return port


def _until_answered(url: str) -> None:
    deadline_s = time.monotonic() + START_WAIT_S
    while True:
        try:
            urlopen(url).close()
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)
        else:
            return


def _tree_size(url: str) -> int:
    with urlopen(f"{url}/checkpoint") as answer:
        return int(answer.read().split(b"\n")[1])
