"""The archives of a ledger: `DIR/archive.toml`, a table for each.

    [frankfurt]
    url = "s3://audit-archive/billing"
    region = "eu-central-1"

The service looks at the file once a second. No secret stands in it. `ledger archive add` appends a
table and `remove` cuts it out; whatever else is in the file stays as a person wrote it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from ledger.follow.tables import (
    FollowerConfig,
    add_table,
    change_tables,
    parse_tables,
    read_table,
    remove_table,
)
from ledger.object_storage.place import TIMEOUT_S, Place
from ledger_client.runtime.files import read_utf8
from ledger_core.tlog.errors import MalformedError

KIND: Final = "archive"
"""The name of the archives' folder, and of their row in the list of followers."""

ARCHIVES_MAX: Final = 16
REQUESTS_MAX: Final = 256
CACHE_BYTES_MIN: Final = 16 << 20

Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class ArchiveConfig(FollowerConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One archive. The last annotation of each field is its help text."""

    url: Annotated[str, "The bucket, and the prefix of all names in it: s3://bucket/prefix."]
    endpoint: Annotated[
        str,
        "The address of an S3-compatible server, https://host:port. Empty: the one that "
        "AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL of the environment names, or that of AWS.",
    ] = ""
    region: Annotated[str, "The region of the bucket. Empty: as the AWS tools find it."] = ""
    ca_file: Annotated[str, "PEM certificates that the server's must be signed by."] = ""
    insecure: Annotated[bool, "Allow an endpoint with http:// on another host."] = False
    interval_s: Annotated[
        Seconds,
        "Seconds between two uploads of the open segment and of the checkpoint. A segment that is "
        "full is uploaded at once.",
    ] = 60.0
    requests_max: Annotated[int, Meta(ge=1, le=REQUESTS_MAX), "Requests that run at once."] = 16
    timeout_s: Annotated[
        Seconds,
        "Seconds that the server has to answer a request, and ten times as many to take or send an "
        "object that is larger than 256 KiB.",
    ] = TIMEOUT_S
    retry_max_s: Annotated[Seconds, "The longest wait after failures, in seconds."] = 60.0

    retain_local_segments: Annotated[
        Annotated[int, Meta(ge=0, le=1 << 32)] | None,
        "Full segments, of 65,536 entries, that stay on this disk. Older entries leave it once the "
        "bucket is shown to have them, and are read from there. Without the key, all stay.",
    ] = None
    allow_unlocked: Annotated[
        bool,
        "Let entries leave this disk although the bucket has no object lock in the mode "
        "COMPLIANCE: whoever may delete its objects can then delete the only copy.",
    ] = False
    cache_bytes: Annotated[
        int,
        Meta(ge=CACHE_BYTES_MIN),
        "Bytes of this disk that hold released entries which were read lately.",
    ] = 1 << 30

    def check(self) -> None:
        """Raises: MalformedError naming the key."""
        self.place().check()
        if self.allow_unlocked and self.retain_local_segments is None:
            raise MalformedError("allow_unlocked: it needs retain_local_segments")
        if not self.place().is_s3:
            raise MalformedError(f"url: want s3://bucket/prefix, got {self.url!a}")

    def place(self) -> Place:
        """Where the archive is."""
        return Place.of(self)


def archives_path(directory: Path) -> Path:
    """The file of the archives of a ledger."""
    return directory / "archive.toml"


def read_archives(directory: Path) -> dict[str, ArchiveConfig]:
    """The archives of a ledger, by name. Raises: MalformedError naming archive and key, OSError."""
    path = archives_path(directory)
    try:
        text = read_utf8(path)
    except FileNotFoundError:
        return {}
    archives = parse_tables(text, str(path), ArchiveConfig, what="archive", most=ARCHIVES_MAX)
    if len(releasing := [name for name in archives if is_releasing(archives[name])]) > 1:
        raise MalformedError(
            f"{path}: retain_local_segments: one archive may have it, not {' and '.join(releasing)}"
        )
    return archives


def is_releasing(config: ArchiveConfig) -> bool:
    """Whether entries leave this disk for an archive."""
    return config.retain_local_segments is not None


def add_archive(directory: Path, name: str, config: ArchiveConfig) -> None:
    """Append an archive to the file. Raises: as `add_table`, and as `check_addition`."""
    check_addition(directory, name, config)
    add_table(archives_path(directory), name, config, what="archive", most=ARCHIVES_MAX)


def check_addition(directory: Path, name: str, config: ArchiveConfig) -> None:
    """Check that an archive goes together with those that a ledger has.

    Raises: MalformedError for a taken name, for the place of another one, and for a second archive
    that entries are to leave for; OSError.
    """
    for other, each in read_archives(directory).items():
        if other == name:
            raise MalformedError(f"there is an archive named {name} already")
        if (each.url.rstrip("/"), each.endpoint) == (config.url.rstrip("/"), config.endpoint):
            raise MalformedError(f"url: the archive {other!r} is there already")
        if is_releasing(each) and is_releasing(config):
            raise MalformedError(
                f"retain_local_segments: one archive may have it, and {other!r} has it"
            )


def change_archives(directory: Path, changed: Mapping[str, ArchiveConfig]) -> None:
    """Give archives other settings, in one write. Raises: as `change_tables`."""
    path = archives_path(directory)
    change_tables(path, changed, what="archive", most=ARCHIVES_MAX)


def remove_archive(directory: Path, name: str) -> None:
    """Cut an archive out of the file. Raises: as `remove_table`."""
    path = archives_path(directory)
    remove_table(path, name, ArchiveConfig, what="archive", most=ARCHIVES_MAX)


def read_archive(directory: Path, name: str) -> ArchiveConfig | None:
    """One archive, None when there is none of this name. Raises: as `read_table`."""
    return read_table(archives_path(directory), name, ArchiveConfig, what="archive")
