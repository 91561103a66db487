"""Starts witnesses that other people wrote on loopback: litewitness, omniwitness and Sunlight's.

`tests/peers/install` puts their programs into tests/peers/bin. Each is given the vkeys of the logs
that it may cosign, and ends with its context.
"""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from ledger_core.tlog.hashing import EMPTY_ROOT_HASH
from ledger_core.tlog.keys import ED25519_COSIGNATURE, MLDSA44_COSIGNATURE, SignerKey, VerifierKey
from ledger_core.tlog.mirror import MEDIA, Upload, encode_upload
from ledger_core.tlog.text import format_base64

BIN_DIR = Path(__file__).parent / "bin"
START_WAIT_S = 120.0
STOP_WAIT_S = 120.0

OMNIWITNESS_NAME = "omniwitness.example/w"
LITEWITNESS_NAME = "litewitness.example/w"
SUNLIGHT_NAME = "sunlight.example/w"
SUNLIGHT_MIRROR_NAME = "sunlight.example/m"
MIRROR_INFO = "mirror/mirror.v0.json"

_SELF_SIGNED = ("req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=test root")


@dataclass(frozen=True)
class PeerWitness:
    """A witness that runs: where it is asked, and whose cosignatures it gives.

    `mirror_vkeys`: the keys of a mirror at the same address; `copies`: the folder of its copies.
    """

    url: str
    vkeys: tuple[str, ...]
    mirror_vkeys: tuple[str, ...] = ()
    copies: Path | None = None


@contextmanager
def litewitness(log_vkeys: Sequence[str]) -> Iterator[PeerWitness]:
    """litewitness of torchwood, whose Ed25519 key is held by an SSH agent of its own."""
    with _folder() as folder:
        key = folder / "key"
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        fingerprint = _run("ssh-keygen", "-l", "-f", f"{key}.pub").split()[1]
        agent = folder / "agent"
        with _program(["ssh-agent", "-D", "-a", str(agent)], folder / "agent.log"):
            _wait_for(agent.exists, folder / "agent.log")
            _run("ssh-add", "-q", str(key), SSH_AUTH_SOCK=str(agent))
            port = _free_port()
            log = folder / "litewitness.log"
            database = folder / "litewitness.db"
            command = [
                *(str(BIN_DIR / "litewitness"), "-name", LITEWITNESS_NAME),
                *("-db", str(database), "-ssh-agent", str(agent), "-key", fingerprint),
                *("-listen", f"127.0.0.1:{port}"),
            ]
            with _program(command, log):
                _wait_for(lambda: _is_listening(port), log)
                _tell_litewitness(database, log_vkeys)
                vkey = re.search(r'vkey="?([^\s"]+)', log.read_text(encoding="utf-8"))
                if vkey is None:
                    raise AssertionError(f"no vkey in {log.read_text(encoding='utf-8')}")
                yield PeerWitness(f"http://127.0.0.1:{port}", (vkey[1],))


@contextmanager
def omniwitness(log_vkeys: Sequence[str]) -> Iterator[PeerWitness]:
    """The omniwitness of transparency-dev, with an Ed25519 and an ML-DSA-44 key."""
    keys = [
        SignerKey(OMNIWITNESS_NAME, algorithm=algorithm, seed=secrets.token_bytes(32))
        for algorithm in (ED25519_COSIGNATURE, MLDSA44_COSIGNATURE)
    ]
    with _folder() as folder:
        flags = []
        for number, key in enumerate(keys):
            file = folder / f"key{number}"
            file.touch(mode=0o600)
            file.write_text(key.encode(), encoding="utf-8")
            flags.append(f"--private_key_path={file}")
        logs = folder / "logs.yaml"
        logs.write_text(
            "Logs:\n"
            + "".join(
                f'  - Origin: "{VerifierKey.parse(vkey).name}"\n    PublicKey: "{vkey}"\n'
                for vkey in log_vkeys
            ),
            encoding="utf-8",
        )
        port = _free_port()
        log = folder / "omniwitness.log"
        command = [
            *(str(BIN_DIR / "omniwitness"), "--logtostderr", *flags),
            *(f"--additional_logs={logs}", f"--db_file={folder / 'omniwitness.db'}"),
            *(f"--listen=127.0.0.1:{port}", "--metrics_listen="),
        ]
        with _program(command, log):
            _wait_for(lambda: _is_listening(port), log)
            yield PeerWitness(
                f"http://127.0.0.1:{port}", tuple(str(key.verifier_key) for key in keys)
            )


