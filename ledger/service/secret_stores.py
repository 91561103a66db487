"""Opens what has a secret key of its own in a ledger's folder: erasable values, digests of ids.

A store whose key is another one than at the last start is refused: it would open or match nothing.
"""

from collections.abc import Callable
from pathlib import Path

from ledger.runtime.keys import read_secret_key, write_secret_key
from ledger.service.data_dir import DirectoryPaths, read_own_settings
from ledger.service.settings import Settings
from ledger.service.start_record import PRIVATE_DATA, changed_files, missing_files
from ledger.store.erasable_values import KEY_BYTES, PrivateStore, create_private
from ledger_core.tlog.errors import MalformedError, UnavailableError


def open_private(
    paths: DirectoryPaths, *, make_key: Callable[[], bytes], settings: Settings | None = None
) -> PrivateStore:
    """The store of erasable values, made when there is none; `make_key` gives 32 random bytes.

    A store whose key is gone is refused: a new one would open nothing.
    Raises: as `read_secret_key` and `PrivateStore.open`.
    """
    if PRIVATE_DATA in missing_files(paths):
        raise UnavailableError(
            f"{paths.root / PRIVATE_DATA} was there when the ledger was last started, and is gone: "
            f"put it back, or delete {paths.started} to begin without the private values"
        )
    if not paths.private_key.exists() and not any(paths.private.glob("*")):
        write_secret_key(paths.private_key, make_key())
    _check_unchanged(paths, paths.private_key)
    key = read_secret_key(paths.private_key, key_bytes=KEY_BYTES)
    if not (paths.private / "data.mdb").exists():
        create_private(paths.private)
    settings = settings or read_own_settings(paths)
    return PrivateStore.open(paths.private, key, map_bytes=settings.private_map_bytes)


def open_digest_key(paths: DirectoryPaths, *, make_key: Callable[[], bytes]) -> bytes:
    """The key of the digests that replace ids, made when there is none; 32 bytes.

    Raises: as `read_secret_key`.
    """
    if not paths.digest_key.exists():
        if paths.digest_key.name in missing_files(paths):
            raise UnavailableError(
                f"{paths.digest_key} was there when the ledger was last started, and is gone: put "
                f"it back, or delete {paths.started} to begin with another one"
            )
        write_secret_key(paths.digest_key, make_key())
    _check_unchanged(paths, paths.digest_key)
    return read_secret_key(paths.digest_key, key_bytes=KEY_BYTES)


def _check_unchanged(paths: DirectoryPaths, path: Path) -> None:
    """Refuse a key that is not that of the last start: it would open or match nothing."""
    if path.name in changed_files(paths):
        raise MalformedError(
            f"{path} is not the key that the ledger was last started with: put back a copy of that "
            f"one, or delete {paths.started} if the change is meant"
        )
