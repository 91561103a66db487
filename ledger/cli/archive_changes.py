"""`ledger archive add` and `remove`: the archives that a ledger has (`DIR/archive.toml`).

Works on the folder of a ledger or a mirror, whether it is served or not: the service sees changes
within a second.
"""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from ledger.archive.worker import lock_path
from ledger.cli.folders import LEDGER, MIRROR, directory_of
from ledger.cli.followers import (
    config_options,
    find_follower,
    given_config,
    record_follower,
    report_act,
)
from ledger.cli.place_options import describe_server
from ledger.follow.position import FollowerPaths
from ledger.follow.tables import check_name
from ledger.object_storage.config import (
    KIND,
    ArchiveConfig,
    add_archive,
    archives_path,
    check_addition,
    is_releasing,
    read_archives,
    remove_archive,
)
from ledger.object_storage.open_log import open_log
from ledger.object_storage.releasable import lock_releases, releasable_path
from ledger.service.data_dir import DirectoryPaths
from ledger.service.start_record import changing_files
from ledger_client.cli.console import json_option, note, print_fields

if TYPE_CHECKING:  # It needs the extra `archive`.
    from ledger.archive.trial import BucketState

LOCK_WAIT_S: Final = 60.0


@click.command("add")
@directory_of(LEDGER, MIRROR)
@click.argument("name")
@config_options(ArchiveConfig)
@click.option(
    "--no-check",
    is_flag=True,
    help="Don't ask the bucket, as where the service alone has its credentials.",
)
@json_option
def add(directory: Path, name: str, no_check: bool, as_json: bool, **values: Any) -> None:
    """Add the archive NAME, a copy of the log in a bucket. A running service begins in a second.

    The bucket is tried first: credentials, conditional writes, whose objects it has, object lock
    and versioning. Credentials are never an option; they are found as the AWS tools find them.
    """
    config = named_server(given_config(ArchiveConfig, values))
    check_name(name)
    config.check()
    check_addition(directory, name, config)
    found = None
    if not no_check:
        from ledger.archive.trial import try_bucket

        found = try_bucket(directory, name, config)
    _forget_earlier(directory, name)
    with changing_files(DirectoryPaths(directory), archives_path(directory).name):
        add_archive(directory, name, config)
    record_follower(directory, KIND, "added", name, to=config.url)
    facts: dict[str, Any] = {"name": name, "url": config.url}
    if found is None:
        said = f"archive {name!r} is added: try it with ledger archive test {directory} {name}"
        report_act(said, as_json, **facts)
        return
    if not as_json:
        print_fields(bucket_fields(config, found))
        if is_releasing(config) and not (found.lock.is_safe or config.allow_unlocked):
            note(
                "retain_local_segments: nothing leaves this disk for a bucket without object lock "
                "in the mode COMPLIANCE, unless --allow-unlocked says that this is meant"
            )
    report_act(f"archive {name!r} is added", as_json, **facts, **bucket_facts(found))


def named_server(config: ArchiveConfig) -> ArchiveConfig:
    """The table with the server that the environment of this command names, if it says none.

    The service has another environment, and would ask another server.
    """
    place = config.place()
    if place.endpoint != config.endpoint:
        note(f"endpoint: {describe_server(place)}; it stands in archive.toml from now on")
    return msgspec.structs.replace(config, endpoint=place.endpoint)


def bucket_fields(config: ArchiveConfig, found: "BucketState") -> dict[str, object]:
    """What was found of a bucket, for a person."""
    return {
        "archive": config.url,
        "writes": "conditional: nothing is overwritten",
        "lock": found.lock,
        "versioning": found.describe_versioning(),
        "holds": found.describe_content(),
        "other objects": found.describe_others(),
    }


def bucket_facts(found: "BucketState") -> dict[str, object]:
    """The same for a program."""
    return {
        "lock": str(found.lock),
        "locked": found.lock.is_safe,
        "versioning": found.versioning,
        "archived_size": found.archived_size,
        "other_objects": found.others,
    }


def _forget_earlier(directory: Path, name: str) -> None:
    """Remove what an earlier archive of this name has left, but its position.

    That counts for the bucket in `place.json` alone, so it is right in that bucket, and is not used
    in another one.
    """
    paths = FollowerPaths(directory, KIND, name)
    for path in (
        *(paths.state, paths.rewind, paths.paused),
        *(lock_path(paths), releasable_path(directory, name)),
    ):
        path.unlink(missing_ok=True)


@click.command("remove")
@directory_of(LEDGER, MIRROR)
@click.argument("name")
@json_option
def remove(directory: Path, name: str, as_json: bool) -> None:
    """End uploading to an archive. What it has stays there, and readable.

    Refused while entries that left this disk are in that archive.
    """
    find_follower(KIND, read_archives(directory), name)
    # A service that just lets a segment go to this archive keeps its table until that is over.
    with lock_releases(directory, wait_s=LOCK_WAIT_S):
        with closing(open_log(directory / "log")) as log:
            release, minimum = log.release(), log.minimum_index
        if release is not None and release.archive == name and release.end > minimum:
            raise click.UsageError(
                f"the entries below {release.end:,} left this disk for {name!r}, and are read from "
                "there: move them first, by ledger archive move-released "
                f"{directory} {name} OTHER"
            )
        with changing_files(DirectoryPaths(directory), archives_path(directory).name):
            remove_archive(directory, name)
    record_follower(directory, KIND, "removed", name)
    report_act(f"archive {name!r} is removed", as_json, name=name, removed=True)
