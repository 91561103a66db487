"""Tries the bucket of an archive, without an entry: credentials, conditional writes, what is there.

It writes the small objects `probe` and `archive.json` if they aren't there, and nothing into the
archive of another log.
"""

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from ledger.archive.ids import IDS
from ledger.archive.object_lock import LockState, ask_s3, read_lock, s3_client, word_of
from ledger.archive.uploader import Uploader
from ledger.follow.position import Cursor, FollowerPaths
from ledger.object_storage.config import KIND, ArchiveConfig
from ledger.object_storage.object_store import Bucket
from ledger.object_storage.objects import CHECKPOINT, INDEX, PARQUET, PROBE, RECORD
from ledger.object_storage.open_log import open_log
from ledger.object_storage.place import Place
from ledger_core.tlog.errors import UnavailableError, VerificationError

NAMED_MAX: Final = 3
"""Objects of others that are named."""

_OWN: Final = frozenset({CHECKPOINT, RECORD, PROBE, f"{INDEX}/", f"{PARQUET}/", f"{IDS}/", "tile/"})


class BucketState(NamedTuple):
    """What a bucket is, and what it has of a log.

    `versioning`: enabled, suspended, off, or why it is not known. `archived_size`: the entries of
    the head that is there, None without one. `others`: names at the top of the prefix that are none
    of an archive's, the first few.
    """

    lock: LockState
    versioning: str
    archived_size: int | None
    others: tuple[str, ...]

    def describe_versioning(self) -> str:
        """Whether an earlier version can be read again."""
        if self.versioning == "enabled":
            return "on: what is overwritten or deleted can be read again"
        if self.versioning in {"off", "suspended"}:
            return f"{self.versioning}: what is overwritten or deleted is gone"
        return self.versioning

    def describe_content(self) -> str:
        """What of the log is there."""
        if self.archived_size is None:
            return "nothing of this log yet"
        return f"the first {self.archived_size:,} entries of this log"

    def describe_others(self) -> str:
        """What else is there."""
        return f"such as {', '.join(self.others)}" if self.others else "none"


def try_bucket(directory: Path, name: str, config: ArchiveConfig) -> BucketState:
    """Try the bucket of an archive, which `archive.toml` need not have yet.

    Raises: MalformedError for a store that can't be used, or the archive of another log;
    VerificationError for another history of this log; UnavailableError, OSError.
    """
    place = config.place()

    async def probe() -> int | None:
        uploader = Uploader(
            directory, log, Bucket(place), Cursor(FollowerPaths(directory, KIND, name)),
            requests_max=1,
        )  # fmt: skip
        try:
            # First this, so that nothing is written beside another log's checkpoint.
            size = await uploader.archived_size()
        except VerificationError as error:
            raise VerificationError(
                f"{place.url} has another log, or another history of this one: {error}",
                evidence=error.evidence,
            ) from None
        await uploader.prepare()
        return size

    with closing(open_log(directory / "log")) as log:
        size = asyncio.run(probe())
    lock = read_lock(place, PROBE)
    return BucketState(lock, _versioning(place), size, _others(place))


def _versioning(place: Place) -> str:
    try:
        found = ask_s3(s3_client(place).get_bucket_versioning, place, Bucket=place.bucket)
    except UnavailableError as error:
        return f"not known: {error}"
    return word_of(found.get("Status", "off"))


def _others(place: Place) -> tuple[str, ...]:
    """The first names that are none of an archive's. One request."""
    prefix = f"{place.prefix}/" if place.prefix else ""
    found: dict[str, Any] = ask_s3(
        s3_client(place).list_objects_v2,
        place,
        Bucket=place.bucket,
        Prefix=prefix,
        Delimiter="/",
    )
    names = [
        *(str(each.get("Key", "")) for each in found.get("Contents", [])),
        *(str(each.get("Prefix", "")) for each in found.get("CommonPrefixes", [])),
    ]
    below = {name.removeprefix(prefix) for name in names} - _OWN - {""}
    return tuple(ascii(name)[1:-1] for name in sorted(below)[:NAMED_MAX])
