"""`ledger init`: make a ledger in a folder."""

import secrets
from pathlib import Path

import click

from ledger.cli.options import agent_key, agent_options
from ledger.service.data_dir import create_directory
from ledger_client.cli.client_options import NEW_FOLDER
from ledger_client.cli.console import json_option, print_fields, print_json
from ledger_client.runtime.files import read_limited
from ledger_core.tlog.keys import SEED_BYTES
from ledger_core.tlog.policy import POLICY_BYTES_MAX, parse_policy


@click.command("init")
@click.argument("directory", type=NEW_FOLDER)
@click.option(
    "--origin",
    required=True,
    help="The log's permanent name, a URL without a scheme: example.com/audit.",
)
@click.option(
    "--ml-dsa", is_flag=True, help="Also sign with ML-DSA-44, which resists quantum computers."
)
@agent_options
@json_option
def command(
    directory: Path,
    origin: str,
    ml_dsa: bool,
    ssh_agent: Path | None,
    ssh_key: Path | None,
    as_json: bool,
) -> None:
    """Make a ledger in DIRECTORY: its signing key, policy, settings and an empty log."""
    try:
        paths = create_directory(
            directory,
            origin=origin,
            seed=secrets.token_bytes(SEED_BYTES),
            key=agent_key(origin, ssh_agent, ssh_key),
            mldsa44_seed=secrets.token_bytes(SEED_BYTES) if ml_dsa else None,
        )
    except (FileExistsError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    logs = parse_policy(read_limited(paths.policy, POLICY_BYTES_MAX)).logs
    vkeys = [str(log.verifier) for log in logs]
    made = {"directory": str(directory), "origin": origin, "verifier_keys": vkeys}
    if as_json:
        print_json(made)
        return
    print_fields(
        {
            "ledger": directory,
            "origin": origin,
            "verifier key": vkeys[0],
            "signing key": f"{paths.key} (keep a copy offline; share it with nobody)"
            if ssh_agent is None
            else f"held by the agent at {ssh_agent}",
            "policy": f"{paths.policy} (give it to everybody who verifies)",
        }
    )
    click.echo(f"\nnext: ledger token create {directory} --name my-app --scope append --scope read")
