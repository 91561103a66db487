"""`ledger archive`: the buckets of a ledger; `ledger verify-archive`: check one."""

import asyncio
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ledger.archive.worker import read_kept_lock
from ledger.cli.archive_changes import LOCK_WAIT_S, add, bucket_facts, bucket_fields, remove
from ledger.cli.archive_move import move_released, read_back
from ledger.cli.folders import LEDGER, MIRROR, directory_of
from ledger.cli.followers import (
    find_follower,
    log_size,
    note_none,
    progress_row,
    record_follower,
    state_line,
)
from ledger.cli.options import progress_bar
from ledger.cli.place_options import make_place, place_options
from ledger.follow.position import FollowerPaths, FollowerReport, read_report, set_rewind
from ledger.object_storage.config import (
    KIND,
    ArchiveConfig,
    archives_path,
    is_releasing,
    read_archives,
)
from ledger.object_storage.open_log import open_log, open_writer
from ledger.object_storage.releasable import lock_releases
from ledger.service.data_dir import DirectoryPaths
from ledger.service.releasing import next_release
from ledger.store.compaction import check_unused, compact
from ledger.store.log import LogStore
from ledger.store.log_start import check_right_edge
from ledger_client import OlderHeadError
from ledger_client.cli.client_options import NEW_FILE, required_policy_option
from ledger_client.cli.console import (
    counted,
    format_second,
    json_option,
    note,
    print_fields,
    print_json,
    print_line,
    print_result,
)
from ledger_client.runtime.files import read_limited
from ledger_client.state_file import StateFile
from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.policy import POLICY_BYTES_MAX, VerifiedHead, parse_policy
from ledger_core.tlog.text import format_base64
from ledger_core.tlog.trust import check_anchor

if TYPE_CHECKING:  # These need the extra `archive`, which only some commands do.
    from ledger.archive.check import ArchiveReport
    from ledger.archive.reader import ArchiveReader


@click.group("archive")
def command() -> None:
    """Keep a copy of a log in a bucket: how far it is, and whether it can be deleted."""


command.add_command(add)


@command.command("list")
@directory_of(LEDGER, MIRROR)
@json_option
def list_(directory: Path, as_json: bool) -> None:
    """Show each archive: how far it is, and what hinders it. `status` shows more."""
    rows = _rows(directory)
    if not rows:
        _say_none(directory, as_json=as_json)
    if as_json:
        print_json([row for _, row in rows])
        return
    for report, row in rows:
        print_line(f"{row['name']}  {row['url']}  {_behind(row)}  {state_line(report)}")


def _say_none(directory: Path, *, as_json: bool) -> None:
    hint = f"no archive yet; add one: ledger archive add {directory} NAME --url s3://…"
    note_none(directory, archives_path(directory), otherwise=hint, as_json=as_json)


def _behind(row: dict[str, Any]) -> str:
    entries = "1 entry" if row["lag"] == 1 else f"{row['lag']:,} entries"
    return f"{entries} behind" if row["lag"] else "at the end"


@command.command("status")
@directory_of(LEDGER, MIRROR)
@json_option
def status(directory: Path, as_json: bool) -> None:
    """Show each archive: how far it is, the lock of its bucket, and what hinders it."""
    rows = [row for _, row in _rows(directory)]
    if not rows:
        _say_none(directory, as_json=as_json)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        print_line(f"{row['name']}  {row['url']}  {_behind(row)}")
        print_line(f"  lock: {row['lock'] or 'not asked yet: is the service running?'}")
        if row["released_end"]:
            print_line(f"  entries below {row['released_end']:,} are in this archive alone")
        if row["error"]:
            since = format_second(row["error_since_unix_s"] or 0)
            print_line(f"  fails since {since}: {row['error']}")


def _rows(directory: Path) -> list[tuple[FollowerReport, dict[str, Any]]]:
    """The report on each archive, and what is shown of it."""
    archives = read_archives(directory)
    size = log_size(directory)
    with closing(open_log(directory / "log")) as log:
        released = log.release()
    rows = []
    for name, config in archives.items():
        report = read_report(directory, KIND, name)
        lock = read_kept_lock(FollowerPaths(directory, KIND, name))
        row = {
            "name": name,
            "url": config.url,
            **progress_row(report, size),
            "lock": None if lock is None else str(lock),
            "locked": lock is not None and lock.is_safe,
            "released_end": released.end if released and released.archive == name else 0,
        }
        rows.append((report, row))
    return rows


@command.command("test")
@directory_of(LEDGER, MIRROR)
@click.argument("name")
@json_option
def test(directory: Path, name: str, as_json: bool) -> None:
    """Try the bucket of an archive: credentials, conditional writes, object lock, what is there.

    It writes the small objects `probe` and `archive.json` if they aren't there; no entry.
    """
    from ledger.archive.trial import try_bucket

    config = _config(directory, name)
    found = try_bucket(directory, name, config)
    print_result(
        as_json,
        {"name": name, "url": config.url, **bucket_facts(found)},
        bucket_fields(config, found),
    )


@command.command("rewind")
@directory_of(LEDGER, MIRROR)
@click.argument("name")
@click.option("--to", type=click.IntRange(min=0), default=0, show_default=True)
@json_option
def rewind(directory: Path, name: str, to: int, as_json: bool) -> None:
    """Upload what the bucket lacks from an entry on; what is there is compared."""
    _config(directory, name)
    paths = FollowerPaths(directory, KIND, name)
    size = log_size(directory)
    if to > size:
        raise click.UsageError(f"--to: want an index up to {size}, got {to}")
    paths.make()
    set_rewind(paths, to)
    record_follower(directory, KIND, "rewound", name, to=to)
    said = f"archive {name!r} begins again at entry {to:,} while the service runs"
    if as_json:
        print_json({"name": name, "next_index": to})
    else:
        note(said)


