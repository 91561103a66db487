"""`ledger tlog-mirror`: keep copies of other people's logs, which send their entries."""

from contextlib import closing
from pathlib import Path
from typing import Any

import click

from ledger.cli.cosigner import (
    add_serve,
    described_head,
    log_keys_options,
    make_cosigner,
    report_check,
    report_logs,
)
from ledger.cli.folders import TLOG_MIRROR, directory_of
from ledger.cli.mirror_push import push
from ledger.store.environment import LmdbError
from ledger.store.log import LogStore
from ledger.tlog_mirror.app import serve
from ledger.tlog_mirror.data_dir import (
    TlogMirrorPaths,
    add_log,
    create_tlog_mirror,
    read_log_vkeys,
    read_signers,
    read_ticket_key,
)
from ledger.tlog_mirror.log_copy import check_copy, read_state
from ledger.tlog_mirror.settings import TLOG_MIRROR_SETTINGS, TlogMirrorSettings
from ledger_client.cli.client_options import NEW_FOLDER
from ledger_client.cli.console import (
    json_option,
    print_result,
)
from ledger_core.tlog.cosignature import parse_verifier
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.keys import ED25519_COSIGNATURE, MLDSA44_COSIGNATURE
from ledger_core.tlog.mirror import origin_hash

KIND = "tlog-mirror"


@click.group("tlog-mirror")
def command() -> None:
    """Keep copies of logs that send their entries here, and cosign what is kept.

    It takes any log of c2sp.org/tlog-tiles. `ledger mirror` fetches one log of ours instead, and
    answers searches too. `push` names the mirrors that a ledger sends its log to.
    """


command.add_command(push)


@command.command("init")
@click.argument("directory", type=NEW_FOLDER)
@click.option(
    "--name",
    required=True,
    help="The mirror's permanent name, a URL without a scheme: example.com/m1.",
)
@json_option
def init(directory: Path, name: str, as_json: bool) -> None:
    """Make a mirror in DIRECTORY: an Ed25519 and an ML-DSA-44 key, and room for logs."""
    make_cosigner(
        KIND,
        directory,
        name,
        (ED25519_COSIGNATURE, MLDSA44_COSIGNATURE),
        create_tlog_mirror,
        as_json=as_json,
    )


@command.command("add-log")
@directory_of(TLOG_MIRROR)
@log_keys_options
@json_option
def add_log_(directory: Path, vkeys: tuple[str, ...], origin: str | None, as_json: bool) -> None:
    """Take a log's entries from now on, or add a key of a known log.

    It takes effect at once, in a running mirror too.
    """
    paths = TlogMirrorPaths(directory)
    signers = read_signers(paths)
    try:
        named = origin or parse_verifier(vkeys[0]).name
        all_vkeys = add_log(paths, named, vkeys, signers)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    print_result(
        as_json,
        {"origin": named, "origin_hash": origin_hash(named), "verifier_keys": all_vkeys},
        {"log": named, "keys": len(all_vkeys), "served at": f"/{origin_hash(named)}/"},
    )


add_serve(command, serve, TlogMirrorSettings, TLOG_MIRROR_SETTINGS)


@command.command("fsck")
@directory_of(TLOG_MIRROR)
@json_option
def fsck(directory: Path, as_json: bool) -> None:
    """Compute each tree from its entries, and verify the checkpoints; the mirror may be running."""
    paths = TlogMirrorPaths(directory)
    folders = paths.log_folders()
    problems: list[str] = []
    for read in (read_signers, read_ticket_key):
        try:
            read(paths)
        except (MalformedError, UnavailableError) as error:
            problems.append(str(error))
    for folder in folders:
        try:
            problems += check_copy(folder)
        except (LmdbError, MalformedError, UnavailableError) as error:
            problems.append(f"{folder} can't be read: {error}")
    report_check(len(folders), problems, "entries, trees and checkpoints", as_json=as_json)


@command.command("status")
@directory_of(TLOG_MIRROR)
@json_option
def status(directory: Path, as_json: bool) -> None:
    """Show the mirror's keys, its logs, and how much of each is kept and cosigned."""
    paths = TlogMirrorPaths(directory)
    vkeys = [str(signer.verifier) for signer in read_signers(paths)]
    logs = [_described(folder) for folder in paths.log_folders()]
    logs.sort(key=lambda log: str(log["origin"]))
    report_logs(KIND, directory, vkeys, logs, as_json=as_json)


def _described(folder: Path) -> dict[str, Any]:
    """A log and its copy."""
    with closing(LogStore.open(folder)) as store:
        state, origin = read_state(store), store.origin()
    described: dict[str, Any] = {
        "origin": origin,
        "origin_hash": origin_hash(origin),
        "verifier_keys": read_log_vkeys(folder),
        "kept_entries": state.next_entry,
        "pending_size": None if state.pending is None else state.pending.head.tree_size,
    }
    return described | described_head(state.mirrored)
