"""`ledger fsck`: check all parts of a stored ledger, or of a backup, and name what is wrong."""

from contextlib import closing
from pathlib import Path

import click

from ledger.archive.worker import read_kept_lock
from ledger.cli.folders import BACKUP, LEDGER, MIRROR, READER, directory_of, kind_of
from ledger.cli.options import progress_bar
from ledger.follow.position import FollowerPaths
from ledger.mirror.data_dir import MirrorPaths
from ledger.mirror.fsck import check_mirror
from ledger.mirror_push.config import read_mirrors
from ledger.object_storage.config import KIND as ARCHIVES
from ledger.object_storage.config import read_archives
from ledger.object_storage.open_log import open_log
from ledger.query.segment_builder import OtherAnalysisError, check_index
from ledger.reader.data_dir import ReaderPaths
from ledger.reader.fsck import check_reader
from ledger.retention.legal_holds import read_holds
from ledger.retention.policy import read_retention
from ledger.service.backup import MANIFEST, backup_paths
from ledger.service.data_dir import DirectoryPaths
from ledger.service.follower_fsck import check_followers
from ledger.service.fsck import Findings, check_directory
from ledger.service.pruning_journal import check_pruned
from ledger.store.environment import DATA_FILE
from ledger.store.index.index_store import IndexStore
from ledger_client.cli.app import EXIT_NOT_VERIFIED
from ledger_client.cli.console import counted, json_option, note, print_json, print_line
from ledger_core.tlog.errors import UnavailableError


@click.command("fsck")
@directory_of(LEDGER, MIRROR, READER, BACKUP)
@click.option(
    "--strict",
    "is_strict",
    is_flag=True,
    help="Parse each entry as a verifier does, and build the index again. It takes much longer.",
)
@click.option(
    "--archive",
    "reads_archive",
    is_flag=True,
    help="Read the entries that left this disk from their archive, and check them too.",
)
@json_option
def command(directory: Path, is_strict: bool, reads_archive: bool, as_json: bool) -> int:
    """Check the log, tokens, private values, keys, settings, followers and index of DIRECTORY.

    DIRECTORY may be a backup. Recomputes every leaf hash, tile, id, bundle, root and signature.
    Reads snapshots, so the service may keep running. Of a reader of an archive, checks what is in
    DIRECTORY. Exit code 1: something is wrong.
    """
    paths = DirectoryPaths(directory)
    if kind_of(directory) is READER:
        return _check_reader(ReaderPaths(directory), as_json=as_json)
    if (directory / MANIFEST).exists():
        paths = backup_paths(directory)
    if not (paths.log / DATA_FILE).exists():
        raise UnavailableError(f"there is no ledger in {directory}: {paths.log} holds no data")
    with progress_bar("entries", is_quiet=as_json) as progress:
        findings = check_directory(
            paths, progress=progress, is_strict=is_strict, reads_archive=reads_archive
        )
    if findings.log is not None:
        with closing(open_log(paths.log, directory=paths.root)) as log:
            check_followers(paths, log, findings)
    _check_archives(paths, findings)
    _check_mirrors(paths, findings)
    _check_retention(paths, findings)
    if paths.mirror.exists():
        check_mirror(MirrorPaths(directory), findings)
    segments = None
    if findings.log is not None and paths.index.exists():
        with findings.part("index"):
            segments = _check_index(paths, is_strict=is_strict, is_quiet=as_json)
    _report(findings, segments, reads_archive=reads_archive, as_json=as_json)
    return EXIT_NOT_VERIFIED if findings.problems else 0


def _check_reader(paths: ReaderPaths, *, as_json: bool) -> int:
    findings = check_reader(paths)
    if as_json:
        print_json(
            {"tokens": findings.tokens, "problems": [each._asdict() for each in findings.problems]}
        )
    else:
        for part, problem in findings.problems:
            note(f"{part}: {problem}")
        if not findings.problems:
            said = counted(findings.tokens, "token")
            print_line(f"the files of the reader and {said} are in order")
    note(
        "its log is in the bucket: ledger verify-archive URL checks it, with the url of "
        f"{paths.config} and --policy {paths.ledger.policy}"
    )
    return EXIT_NOT_VERIFIED if findings.problems else 0


def _check_archives(paths: DirectoryPaths, findings: Findings) -> None:
    """Check the configuration of the archives, and the stored locks of their buckets."""
    with findings.part("archive.toml"):
        for name in read_archives(paths.root):
            with findings.part(f"{ARCHIVES}/{name}/lock.json"):
                read_kept_lock(FollowerPaths(paths.root, ARCHIVES, name))


def _check_mirrors(paths: DirectoryPaths, findings: Findings) -> None:
    """Check the configuration of the mirrors that the log is sent to."""
    with findings.part("mirrors.toml"):
        read_mirrors(paths.root)


def _check_retention(paths: DirectoryPaths, findings: Findings) -> None:
    """Check those files of the retention that exist: policy, legal holds, a decision."""
    if paths.retention.exists():
        with findings.part(paths.retention.name):
            read_retention(paths.retention)
    with findings.part(paths.legal_holds.name):
        read_holds(paths)
    with findings.part(paths.pruning.name):
        check_pruned(paths)


def _check_index(paths: DirectoryPaths, *, is_strict: bool, is_quiet: bool) -> int | None:
    """The number of segments of the index that passed; None where none was checked."""
    with closing(open_log(paths.log, directory=paths.root)) as store:
        try:
            with progress_bar("segments", is_quiet=is_quiet) as progress:
                index = IndexStore(paths.index)
                return check_index(store, index, is_strict=is_strict, progress=progress)
        except OtherAnalysisError as error:
            note(str(error))
            return None


def _report(
    findings: Findings, segments: int | None, *, reads_archive: bool, as_json: bool
) -> None:
    log = findings.log
    if as_json:
        print_json(
            {
                "tree_size": None if log is None else log.head.tree_size,
                "root_hash": None if log is None else log.head.root_hash.hex(),
                "tiles": None if log is None else log.tiles,
                "checkpoints": None if log is None else log.checkpoints,
                "released": None if findings.release is None else findings.release._asdict(),
                "released_checked": reads_archive,
                "index_segments": segments,
                "tokens": findings.tokens,
                "private_values": findings.values,
                "problems": [each._asdict() for each in findings.problems],
            }
        )
        return
    for part, problem in findings.problems:
        note(f"{part}: {problem}")
    if (release := findings.release) is not None and not reads_archive:
        note(
            f"the entries below {release.end:,} are in the archive {release.archive!r} alone: only "
            "their hashes are checked here; --archive reads them"
        )
    if log is not None:
        entries = "1 entry" if log.head.tree_size == 1 else f"{log.head.tree_size:,} entries"
        print_line(
            f"{entries}, {counted(log.tiles, 'tile')} and "
            f"{counted(log.checkpoints, 'checkpoint')} agree; root {log.head.root_hash.hex()}"
        )
    if segments is not None:
        print_line(f"the index agrees: {counted(segments, 'sealed segment')}")
    if not findings.problems:
        print_line(
            f"{counted(findings.tokens, 'token')} and "
            f"{counted(findings.values, 'private value')} agree with the log"
        )
