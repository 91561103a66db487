"""The folder of a mirror.

DIR/mirror.toml   the address of the log, and the file with the token that reads it
DIR/policy        by which the log's heads are verified
DIR/ledger.toml   settings of the service, as those of a ledger
DIR/cosigner/     the mirror's own key, and the head that it cosigned last: a witness's folder
DIR/head.json     the largest head that was accepted, as every client keeps it
DIR/stopped.json  why the mirror follows no more: the log forked; absent otherwise
DIR/status.json   when the log last answered, and what was wrong
DIR/evidence/     both heads, or the head, the tiles and the bundle, of each untrue answer

The rest is as in the folder of a ledger (`ledger.service.data_dir`): log/, index/ and access/. A
mirror has no DIR/key: it signs no head of the log.
"""

import tomllib
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import msgspec

from ledger.runtime.half_made import half_made
from ledger.service.data_dir import INIT_PARTS, DirectoryPaths, is_half_made
from ledger.service.settings import settings_template
from ledger.store.log import create_log
from ledger.store.tokens import create_access
from ledger.witness.data_dir import WitnessPaths, create_witness
from ledger.witness.known_log import LOG_KEYS_MAX
from ledger.witness.store import HeadStore
from ledger_client.messages import Endpoint, parse_endpoint
from ledger_client.runtime.files import create_whole, read_utf8, sync_directory
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.policy import parse_policy
from ledger_core.toml import parse_toml

TIMEOUT_S: Final = 45.0
"""Longer than the log lets a request for the next head wait."""


class MirrorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `mirror.toml`. `token_file` is empty for a log whose entries are public."""

    log_url: str
    token_file: str = ""
    insecure: bool = False
    """Sends the token over plain HTTP to another host."""

    def endpoint(self) -> Endpoint:
        """Where the log is asked. Raises: ValueError, UnavailableError without the token."""
        token = None
        if self.token_file:
            try:
                token = read_utf8(Path(self.token_file)).strip()
            except OSError as error:
                raise UnavailableError(f"{self.token_file}: {error.strerror}") from None
        return parse_endpoint(
            self.log_url, token=token, timeout_s=TIMEOUT_S, insecure=self.insecure
        )


class MirrorPaths:
    """The paths inside a mirror's folder, beside those of `DirectoryPaths`."""

    def __init__(self, root: Path) -> None:
        self.root: Final = root
        self.ledger: Final = DirectoryPaths(root)
        self.config: Final = root / "mirror.toml"
        self.head: Final = root / "head.json"
        self.cosigner: Final = root / "cosigner"
        self.stopped: Final = root / "stopped.json"
        self.status: Final = root / "status.json"

    @property
    def is_mirror(self) -> bool:
        """Whether the folder is that of a mirror."""
        return self.config.exists()


def create_mirror(
    path: Path, config: MirrorConfig, policy: bytes, signers: Sequence[CosignatureSigner]
) -> MirrorPaths:
    """Make an empty mirror. `mirror.toml` is written last: without it the folder is half-made.

    `signers`: the mirror's own keys.
    Raises: FileExistsError when there is a ledger or a mirror already; ValueError and
    MalformedError for an unfit address or policy; UnavailableError without the token.
    """
    config.endpoint()
    origin = log_origin(policy)
    if (count := len(parse_policy(policy).logs)) > LOG_KEYS_MAX:
        raise MalformedError(f"a log has 1 to {LOG_KEYS_MAX} keys, the policy names {count}")
    paths = MirrorPaths(path)
    taken = (paths.config, *(paths.ledger.root / name for name in ("key", "policy", "log")))
    for each in taken:
        if each.exists() or each.is_symlink():
            if not paths.ledger.key.exists() and is_half_made(paths.ledger, last=paths.config):
                parts = (*INIT_PARTS, paths.cosigner.name)
                raise FileExistsError(half_made(path, "ledger mirror init", parts))
            raise FileExistsError(f"{each} exists already; a mirror is made in a new folder")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    create_log(paths.ledger.log, origin=origin)
    create_access(paths.ledger.access)
    create_witness(paths.cosigner, signers)
    with closing(HeadStore.open(WitnessPaths(paths.cosigner).heads, readonly=False)) as heads:
        accept_log_keys(heads, policy)
    create_whole(paths.ledger.policy, policy)
    create_whole(paths.ledger.settings, settings_template().encode())
    create_whole(paths.config, _format_config(config).encode())
    sync_directory(path.parent)
    return paths


def accept_log_keys(heads: HeadStore, policy: bytes) -> None:
    """Have the mirror's own witness accept the log's keys of the policy, and no other.

    A key that the policy no longer has goes once a head by another one was cosigned.
    Raises: MalformedError for a policy with too many keys.
    """
    origin, vkeys = log_origin(policy), [str(log.verifier) for log in parse_policy(policy).logs]
    known = heads.log(origin)
    for vkey in () if known is None else known.vkeys:
        if vkey in vkeys:
            continue
        with suppress(ValueError):  # The head that was cosigned last needs it.
            heads.remove_keys(origin, [vkey])
    try:
        heads.add_log(origin, vkeys)
    except ValueError as error:
        raise MalformedError(f"the keys of the log in the policy: {error}") from None


def read_config(paths: MirrorPaths) -> MirrorConfig:
    """The log that a folder mirrors. Raises: UnavailableError, MalformedError."""
    try:
        text = read_utf8(paths.config)
    except FileNotFoundError:
        raise UnavailableError(f"{paths.root} is no mirror: there is no {paths.config}") from None
    try:
        return msgspec.convert(parse_toml(text), MirrorConfig)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise MalformedError(f"{paths.config}: {error}") from None


def log_origin(policy: bytes) -> str:
    """The origin of the one log of a policy. Raises: MalformedError."""
    origins = sorted({log.verifier.name for log in parse_policy(policy).logs})
    if len(origins) != 1:
        raise MalformedError(f"the policy must name the keys of one log, got {origins}")
    return origins[0]


def _format_config(config: MirrorConfig) -> str:
    # A JSON text is a basic string of TOML, and so are the two words.
    values = msgspec.to_builtins(config)
    lines = [f"{name} = {msgspec.json.encode(value).decode()}" for name, value in values.items()]
    return "# The log that this folder mirrors.\n" + "".join(f"{line}\n" for line in lines)
