"""`ledger monitor`: an auditor's own eyes on a log, from another host than the log's."""

from pathlib import Path

import click
import msgspec

from ledger_client.audit.monitor import Report
from ledger_client.audit.monitor_dir import MonitorDir
from ledger_client.audit.monitor_loop import (
    INTERVAL_S,
    STALE_AFTER_S,
    MonitorLoop,
    Notice,
    Settings,
)
from ledger_client.cli.client_options import read_token, token_options
from ledger_client.cli.console import format_second, json_option, note
from ledger_client.cli.verify import cosignatures
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.policy import parse_policy


@click.command("monitor")
@click.argument("url", envvar="LEDGER_URL")
@click.option(
    "--policy",
    "policy_file",
    envvar="LEDGER_POLICY",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The policy file that the ledger's operator handed over: whom to believe.",
)
@click.option(
    "--state",
    "folder",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder, made when there is none: what was verified, and evidence. Keep it.",
)
@token_options
@click.option(
    "--ask-witnesses",
    is_flag=True,
    help="Ask the witnesses that the policy gives an address for, and compare their heads.",
)
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0, min_open=True),
    default=INTERVAL_S,
    show_default=True,
    help="Seconds between two looks at the log.",
)
@click.option(
    "--stale-after",
    "stale_after_s",
    type=click.FloatRange(min=0),
    default=STALE_AFTER_S,
    show_default=True,
    help="Seconds without fresh word of the log that are too many: without cosignatures of a "
    "quorum, or without a larger head where the policy asks for no quorum. 0: none are.",
)
@click.option("--once", is_flag=True, help="End after one look, entries included.")
@json_option
def command(
    url: str,
    policy_file: Path,
    folder: Path,
    token_file: Path | None,
    token: str | None,
    ask_witnesses: bool,
    interval_s: float,
    stale_after_s: float,
    once: bool,
    as_json: bool,
) -> None:
    """Follow the log at URL: heads, their witnesses, and with a `read` token every entry.

    Prints a line for each head that is verified. Ends with exit code 1 when the log forked, shrank
    or shows what it did not sign, and 5 when there is no fresh word of it; the evidence is then in
    the folder `evidence` of --state.
    """
    settings = Settings(
        interval_s=interval_s,
        stale_after_s=stale_after_s,
        is_once=once,
        asks_witnesses=ask_witnesses,
    )
    policy = parse_policy(policy_file.read_bytes())
    with MonitorDir(folder, policy=policy) as opened:
        try:
            follower = MonitorLoop(
                url,
                read_token(token_file, token),
                policy=policy,
                folder=opened,
                settings=settings,
            )
        except MalformedError:
            raise
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        try:
            for said in follower.follow():
                _print(said, as_json=as_json)
        finally:
            follower.close()


def _print(said: Report | Notice, *, as_json: bool) -> None:
    if isinstance(said, Notice):
        note(f"{said.source}: {said.text}")
    elif as_json:
        click.echo(msgspec.json.encode(_fields(said)))
    else:
        click.echo(_line(said))


def _fields(report: Report) -> dict[str, object]:
    head = report.head
    return {
        "time": format_second(report.seen_at_unix_s),
        "origin": head.checkpoint.origin,
        "tree_size": head.checkpoint.tree_size,
        "root_hash": head.checkpoint.root_hash.hex(),
        "cosignatures": cosignatures(head),
        "entries_checked": report.entries_checked,
    }


def _line(report: Report) -> str:
    head = report.head
    witnesses = ", ".join(f"{name} {format_second(time_s)}" for name, time_s in head.cosignatures)
    entries = "not read" if report.entries_checked is None else f"{report.entries_checked} checked"
    return "  ".join(
        (
            format_second(report.seen_at_unix_s),
            f"size {head.checkpoint.tree_size}",
            f"root {head.checkpoint.root_hash.hex()}",
            f"entries {entries}",
            f"cosigned {witnesses}" if witnesses else "cosigned by no witness",
        )
    )
