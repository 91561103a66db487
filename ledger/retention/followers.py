"""Reads how far the followers of a ledger are: no entry is removed that one of them lacks."""

from collections.abc import Iterator
from pathlib import Path

from ledger.follow.followers import FOLLOWERS
from ledger.follow.position import FollowerPaths, FollowerReport, is_name, read_report
from ledger.object_storage.config import KIND as ARCHIVES
from ledger.object_storage.config import read_archives
from ledger.sinks.dead_letters import read_letters, resending_path
from ledger_client.runtime.files import read_utf8
from ledger_core.tlog.errors import MalformedError
from ledger_core.toml import parse_toml


def follower_reports(directory: Path) -> Iterator[FollowerReport]:
    """The report of each follower that the files of configuration name.

    Raises: MalformedError, OSError.
    """
    for spec in FOLLOWERS:
        path = directory / spec.file
        if not spec.file or not path.exists():
            continue
        try:
            tables = parse_toml(read_utf8(path))
        except ValueError as error:  # tomllib's and Unicode's
            raise MalformedError(f"{path}: {error}") from None
        for name in filter(is_name, tables) if spec.is_each else ("",):
            yield read_report(directory, spec.name, name)


def first_dead_letter(directory: Path, report: FollowerReport) -> int | None:
    """The first entry that the receiver of a sink refused, and that may be sent again."""
    kind, _, name = report.name.partition("/")
    paths = FollowerPaths(directory, kind, name)
    letters = [*read_letters(paths.dead), *read_letters(resending_path(paths))]
    return min((letter.index for letter in letters), default=None)


def archived_up_to(directory: Path, name: str) -> int:
    """The entries that an archive of the policy has confirmed. Raises: MalformedError, OSError."""
    if name not in read_archives(directory):
        raise MalformedError(f"archives: {directory / 'archive.toml'} has no archive {name!r}")
    return read_report(directory, ARCHIVES, name).next_index
