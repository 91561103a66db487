"""`ledger mirror`: keep a verified copy of a log on another host, and serve it."""

import os
import secrets
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from ledger.cli.folders import MIRROR, directory_of
from ledger.cli.options import log_options
from ledger.cli.serve import (
    note_missing_token,
    read_serve_settings,
    serve_by_flags,
    setting_flags,
)
from ledger.mirror.app import serve as serve_mirror
from ledger.mirror.data_dir import MirrorConfig, MirrorPaths, create_mirror, log_origin, read_config
from ledger.mirror.promotion import promote
from ledger.mirror.replica import read_stop
from ledger.mirror.state import MirrorState
from ledger.object_storage.open_log import open_log
from ledger.runtime.log_lines import configure_logs
from ledger.service.start_record import changing_files
from ledger_client.cli.client_options import (
    EXISTING_FILE,
    NEW_FOLDER,
    read_token,
    required_policy_option,
    token_options,
    usage_errors,
)
from ledger_client.cli.console import json_option, note, print_fields, print_json, print_result
from ledger_client.runtime.files import read_limited
from ledger_core.event.times import format_time
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.keys import ED25519_COSIGNATURE, SEED_BYTES
from ledger_core.tlog.policy import POLICY_BYTES_MAX
from ledger_core.tlog.text import format_base64


@click.group("mirror")
def command() -> None:
    """Keep a verified copy of a log on another host, and serve it."""


@command.command("init")
@click.argument("directory", type=NEW_FOLDER)
@click.option("--log", "log_url", required=True, help="The address of the log.")
@required_policy_option
@token_options
@click.option(
    "--name",
    help="The permanent name of the mirror's key, a URL without a scheme. "
    "Default: the log's origin and /mirror.",
)
@json_option
def init(
    directory: Path,
    log_url: str,
    policy: Path,
    name: str | None,
    token_file: Path | None,
    insecure: bool,
    as_json: bool,
) -> None:
    """Make an empty mirror of a log in DIRECTORY.

    --token-file names the file with a `read` token of the log. The mirror reads that file at each
    start; without it only a log with public entries can be mirrored.
    """
    if token_file is None and os.environ.get("LEDGER_TOKEN"):
        raise click.UsageError(
            "put the token of LEDGER_TOKEN into a file that the mirror can read at each start, and "
            "name it with --token-file"
        )
    read_token(token_file, url=log_url, insecure=insecure)
    data = read_limited(policy, POLICY_BYTES_MAX)
    config = MirrorConfig(
        log_url=log_url,
        token_file="" if token_file is None else str(token_file.resolve()),
        insecure=insecure,
    )
    origin = log_origin(data)
    try:
        with usage_errors():
            signer = CosignatureSigner.generate(
                name or f"{origin}/mirror",
                algorithm=ED25519_COSIGNATURE,
                seed=secrets.token_bytes(SEED_BYTES),
            )
            paths = create_mirror(directory, config, data, [signer])
    except FileExistsError as error:
        raise click.UsageError(str(error)) from None
    vkey = str(signer.verifier)
    if as_json:
        made = {"directory": str(directory), "log": log_url, "origin": origin}
        print_json({**made, "verifier_key": vkey})
        return
    print_fields(
        {
            "mirror": directory,
            "log": log_url,
            "origin": origin,
            "policy": paths.ledger.policy,
            "mirror's key": vkey,
        }
    )
    click.echo(
        f"\nnext: ledger token create {directory} --name my-reader --scope read"
        f"\n      ledger mirror serve {directory}"
    )


@command.command("serve")
@directory_of(MIRROR)
@setting_flags
@log_options
def serve(
    directory: Path, log_format: str, log_level: str, log_file: Path | None, **flags: Any
) -> None:
    """Follow the log, and serve what is verified, until Ctrl-C or SIGTERM.

    The settings are those of `ledger serve`; those that concern appending do nothing.
    """
    configure_logs(log_format, log_level, log_file)
    read_config(MirrorPaths(directory))
    settings = read_serve_settings(directory, flags)
    if settings.workers > 0:
        raise click.UsageError("a mirror is one process: leave `workers` out, or set it to 0")
    note_missing_token(directory, settings, scopes="--scope read")
    serve_by_flags(serve_mirror, directory, settings, flags)


