"""The folder of a ledger: its files, and how it is made.

DIR/ledger.toml   settings of this ledger
DIR/key           the signing keys, a line each, mode 0600 (`key_rotation`: while there are two)
DIR/policy        the log's verifier key, its witnesses, the quorum
DIR/secrets.toml  the user's own rules of secrets; optional
DIR/principals.toml  client certificates and identity providers (`identities`); optional
DIR/private.toml  fields that the service commits to; optional
DIR/private.key   wraps the keys of erasable values, mode 0600; made if it is missing
DIR/digest.key    the key of the digests of ids, mode 0600; made if it is missing
DIR/private/      LMDB and a file of keys: erasable values; made if it is missing
DIR/log/          LMDB: the log
DIR/index/        the index, a file a segment; made from the log if it is missing
DIR/parquet/      full segments as Parquet, if the setting says so; made from the log
DIR/sinks.toml    where entries are sent (`ledger.sinks`); optional
DIR/sinks/        how far each sink is, and what its receiver refused
DIR/mirrors.toml  mirrors that entries are sent to (`ledger.mirror_push`); optional
DIR/mirrors/      how far each mirror is, and its last cosignatures
DIR/archive.toml  the buckets with copies of the log (`ledger.archive`); optional
DIR/archive/      how far each copy is, and what it was shown to have
DIR/archive-cache/  entries that left this disk and were read lately; may be deleted
DIR/retention.toml  which entries may be pruned (`ledger.retention`); optional
DIR/legal-holds.json  what must not be pruned; optional
DIR/pruning.json  a pruning that was decided and isn't done (pruning_journal.py); only then
DIR/alarms.toml   what fires (`ledger.alarms`); optional
DIR/alarms/       how far the alarms are, and when they fired
DIR/access/       LMDB: access tokens, by hash
DIR/published     the head published last: the marker (ledger/log/hold.py)
DIR/hold.json     why the log takes no events, until `ledger recover`; only then
DIR/mirror.toml   makes it the folder of a mirror (`ledger.mirror`), which `ledger serve` refuses
DIR/reader.toml   makes it the folder of a reader of an archive (`ledger.reader`)
DIR/promoted.json the log whose mirror this ledger was, or the archive that it was made of, and how
                  many entries are of it
DIR/recovering.json  only while `ledger recover` changes the ledger (recovery_journal.py)
DIR/started.json  which files were there at the last start, and the hashes of the small ones
DIR/evidence/     heads that show that a witness has seen another history; made when needed
"""

import os
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from ledger.log.signing import LogSigner
from ledger.object_storage.open_log import open_log
from ledger.runtime.half_made import half_made
from ledger.runtime.keys import (
    copied_keys,
    read_keys,
    write_keys,
)
from ledger.runtime.records import (
    CheckedRecord,
    read_record,
    write_record,
)
from ledger.service.settings import Settings, read_settings, settings_template
from ledger.store.environment import DATA_FILE
from ledger.store.log import create_log
from ledger.store.tokens import AccessStore, create_access
from ledger_client.runtime.files import (
    create_whole,
    read_utf8,
    sync_directory,
)
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.keys import ED25519, MLDSA44_COSIGNATURE, PrivateKey, check_new_name
from ledger_core.tlog.note import Signer
from ledger_core.tlog.policy import format_policy, parse_policy
from ledger_core.tlog.text import from_wire

HOLDS_FILE: Final = "legal-holds.json"
"""Changed by commands, with a checksum of its own."""

INIT_PARTS: Final = ("log", "access", "policy", "ledger.toml", "key")
"""What `ledger init` puts into a folder."""

KEYS_MAX: Final = 4
"""Ed25519, ML-DSA-44 beside it, and a new one of each while they are rotated."""


class DirectoryPaths:
    """The paths inside a ledger's folder, which the head of this module describes.

    In a backup all but the log are in the folder `parts`.
    """

    def __init__(self, root: Path, *, parts: str = "") -> None:
        self.log: Final = root / "log"
        self.index: Final = root / "index"
        self.parquet: Final = root / "parquet"
        root = root / parts
        self.root: Final = root
        self.settings: Final = root / "ledger.toml"
        self.key: Final = root / "key"
        self.policy: Final = root / "policy"
        self.secrets: Final = root / "secrets.toml"
        self.private_fields: Final = root / "private.toml"
        self.private_key: Final = root / "private.key"
        self.digest_key: Final = root / "digest.key"
        self.private: Final = root / "private"
        self.access: Final = root / "access"
        self.evidence: Final = root / "evidence"
        self.marker: Final = root / "published"
        self.hold: Final = root / "hold.json"
        self.recovering: Final = root / "recovering.json"
        self.started: Final = root / "started.json"
        self.retention: Final = root / "retention.toml"
        self.legal_holds: Final = root / HOLDS_FILE
        self.pruning: Final = root / "pruning.json"
        self.mirror: Final = root / "mirror.toml"
        self.reader: Final = root / "reader.toml"
        self.promoted: Final = root / "promoted.json"


