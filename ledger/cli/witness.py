"""`ledger witness`: run a witness, which cosigns the heads of other people's logs."""

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import click

from ledger.cli.cosigner import (
    add_serve,
    described_head,
    log_keys_options,
    make_cosigner,
    report_check,
    report_logs,
)
from ledger.cli.folders import WITNESS, directory_of
from ledger.cli.options import flags_of
from ledger.store.environment import LmdbError
from ledger.witness.app import serve
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
    print_json,
    print_line,
    print_result,
)
from ledger_core.tlog.checkpoint import SignedCheckpoint
from ledger_core.tlog.cosignature import parse_verifier
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.keys import ED25519_COSIGNATURE, MLDSA44_COSIGNATURE
from ledger_core.tlog.mirror import origin_hash

KIND = "witness"

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
    make_cosigner(KIND, directory, name, algorithms, create_witness, as_json=as_json)


@command.command("add-log")
@directory_of(WITNESS)
@log_keys_options
@_setting_flags("map_bytes")
@json_option
def add_log_(
    directory: Path, vkeys: tuple[str, ...], origin: str | None, map_bytes: int, as_json: bool
) -> None:
    """Cosign a log's heads from now on, or add a key of a known log.

    A log that a list added is yours from then on: your keys take the place of the list's key, its
    limit of requests ends, and no list changes the log again. It takes effect at once, in a running
    witness too.
    """
    name = origin or parse_verifier(vkeys[0]).name
    with _open_heads(directory, map_bytes) as store:
        before = store.log(name)
        log = store.add_log(name, vkeys)
    _print_log(log, as_json)
    if before is None:
        return
    for vkey in before.vkeys:
        if vkey not in log.vkeys:
            note(f"not accepted any more, since only a list gave it: {vkey}")
    if before.requests_per_day is not None:
        note(f"the limit of a list ends: {before.requests_per_day:g} requests a day")


@command.command("remove-key")
@directory_of(WITNESS)
@log_keys_options
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
    fields: dict[str, object] = {"log": log.origin, "keys": " ".join(log.vkeys)}
    print_result(as_json, {"origin": log.origin, "verifier_keys": log.vkeys}, fields)


@command.command("add-logs")
@directory_of(WITNESS)
@click.argument("source", metavar="FILE|URL")
@_setting_flags("map_bytes")
@json_option
def add_logs_(directory: Path, source: str, map_bytes: int, as_json: bool) -> int:
    """Cosign the heads of the logs in a list from now on: logs/v0, as networks publish it.

    Logs that are known stay as they are; of those that a list added, the requests that they may
    make in a day change. No log is removed, and no known log gets another key. Exit code 3 when a
    log is left out.
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


add_serve(command, serve, WitnessSettings, WITNESS_SETTINGS)


@command.command("fsck")
@directory_of(WITNESS)
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
    report_check(logs, problems, "rows, heads and signatures", as_json=as_json)


@command.command("bastion-key")
@directory_of(WITNESS)
@json_option
def bastion_key(directory: Path, as_json: bool) -> None:
    """Print the hash of the key that bastions know the witness by; the first call makes the key."""
    from ledger.witness.bastion import key_hash, open_key  # An extra.

    if not WitnessPaths(directory).key.exists():
        raise click.UsageError(f"{directory} is no witness: there is no {directory / 'key'}")
    open_key(directory)
    found = key_hash(directory)
    print_result(as_json, {"bastion_key_hash": found}, {"hash": found})


@command.command("status")
@directory_of(WITNESS)
@json_option
def status(directory: Path, as_json: bool) -> None:
    """Show the witness's keys, its logs, and the last cosigned head of each."""
    with closing(HeadStore.open(WitnessPaths(directory).heads)) as store:
        vkeys = store.vkeys()
        logs = sorted(store.logs(), key=lambda row: row[0].origin)
    described = [_described(*row) for row in logs]
    report_logs(KIND, directory, vkeys, described, as_json=as_json)


def _described(log: KnownLog, head: SignedCheckpoint | None) -> dict[str, object]:
    """A log and its head."""
    known: dict[str, object] = {
        "origin": log.origin,
        "origin_hash": origin_hash(log.origin),
        "verifier_keys": log.vkeys,
        "added_by": "list" if log.is_listed else "hand",
    }
    if log.requests_per_day is not None:
        known["requests_per_day"] = log.requests_per_day
    return known | described_head(head)
