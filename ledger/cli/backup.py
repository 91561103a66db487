"""`ledger backup` and `ledger restore`: copy a ledger's folder, also while it is served."""

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from ledger.cli.folders import BACKUP, LEDGER, MIRROR, check_kind, directory_of
from ledger.cli.options import progress_bar
from ledger.cli.place_options import SCHEMES, make_place, place_options
from ledger.object_storage.open_log import open_log
from ledger.object_storage.place import Place
from ledger.service.backup import (
    ERASURE_RULES,
    KEY_FILES,
    Copied,
    Progress,
    back_up,
    backup_paths,
    erase_only,
    restore,
)
from ledger.service.backup_erasures import PRUNED_ADVICE
from ledger.service.data_dir import DirectoryPaths
from ledger.service.fsck import check_directory
from ledger.service.operator_events import record_act
from ledger.store.log_start import check_right_edge
from ledger_client.cli.client_options import EXISTING_FILE, NEW_FOLDER
from ledger_client.cli.console import counted, json_option, note, print_json, print_line
from ledger_client.runtime.clock import unix_us
from ledger_client.runtime.files import read_limited
from ledger_core.event.times import format_time
from ledger_core.tlog.errors import UnavailableError, VerificationError
from ledger_core.tlog.policy import POLICY_BYTES_MAX


@click.command("backup")
@directory_of(LEDGER, MIRROR)
@click.argument("to", type=NEW_FOLDER)
@click.option(
    "--with-keys",
    is_flag=True,
    help="Copy the signing key and private.key too. Whoever has such a backup can sign heads and "
    "open private values.",
)
@click.option(
    "--erasures",
    type=click.Choice(ERASURE_RULES),
    default="follow",
    show_default=True,
    help="follow: copy private values, and destroy in TO what was erased. only: copy nothing, "
    "destroy in an older backup what was erased since. exclude: copy no private value.",
)
@click.option(
    "--verify",
    type=click.Choice(("all", "added")),
    default="all",
    show_default=True,
    help="Read all of the copy again afterwards, or only compare its root with the ledger's.",
)
@json_option
def backup(
    directory: Path, to: Path, with_keys: bool, erasures: str, verify: str, as_json: bool
) -> None:
    """Back the ledger in DIRECTORY up to TO, while the service runs or not.

    All parts are of one point in time. The first run copies everything, each later one adds what
    is new. Run it as the user of the service.
    """
    if to.resolve() == directory.resolve():
        raise click.UsageError("DIRECTORY and TO are one folder")
    if erasures == "only":
        done = erase_only(directory, to)
        record_act(
            DirectoryPaths(directory),
            "ledger.backup.erased",
            context={"to": str(to.resolve()), "values": done.erased},
        )
        if done.keeps_pruned:
            raise UnavailableError(
                f"{to}: {counted(done.erased, 'value')} erased, as far as the ledger has the "
                f"events; {PRUNED_ADVICE}"
            )
        _report(as_json, done, f"{to}: {counted(done.erased, 'value')} erased")
        return
    with progress_bar("entries", is_quiet=as_json) as progress:
        done = back_up(
            directory,
            to,
            made=format_time(unix_us()),
            with_keys=with_keys,
            with_private=erasures == "follow",
            progress=progress,
        )
    _verify(backup_paths(to), is_whole=verify == "all", is_quiet=as_json)
    # Behind the copy: the event is about it, and not in it.
    record_act(
        DirectoryPaths(directory),
        "ledger.backup.made",
        context={"to": str(to.resolve()), "with_keys": with_keys, "erasures": erasures},
    )
    _report(as_json, done, f"{to}: {_size(done)}, {done.entries:,} of them new; verified")
    _note_released(to)
    if not with_keys:
        note(f"not in it: {', '.join(KEY_FILES)}; keep a copy of each at another place")


