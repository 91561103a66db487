"""`ledger signer`: signs for a ledger with the keys of a PKCS#11 token."""

import signal
import threading
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from ledger.cli.options import log_options
from ledger.runtime.encrypted_keys import read_passphrase
from ledger.runtime.log_lines import configure_logs
from ledger.runtime.ssh_agent import format_public_key
from ledger.runtime.systemd import notify_ready
from ledger.signer.agent import SigningAgent
from ledger.signer.pkcs11_token import Pkcs11Token
from ledger_client.cli.client_options import EXISTING_FILE
from ledger_client.cli.console import counted, json_option, note, print_json

PIN_BYTES_MIN = 4
_ENDS = frozenset({signal.SIGTERM, signal.SIGINT})


def _token_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that name a token; the command gets the opened one."""

    @click.option(
        "--module", required=True, type=EXISTING_FILE, help="The PKCS#11 module of the token."
    )
    @click.option("--token", "label", required=True, help="The label of the token.")
    @click.option(
        "--pin-file",
        required=True,
        type=EXISTING_FILE,
        help="A file whose first line is the PIN, which its owner alone may read.",
    )
    @wraps(command)
    def opened(module: Path, label: str, pin_file: Path, **others: Any) -> None:
        pin = read_passphrase(pin_file, bytes_min=PIN_BYTES_MIN, what="PIN").decode()
        command(Pkcs11Token(module, label=label, pin=pin), **others)

    return opened


@click.group("signer")
def command() -> None:
    """Sign for a ledger with the keys of a PKCS#11 token, in a process of its own."""


@command.command("keys")
@_token_options
@json_option
def keys(token: Pkcs11Token, as_json: bool) -> None:
    """Print the Ed25519 keys of the token, each as the line of a file NAME.pub."""
    lines = [format_public_key(public_key, label) for public_key, label in token.keys().items()]
    if as_json:
        print_json({"keys": lines})
        return
    for line in lines:
        click.echo(line)


@command.command("serve")
@click.option(
    "--socket",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    help="Where to listen. Whoever may open it may have anything signed.",
)
@_token_options
@log_options
def serve(
    token: Pkcs11Token, path: Path, log_format: str, log_level: str, log_file: Path | None
) -> None:
    """Answer on a socket as an ssh-agent does, until Ctrl-C or SIGTERM.

    Name the socket in ledger init --ssh-agent, or in ledger key rotate --ssh-agent.
    """
    configure_logs(log_format, log_level, log_file)
    agent = SigningAgent(path, token)
    # Blocked in all threads: a handler does not wake a main thread that is about to wait.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
    threading.Thread(target=agent.serve, daemon=True).start()
    click.echo(f"serving on {path}")
    note(counted(len(token.keys()), "key"))
    notify_ready(f"serving on {path}")
    signal.sigwait(_ENDS)
    agent.stop()
    token.close()