@command.command("status")
@directory_of(MIRROR)
@json_option
def status(directory: Path, as_json: bool) -> None:
    """Show how far the mirror is, and when the log last answered; the mirror may be running."""
    paths = MirrorPaths(directory)
    config = read_config(paths)
    with closing(open_log(paths.ledger.log)) as store:
        head, published = store.head(), store.published()
    known, stopped = MirrorState(paths.status), read_stop(paths)
    said = known.status
    print_result(
        as_json,
        {
            "log": config.log_url,
            "tree_size": head.tree_size,
            "root_hash": format_base64(head.root_hash),
            "published_size": 0 if published is None else published.head.tree_size,
            "lag_entries": max(0, said.log_size - head.tree_size),
            "lag_s": known.lag_s(head.tree_size),
            "last_contact": _time(said.contact_at_unix_s),
            "failing_since": _time(said.failing_since_unix_s),
            "last_error": said.error or None,
            "last_error_at": _time(said.error_at_unix_s),
            "untrue": said.untrue,
            "stopped": stopped,
        },
        {
            "log": config.log_url,
            "entries": f"{head.tree_size:,}",
            "published": f"{0 if published is None else published.head.tree_size:,}",
            "lag": f"{max(0, said.log_size - head.tree_size):,} entries, "
            f"{known.lag_s(head.tree_size):,} s",
            "last contact": _time(said.contact_at_unix_s) or "never",
            "failing since": _time(said.failing_since_unix_s) or "no",
            "last error": f"{_time(said.error_at_unix_s)}  {said.error}" if said.error else "none",
            **{f"untrue {asked}": answer for asked, answer in said.untrue.items()},
            **({} if stopped is None else {"stopped": f"{stopped.since}  {stopped.reason}"}),
            **({} if stopped is None else {"evidence": stopped.evidence}),
        },
    )


def _time(unix_s: int) -> str | None:
    return format_time(unix_s * 1_000_000) if unix_s else None


@command.command("promote")
@directory_of(MIRROR)
@click.option(
    "--policy",
    type=EXISTING_FILE,
    help="The policy of the new ledger, with the log's old key. Default: that of the mirror.",
)
@json_option
def promote_(directory: Path, policy: Path | None, as_json: bool) -> None:
    """Make an independent ledger of the mirror in DIRECTORY, which must not be running.

    Only when the log is gone for good: two ledgers of one origin are a fork. The new ledger has the
    log's origin, all entries that the mirror holds, and a new key; `ledger serve` serves it.
    """
    paths = MirrorPaths(directory)
    with changing_files(paths.ledger, "policy"):
        made = promote(
            paths,
            make_seed=lambda: secrets.token_bytes(SEED_BYTES),
            policy=None if policy is None else read_limited(policy, POLICY_BYTES_MAX),
        )
    print_result(
        as_json,
        made._asdict(),
        {
            "ledger": directory,
            "origin": made.origin,
            "entries": f"{made.tree_size:,}, published {made.published_size:,}",
            "new verifier key": made.verifier_key,
            "signing key": f"{paths.ledger.key} (keep a copy offline; share it with nobody)",
            "policy": f"{paths.ledger.policy} (give it to everybody who verifies)",
        },
    )
    if not as_json:
        origin, key = made.origin, made.verifier_key
        click.echo(f"\nwitnesses: ledger witness add-log DIR --origin {origin} --vkey '{key}'")
        click.echo(f"next:      ledger token create {directory} --name my-app --scope append")
        click.echo(f"           ledger serve {directory}")
        if made.held is not None:
            note(f"it takes no events yet: {made.held}")
            note(
                f"ledger recover {directory} --receipts FOLDER takes over what is missing; with "
                "--accept it gives those indices again"
            )
