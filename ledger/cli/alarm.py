"""`ledger alarm`: what should not happen, noticed as it is logged."""

import secrets
import socket
from contextlib import closing
from pathlib import Path

import click

from ledger.alarms.config import alarms_path, read_alarms, starter_alarms
from ledger.alarms.evaluator import Evaluator
from ledger.alarms.firing import Firing, describe, firing_event
from ledger.alarms.worker import BATCH_BYTES, BATCH_ENTRIES, first_received
from ledger.cli.folders import LEDGER, MIRROR, directory_of
from ledger.cli.followers import note_none
from ledger.follow.entries import read_batch
from ledger.follow.firings import is_mirror
from ledger.object_storage.open_log import open_log
from ledger.service.data_dir import DirectoryPaths
from ledger.service.operator_events import record_act
from ledger.service.token_admin import open_access
from ledger_client.cli.console import counted, json_option, note, print_json, print_line
from ledger_client.runtime.clock import unix_us
from ledger_client.runtime.files import create_file, keep_owner
from ledger_core.event.model import EventError
from ledger_core.event.times import format_time, parse_time


@click.group("alarm")
def command() -> None:
    """Fire when events come that should not happen."""


@command.command("init")
@directory_of(LEDGER, MIRROR)
@json_option
def init(directory: Path, as_json: bool) -> None:
    """Write DIRECTORY/alarms.toml with alarms for common attacks. A running service reads it."""
    try:
        create_file(alarms_path(directory), starter_alarms().encode())
        keep_owner(alarms_path(directory))
    except FileExistsError:
        raise click.UsageError(f"{alarms_path(directory)} exists already; edit it") from None
    record_act(DirectoryPaths(directory), "ledger.alarm.file_made")
    if as_json:
        print_json({"path": str(alarms_path(directory))})
    else:
        note(f"{alarms_path(directory)}: try it with ledger alarm replay {directory}")


@command.command("list")
@directory_of(LEDGER, MIRROR)
@json_option
def list_(directory: Path, as_json: bool) -> None:
    """Show the alarms, after checking their file."""
    alarms = read_alarms(directory)
    if not alarms:
        _note_none(directory, as_json=as_json)
    if as_json:
        print_json(alarms)
        return
    for name, alarm in alarms.items():
        print_line(f"{name}  {alarm.severity}  {alarm.summary or alarm.query}")


def _note_none(directory: Path, *, as_json: bool) -> None:
    hint = f"no alarm yet; begin with ledger alarm init {directory}"
    note_none(directory, alarms_path(directory), otherwise=hint, as_json=as_json)


@command.command("test")
@directory_of(LEDGER, MIRROR)
@click.argument("name")
@json_option
def test(directory: Path, name: str, as_json: bool) -> None:
    """Fire the alarm NAME once, marked as a test, to see where it arrives."""
    alarms = read_alarms(directory)
    if name not in alarms:
        raise click.UsageError(f"no alarm is named {name!r}: {', '.join(alarms) or 'none is'}")
    with closing(open_log(directory / "log")) as store:
        origin = store.origin()
    firing = Firing(alarm=name, group="", count=0, indices=(), time_us=unix_us())
    mirror = socket.gethostname() if is_mirror(directory) else ""
    event = firing_event(
        firing, alarms[name], origin=origin, mirror=mirror, test=secrets.token_hex(8)
    )
    with open_access(directory) as access:
        access.enqueue(event)
    if as_json:
        print_json({"alarm": name, "is_test": True})
    elif mirror:
        note(f"alarm {name!r} fires, as a test: the sinks whose query finds it send it")
    else:
        note(f"alarm {name!r} fires, as a test, when the service takes it from its outbox")


@command.command("replay")
@directory_of(LEDGER, MIRROR)
@click.option("--since", help="Only entries received from this time on, RFC 3339 with a zone.")
@json_option
def replay(directory: Path, since: str | None, as_json: bool) -> None:
    """Show what would have fired on what is logged. Nothing fires."""
    alarms = read_alarms(directory)
    if not alarms:
        _note_none(directory, as_json=as_json)
    try:
        since_us = parse_time(since) if since else 0
    except EventError as error:
        raise click.UsageError(f"--since: {error.message}") from None
    firings: list[Firing] = []
    with closing(open_log(directory / "log")) as store:
        size = store.head().tree_size
        first = index = first_received(store, size, since_us)
        evaluator = Evaluator(alarms, now_us=unix_us(), is_whole=first == 0)
        while batch := read_batch(store, index, entries_max=BATCH_ENTRIES, bytes_max=BATCH_BYTES):
            for entry in batch:
                firings += evaluator.feed(entry.index, entry.leaf)
            index = batch[-1].index + 1
    if index > first:
        firings += evaluator.tick(unix_us())
    if as_json:
        print_json(firings)
        return
    for firing in firings:
        alarm = alarms[firing.alarm]
        quiet = "  (quiet)" if alarm.is_quiet(firing.time_us) else ""
        indices = ", ".join(map(str, firing.indices))
        print_line(f"{format_time(firing.time_us)}  {describe(firing, alarm)}  [{indices}]{quiet}")
    if any(alarm.kind == "witness" for alarm in alarms.values()):
        note("alarms of kind witness are not replayed: the log does not keep each cosignature")
    entries = "1 entry" if size - first == 1 else f"{size - first:,} entries"
    note(f"{counted(len(firings), 'firing')} on {entries}")
