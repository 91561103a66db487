"""`ledger import`: append what files hold, and set aside what can't be taken."""

import sys
from pathlib import Path

import click

from ledger.cli.app import EXIT_REJECTED
from ledger.cli.connection import Connection, connection_options
from ledger.cli.importing import import_file
from ledger.cli.output import json_option, print_json
from ledger_client.importing import MAPPERS


@click.command("import")
@click.option("--format", "format_", type=click.Choice(tuple(MAPPERS)), required=True)
@click.argument(
    "files",
    metavar="FILE…",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
)
@connection_options
@json_option
def command(
    format_: str, files: tuple[Path, ...], connection: Connection, as_json: bool
) -> int | None:
    """Append the events of FILE…, plain or gzip, and verify each.

    A second import of the same file adds nothing. Lines that can't be taken are written to
    FILE.rejected.jsonl with the reason, and the exit code is 3.
    """
    with connection.open() as ledger:
        reports = [
            import_file(ledger, file, format_, quiet=as_json or not sys.stderr.isatty())
            for file in files
        ]
    if as_json:
        print_json(
            [
                {
                    "file": str(report.file),
                    "appended": report.appended,
                    "duplicates": report.duplicates,
                    "rejected": report.rejected,
                    "rejected_file": report.rejected_file and str(report.rejected_file),
                }
                for report in reports
            ]
        )
    else:
        for report in reports:
            report.print()
    return EXIT_REJECTED if any(report.rejected for report in reports) else None
