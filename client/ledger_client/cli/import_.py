"""`ledger import`: append what files hold, and set aside what can't be taken."""

import sys
from pathlib import Path

import click

from ledger_client.cli.app import EXIT_REJECTED
from ledger_client.cli.client_options import Connection, connection_options
from ledger_client.cli.console import json_option, print_json
from ledger_client.cli.file_import import import_file, rehearse_file
from ledger_client.collect.importers import FORMATS, Format, load_format, load_format_file


@click.command("import")
@click.option("--format", "format_name", type=click.Choice(FORMATS), help="A format we know.")
@click.option(
    "--mapping",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A mapping file of your own, for any other JSON (docs/importers.md).",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the events and what they leave over; no ledger is needed.",
)
@click.argument(
    "files",
    metavar="FILE…",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True),
)
@connection_options
@json_option
def command(
    format_name: str | None,
    mapping: Path | None,
    dry_run: bool,
    files: tuple[Path, ...],
    connection: Connection,
    as_json: bool,
) -> int | None:
    """Append the events of FILE…, plain or gzip, and verify each; `-` is standard input.

    A second import of the same file adds nothing. Records that can't be taken are written to
    FILE.rejected.jsonl with the reason, and the exit code is 3.
    """
    format_ = _chosen(format_name, mapping)
    if dry_run:
        return _rehearse(files, format_, as_json=as_json)
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


def _chosen(format_name: str | None, mapping: Path | None) -> Format:
    if format_name and not mapping:
        return load_format(format_name)
    if mapping and not format_name:
        return load_format_file(mapping)
    raise click.UsageError("Either --format or --mapping is wanted.")


def _rehearse(files: tuple[Path, ...], format_: Format, *, as_json: bool) -> int | None:
    rehearsals = [rehearse_file(file, format_, as_json=as_json) for file in files]
    for rehearsal in rehearsals:
        rehearsal.print()
    return EXIT_REJECTED if any(rehearsal.rejected for rehearsal in rehearsals) else None
