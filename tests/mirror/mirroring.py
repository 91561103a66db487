"""Mirrors of real ledgers, served in this process."""

from collections.abc import Iterator
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
from tests.waiting import until

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


def wait_published(service: Ledger, tree_size: int) -> None:
    """Wait until a service has published a head of this size."""
    until(lambda: state(service)["published_size"] >= tree_size, f"size {tree_size}")
