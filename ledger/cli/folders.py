"""The argument DIRECTORY: what kind of folder a path is, and which kinds a command works on.

A folder of another kind is a wrong command line (exit code 2). The message says what the folder is
and which command to run. It comes before the command opens anything, so nothing is written.
"""

import os
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final

import click

from ledger.service.backup import MANIFEST, is_parts
from ledger.service.data_dir import DirectoryPaths
from ledger.tlog_mirror.data_dir import TlogMirrorPaths
from ledger.witness.data_dir import WitnessPaths
from ledger_core.tlog.errors import UnavailableError


class FolderKind(Enum):
    """What a folder is, as messages say it."""

    LEDGER = "a ledger"
    MIRROR = "a mirror"
    READER = "a reader of an archive"
    WITNESS = "a witness"
    TLOG_MIRROR = "a mirror of logs"
    BACKUP = "a backup"


LEDGER, MIRROR, READER = FolderKind.LEDGER, FolderKind.MIRROR, FolderKind.READER
WITNESS, TLOG_MIRROR, BACKUP = FolderKind.WITNESS, FolderKind.TLOG_MIRROR, FolderKind.BACKUP

_INSTEAD: Final[Mapping[FolderKind, str]] = {
    LEDGER: "see ledger status {0}",
    MIRROR: "it fetches another log and has no key of one: run this on the log's host, or see "
    "ledger mirror --help",
    READER: "it has no log of its own: run this on the log's host, or see docs/archive.md",
    WITNESS: "see ledger witness --help",
    TLOG_MIRROR: "see ledger tlog-mirror --help",
    BACKUP: "ledger fsck {0} checks it, ledger restore {0} NEW_FOLDER makes a ledger of it",
}
"""What to do with a folder that a command does not take; `{0}` is the folder."""

_NEW_KEY: Final = (
    "in place of a witness or a mirror a new one is made, with new keys, and put into the policies"
)
_INSTEAD_OF: Final[Mapping[tuple[str, FolderKind], str]] = {
    ("serve", MIRROR): "ledger mirror serve {0}",
    ("serve", WITNESS): "ledger witness serve {0}",
    ("serve", TLOG_MIRROR): "ledger tlog-mirror serve {0}",
    ("fsck", WITNESS): "ledger witness fsck {0}",
    ("fsck", TLOG_MIRROR): "ledger tlog-mirror fsck {0}",
    ("status", WITNESS): "ledger witness status {0}",
    ("status", TLOG_MIRROR): "ledger tlog-mirror status {0}",
    ("backup", WITNESS): "an older copy of it would sign a second history, so it is not backed up: "
    "see docs/witnesses.md",
    ("backup", TLOG_MIRROR): "an older copy of it would sign a second history, so it is not backed "
    "up: see docs/tlog-mirror.md",
    ("backup", READER): "the archive in the bucket is the copy, and ledger restore URL NEW_FOLDER "
    "makes a ledger of it; keep copies of {0}/policy, reader.toml, ledger.toml and access",
    ("backup", BACKUP): "copy the folder as it is, or back the ledger up to a second one",
    ("mirror serve", LEDGER): "ledger serve {0}",
    ("mirror serve", READER): "ledger serve {0}",
    ("mirror status", LEDGER): "ledger status {0}",
    ("mirror status", READER): "ledger status {0}",
    ("mirror promote", LEDGER): "it takes events already: ledger serve {0}",
    ("mirror promote", READER): "ledger restore URL NEW_FOLDER makes a ledger of an archive",
    **{
        (f"key {act}", kind): _NEW_KEY
        for act in ("rotate", "retire")
        for kind in (MIRROR, WITNESS, TLOG_MIRROR)
    },
    ("restore", LEDGER): "it is no backup: ledger backup {0} NEW_FOLDER makes one",
    ("restore", MIRROR): "ledger mirror promote {0} makes a ledger of it",
    ("restore", READER): "restore from its archive: ledger restore URL NEW_FOLDER",
}
"""The same, for a command and a kind."""


def kind_of(directory: Path) -> FolderKind | None:
    """What a folder is, also when parts of it are gone; None for what is none of ours."""
    paths, witness, mirror = (
        DirectoryPaths(directory),
        WitnessPaths(directory),
        TlogMirrorPaths(directory),
    )
    for path, kind in (
        (directory / MANIFEST, BACKUP),
        (paths.reader, READER),
        (paths.mirror, MIRROR),
        (mirror.ticket_key, TLOG_MIRROR),
    ):
        if path.exists():
            return kind
    if any(is_parts(path.name) for path in directory.glob("parts-*")):
        return BACKUP  # One that is not finished.
    if any(path.exists() for path in (paths.log, paths.settings, paths.access, paths.started)):
        return LEDGER
    if witness.heads.exists():
        return WITNESS
    return TLOG_MIRROR if mirror.logs.exists() else None


class _Folder(click.Path):
    """A folder of one of some kinds."""

    def __init__(self, *kinds: FolderKind) -> None:
        super().__init__(path_type=Path, exists=True, file_okay=False)
        self._kinds: Final = kinds

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        check_kind(path, self._kinds, "" if ctx is None else ctx.command_path)
        return path


def directory_of(*kinds: FolderKind) -> Callable[[Any], Any]:
    """The argument DIRECTORY of a command that works on folders of these kinds."""
    return click.argument("directory", type=_Folder(*kinds))


def check_kind(directory: Path, kinds: tuple[FolderKind, ...], command_path: str) -> None:
    """Check that a command works on a folder.

    Raises: UsageError for a folder of another kind; UnavailableError for one of none, which may be
    the place of a disk that is not mounted.
    """
    kind = kind_of(directory)
    if kind in kinds:
        return
    if kind is None:
        raise UnavailableError(f"there is no {_name(kinds[0])} in {directory}")
    command = command_path.partition(" ")[2]
    instead = _INSTEAD_OF.get((command, kind), _INSTEAD[kind]).format(directory)
    raise click.UsageError(f"{directory} is {kind.value}, not {kinds[0].value}: {instead}")


def _name(kind: FolderKind) -> str:
    return kind.value.removeprefix("a ")
