"""`ledger witness`: run a witness, which cosigns the heads of other people's logs."""

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import click
import msgspec

from ledger.cli.options import directory_argument, flags_of, log_options
from ledger.runtime.log_lines import configure_logs
from ledger.runtime.validation import explain_invalid
from ledger.store.environment import LmdbError
from ledger.witness.app import serve as serve_witness
from ledger.witness.data_dir import WitnessPaths, create_witness, read_signers
from ledger.witness.known_log import KnownLog
from ledger.witness.log_lists import add_logs
from ledger.witness.settings import WITNESS_SETTINGS, WitnessSettings
from ledger.witness.store import HeadStore
from ledger_client.cli.app import EXIT_REJECTED
from ledger_client.cli.client_options import NEW_FOLDER
from ledger_client.cli.console import (
    counted,
    json_option,
    note,
    print_fields,
    print_json,
    print_line,
    print_result,
)
from ledger_client.runtime.server import run_until_signal
from ledger_core.event.times import format_time
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.cosignature import CosignatureSigner, parse_verifier
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.keys import ED25519_COSIGNATURE, MLDSA44_COSIGNATURE, SEED_BYTES
from ledger_core.tlog.text import format_base64
from ledger_core.tlog.witness import cosigned_at

_setting_flags = partial(flags_of, WITNESS_SETTINGS)


@click.group("witness")
def command() -> None:
    """Run a witness: it cosigns a log's head only if that extends the last one."""


