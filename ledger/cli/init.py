"""`ledger init`: make a ledger in a folder."""

import secrets
from pathlib import Path

import click

from ledger.cli.output import json_option, print_fields, print_json
from ledger.service.directory import create_directory


@click.command("init")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--origin",
    required=True,
    help="The log's name for ever, a URL without a scheme: example.com/audit.",
)
@json_option
def command(directory: Path, origin: str, as_json: bool) -> None:
    """Make a ledger in DIRECTORY: its signing key, policy, settings and an empty log."""
    try:
        paths = create_directory(directory, origin=origin, seed=secrets.token_bytes(32))
    except (FileExistsError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    vkey = next(
        line.split()[1]
        for line in paths.policy.read_text(encoding="utf-8").splitlines()
        if line.startswith("log ")
    )
    made = {"directory": str(directory), "origin": origin, "verifier_key": vkey}
    if as_json:
        print_json(made)
        return
    print_fields(
        {
            "ledger": directory,
            "origin": origin,
            "verifier key": vkey,
            "signing key": f"{paths.key} (keep a copy offline; nobody else needs it)",
            "policy": f"{paths.policy} (give it to whoever verifies)",
        }
    )
    click.echo(f"\nnext: ledger token create {directory} --name my-app --scope append --scope read")
