"""`ledger gaps`: list the numbers of recorders that are missing in the log.

Every recorder numbers its events from 1. A missing number was dropped because the spool was full,
or rejected, and then the recorder recorded an event about it; or it was lost or removed. Numbers
after an instance's last one can't be missed: they may not have happened yet.

A report explains a number only if its recorder can have made it, as
`ledger_core.event.recorder_numbers` says, and a recorder reports of itself what is not in the log.
Any other report is a claim, which explains nothing.

A recorder is identified by its instance and by the principal that the ledger authenticated, so one
principal can't fill the gaps of another. Recorders that share a spool folder must therefore share
a token.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import click
import msgspec
from msgspec import UNSET

from ledger_client import Entry
from ledger_client.cli.app import EXIT_NOT_VERIFIED
from ledger_client.cli.client_options import Connection, connection_options
from ledger_client.cli.console import json_option, note, print_json, print_line
from ledger_core.event.model import Event
from ledger_core.event.recorder_numbers import DROPPED, Numbers, Range, explained_numbers


class RecorderKey(NamedTuple):
    """Identifies a recorder."""

    by: str
    instance: str


@click.command("gaps")
@click.option(
    "--from",
    "start",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Read from this index on. Numbers before it are not counted as missing.",
)
@click.option("--all", "show_all", is_flag=True, help="Show recorders without a gap too.")
@connection_options
@json_option
def command(start: int, show_all: bool, connection: Connection, as_json: bool) -> int:
    """List the missing numbers of recorders. Exit code 1 when one has no recorded reason."""
    with connection.open() as ledger:
        read = _Counted(ledger.events(start))
        reports = find_gaps(read, is_whole=start == 0)
    shown = [report for report in reports if show_all or not report.is_complete]
    if as_json:
        print_json(
            {
                "recorders": shown,
                "unexplained": sum(r.unexplained_count for r in reports),
                "from": start,
                "entries": read.count,
            }
        )
    else:
        for report in shown:
            print_line(_line(report))
        print_line(_verdict(reports))
        note(_scope(start, read.count))
    return EXIT_NOT_VERIFIED if any(report.unexplained for report in reports) else 0


class _Counted:
    """Entries, and how many of them were read."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = entries
        self.count = 0

    def __iter__(self) -> Iterator[Entry]:
        for entry in self._entries:
            self.count += 1
            yield entry


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of one recorder: present, missing and repeated."""

    by: str
    instance: str
    service: str | None
    last: int
    first_time: str
    last_time: str
    unexplained: list[Range]
    claimed: list[Range]
    dropped: list[Range]
    rejected: list[Range]
    repeated: list[int]

    @property
    def is_complete(self) -> bool:
        """Whether every number is there exactly once."""
        return not (
            self.unexplained or self.claimed or self.dropped or self.rejected or self.repeated
        )

    @property
    def unexplained_count(self) -> int:
        """The count of the numbers that are missing without a recorded reason."""
        return sum(last - first + 1 for first, last in self.unexplained)


class _RecorderNumbers:
    """The numbers of one recorder that were read so far."""

    def __init__(self, time: str) -> None:
        self.numbers = Numbers()
        self.dropped = Numbers()
        self.rejected = Numbers()
        self.claimed = Numbers()
        self.own: list[tuple[Numbers, Range]] = []  # Reported by the recorder itself.
        self.repeated: list[int] = []
        self.service: str | None = None
        self.first_time = self.last_time = time


def find_gaps(entries: Iterable[Entry], *, is_whole: bool) -> list[Report]:
    """Find the missing numbers of each recorder; `is_whole` when the entries begin at index 0.

    Cost: memory for each recorder and each of its gaps, none for an event.
    """
    seen: dict[RecorderKey, _RecorderNumbers] = {}
    for entry in entries:
        event, by = entry.event, entry.received.by
        if event.recorder is not UNSET:
            _note_number(seen, RecorderKey(by, event.recorder.instance), event.recorder.seq, event)
        for instance, first, last, is_claim in explained_numbers(event):
            recorder = seen.setdefault(RecorderKey(by, instance), _RecorderNumbers(str(event.time)))
            explained = recorder.dropped if event.action == DROPPED else recorder.rejected
            if is_claim:
                recorder.claimed.add(first, last)
            elif event.recorder is not UNSET and event.recorder.instance == instance:
                recorder.own.append((explained, (first, last)))
            else:
                explained.add(first, last)
    return [_report(key, recorder, is_whole=is_whole) for key, recorder in seen.items()]


def _note_number(
    seen: dict[RecorderKey, _RecorderNumbers], key: RecorderKey, seq: int, event: Event
) -> None:
    time = str(event.time)
    recorder = seen.get(key)
    if recorder is None:
        recorder = seen[key] = _RecorderNumbers(time)
    if seq in recorder.numbers:
        recorder.repeated.append(seq)
    recorder.numbers.add(seq, seq)
    recorder.first_time = min(recorder.first_time, time)
    recorder.last_time = max(recorder.last_time, time)
    if event.source is not UNSET and event.source.service is not UNSET:
        recorder.service = event.source.service


def _report(key: RecorderKey, recorder: _RecorderNumbers, *, is_whole: bool) -> Report:
    for explained, (first, last) in recorder.own:
        # What it says to be gone is in the log: somebody else made the report.
        is_contradicted = recorder.numbers.overlaps(first, last)
        (recorder.claimed if is_contradicted else explained).add(first, last)
    there = Numbers(recorder.numbers)
    first_seen = next(iter(recorder.numbers), (1, 0))[0]
    for first, last in (*recorder.dropped, *recorder.rejected):
        there.add(first, last)
    ranges = list(recorder.numbers)
    return Report(
        by=key.by,
        instance=key.instance,
        service=recorder.service,
        last=ranges[-1][1] if ranges else 0,
        first_time=recorder.first_time,
        last_time=recorder.last_time,
        unexplained=there.holes(1 if is_whole else first_seen),
        claimed=list(recorder.claimed),
        dropped=list(recorder.dropped),
        rejected=list(recorder.rejected),
        repeated=recorder.repeated,
    )


def _line(report: Report) -> str:
    whose = f"{report.by} {report.service or ''}".strip()
    parts = [f"{report.instance}  {whose}  1–{report.last}  {report.first_time[:19]}Z"]
    for name in ("unexplained", "claimed", "dropped", "rejected"):
        ranges = getattr(report, name)
        if ranges:
            parts.append(f"{'missing' if name == 'unexplained' else name} {_text(ranges)}")
    if report.repeated:
        parts.append(f"twice {', '.join(map(str, report.repeated))}")
    return "  ".join(parts)


def _text(ranges: Iterable[Range]) -> str:
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in ranges)


def _verdict(reports: list[Report]) -> str:
    missing = sum(report.unexplained_count for report in reports)
    if missing:
        return f"{len(reports)} recorders checked, {missing} numbers missing without a reason"
    return f"{len(reports)} recorders checked, no unexplained gaps"


def _scope(start: int, count: int) -> str:
    """What a verdict is of: a ledger can show an old head, and not what was logged after it."""
    if not count:
        return "no entry was read: that the log has none is as the ledger says"
    return (
        f"read and verified: the entries {start:,} to {start + count - 1:,}; that there are no "
        "later ones, and no other recorders, is as the ledger says"
    )
