"""Mirrors of real ledgers, served in this process."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import structs

from ledger.mirror.app import serve
from ledger.mirror.data_dir import MirrorConfig, MirrorPaths, create_mirror
from ledger.service.data_dir import DirectoryPaths
from ledger.service.settings import Settings
from ledger.service.token_admin import make_token
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.keys import ED25519_COSIGNATURE
from tests.service.serving import QUICK, Ledger, send, serving

WAIT_S = 120.0
SIGNER = CosignatureSigner.generate(
    "example.com/audit/mirror", algorithm=ED25519_COSIGNATURE, seed=b"m" * 32
)


def make_mirror(folder: Path, ledger: Ledger, *, url: str | None = None) -> dict[str, str]:
    """An empty mirror of a served ledger, and its own tokens by name."""
    token_file = folder.with_name(f"{folder.name}.token")
    token_file.write_text(ledger.tokens["read"])
    config = MirrorConfig(log_url=url or ledger.url, token_file=str(token_file))
    policy = DirectoryPaths(ledger.directory).policy.read_bytes()
    create_mirror(folder, config, policy, [SIGNER])
    return {
        "admin": make_token(folder, name="admin", scopes=("admin",), tenant=None),
        "read": make_token(folder, name="read", scopes=("read",), tenant=None),
    }


@contextmanager
def mirroring(folder: Path, tokens: dict[str, str], settings: Settings = QUICK) -> Iterator[Ledger]:
    """Serve the mirror in a folder until the block ends."""
    assert MirrorPaths(folder).is_mirror
    with serving(folder, tokens, settings, serve) as mirror:
        yield mirror


def listening(port: str) -> Settings:
    """The settings of a service on a port that an earlier one had."""
    return structs.replace(QUICK, listen=f"127.0.0.1:{port}")


def state(service: Ledger) -> Any:
    """What `/v1/log` says."""
    return send(service.url, "/v1/log", method="GET", body=None, headers={}).json()


def ready(service: Ledger) -> Any:
    """What `/readyz` says."""
    return send(service.url, "/readyz", method="GET", body=None, headers={}).json()


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Ask until it is so."""
    deadline_s = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline_s, f"not so in {WAIT_S:g} s: {what}"
        time.sleep(0.01)


def wait_published(service: Ledger, tree_size: int) -> None:
    """Wait until a service has published a head of this size."""
    wait_until(lambda: state(service)["published_size"] >= tree_size, f"size {tree_size}")
