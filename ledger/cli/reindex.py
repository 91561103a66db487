"""`ledger reindex`: rebuild the index from the log."""

from pathlib import Path

import click

from ledger.cli.folders import LEDGER, MIRROR, directory_of
from ledger.cli.options import progress_bar
from ledger.object_storage.open_log import open_log
from ledger.query.segment_builder import reindex
from ledger.service.data_dir import DirectoryPaths
from ledger_client.cli.console import json_option, print_json


@click.command("reindex")
@directory_of(LEDGER, MIRROR)
@json_option
def command(directory: Path, as_json: bool) -> None:
    """Rebuild the index of DIRECTORY from its log, while no service runs on it.

    The log is only read. A service rebuilds its index by itself when the rules of the index
    change.
    """
    paths = DirectoryPaths(directory)
    store = open_log(paths.log)
    try:
        with progress_bar("segments", is_quiet=as_json) as progress:
            segments = reindex(store, paths.index, progress=progress)
        tree_size = store.head().tree_size
    finally:
        store.close()
    if as_json:
        print_json({"segments": segments, "tree_size": tree_size})
        return
    click.echo(f"{segments} segments sealed, of {tree_size} entries")