class PromotionRecord(CheckedRecord, frozen=True, kw_only=True):
    """The content of `promoted.json`: the mirror that a ledger once was, or what it was made of.

    `tree_size`: the entries that it then had, which are of the log or the archive at `log_url`.
    """

    log_url: str
    tree_size: int
    verifier_key: str


def read_promotion(paths: DirectoryPaths) -> PromotionRecord | None:
    """The promotion by which a ledger was made, or None. Raises: MalformedError."""
    return read_record(paths.promoted, PromotionRecord)


def write_promotion(paths: DirectoryPaths, record: PromotionRecord) -> None:
    """Write `promoted.json` durably. Raises: OSError."""
    write_record(paths.promoted, record)


def create_directory(
    path: Path,
    *,
    origin: str,
    seed: bytes = b"",
    mldsa44_seed: bytes | None = None,
    key: PrivateKey | None = None,
) -> DirectoryPaths:
    """Make a ledger: key, policy, settings, an empty log and no token.

    `origin` is the log's name for ever, `seed` 32 random bytes, the signing key, or `key` that key
    in another process. What exists is never overwritten. The key is written last: a folder without
    one was left half-made.
    Raises: FileExistsError when there is a ledger already, or a half-made one, with what mends it;
    ValueError for an unfit origin.
    """
    paths = DirectoryPaths(path)
    for taken in (paths.key, paths.policy, paths.settings, paths.log, paths.access):
        if os.path.lexists(taken):  # A link to nowhere is taken too: writing would follow it.
            if is_half_made(paths, last=paths.key):
                raise FileExistsError(half_made(path, "ledger init", INIT_PARTS))
            raise FileExistsError(f"{taken} exists already; a ledger is made in a new folder")
    check_new_name(origin)
    signers: list[LogSigner] = [Signer.generate(origin, seed=seed) if key is None else Signer(key)]
    if mldsa44_seed is not None:
        signers.append(
            CosignatureSigner.generate(origin, algorithm=MLDSA44_COSIGNATURE, seed=mldsa44_seed)
        )
    if path.is_symlink():
        raise FileExistsError(f"{path} is a symbolic link; name the folder itself")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    create_log(paths.log, origin=origin)
    create_access(paths.access)
    # Follows no link.
    create_whole(paths.policy, format_policy([signer.verifier for signer in signers]).encode())
    create_whole(paths.settings, settings_template().encode())
    write_keys(paths.key, [signer.key for signer in signers])
    sync_directory(path.parent)
    return paths


def is_half_made(paths: DirectoryPaths, *, last: Path) -> bool:
    """Whether a folder lacks the file that is made last, was never started and has no entry."""
    if os.path.lexists(last) or paths.started.exists():
        return False
    if not (paths.log / DATA_FILE).exists():
        return True
    with suppress(UnavailableError, MalformedError), closing(open_log(paths.log)) as log:
        return log.head().tree_size == 0
    return False


def read_optional(path: Path) -> str:
    """The text of a file, empty when there is none. Raises: as `read_utf8`."""
    return read_utf8(path) if path.exists() else ""


def read_own_settings(paths: DirectoryPaths) -> Settings:
    """The settings in the ledger's folder and the environment. Raises: MalformedError, OSError."""
    text = read_utf8(paths.settings) if paths.settings.exists() else None
    return read_settings(toml=text, environ=os.environ)


def open_tokens(paths: DirectoryPaths, settings: Settings | None = None) -> AccessStore:
    """The store of tokens, with the map that the settings say. Raises: as `AccessStore.open`."""
    settings = settings or read_own_settings(paths)
    return AccessStore.open(paths.access, map_bytes=settings.access_map_bytes)


def check_copied_key(path: Path | None, policy: bytes) -> None:
    """Check that a copy of a key file, if there is one, has a key that a policy lists.

    One that is encrypted is not looked into. Raises: MalformedError for any other content, OSError.
    """
    keys = None if path is None else copied_keys(path)
    listed = {str(log.verifier) for log in parse_policy(policy).logs}
    if keys is not None and listed.isdisjoint(str(key.verifier_key) for key in keys):
        raise MalformedError(f"{path} holds none of the keys that the policy lists for the log")


def read_signers(paths: DirectoryPaths) -> tuple[LogSigner, ...]:
    """The log's keys, refused when others on this machine may read them.

    Raises: UnavailableError when there are none or their file's mode is not 0600, MalformedError
    when it holds anything else. No message holds any of it.
    """
    with from_wire():
        return tuple(
            Signer(key) if key.verifier_key.algorithm == ED25519 else CosignatureSigner(key)
            for key in read_keys(paths.key, keys_max=KEYS_MAX)
        )