@contextmanager
def sunlight(log_vkeys: Sequence[str]) -> Iterator[PeerWitness]:
    """The witness that Sunlight serves beside its CT logs, with an Ed25519 and an ML-DSA-44 key.

    It is a mirror of the same logs too, with another ML-DSA-44 key.
    """
    with _folder() as folder:
        seed, logs, database = folder / "seed", folder / "logs", folder / "checkpoints.db"
        roots = folder / "roots.pem"
        _run("openssl", *_SELF_SIGNED, "-keyout", str(folder / "ca.key"), "-out", str(roots))
        seed.write_bytes(secrets.token_bytes(32))
        lines = ["logs/v0", *(line for vkey in log_vkeys for line in (f"vkey {vkey}", ""))]
        logs.write_text("\n".join(lines), encoding="utf-8")
        with closing(sqlite3.connect(database)) as connection:
            connection.execute(
                "CREATE TABLE checkpoints (logID BLOB PRIMARY KEY, body BLOB NOT NULL) STRICT"
            )
        port = _free_port()
        today = datetime.now().date().isoformat()  # noqa: DTZ005 - Sunlight takes its own zone's date
        config = {
            "listen": [f"127.0.0.1:{port}"],
            "checkpoints": str(database),
            "witness": {
                "name": SUNLIGHT_NAME,
                # It wants https here and serves HTTP, as behind a proxy.
                "submissionprefix": "https://127.0.0.1",
                "monitoringprefix": "https://127.0.0.1/monitor",
                "secret": str(seed),
                "loglists": [str(logs)],
                "mirrorname": SUNLIGHT_MIRROR_NAME,
                "mirrorloglists": [str(logs)],
                "localdirectory": str(folder / "public"),
            },
            # Without a CT log Sunlight ends at once.
            "logs": [
                {
                    "shortname": "ct",
                    "inception": today,
                    "submissionprefix": "https://localhost/ct",
                    "monitoringprefix": "https://localhost/ct",
                    "roots": str(roots),
                    "secret": str(seed),
                    "cache": str(folder / "cache.db"),
                    "localdirectory": str(folder / "ct"),
                    "notafterstart": f"{today}T00:00:00Z",
                    "notafterlimit": "2100-01-01T00:00:00Z",
                }
            ],
        }
        # JSON is YAML.
        (folder / "sunlight.yaml").write_text(json.dumps(config), encoding="utf-8")
        log = folder / "sunlight.log"
        url = f"http://127.0.0.1:{port}"
        with _program([str(BIN_DIR / "sunlight"), "-c", str(folder / "sunlight.yaml")], log):
            _wait_for(lambda: _is_listening(port), log)
            vkeys, mirror_vkeys = (
                _verifier_keys(f"{url}/{name}") for name in ("witness.v0.json", MIRROR_INFO)
            )
            # It reads the list of logs after it has begun to serve.
            origin = VerifierKey.parse(log_vkeys[-1]).name
            _wait_for(lambda: _knows(url, origin) and _mirrors(url, origin), log)
            try:
                yield PeerWitness(url, vkeys, mirror_vkeys, folder / "public" / "mirror")
            finally:
                # Sunlight makes its tiles immutable, where the file system can.
                subprocess.run(["chattr", "-R", "-i", folder], check=False, capture_output=True)


def _verifier_keys(url: str) -> tuple[str, ...]:
    with urlopen(url) as answer:
        return tuple(json.load(answer)["verifier_keys"])


def _mirrors(url: str, origin: str) -> bool:
    """Whether the mirror misses the checkpoint of a log alone, and so takes the log."""
    body = encode_upload(Upload(origin, 0, 0))
    headers = {"Content-Type": MEDIA}
    try:
        with urlopen(Request(f"{url}/add-entries", data=body, headers=headers)):
            return True
    except HTTPError as error:
        with error:
            return error.code == HTTPStatus.UNPROCESSABLE_ENTITY


class Litebastion:
    """litebastion of torchwood: serves clients by HTTP, and witnesses by TLS.

    `url`: where clients ask, below the hash of a witness's key. `address`: where witnesses connect.
    """

    def __init__(self, folder: Path, *, certificate: Path, key: Path) -> None:
        http_port, port = _free_port(), _free_port()
        self.url = f"http://127.0.0.1:{http_port}"
        self.address = f"127.0.0.1:{port}"
        self.log = folder / "litebastion.log"
        self._backends = folder / "backends"
        self._backends.touch()
        self._ports = (http_port, port)
        self._command = [
            *(str(BIN_DIR / "litebastion"), "-listen", self.address),
            *("-listen-http", f"127.0.0.1:{http_port}", "-backends", str(self._backends)),
            *("-tls-cert", str(certificate), "-tls-key", str(key)),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=subprocess.STDOUT)
        _wait_for(lambda: all(map(_is_listening, self._ports)), self.log)

    def stop(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def allow(self, *key_hashes: str) -> None:
        """Allow these witnesses alone; it reads the list again."""
        self._backends.write_text("".join(f"{each}\n" for each in key_hashes))
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)


def _knows(url: str, origin: str) -> bool:
    """Whether the witness answers otherwise than 404 to a checkpoint with a false signature."""
    root, signature = format_base64(bytes(32)), format_base64(bytes(4 + 64))
    body = f"old 0\n\n{origin}\n1\n{root}\n\n\u2014 {origin} {signature}\n"
    try:
        with urlopen(f"{url}/add-checkpoint", data=body.encode()):
            return True
    except HTTPError as error:
        with error:
            return error.code != HTTPStatus.NOT_FOUND


def _tell_litewitness(database: Path, log_vkeys: Sequence[str]) -> None:
    """Add logs to its database, as its own `witnessctl` does, while it runs."""
    with sqlite3.connect(database, timeout=START_WAIT_S) as connection:
        for vkey in log_vkeys:
            origin = VerifierKey.parse(vkey).name
            connection.execute(
                "INSERT OR IGNORE INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)",
                (origin, format_base64(EMPTY_ROOT_HASH)),
            )
            connection.execute("INSERT INTO key (origin, key) VALUES (?, ?)", (origin, vkey))
    connection.close()


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder with a short name: the path of a socket has some 100 bytes."""
    path = Path(tempfile.mkdtemp(prefix="peer"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def _program(command: Sequence[str], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(STOP_WAIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _run(*command: str, **environ: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environ}
    )
    if done.returncode:
        raise AssertionError(f"{command[0]} failed: {done.stderr}")
    return done.stdout


def _wait_for(is_ready: Callable[[], bool], log: Path) -> None:
    """Until it is ready; what the program said stands in the error when it isn't in time."""
    deadline = time.monotonic() + START_WAIT_S
    while not is_ready():
        if time.monotonic() > deadline:
            raise AssertionError(f"not ready: {log.read_text(encoding='utf-8')}")
        time.sleep(0.02)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
