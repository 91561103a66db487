"""`ledger sink`: send each entry to other tools, and see how far each of them is.

Works on the folder of a ledger or a mirror, whether it is served or not: the service sees changes
within a second.
"""

import asyncio
from contextlib import closing
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
from ledger.follow.position import FollowerPaths, FollowerReport, read_report, set_rewind
from ledger.follow.tables import check_name
from ledger.log.public_policy import public_url
from ledger.object_storage.open_log import open_log
from ledger.service.data_dir import DirectoryPaths
from ledger.service.start_record import changing_files
from ledger.sinks.config import (
    KIND,
    SINK_TYPES,
    SinkConfig,
    add_sink,
    read_sinks,
    remove_sink,
    sinks_path,
)
from ledger.sinks.dead_letters import DISCARD, RESEND, read_all, request_action, resending_path
from ledger.sinks.firings import firing_paths
from ledger.sinks.kinds import open_receiver
from ledger.sinks.receiver import BatchRefusedError
from ledger.sinks.worker import LogSource
from ledger_client.cli.console import (
    counted,
    format_second,
    json_option,
    note,
    print_json,
    print_line,
)
from ledger_core.tlog.errors import MalformedError, UnavailableError

TEST_ENTRIES = 1000
"""Entries from the end of the log among which `test` looks for one that the query finds."""

WHAT: Final = "sink"

name_argument = click.argument("name")


@click.group("sink")
def command() -> None:
    """Send each entry to the tools that you watch already."""


@command.command("add")
@directory_of(LEDGER, MIRROR)
@name_argument
@click.option(
    "--type", "type_", required=True, type=click.Choice(SINK_TYPES), help="What it sends to."
)
@click.option("--from-end", is_flag=True, help="Begin with the next entry, not with the first.")
@config_options(SinkConfig, "type")
@json_option
def add(
    directory: Path, name: str, type_: str, from_end: bool, as_json: bool, **values: Any
) -> None:
    """Add the sink NAME. A running service starts it within a second.

    The receiver's secret is never an option, since every process can read the command lines: name
    a file or a variable.
    """
    config = given_config(SinkConfig, values | {"type": type_})
    check_name(name)
    config.check()  # before a folder is made
    paths = FollowerPaths(directory, KIND, name)
    if name not in read_sinks(directory):
        paths.make()
        for each in (paths, firing_paths(directory, name)):
            each.forget(resending_path(each))
        _set_position(paths, directory, "end" if from_end else "0")
    with changing_files(DirectoryPaths(directory), sinks_path(directory).name):
        add_sink(directory, name, config)
    record_follower(
        directory, WHAT, "added", name, type=type_, to=config.path or public_url(config.url)
    )
    said = f"sink {name!r} is added: try it with ledger sink test {directory} {name}"
    report_act(said, as_json, sink=name, type=type_)


@command.command("list")
@directory_of(LEDGER, MIRROR)
@json_option
def list_(directory: Path, as_json: bool) -> None:
    """Show each sink: how far it is, and what hinders it."""
    sinks = read_sinks(directory)
    size = log_size(directory)
    rows = []
    reports = [read_report(directory, KIND, name) for name in sinks]
    for (name, config), report in zip(sinks.items(), reports, strict=True):
        rows.append(
            {
                "name": name,
                "type": config.type,
                "to": config.path or config.url,
                "query": config.query,
                **progress_row(report, size),
                "dead_letters": report.state.dead,
            }
        )
    if not rows:
        hint = f"no sink yet; add one: ledger sink add {directory} NAME --type …"
        note_none(directory, sinks_path(directory), otherwise=hint, as_json=as_json)
    if as_json:
        print_json(rows)
        return
    for row, report in zip(rows, reports, strict=True):
        said = f"{_progress(report, size)}  {state_line(report)}"
        print_line(f"{row['name']}  {row['type']}  {row['to']}  {said}")


def _progress(report: FollowerReport, size: int) -> str:
    lag = max(0, size - report.next_index)
    dead = f", {counted(report.state.dead, 'dead letter')}" if report.state.dead else ""
    return (
        f"{counted(lag, 'entry').replace('entrys', 'entries')} behind" if lag else "at the end"
    ) + dead


