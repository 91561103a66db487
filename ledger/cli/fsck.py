"""`ledger fsck`: recompute a stored ledger and name the first thing that is wrong."""

import sys
from collections.abc import Callable
from pathlib import Path

import click

from ledger.query.segment_builder import check_index
from ledger.service.data_dir import DirectoryPaths
from ledger.store.fsck import Checked, check_store
from ledger.store.index.index_store import IndexStore
from ledger.store.index.roaring_containers import SEGMENT_ENTRIES_MAX
from ledger.store.log import LogStore
from ledger_client.cli.console import json_option, print_json
from ledger_core.tlog.policy import parse_policy


@click.command("fsck")
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@json_option
def command(directory: Path, as_json: bool) -> None:
    """Recompute every leaf hash, tile, id, bundle, root and signature of DIRECTORY.

    The index too, when there is one. It reads snapshots, so the service may go on running.
    """
    paths = DirectoryPaths(directory)
    policy = parse_policy(paths.policy.read_bytes())
    store = LogStore.open(paths.log)
    try:
        total = store.head().tree_size
        with click.progressbar(
            length=total,
            label="entries",
            file=sys.stderr,
            hidden=as_json or not sys.stderr.isatty(),
        ) as bar:
            checked = check_store(
                store,
                log_keys=[log.verifier for log in policy.logs],
                progress=advance(bar.update),
            )
        segments = _check_index(store, paths.index, quiet=as_json)
    finally:
        store.close()
    _report(checked, segments, as_json)


def _check_index(store: LogStore, path: Path, *, quiet: bool) -> int | None:
    """The number of segments of the index that passed; None where there is no index."""
    if not path.exists():
        return None
    index = IndexStore.open(path)
    try:
        total = store.head().tree_size // SEGMENT_ENTRIES_MAX
        with click.progressbar(length=total, label="segments", hidden=quiet) as bar:
            return check_index(store, index, progress=advance(bar.update))
    finally:
        index.close()


def advance(update: Callable[[int], None]) -> Callable[[int, int], None]:
    """A progress callback that turns absolute counts into steps."""
    before = 0

    def progress(done: int, _total: int) -> None:
        nonlocal before
        update(done - before)
        before = done

    return progress


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
        click.echo(f"the index agrees: {segments} segments")