@command.command("init")
@click.argument("directory", type=NEW_FOLDER)
@click.option(
    "--name",
    required=True,
    help="The witness's permanent name, a URL without a scheme: example.com/w1.",
)
@click.option("--ml-dsa", is_flag=True, help="Also sign with ML-DSA-44.")
@json_option
def init(directory: Path, name: str, ml_dsa: bool, as_json: bool) -> None:
    """Make a witness in DIRECTORY: its keys, and an empty store of cosigned heads."""
    algorithms = [ED25519_COSIGNATURE, *([MLDSA44_COSIGNATURE] if ml_dsa else [])]
    try:
        signers = [
            CosignatureSigner.generate(
                name, algorithm=algorithm, seed=secrets.token_bytes(SEED_BYTES)
            )
            for algorithm in algorithms
        ]
        paths = create_witness(directory, signers)
    except (FileExistsError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    vkeys = [str(signer.verifier) for signer in signers]
    if as_json:
        print_json({"directory": str(directory), "name": name, "verifier_keys": vkeys})
        return
    print_fields({"witness": directory, "keys": paths.key})
    # Each alone on its line, to be copied into policies.
    click.echo("\n".join(vkeys))
    click.echo(err=True)
    note(f"next: ledger witness add-log {directory} --vkey LOG_VKEY")


@command.command("add-log")
@directory_argument
@click.option("--vkey", "vkeys", multiple=True, required=True, help="A key of the log; repeatable.")
@click.option("--origin", help="The log's origin. Default: the name of its first key.")
@_setting_flags("map_bytes")
@json_option
def add_log_(
    directory: Path, vkeys: tuple[str, ...], origin: str | None, map_bytes: int, as_json: bool
) -> None:
    """Cosign a log's heads from now on, or add a key of a known log.

    It takes effect at once, in a running witness too.
    """
    with _open_heads(directory, map_bytes) as store:
        _print_log(store.add_log(origin or parse_verifier(vkeys[0]).name, vkeys), as_json)


@command.command("remove-key")
@directory_argument
@click.option("--vkey", "vkeys", multiple=True, required=True, help="A key of the log; repeatable.")
@click.option("--origin", help="The log's origin. Default: the name of the first key.")
@_setting_flags("map_bytes")
@json_option
def remove_key(
    directory: Path, vkeys: tuple[str, ...], origin: str | None, map_bytes: int, as_json: bool
) -> None:
    """Accept no head of a log by this key any more, once the log has rotated it.

    It takes effect at once, in a running witness too.
    """
    with _open_heads(directory, map_bytes) as store:
        _print_log(store.remove_keys(origin or parse_verifier(vkeys[0]).name, vkeys), as_json)


@contextmanager
def _open_heads(directory: Path, map_bytes: int) -> Iterator[HeadStore]:
    """The store of a witness, to be changed; a wrong argument is a mistake in the command."""
    heads = WitnessPaths(directory).heads
    with closing(HeadStore.open(heads, readonly=False, map_bytes=map_bytes)) as store:
        try:
            yield store
        except ValueError as error:
            raise click.UsageError(str(error)) from None


def _print_log(log: KnownLog, as_json: bool) -> None:
    fields: dict[str, object] = {"log": log.origin, "keys": len(log.vkeys)}
    print_result(as_json, {"origin": log.origin, "verifier_keys": log.vkeys}, fields)


@command.command("add-logs")
@directory_argument
@click.argument("source", metavar="FILE|URL")
@_setting_flags("map_bytes")
@json_option
def add_logs_(directory: Path, source: str, map_bytes: int, as_json: bool) -> int:
    """Cosign the heads of the logs in a list from now on: logs/v0, as networks publish it.

    Logs that are known stay as they are, except for the requests that they may make in a day.
    No log is removed, and no known log gets another key. Exit code 3 when a log is left out.
    """
    heads = WitnessPaths(directory).heads
    with closing(HeadStore.open(heads, readonly=False, map_bytes=map_bytes)) as store:
        added = asyncio.run(add_logs(store, source))
    code = EXIT_REJECTED if added.left_out else 0
    if as_json:
        print_json(added._asdict())
        return code
    for origin in added.new:
        print_line(origin)
    for reason in added.left_out:
        note(f"left out: {reason}")
    note(f"{counted(len(added.new), 'new log')}, {counted(len(added.limits_changed), 'new limit')}")
    return code


@command.command("serve")
@directory_argument
@_setting_flags()
@log_options
@json_option
def serve(
    directory: Path,
    log_format: str,
    log_level: str,
    log_file: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Serve the witness in DIRECTORY until Ctrl-C or SIGTERM."""
    configure_logs(log_format, log_level, log_file)
    try:
        checked = msgspec.convert(settings, WitnessSettings)
    except msgspec.ValidationError as error:
        raise click.UsageError(explain_invalid(error, WitnessSettings)) from None

    def ready(address: str) -> None:
        if as_json:
            print_json({"address": address})
        else:
            click.echo(f"serving on {address}")

    run_until_signal(
        lambda stop: serve_witness(
            directory, checked, stop=stop, on_ready=ready, reloads_at_hangup=True
        )
    )


@command.command("fsck")
@directory_argument
@json_option
def fsck(directory: Path, as_json: bool) -> None:
    """Verify the keys, and every stored log and head; the witness may be running."""
    paths = WitnessPaths(directory)
    logs, problems = 0, []
    try:
        with closing(HeadStore.open(paths.heads)) as store:
            problems = store.check()
            logs = store.count_logs()
            try:
                read_signers(paths, store)
            except (MalformedError, UnavailableError) as error:
                problems.append(str(error))
    except LmdbError as error:
        problems.append(f"{paths.heads} can't be read: {error}")
    if as_json:
        print_json({"logs": logs, "problems": problems})
    if problems:
        raise VerificationError("\n".join(problems))
    if not as_json:
        print_line(f"{counted(logs, 'log')}: rows, heads and signatures agree")


@command.command("status")
@directory_argument
@json_option
def status(directory: Path, as_json: bool) -> None:
    """Show the witness's keys, its logs, and the last cosigned head of each."""
    with closing(HeadStore.open(WitnessPaths(directory).heads)) as store:
        vkeys = store.vkeys()
        logs = sorted(store.logs(), key=lambda row: row[0].origin)
    if as_json:
        print_json({"verifier_keys": vkeys, "logs": [_described(*row) for row in logs]})
        return
    click.echo("\n".join(vkeys))
    for log, head in logs:
        click.echo()
        print_fields(_described(log, head) | {"verifier_keys": " ".join(log.vkeys)})
    if not logs:
        note(f"no log is known yet; add one: ledger witness add-log {directory} --vkey LOG_VKEY")


def _described(log: KnownLog, head: SignedCheckpoint | None) -> dict[str, object]:
    """A log and its head."""
    known: dict[str, object] = {
        "origin": log.origin,
        "origin_hash": sha256(log.origin.encode()).hexdigest(),
        "verifier_keys": log.vkeys,
    }
    if log.requests_per_day is not None:
        known["requests_per_day"] = log.requests_per_day
    if head is None:
        return known
    return known | {
        "tree_size": head.checkpoint.tree_size,
        "root_hash": format_base64(head.checkpoint.root_hash),
        "cosigned_at": format_time(cosigned_at(head) * 1_000_000),
    }
