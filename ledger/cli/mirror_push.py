"""`ledger tlog-mirror push`: the mirrors that a ledger sends its log to (`DIR/mirrors.toml`).

Works on the folder of a ledger or a mirror, whether it is served or not: the service sees changes
within a second.
"""

import asyncio
from pathlib import Path
from typing import Any, Final

import click

from ledger.cli.folders import LEDGER, MIRROR, directory_of
from ledger.cli.followers import (
    add_pausing,
    config_options,
    find_follower,
    given_config,
    log_size,
    note_none,
    progress_row,
    record_follower,
    report_act,
    state_line,
)
from ledger.follow.position import FollowerPaths, read_report
from ledger.follow.tables import check_name
from ledger.log.mirror_peer import cosigned_path, read_head
from ledger.log.public_policy import public_url
from ledger.mirror_push.config import (
    KIND,
    MirrorTarget,
    add_target,
    mirrors_path,
    read_mirrors,
    remove_target,
)
from ledger.mirror_push.trial import Standing, try_mirror
from ledger.service.data_dir import DirectoryPaths
from ledger.service.start_record import changing_files
from ledger_client.cli.console import json_option, note, print_json, print_line
from ledger_client.runtime.files import read_limited
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.policy import POLICY_BYTES_MAX, parse_policy

WHAT: Final = "mirror"
EVENT: Final = "tlog_mirror"
"""Of the events, `ledger.tlog_mirror.added`: a mirror of the log's own kind has others."""

name_argument = click.argument("name")


@click.group("push")
def push() -> None:
    """Send a ledger's log to mirrors of c2sp.org/tlog-mirror, ours or other people's.

    Everybody can read what such a mirror has.
    """


@push.command("add")
@directory_of(LEDGER, MIRROR)
@name_argument
@click.option(
    "--vkey",
    "vkeys",
    multiple=True,
    help="A verifier key of the mirror, as its operator says it. Without one: those of the policy.",
)
@config_options(MirrorTarget, "vkeys")
@json_option
def add(directory: Path, name: str, vkeys: tuple[str, ...], as_json: bool, **values: Any) -> None:
    """Send the log to the mirror NAME from now on. A running service begins within a second.

    The operator of the mirror adds this log there first, by its verifier key.
    """
    target = given_config(MirrorTarget, values | {"vkeys": vkeys})
    check_name(name)
    target.check()
    policy = parse_policy(read_limited(directory / "policy", POLICY_BYTES_MAX))
    if not vkeys and not policy.witnesses:
        raise click.UsageError(
            "--vkey is missing, and the policy names no witness: ledger key show on the mirror's "
            "host prints its keys"
        )
    if name not in read_mirrors(directory):
        FollowerPaths(directory, KIND, name).forget(cosigned_path(directory, name))
    with changing_files(DirectoryPaths(directory), mirrors_path(directory).name):
        add_target(directory, name, target)
    record_follower(directory, EVENT, "added", name, to=public_url(target.url))
    log_vkeys = [str(log.verifier) for log in policy.logs]
    told = " ".join(f"--vkey '{vkey}'" for vkey in log_vkeys)
    report_act(
        f"mirror {name!r} is added. Its operator must take this log: ledger tlog-mirror add-log "
        f"DIRECTORY {told}\nThen try it: ledger tlog-mirror push test {directory} {name}",
        as_json,
        mirror=name,
        log_verifier_keys=log_vkeys,
    )


@push.command("list")
@directory_of(LEDGER, MIRROR)
@json_option
def list_(directory: Path, as_json: bool) -> None:
    """Show each mirror: how far it is, and what hinders it."""
    mirrors = read_mirrors(directory)
    size = log_size(directory)
    rows = []
    reports = [read_report(directory, KIND, name) for name in mirrors]
    for (name, target), report in zip(mirrors.items(), reports, strict=True):
        rows.append(
            {
                "name": name,
                "to": target.url,
                **progress_row(report, size),
                "cosigned_size": _cosigned_size(directory, name),
            }
        )
    if not rows:
        hint = f"no mirror yet; add one: ledger tlog-mirror push add {directory} NAME --url …"
        note_none(directory, mirrors_path(directory), otherwise=hint, as_json=as_json)
    if as_json:
        print_json(rows)
        return
    for row, report in zip(rows, reports, strict=True):
        lag = f"{row['lag']:,} behind" if row["lag"] else "at the end"
        print_line(f"{row['name']}  {row['to']}  {lag}  {state_line(report)}")


def _cosigned_size(directory: Path, name: str) -> int | None:
    """The size of the last head that a mirror of the quorum has cosigned."""
    record = read_head(cosigned_path(directory, name))
    try:
        return None if record is None else record.head().head.tree_size
    except MalformedError:
        return None


@push.command("test")
@directory_of(LEDGER, MIRROR)
@name_argument
@json_option
def test(directory: Path, name: str, as_json: bool) -> None:
    """Ask a mirror what it has: is it reachable, does it cosign by the right key, how far is it?

    The mirror gets the published head, as each second, and no entry. It moves no position.
    """
    target = find_follower(WHAT, read_mirrors(directory), name)
    found = asyncio.run(try_mirror(directory, target))
    if as_json:
        print_json({"mirror": name, **found._asdict()})
        return
    print_line(f"{target.url} takes this log and has {_kept(found)}")
    if found.cosigned_size is None:
        note("it has shown no cosignature, so its key is not checked: it cosigns when it has all")
    else:
        print_line(f"cosigned size {found.cosigned_size:,} as {', '.join(found.cosigners)}")


def _kept(found: Standing) -> str:
    if found.kept >= found.tree_size:
        return f"all {found.tree_size:,} entries of the published head"
    return f"{found.kept:,} of the {found.tree_size:,} entries of the published head"


add_pausing(
    push,
    read_mirrors,
    what=WHAT,
    kind=KIND,
    event=EVENT,
    pause_help="Stop sending, until `resume`. A quorum that needs the mirror publishes no head "
    "meanwhile.",
)


@push.command("remove")
@directory_of(LEDGER, MIRROR)
@name_argument
@json_option
def remove(directory: Path, name: str, as_json: bool) -> None:
    """End sending to a mirror. What it has stays there, and readable."""
    find_follower(WHAT, read_mirrors(directory), name)
    with changing_files(DirectoryPaths(directory), mirrors_path(directory).name):
        remove_target(directory, name)
    record_follower(directory, EVENT, "removed", name)
    report_act(f"mirror {name!r} is removed", as_json, mirror=name, removed=True)
