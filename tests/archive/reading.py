"""Readers of an archive, served in this process."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import structs

from ledger.object_storage.place import Place
from ledger.reader.app import serve
from ledger.reader.data_dir import CACHE_BYTES_MIN, ReaderConfig, create_reader
from ledger.service.token_admin import make_token
from tests.service.serving import QUICK, Ledger, serving


def make_reader(
    folder: Path, place: Place, policy: Path, *, cache_bytes: int = CACHE_BYTES_MIN
) -> dict[str, str]:
    """The folder of a reader, and its tokens by name."""
    config = ReaderConfig(
        url=place.url,
        endpoint=place.endpoint,
        timeout_s=5.0,
        poll_s=0.05,
        cache_bytes=cache_bytes,
    )
    create_reader(folder, config, policy.read_bytes())
    return {
        "admin": make_token(folder, name="admin", scopes=("admin", "metrics"), tenant=None),
        "read": make_token(folder, name="read", scopes=("read",), tenant=None),
        "acme": make_token(folder, name="acme", scopes=("read",), tenant="acme"),
    }


@contextmanager
def reading(folder: Path, tokens: Mapping[str, str], **settings: Any) -> Iterator[Ledger]:
    """Serve a reader until the block ends."""
    with serving(folder, tokens, structs.replace(QUICK, **settings), serve) as reader:
        yield reader