command.add_command(remove)
command.add_command(move_released)


@command.command("release")
@directory_of(LEDGER, MIRROR)
@click.argument("name")
@click.option(
    "--compact",
    "is_compacting",
    is_flag=True,
    help="Then write the file of the log anew, without free pages. It needs room for a copy.",
)
@json_option
def release(directory: Path, name: str, is_compacting: bool, as_json: bool) -> None:
    """Let old entries leave this disk, as retain_local_segments says, while the service is stopped.

    A running service does so by itself. Each entry is read back from the bucket before it goes.
    """
    config = _config(directory, name)
    if not is_releasing(config):
        raise click.UsageError(f"{name}: retain_local_segments is not set in archive.toml")
    paths = DirectoryPaths(directory)
    if is_compacting:
        check_unused(paths.log)
    with closing(open_writer(paths.log)) as writer:
        log = writer.store
        before = log.local_start()
        asyncio.run(read_back(directory, name, log, config))
        with lock_releases(directory, wait_s=LOCK_WAIT_S):
            while (prepared := next_release(paths, log)) is not None:
                writer.release(prepared)
        after = log.local_start()
        if is_compacting:
            compact(log.environment, check=_check_copy)
    if as_json:
        print_json({"name": name, "released": after - before, "local_start": after})
        return
    note(
        f"{after - before:,} entries left this disk: those below {after:,} are in the archive "
        f"{name!r}"
    )


def _check_copy(draft: Path) -> None:
    with closing(LogStore.open(draft)) as copy:
        check_right_edge(copy)


def _config(directory: Path, name: str) -> ArchiveConfig:
    return find_follower(KIND, read_archives(directory), name)


@click.command("verify-archive")
@click.argument("url", metavar="URL")
@required_policy_option
@click.option(
    "--state",
    type=NEW_FILE,
    help="A file that remembers the head: the next check refuses an older or another one.",
)
@place_options
@json_option
def verify(url: str, policy: Path, state: Path | None, as_json: bool, **given: Any) -> None:
    """Check a whole archive at s3://…, https://… or file:///…, from that alone.

    Every tile and every bundle must have the root of a head that meets the policy. Exit code 1:
    something is missing or damaged, and is named. Without --state nobody can tell an older archive
    that somebody put back.
    """
    from ledger.archive.check import ArchiveCheck, ArchiveReport
    from ledger.archive.reader import ArchiveReader
    from ledger.object_storage.object_store import Bucket

    parsed = parse_policy(read_limited(policy, POLICY_BYTES_MAX))
    kept = None
    if state is not None:
        kept = StateFile(state, policy=parsed, monotonic_s=time.monotonic)
    bucket = Bucket(make_place(url, given))

    async def run() -> ArchiveReport:
        reader = ArchiveReader(bucket, parsed)
        head = await reader.head()
        if kept is not None:
            await _check_known(reader, head, kept)
        with progress_bar("bundles", is_quiet=as_json) as progress:
            return await ArchiveCheck(reader, head, progress=progress).run()

    report = asyncio.run(run())
    _show(report, bucket.requests["get"], as_json=as_json)
    if report.faults.total:
        raise VerificationError(f"{counted(report.faults.total, 'object')} missing or damaged")
    if kept is not None:
        kept.save(report.head.note)


async def _check_known(reader: "ArchiveReader", head: VerifiedHead, state: StateFile) -> None:
    """Check that an archive goes on from the head of the check before.

    Raises: OlderHeadError for an older archive, VerificationError for another history.
    """
    note_before = state.load()
    if note_before is None:
        return
    before = check_anchor(note_before, reader.policy).checkpoint
    if head.checkpoint.tree_size < before.tree_size:
        raise OlderHeadError(
            f"the archive ends at {head.checkpoint.tree_size:,} entries, and had "
            f"{before.tree_size:,} at the check before: somebody put an older one back"
        )
    if await reader.head_at(head, before.tree_size) != before.head:
        raise VerificationError(
            f"the archive is not the one of the check before: two roots at {before.tree_size:,}",
            evidence={"before.note": note_before.encode(), "now.note": head.note.encode()},
        )


def _show(report: "ArchiveReport", requests: int, *, as_json: bool) -> None:
    checkpoint = report.head.checkpoint
    existed = report.head.existed_before_unix_s
    if as_json:
        print_json(
            {
                "verified": not report.faults.total,
                "origin": checkpoint.origin,
                "tree_size": checkpoint.tree_size,
                "root_hash": format_base64(checkpoint.root_hash),
                "existed_before_unix_s": existed,
                "bundles": report.bundles,
                "tiles": report.tiles,
                "index_segments": report.index_segments,
                "other_index_segments": report.other_segments,
                "id_tables": report.id_tables,
                "parquet_files": report.parquet_files,
                "requests": requests,
                "faults": report.faults.first,
                "faults_total": report.faults.total,
            }
        )
        return
    for fault in report.faults.lines():
        note(fault)
    if not report.faults.total:
        click.secho("verified", fg="green", bold=True)
    no_proof = "whole; their content is no proof"
    print_fields(
        {
            "log": checkpoint.origin,
            "entries": f"{checkpoint.tree_size:,}",
            "root hash": format_base64(checkpoint.root_hash),
            "existed before": None if existed is None else format_second(existed),
            "objects": f"{report.bundles:,} bundles, {report.tiles:,} tiles",
            "index": f"{counted(report.index_segments, 'segment')}, {no_proof}"
            + (f"; {report.other_segments} by other rules" if report.other_segments else ""),
            "ids": f"{counted(report.id_tables, 'table')}, {no_proof}",
            "parquet": f"{counted(report.parquet_files, 'file')}, {no_proof}",
        }
    )