class _Source(click.Path):
    """A folder with a backup, or the address of an archive."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | Path:
        if str(value).startswith(SCHEMES):
            return str(value)
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        check_kind(path, (BACKUP,), "ledger restore")
        return path


@click.command("restore")
@click.argument("source", type=_Source(path_type=Path, exists=True, file_okay=False))
@click.argument("directory", type=NEW_FOLDER)
@click.option("--key", type=EXISTING_FILE, help="The signing key, where the backup has none.")
@click.option("--private-key", type=EXISTING_FILE, help="private.key, where the backup has none.")
@click.option(
    "--erasures",
    type=click.Path(exists=True, path_type=Path),
    help="A newer ledger or backup, or the file of `ledger export "
    "action:ledger.private.erased`: what was erased after the backup was made "
    "is erased in DIRECTORY too.",
)
@click.option(
    "--complete",
    "is_complete",
    is_flag=True,
    help="Nothing was appended after the backup was made: take events at once. Otherwise the "
    "ledger takes none until `ledger recover`.",
)
@click.option(
    "--policy", type=EXISTING_FILE, help="Of an archive: the policy that its head must meet."
)
@place_options
@json_option
def restore_(
    source: Path | str,
    directory: Path,
    key: Path | None,
    private_key: Path | None,
    erasures: Path | None,
    is_complete: bool,
    policy: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Make a ledger in DIRECTORY, a new folder, from SOURCE, and verify it.

    SOURCE is the folder of a backup, or an archive: s3://bucket/prefix, https://…, file:///…. An
    archive has the entries alone: no key, no token and no private value.
    """
    try:
        with progress_bar("entries", is_quiet=as_json) as progress:
            if isinstance(source, str):
                if policy is None or private_key or erasures:
                    raise click.UsageError(
                        "an archive needs --policy, and has nothing for --private-key and "
                        "--erasures"
                    )
                done = _restore_archive(
                    make_place(source, given),
                    directory,
                    read_limited(policy, POLICY_BYTES_MAX),
                    key=key,
                    is_complete=is_complete,
                    progress=progress,
                )
            else:
                done = restore(
                    source,
                    directory,
                    key=key,
                    private_key=private_key,
                    erasures=erasures,
                    is_complete=is_complete,
                    progress=progress,
                )
    except FileExistsError as error:
        raise click.UsageError(str(error)) from None
    paths = DirectoryPaths(directory)
    _verify(paths, is_whole=True, is_quiet=as_json)
    _report(as_json, done, f"{directory}: {_size(done)}, {done.erased:,} values erased; verified")
    _note_released(directory)
    for path in (paths.key, paths.private_key):
        if not path.exists():
            note(f"put your copy of {path.name} at {path}, with the mode 0600, before you serve it")
    if not paths.digest_key.exists():
        note(
            f"put your copy of digest.key at {paths.digest_key} too; otherwise the service makes a "
            "new one, which gives other digests"
        )
    if not is_complete:
        note(f"it takes no events yet; next: ledger recover {directory}")


def _restore_archive(
    place: Place,
    directory: Path,
    policy: bytes,
    *,
    key: Path | None,
    is_complete: bool,
    progress: Progress,
) -> Copied:
    from ledger.archive.restore import restore_archive  # Needs the extra `archive`.

    now = format_time(unix_us())
    restored = restore_archive(
        place, directory, policy, key=key, is_complete=is_complete, now=now, progress=progress
    )
    return Copied(restored.head, restored.entries, 0)


def _verify(paths: DirectoryPaths, *, is_whole: bool, is_quiet: bool) -> None:
    if not is_whole:
        with closing(open_log(paths.log)) as store:
            check_right_edge(store)
        return
    with progress_bar("verified", is_quiet=is_quiet) as progress:
        problems = check_directory(paths, progress=progress).problems
    if problems:
        raise VerificationError("\n".join(f"{part}: {problem}" for part, problem in problems))


def _note_released(folder: Path) -> None:
    """Say what a backup or a ledger made of one lacks, since it is in an archive."""
    with closing(open_log(folder / "log")) as log:
        release = log.release()
    if release is not None and release.end > log.minimum_index:
        note(
            f"not in it: the entries below {release.end:,}, which are in the archive "
            f"{release.archive!r} of archive.toml alone, and are read from there"
        )


def _size(done: Copied) -> str:
    return "1 entry" if done.head.tree_size == 1 else f"{done.head.tree_size:,} entries"


def _report(as_json: bool, done: Copied, text: str) -> None:
    if not as_json:
        print_line(text)
        return
    print_json(
        {
            "tree_size": done.head.tree_size,
            "root_hash": done.head.root_hash.hex(),
            "entries_copied": done.entries,
            "values_erased": done.erased,
        }
    )
