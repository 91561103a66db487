"""`ledger monitor`: follow a log from another host, and check all of it."""

from collections.abc import Sequence
from pathlib import Path

import click

from ledger_client.audit.monitor import Report
from ledger_client.audit.monitor_dir import MonitorDir
from ledger_client.audit.monitor_loop import (
    INTERVAL_S,
    STALE_AFTER_S,
    Advance,
    MonitorLoop,
    Notice,
    Settings,
)
from ledger_client.cli.client_options import (
    NEW_FOLDER,
    read_token,
    required_policy_option,
    token_options,
    usage_errors,
)
from ledger_client.cli.console import format_second, json_option, json_text, note, print_line
from ledger_client.cli.verify import cosignatures
from ledger_client.runtime.files import read_limited
from ledger_core.tlog.policy import POLICY_BYTES_MAX, parse_policy


@click.command("monitor")
@click.argument("url", envvar="LEDGER_URL")
@required_policy_option
@click.option(
    "--state",
    "folder",
    required=True,
    type=NEW_FOLDER,
    help="A folder for what was verified and for evidence; created if missing. Keep it.",
)
@token_options
@click.option(
    "--ask-witnesses",
    is_flag=True,
    help="Ask the witnesses that have a URL in the policy, and compare their heads.",
)
@click.option(
    "--witness-prefix",
    "prefixes",
    metavar="NAME=URL",
    multiple=True,
    help="Where a witness of the policy shows its heads, if not where it cosigns them: URL/<hash "
    "of the origin>/checkpoint; repeatable. Implies --ask-witnesses.",
)
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0, min_open=True),
    default=INTERVAL_S,
    show_default=True,
    help="Seconds between two requests for the head.",
)
@click.option(
    "--stale-after",
    "stale_after_s",
    type=click.FloatRange(min=0),
    default=STALE_AFTER_S,
    show_default=True,
    help="Alarm after this many seconds without a newly cosigned head, or, where the policy has no "
    "quorum, without a larger head. 0 turns this off.",
)
@click.option("--once", is_flag=True, help="Check the head and its entries once, then exit.")
@json_option
def command(
    url: str,
    policy: Path,
    folder: Path,
    token_file: Path | None,
    insecure: bool,
    ask_witnesses: bool,
    prefixes: tuple[str, ...],
    interval_s: float,
    stale_after_s: float,
    once: bool,
    as_json: bool,
) -> None:
    """Check the log at URL: its heads, their witnesses, and with a `read` token every entry.

    Prints a line for each verified head, and on standard error how far a long check has come.
    Exits with 1 when the log forked, shrank or serves what it did not sign, and with 5 when no new
    head came in time. The evidence is then in the folder `evidence` of --state.
    """
    settings = Settings(
        interval_s=interval_s,
        stale_after_s=stale_after_s,
        is_once=once,
        asks_witnesses=ask_witnesses or bool(prefixes),
        prefixes=_prefixes(prefixes),
        insecure=insecure,
    )
    trusted = parse_policy(read_limited(policy, POLICY_BYTES_MAX))
    with MonitorDir(folder, policy=trusted) as opened:
        with usage_errors():
            loop = MonitorLoop(
                url,
                read_token(token_file, url=url, insecure=insecure),
                policy=trusted,
                folder=opened,
                settings=settings,
            )
        if not once:
            note(f"checking {url} every {interval_s:g} s; Ctrl-C ends this")
        try:
            for result in loop.follow():
                _print(result, as_json=as_json)
        finally:
            loop.close()


def _prefixes(pairs: Sequence[str]) -> dict[str, str]:
    """The addresses by the names of witnesses."""
    found = {}
    for pair in pairs:
        name, is_pair, url = pair.partition("=")
        if not is_pair or not name or not url:
            raise click.BadParameter(
                f"expected NAME=URL, got {pair!r}", param_hint="--witness-prefix"
            )
        found[name] = url
    return found


def _print(result: Report | Notice | Advance, *, as_json: bool) -> None:
    if isinstance(result, Advance):
        checked, size = result.entries_checked, result.tree_size
        note(f"{checked:,} of {size:,} entries checked")
    elif isinstance(result, Notice):
        note(f"{result.source}: {result.text}")
    elif as_json:
        click.echo(json_text(_fields(result)))
    else:
        print_line(_line(result))


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
