"""The folder of a mirror of logs.

    DIR/key               the mirror's keys, one to a line, mode 0600
    DIR/ticket.key        the key of its tickets, mode 0600
    DIR/logs/<hash>/      LMDB: the entries and checkpoints of one log, by the SHA-256 of its origin
    DIR/logs/<hash>/last  the marker, which shows that an older copy of them was put back

The keys and the logs belong together for ever: with another folder logs/, or an old copy of it, the
keys would sign a second history of a log.
"""

import secrets
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from ledger.runtime.half_made import half_made
from ledger.runtime.keys import read_keys, read_secret_key, write_keys, write_secret_key
from ledger.store import keyspace
from ledger.store.entry_writer import create_entries
from ledger.store.environment import DATA_FILE
from ledger.store.log import LogStore
from ledger.tlog_mirror.ticket import KEY_BYTES
from ledger.witness.known_log import LOG_KEYS_MAX, decode_lines, encode_lines
from ledger_core.tlog.checkpoint import Checkpoint
from ledger_core.tlog.cosignature import CosignatureSigner, parse_verifier
from ledger_core.tlog.hashing import EMPTY_ROOT_HASH
from ledger_core.tlog.keys import check_new_name
from ledger_core.tlog.mirror import origin_hash
from ledger_core.tlog.note import check_algorithm, known_keys
from ledger_core.tlog.policy import LOG_ALGORITHMS
from ledger_core.tlog.text import from_wire

KEYS_MAX: Final = 2
"""One of each type."""

LOGS_MAX: Final = 256
"""Each has files open and an address space of its own."""


class TlogMirrorPaths:
    """The places inside the folder of a mirror of logs."""

    def __init__(self, root: Path) -> None:
        self.root: Final = root
        self.key: Final = root / "key"
        self.ticket_key: Final = root / "ticket.key"
        self.logs: Final = root / "logs"

    def log(self, origin: str) -> Path:
        """The folder of the log with this origin."""
        return self.logs / origin_hash(origin)

    def log_folders(self) -> list[Path]:
        """The folders of all logs, in the order of their names."""
        folders = self.logs.iterdir() if self.logs.is_dir() else ()
        return sorted(folder for folder in folders if (folder / DATA_FILE).is_file())


def create_tlog_mirror(path: Path, signers: Sequence[CosignatureSigner]) -> TlogMirrorPaths:
    """Create a mirror that knows no log. Existing files are never overwritten.

    The keys are written last: a folder without them is incomplete and has signed nothing.
    Raises: FileExistsError when there is a mirror already, or a half-made one, with what mends it;
    ValueError for an unfit name.
    """
    for signer in signers:
        check_new_name(signer.verifier.name)
    paths = TlogMirrorPaths(path)
    for taken in (paths.key, paths.ticket_key, paths.logs):
        if taken.exists():
            if not paths.key.exists() and not paths.log_folders():
                parts = (paths.ticket_key.name, paths.logs.name)
                raise FileExistsError(half_made(path, "ledger tlog-mirror init", parts))
            raise FileExistsError(f"{taken} exists already; a mirror is made in a new folder")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    paths.logs.mkdir(mode=0o700)
    write_secret_key(paths.ticket_key, secrets.token_bytes(KEY_BYTES))
    write_keys(paths.key, [signer.key for signer in signers])
    return paths


def read_signers(paths: TlogMirrorPaths) -> tuple[CosignatureSigner, ...]:
    """Read the keys of a mirror. Raises: as `read_keys`."""
    keys = read_keys(paths.key, keys_max=KEYS_MAX)
    with from_wire():
        return tuple(map(CosignatureSigner, keys))


def read_ticket_key(paths: TlogMirrorPaths) -> bytes:
    """Read the key of a mirror's tickets. Raises: as `read_secret_key`."""
    return read_secret_key(paths.ticket_key, key_bytes=KEY_BYTES)


def add_log(
    paths: TlogMirrorPaths, origin: str, vkeys: Sequence[str], signers: Iterable[CosignatureSigner]
) -> tuple[str, ...]:
    """Add a log, or keys to a known log; return all its keys. A running mirror sees the change.

    Raises: ValueError for an origin that no checkpoint can have, for a key of another type or of
    the mirror itself, and for too many logs or keys.
    """
    own = [signer.verifier for signer in signers]
    folder = paths.log(origin)
    is_known = (folder / DATA_FILE).is_file()
    all_vkeys = tuple(dict.fromkeys((*(read_log_vkeys(folder) if is_known else ()), *vkeys)))
    _check_log(origin, all_vkeys, {verifier.public_key for verifier in own})
    lines = {keyspace.META_LOG_KEYS: encode_lines(*all_vkeys)}
    if not is_known:
        if len(paths.log_folders()) >= LOGS_MAX:
            raise ValueError(f"a mirror takes at most {LOGS_MAX} logs")
        keys = encode_lines(*map(str, own))
        create_entries(folder, origin=origin, rows={keyspace.META_KEYS: keys, **lines})
        return all_vkeys
    with (
        closing(LogStore.open(folder, readonly=False)) as store,
        store.environment.write() as transaction,
    ):
        for key, value in lines.items():
            transaction.put(keyspace.META, key, value)
    return all_vkeys


def read_log_vkeys(folder: Path) -> tuple[str, ...]:
    """The keys of a log that is mirrored. Raises: as `LogStore.open`."""
    with closing(LogStore.open(folder)) as store, store.environment.read() as transaction:
        return decode_lines(transaction.require(keyspace.META, keyspace.META_LOG_KEYS))


def _check_log(origin: str, vkeys: Sequence[str], own: set[bytes]) -> None:
    Checkpoint(origin, 0, EMPTY_ROOT_HASH)
    if not 1 <= len(vkeys) <= LOG_KEYS_MAX:
        raise ValueError(f"a log has 1 to {LOG_KEYS_MAX} keys, {origin} would have {len(vkeys)}")
    verifiers = [parse_verifier(vkey) for vkey in vkeys]
    for verifier in verifiers:
        check_algorithm(verifier.key, *LOG_ALGORITHMS)
        if verifier.public_key in own:
            # Its own cosignatures would pass for signatures of the log.
            raise ValueError(f"{verifier.key!r} has a public key of this mirror")
    known_keys(verifiers)
