"""`ledger serve`: run the service. Every setting is a flag, a variable or a line of the file."""

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import click

from ledger.cli.folders import LEDGER, READER, check_kind, kind_of
from ledger.cli.options import log_options
from ledger.cli.reader import ReaderOptions, load_reader, prepare_reader, reader_options
from ledger.runtime.log_lines import configure_logs
from ledger.service.app import Serve, run_service
from ledger.service.data_dir import DirectoryPaths, open_tokens
from ledger.service.settings import SETTINGS, Settings, read_settings
from ledger.workers.app import serve
from ledger_client.cli.console import note
from ledger_client.runtime.files import read_utf8


def setting_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add a flag for every setting of the service."""
    for setting in reversed(SETTINGS):
        flag = f"{setting.flag}/--no-{setting.flag[2:]}" if setting.type is bool else setting.flag
        command = click.option(
            flag,
            setting.name,
            type=setting.type,
            default=None,
            help=f"{setting.help} [{setting.variable}; default: {setting.default}]",
        )(command)
    return command


@click.command("serve")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@reader_options
@setting_flags
@log_options
def command(
    directory: Path,
    reader: ReaderOptions,
    log_format: str,
    log_level: str,
    log_file: Path | None,
    **flags: Any,
) -> None:
    """Serve the ledger in DIRECTORY until Ctrl-C or SIGTERM.

    A flag wins over its variable, a variable over DIRECTORY/ledger.toml. With --read-only, serve an
    archive in a bucket instead, as docs/archive.md shows; DIRECTORY is made at the first start.
    """
    if kind_of(directory) not in (None, LEDGER, READER):
        check_kind(directory, (LEDGER, READER), "ledger serve")
    is_reader = prepare_reader(directory, reader)
    if not directory.is_dir():
        raise click.UsageError(f"there is no folder {directory}")
    check_kind(directory, (LEDGER, READER), "ledger serve")
    configure_logs(log_format, log_level, log_file)
    settings = read_serve_settings(directory, flags)
    scopes = "--scope read" if is_reader else "--scope append --scope read"
    note_missing_token(directory, settings, scopes=scopes)
    serve_by_flags(load_reader() if is_reader else serve, directory, settings, flags)


def serve_by_flags(
    serve: Serve, directory: Path, settings: Settings, flags: Mapping[str, Any]
) -> None:
    """Serve until a signal, and print the address; a reload reads the same flags."""
    run_service(
        serve,
        directory,
        settings,
        on_ready=lambda address: click.echo(f"serving on {address}"),
        read_settings=partial(read_serve_settings, directory, flags),
    )


def read_serve_settings(directory: Path, flags: Mapping[str, Any]) -> Settings:
    """The settings of a service from its flags, the environment and its folder."""
    paths = DirectoryPaths(directory)
    toml = read_utf8(paths.settings) if paths.settings.exists() else None
    return read_settings(toml=toml, environ=os.environ, flags=flags)


def note_missing_token(directory: Path, settings: Settings, *, scopes: str) -> None:
    """Say how a token is made when there is none."""
    with closing(open_tokens(DirectoryPaths(directory), settings)) as access:
        if access.is_empty():
            note(
                "there is no token yet, so nobody can append or read. Make one:\n"
                f"  ledger token create {directory} --name my-app {scopes}"
            )
