"""`ledger gaps`: list the numbers of recorders that are missing in the log.

Every recorder numbers its events from 1. A missing number was dropped because the spool was full,
or rejected, and then the recorder recorded an event about it; or it was lost or removed. Numbers
after an instance's last one can't be missed: they may not have happened yet.

A report explains a number only if its recorder can have made it: the report has a number of its own
from a recorder, its count is that of its ranges, and a recorder reports of itself what it numbered
before and what is not in the log. Any other report is a claim, which explains nothing.

A recorder is identified by its instance and by the principal that the ledger authenticated, so one
principal can't fill the gaps of another. Recorders that share a spool folder must therefore share
a token.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import click
import msgspec
from msgspec import UNSET

from ledger_client import Entry
from ledger_client.cli.app import EXIT_NOT_VERIFIED
from ledger_client.cli.client_options import Connection, connection_options
from ledger_client.cli.console import json_option, print_json, print_line
from ledger_core.event.model import INTEGER_MAX, Event

DROPPED: Final = "ledger.recorder.dropped"
REJECTED: Final = "ledger.recorder.rejected"

Range = tuple[int, int]
"""Numbers from the first to the last, both included."""


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
        reports = find_gaps(ledger.events(start), is_whole=start == 0)
    shown = [report for report in reports if show_all or not report.is_complete]
    if as_json:
        print_json({"recorders": shown, "unexplained": sum(r.unexplained_count for r in reports)})
    else:
        for report in shown:
            print_line(_line(report))
        print_line(_verdict(reports))
    return EXIT_NOT_VERIFIED if any(report.unexplained for report in reports) else 0


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


class Numbers:
    """A set of numbers, kept as ascending ranges that do not touch."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self._lasts[at]

    def __iter__(self) -> Iterator[Range]:
        return zip(self._firsts, self._lasts, strict=True)

    def add(self, first: int, last: int) -> None:
        """Add a range; it may overlap others. Nearly always it follows the last one."""
        begin = bisect_right(self._lasts, first - 2)
        end = bisect_right(self._firsts, last + 1)
        if begin < end:
            first = min(first, self._firsts[begin])
            last = max(last, self._lasts[end - 1])
        self._firsts[begin:end] = [first]
        self._lasts[begin:end] = [last]

    def overlaps(self, first: int, last: int) -> bool:
        """Whether any number of a range is in the set."""
        at = bisect_right(self._firsts, last) - 1
        return at >= 0 and self._lasts[at] >= first

    def holes(self, first: int) -> list[Range]:
        """The ranges that are missing between `first` and the last number."""
        missing: list[Range] = []
        for begin, end in self:
            if begin > first:
                missing.append((first, begin - 1))
            first = max(first, end + 1)
        return missing


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
        for instance, first, last, is_counted in _explained(event):
            recorder = seen.setdefault(RecorderKey(by, instance), _RecorderNumbers(str(event.time)))
            explained = recorder.dropped if event.action == DROPPED else recorder.rejected
            if event.recorder is UNSET or not is_counted:
                recorder.claimed.add(first, last)
            elif event.recorder.instance != instance:
                explained.add(first, last)  # Of a recorder before it on the same spool folder.
            elif last < event.recorder.seq:
                recorder.own.append((explained, (first, last)))
            else:
                recorder.claimed.add(first, last)
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


def _explained(event: Event) -> Iterator[tuple[str, int, int, bool]]:
    """The numbers that an event explains, with their instance, and whether their count is right.

    Malformed ones are ignored.
    """
    if event.context is UNSET:
        return
    if event.action == DROPPED:
        dropped = _mapping(event.context.get("dropped"))
        numbers = dropped.get("numbers")
        ranges: list[Range] = []
        for pair in numbers if isinstance(numbers, list) else ():
            match pair:
                case [int() as first, int() as last] if 0 < first <= last <= INTEGER_MAX:
                    ranges.append((first, last))
        is_counted = dropped.get("count") == sum(last - first + 1 for first, last in ranges)
        for first, last in ranges:
            yield str(dropped.get("instance")), first, last, is_counted
    elif event.action == REJECTED:
        number = _mapping(_mapping(event.context.get("rejected")).get("recorder"))
        match number.get("seq"):
            case int() as seq if 0 < seq <= INTEGER_MAX:
                yield str(number.get("instance")), seq, seq, True


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


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
