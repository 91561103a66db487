"""`ledger reindex`: make the index anew from the log."""

from pathlib import Path

import click

from ledger.cli.fsck import advance
from ledger.query.segment_builder import reindex
from ledger.service.data_dir import DirectoryPaths
from ledger.store.log import LogStore
from ledger_client.cli.console import json_option, print_json


@click.command("reindex")
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@json_option
def command(directory: Path, as_json: bool) -> None:
    """Make the index of DIRECTORY anew from its log, while no service runs on it.

    A service does so by itself when the rules of the index change. Nothing is lost with an index:
    it is made from the log, which is only read.
    """
    paths = DirectoryPaths(directory)
    store = LogStore.open(paths.log)
    try:
        with click.progressbar(length=0, label="segments", hidden=as_json) as bar:

            def progress(done: int, total: int) -> None:
                bar.length = total
                step(done, total)

            step = advance(bar.update)
            segments = reindex(store, paths.index, progress=progress)
        tree_size = store.head().tree_size
    finally:
        store.close()
    if as_json:
        print_json({"segments": segments, "tree_size": tree_size})
        return
    click.echo(f"{segments} segments sealed, of {tree_size} entries")
