"""`ledger fsck`: recompute a stored ledger and name the first thing that is wrong."""

from pathlib import Path

import click

from ledger.cli.options import directory_argument, progress_bar
from ledger.query.segment_builder import OtherAnalysisError, check_index
from ledger.service.data_dir import DirectoryPaths
from ledger.store.fsck import Checked, check_store
from ledger.store.index.index_store import IndexStore
from ledger.store.log import LogStore
from ledger_client.cli.console import json_option, note, print_json
from ledger_core.tlog.policy import parse_policy


@click.command("fsck")
@directory_argument
@json_option
def command(directory: Path, as_json: bool) -> None:
    """Recompute every leaf hash, tile, id, bundle, root and signature of DIRECTORY.

    Checks the index too, if there is one. Reads snapshots, so the service may keep running.
    """
    paths = DirectoryPaths(directory)
    policy = parse_policy(paths.policy.read_bytes())
    store = LogStore.open(paths.log)
    try:
        with progress_bar("entries", is_quiet=as_json) as progress:
            log_keys = [log.verifier for log in policy.logs]
            checked = check_store(store, log_keys=log_keys, progress=progress)
        segments = _check_index(store, paths.index, is_quiet=as_json)
    finally:
        store.close()
    _report(checked, segments, as_json)


def _check_index(store: LogStore, path: Path, *, is_quiet: bool) -> int | None:
    """The number of segments of the index that passed; None where none was checked."""
    if not path.exists():
        return None
    try:
        with progress_bar("segments", is_quiet=is_quiet) as progress:
            return check_index(store, IndexStore(path), progress=progress)
    except OtherAnalysisError as error:
        note(str(error))
        return None


def _report(checked: Checked, segments: int | None, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "tree_size": checked.head.tree_size,
                "root_hash": checked.head.root_hash.hex(),
                "tiles": checked.tiles,
                "checkpoints": checked.checkpoints,
                "index_segments": segments,
            }
        )
        return
    click.echo(
        f"{checked.head.tree_size} entries, {checked.tiles} tiles and {checked.checkpoints} "
        f"checkpoints agree; root {checked.head.root_hash.hex()}"
    )
    if segments is not None:
        click.echo(f"the index agrees: {segments} sealed segments")
