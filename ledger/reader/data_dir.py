"""The folder of a reader of an archive.

DIR/reader.toml   the address of the archive, and the bounds of what is kept here
DIR/policy        by which the archive's heads are verified
DIR/ledger.toml   settings of the service, as those of a ledger
DIR/access/       the tokens of this reader
DIR/head.json     the head that was served last: no older one is ever served
DIR/evidence/     both heads, when the archive had another history
DIR/cache/        objects of the bucket; may be deleted while the reader is stopped
DIR/lock          held by the process that serves

The rest is as in the folder of a ledger (`ledger.service.data_dir`). A reader has no key and no
log: all of it but the tokens can be made again from the archive.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from ledger.mirror.data_dir import log_origin
from ledger.object_storage.place import TIMEOUT_S, Place
from ledger.service.data_dir import DirectoryPaths
from ledger.service.settings import settings_template
from ledger.store.tokens import create_access
from ledger_client.runtime.files import create_whole, read_utf8, sync_directory
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.toml import parse_toml

CACHE_BYTES_MIN: Final = 16 << 20
Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class ReaderConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of `reader.toml`. The last annotation of each field is its help text."""

    url: Annotated[str, "The archive: s3://bucket/prefix, or file:///… for a copy on a disk."]
    endpoint: Annotated[
        str,
        "The address of an S3-compatible server, https://host:port. Empty: the one that "
        "AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL of the environment names, or that of AWS.",
    ] = ""
    region: Annotated[str, "The region of the bucket. Empty: as the AWS tools find it."] = ""
    ca_file: Annotated[str, "PEM certificates that the server's must be signed by."] = ""
    insecure: Annotated[bool, "Allow an endpoint with http:// on another host."] = False
    anonymous: Annotated[bool, "Send no credentials: a public bucket."] = False
    timeout_s: Annotated[
        Seconds,
        "Seconds that the bucket may send nothing of an answer; all of it has ten times as many.",
    ] = TIMEOUT_S
    poll_s: Annotated[Seconds, "Seconds between two looks at the checkpoint in the bucket."] = 5.0
    requests_max: Annotated[int, Meta(ge=1, le=256), "Requests to the bucket at once."] = 32
    cache_bytes: Annotated[
        int, Meta(ge=CACHE_BYTES_MIN), "Bytes of the disk that the cache takes at most."
    ] = 4 << 30

    def place(self) -> Place:
        """Where the archive is."""
        return Place.of(self)

    def check(self) -> None:
        """Raises: MalformedError naming the key."""
        self.place().check()
        if not self.url.startswith(("s3://", "file://")):
            raise MalformedError(
                "url: a reader lists what the archive has, which a web server can't: want "
                f"s3://bucket/prefix, with anonymous for a public one, or file:///…; got {self.url}"
            )


class ReaderPaths:
    """The paths inside a reader's folder, beside those of `DirectoryPaths`."""

    def __init__(self, root: Path) -> None:
        self.root: Final = root
        self.ledger: Final = DirectoryPaths(root)
        self.config: Final = self.ledger.reader
        self.head: Final = root / "head.json"
        self.cache: Final = root / "cache"
        self.lock: Final = root / "lock"


def create_reader(path: Path, config: ReaderConfig, policy: bytes) -> ReaderPaths:
    """Make the folder of a reader. `reader.toml` is written last, so a half-made one is made again.

    Raises: FileExistsError when there is a ledger, a mirror or a reader already; MalformedError for
    an unfit address or policy.
    """
    config.check()
    log_origin(policy)
    paths = ReaderPaths(path)
    for each in (paths.config, paths.ledger.mirror, paths.ledger.log, paths.ledger.key):
        if each.exists() or each.is_symlink():
            raise FileExistsError(f"{each} exists already; a reader is made in a new folder")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not paths.ledger.access.exists():
        create_access(paths.ledger.access)
    for file, data in (
        (paths.ledger.policy, policy),
        (paths.ledger.settings, settings_template().encode()),
        (paths.config, _format_config(config).encode()),
    ):
        if not file.exists():
            create_whole(file, data)
    sync_directory(path.parent)
    return paths


def read_config(paths: ReaderPaths) -> ReaderConfig:
    """The archive that a folder reads. Raises: UnavailableError, MalformedError."""
    try:
        text = read_utf8(paths.config)
    except FileNotFoundError:
        raise UnavailableError(f"{paths.root} is no reader: there is no {paths.config}") from None
    try:
        config = msgspec.convert(parse_toml(text), ReaderConfig)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise MalformedError(f"{paths.config}: {error}") from None
    config.check()
    return config


def _format_config(config: ReaderConfig) -> str:
    # A JSON text is a basic string of TOML, and so are numbers and the two words.
    values = msgspec.to_builtins(config)
    lines = [f"{name} = {msgspec.json.encode(value).decode()}" for name, value in values.items()]
    return "# The archive that this folder reads.\n" + "".join(f"{line}\n" for line in lines)