@command.command("test")
@directory_of(LEDGER, MIRROR)
@name_argument
@json_option
def test(directory: Path, name: str, as_json: bool) -> None:
    """Send the latest entry that the sink would send, once more, and say what became of it.

    It moves no position. A real entry is sent, so that a check of the receiver's copy finds no
    record that the log does not have.
    """
    config = _config(directory, name)
    with closing(open_log(directory / "log")) as store:
        source = LogSource(store, config)
        size = store.head().tree_size
        for start in range(size - 1, max(-1, size - 1 - TEST_ENTRIES), -1):
            entries = source.read(start)[:1]
            records = source.records(entries)
            if records:
                break
        else:
            raise click.UsageError(
                "the log has no entry to test with yet"
                if not size
                else f"none of the last {TEST_ENTRIES} entries is one that this sink sends"
            )
    index = records[0].index

    async def send() -> None:
        receiver = open_receiver(config)
        try:
            sent = await receiver.send(records)
        except BatchRefusedError as error:
            raise MalformedError(f"the receiver refused entry {index}: {error}") from None
        finally:
            await receiver.close()
        if sent.refused:
            raise MalformedError(f"the receiver refused entry {index}: {sent.refused[0]}")
        if sent.again:
            raise UnavailableError(f"the receiver did not take entry {index}: {sent.reason}")

    asyncio.run(send())
    said = f"entry {index} was sent, and the receiver confirmed it"
    report_act(said, as_json, sink=name, confirmed_index=index)


add_pausing(
    command,
    read_sinks,
    what=WHAT,
    kind=KIND,
    event=WHAT,
    pause_help="Stop sending, until `resume`. The position stays.",
)


@command.command("rewind")
@directory_of(LEDGER, MIRROR)
@name_argument
@click.option("--to", required=True, metavar="INDEX|end", help="The entry to send next.")
@json_option
def rewind(directory: Path, name: str, to: str, as_json: bool) -> None:
    """Send from entry INDEX on, again or for the first time; later entries can be skipped too."""
    _config(directory, name)
    paths = FollowerPaths(directory, KIND, name)
    paths.make()
    index = _set_position(paths, directory, to)
    record_follower(directory, WHAT, "rewound", name, next_index=index)
    report_act(f"sink {name!r} sends entry {index} next", as_json, sink=name, next_index=index)


@command.command("dead-letters")
@directory_of(LEDGER, MIRROR)
@name_argument
@click.option("--resend", "wish", flag_value=RESEND, help="Send them again, once each.")
@click.option("--discard", "wish", flag_value=DISCARD, help="Forget them; the log keeps them.")
@json_option
def dead_letters(directory: Path, name: str, wish: str | None, as_json: bool) -> None:
    """List what the receiver refused for good, or have it sent again."""
    _config(directory, name)
    paths = FollowerPaths(directory, KIND, name)
    letters = read_all(paths)
    if wish is not None and letters:
        request_action(paths, wish)
        record_follower(directory, WHAT, f"dead_letters_{wish}", name, dead_letters=len(letters))
        done = "sent again" if wish == RESEND else "discarded"
        said = f"{counted(len(letters), 'dead letter')} will be {done} while the sink runs"
        report_act(said, as_json, sink=name, dead_letters=len(letters), wish=wish)
    elif as_json:
        print_json(letters)
    else:
        for letter in letters:
            when = format_second(letter.time_unix_s)
            print_line(f"{letter.index}  {letter.leaf_hash}  {when}  {letter.reason}")
        if not letters:
            note(f"sink {name!r} has no dead letters")


@command.command("remove")
@directory_of(LEDGER, MIRROR)
@name_argument
@json_option
def remove(directory: Path, name: str, as_json: bool) -> None:
    """Remove a sink. What it sent stays with the receiver."""
    _config(directory, name)
    with changing_files(DirectoryPaths(directory), sinks_path(directory).name):
        remove_sink(directory, name)
    record_follower(directory, WHAT, "removed", name)
    report_act(f"sink {name!r} is removed", as_json, sink=name, removed=True)


def _config(directory: Path, name: str) -> SinkConfig:
    return find_follower(WHAT, read_sinks(directory), name)


def _set_position(paths: FollowerPaths, directory: Path, to: str) -> int:
    """Leave a position for the sink to take. Raises: click.UsageError beyond the log."""
    size = log_size(directory)
    if to != "end" and not (to.isascii() and to.isdigit() and int(to) <= size):
        raise click.UsageError(f"--to: want an index up to {size}, or end, got {to!a}")
    index = size if to == "end" else int(to)
    set_rewind(paths, index)
    return index
