"""`ledger serve`: run the service. Every setting is a flag, a variable or a line of the file."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ledger.cli.options import configure_logs, directory_argument, log_options
from ledger.service.app import run
from ledger.service.data_dir import DirectoryPaths, open_tokens
from ledger.service.settings import SETTINGS, read_settings
from ledger_client.cli.console import note


def _setting_flags(command: Callable[..., None]) -> Callable[..., None]:
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
@directory_argument
@_setting_flags
@log_options
def command(directory: Path, log_format: str, log_level: str, **flags: Any) -> None:
    """Serve the ledger in DIRECTORY until Ctrl-C or SIGTERM.

    A flag wins over its variable, a variable over DIRECTORY/ledger.toml.
    """
    configure_logs(log_format, log_level)
    paths = DirectoryPaths(directory)
    toml = paths.settings.read_text(encoding="utf-8") if paths.settings.exists() else None
    settings = read_settings(toml=toml, environ=os.environ, flags=flags)
    access = open_tokens(paths, settings)
    try:
        if access.is_empty():
            note(
                "there is no token yet, so nobody can append or read. Make one:\n"
                f"  ledger token create {directory} --name my-app --scope append --scope read"
            )
    finally:
        access.close()

    def ready(address: str) -> None:
        click.echo(f"serving on {address}")

    run(directory, settings, on_ready=ready)
