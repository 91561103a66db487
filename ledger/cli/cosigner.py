"""What `ledger witness` and `ledger tlog-mirror` share: keys, logs by their keys, and reports."""

import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click
import msgspec

from ledger.cli.folders import TLOG_MIRROR, WITNESS, directory_of
from ledger.cli.options import flags_of, log_options
from ledger.runtime.log_lines import configure_logs
from ledger.runtime.settings_table import Setting
from ledger.runtime.validation import explain_invalid
from ledger_client.cli.console import (
    counted,
    json_option,
    note,
    print_fields,
    print_json,
    print_line,
)
from ledger_client.runtime.server import run_until_signal
from ledger_core.event.times import format_time
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.errors import VerificationError
from ledger_core.tlog.keys import SEED_BYTES
from ledger_core.tlog.text import format_base64
from ledger_core.tlog.witness import cosigned_at

Command = TypeVar("Command", bound=Callable[..., Any])
Settings = TypeVar("Settings", bound=msgspec.Struct, contravariant=True)


class CosignerPaths(Protocol):
    """The places inside the folder of a witness, or of a mirror of logs."""

    @property
    def key(self) -> Path: ...


class Serve(Protocol[Settings]):
    """`serve` of a witness or of a mirror of logs."""

    def __call__(
        self,
        directory: Path,
        settings: Settings,
        *,
        stop: Any,
        on_ready: Callable[[str], None],
        reloads_at_hangup: bool,
    ) -> Awaitable[None]: ...


def log_keys_options(command: Command) -> Command:
    """Add the options that name a log: its keys, `vkeys`, and its `origin`."""
    command = click.option(
        "--origin", help="The log's origin. Default: the name of the first key."
    )(command)
    return click.option(
        "--vkey", "vkeys", multiple=True, required=True, help="A key of the log; repeatable."
    )(command)


def make_cosigner(
    kind: str,
    directory: Path,
    name: str,
    algorithms: Iterable[int],
    create: Callable[[Path, Sequence[CosignatureSigner]], CosignerPaths],
    *,
    as_json: bool,
) -> None:
    """Make a key of each algorithm, create the folder, and print the public keys.

    `kind` is the name of its command: `witness`. Raises: click.UsageError for a folder that is in
    use, and for a name that no key can have.
    """
    try:
        signers = [
            CosignatureSigner.generate(
                name, algorithm=algorithm, seed=secrets.token_bytes(SEED_BYTES)
            )
            for algorithm in algorithms
        ]
        key = create(directory, signers).key
    except (FileExistsError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    vkeys = [str(signer.verifier) for signer in signers]
    if as_json:
        print_json({"directory": str(directory), "name": name, "verifier_keys": vkeys})
        return
    print_fields({kind.removeprefix("tlog-"): directory, "keys": key})
    # Each alone on its line, to be copied into policies.
    click.echo("\n".join(vkeys))
    click.echo(err=True)
    note(f"next: ledger {kind} add-log {directory} --vkey LOG_VKEY")


def add_serve(
    group: click.Group, serve: Serve[Settings], type_: type[Settings], table: Sequence[Setting]
) -> None:
    """Add `serve` to the commands of a group. `table` has the flags, `type_` their limits."""

    kind = (group.name or "").removeprefix("tlog-")

    @group.command("serve", help=f"Serve the {kind} in DIRECTORY until Ctrl-C or SIGTERM.")
    @directory_of(WITNESS if kind == "witness" else TLOG_MIRROR)
    @flags_of(table)
    @log_options
    @json_option
    def command(
        directory: Path,
        log_format: str,
        log_level: str,
        log_file: Path | None,
        as_json: bool,
        **settings: Any,
    ) -> None:
        configure_logs(log_format, log_level, log_file)
        try:
            checked = msgspec.convert(settings, type_)
        except msgspec.ValidationError as error:
            raise click.UsageError(explain_invalid(error, type_)) from None

        def ready(address: str) -> None:
            if as_json:
                print_json({"address": address})
            else:
                click.echo(f"serving on {address}")

        run_until_signal(
            lambda stop: serve(
                directory, checked, stop=stop, on_ready=ready, reloads_at_hangup=True
            )
        )


def report_check(logs: int, problems: Sequence[str], what: str, *, as_json: bool) -> None:
    """Print what a check of so many logs found. Raises: VerificationError with the problems."""
    if as_json:
        print_json({"logs": logs, "problems": problems})
    if problems:
        raise VerificationError("\n".join(problems))
    if not as_json:
        print_line(f"{counted(logs, 'log')}: {what} agree")


def report_logs(
    kind: str,
    directory: Path,
    vkeys: Sequence[str],
    logs: Sequence[Mapping[str, Any]],
    *,
    as_json: bool,
) -> None:
    """Print the keys, and each log with its `verifier_keys` and what else is known of it."""
    if as_json:
        print_json({"verifier_keys": vkeys, "logs": logs})
        return
    click.echo("\n".join(vkeys))
    for log in logs:
        click.echo()
        print_fields({**log, "verifier_keys": " ".join(log["verifier_keys"])})
    if not logs:
        note(f"no log is known yet; add one: ledger {kind} add-log {directory} --vkey LOG_VKEY")


def described_head(head: SignedCheckpoint | None) -> dict[str, object]:
    """The head that was cosigned last, if one was."""
    if head is None:
        return {}
    return {
        "tree_size": head.head.tree_size,
        "root_hash": format_base64(head.head.root_hash),
        "cosigned_at": format_time(cosigned_at(head) * 1_000_000),
    }
