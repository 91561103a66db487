"""`ledger import`: maps the records of files, appends them in batches, sets refused ones aside.

The ids come from the records, so a second import of the same file adds nothing, and an import that
broke off is run again. The demo uses `import_file` too.
"""

import io
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import click

from ledger_client import LedgerClient, Receipt
from ledger_client.cli.app import EXIT_REJECTED
from ledger_client.cli.client_options import EXISTING_FILE, Connection, connection_options
from ledger_client.cli.console import (
    counted,
    escape_json,
    json_option,
    note,
    print_json,
    print_line,
)
from ledger_client.cli.rejected_file import STANDARD_INPUT, RejectedFile
from ledger_client.collect.importers import (
    FORMATS,
    ORIGINALS,
    FileMapper,
    Format,
    LastStages,
    Record,
    Undated,
    load_format,
    load_format_file,
)
from ledger_core.event.secrets import mask
from ledger_core.event.times import format_time
from ledger_core.tlog.errors import MalformedError

BATCH_RECORDS: Final = 1000
BATCH_BYTES: Final = 16 << 20
"""A batch ends with the record that reaches one of the two: a record may have 16 MiB."""
FILE_TIME: Final = "the time at which the file was last changed"


@click.command("import")
@click.option("--format", "format_name", type=click.Choice(FORMATS), help="A built-in format.")
@click.option(
    "--mapping",
    type=EXISTING_FILE,
    help="A mapping file of your own, for any other JSON (docs/importers.md).",
)
@click.option(
    "--undated",
    type=click.Choice(["refuse", "keep"]),
    default="refuse",
    show_default=True,
    help="For a record without a time that can be read; `keep` places it at 1970, with a note.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the events and the members that have no field; no ledger is needed.",
)
@click.argument(
    "files",
    metavar="FILE…",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True),
)
@connection_options
@json_option
def command(
    format_name: str | None,
    mapping: Path | None,
    undated: Undated,
    dry_run: bool,
    files: tuple[Path, ...],
    connection: Connection,
    as_json: bool,
) -> int | None:
    """Append the events of FILE…, plain, gzip or zstd, and verify each; `-` is standard input.

    A second import of the same file adds nothing. Refused records are written to
    FILE.rejected.jsonl with the reason, and the exit code is 3.
    """
    format_ = _load(format_name, mapping, undated)
    # A request may begin in one file and end in the next.
    stages = LastStages(format_.stage)
    if dry_run:
        rehearsals = [
            rehearse_file(
                file, format_, as_json=as_json, stages=stages, is_last_file=place == len(files)
            )
            for place, file in enumerate(files, start=1)
        ]
        for rehearsal in rehearsals:
            rehearsal.print()
        return EXIT_REJECTED if any(rehearsal.rejected for rehearsal in rehearsals) else None
    with connection.open() as ledger:
        quiet = as_json or not sys.stderr.isatty()
        reports = [
            import_file(
                ledger,
                file,
                format_,
                quiet=quiet,
                stages=stages,
                is_last_file=place == len(files),
            )
            for place, file in enumerate(files, start=1)
        ]
    if as_json:
        print_json(reports)
    else:
        for report in reports:
            report.print()
    return EXIT_REJECTED if any(report.rejected for report in reports) else None


def _load(format_name: str | None, mapping: Path | None, undated: Undated) -> Format:
    if format_name and not mapping:
        return load_format(format_name, undated)
    if mapping and not format_name:
        return load_format_file(mapping, undated)
    raise click.UsageError("Use either --format or --mapping.")


@dataclass(slots=True)
class ImportReport:
    """The results of importing one file: how many events of each kind."""

    file: str
    appended: int = 0
    duplicates: int = 0
    rejected: int = 0
    earlier_stages: int = 0
    """Records that made no event, because the event is that of a later stage of their request."""
    rejected_file: str | None = None
    notes: Counter[str] = field(default_factory=Counter)
    """How often each value had to be changed, and why records were refused."""

    def print(self) -> None:
        """Print the report for people."""
        print_line(
            f"   {self.file}: {self.appended} appended and verified, {self.duplicates} were there "
            f"already, {self.rejected} rejected"
        )
        if self.rejected_file is not None:
            note(f"   the rejected ones and why: {self.rejected_file}")
        _print_earlier_stages(self.earlier_stages)
        _print_notes(self.notes)


_COUNTED: Final = re.compile(
    r"(?:(?<=\[)|(?<=has )|(?<=got )|(?<=byte )|(?<=line )|(?<=column )|(?<= of ))[0-9]+"
)
"""The counts and places in a note. Its other numbers, as those of times, are what it says."""


def _note_of(text: str) -> str:
    """Return a note without its counts and places, so that equal ones are counted together."""
    return _COUNTED.sub("N", text)


def _notes_of(event: dict[str, Any]) -> list[str]:
    notes = [_note_of(each) for each in event.get("context", {}).get("import_notes", ())]
    return notes if "time" in event else [*notes, f"time: it has none, {FILE_TIME} is used"]


def _file_time(source: Path) -> str:
    """The time of events of ours that have none: the same at each import of the same file.

    With the time of the import, a second import would be refused as another event of the same id.
    """
    unix_ns = time.time_ns() if source == STANDARD_INPUT else source.stat().st_mtime_ns
    return format_time(unix_ns // 1000)


def _print_earlier_stages(count: int) -> None:
    if count:
        note(f"{counted(count, 'record')} made no event: a later stage of the request did")


def _print_notes(notes: Counter[str]) -> None:
    if notes:
        note("notes:")
        for text, count in notes.most_common():
            note(f"{count:>8}  {text}")


def import_file(
    ledger: LedgerClient,
    source: Path,
    format_: Format,
    *,
    quiet: bool = False,
    stages: LastStages | None = None,
    is_last_file: bool = True,
) -> ImportReport:
    """Append the records of a file, `-` for standard input, and verify each batch.

    `stages` is shared by the files of one import; after the last one it holds nothing.

    Raises: MalformedError for a damaged file, or one of which too much is refused, after the
    records before that were appended; as `LedgerClient.append_many`.
    """
    report = ImportReport(str(source))
    is_file = source != STANDARD_INPUT
    with (
        RejectedFile(source) as rejected,
        click.progressbar(
            length=source.stat().st_size if is_file else 0,
            label=source.name,
            hidden=quiet or not is_file,
            file=sys.stderr,
        ) as bar,
    ):
        read_to = 0
        mapper = FileMapper(format_)
        file_time = _file_time(source)
        stages = stages or LastStages(format_.stage)
        dropped = stages.dropped
        for batch in _batches(_records(source, format_, stages, is_last_file)):
            _import_batch(ledger, batch, mapper, file_time, report, rejected)
            # A record that was held is of an earlier place, or of another file.
            bar.update(max(0, batch[-1].file_offset - read_to))
            read_to = max(read_to, batch[-1].file_offset)
            rejected.check_size(read_to)
        report.earlier_stages = stages.dropped - dropped
        if report.rejected:
            report.rejected_file = str(rejected.path)
    return report


@dataclass(slots=True)
class Rehearsal:
    """The results of a dry run of one file."""

    file: Path
    records: int = 0
    events: int = 0
    rejected: int = 0
    earlier_stages: int = 0
    left_over: Counter[str] = field(default_factory=Counter)
    """How often each member of the records has no field in the event."""
    notes: Counter[str] = field(default_factory=Counter)

    def print(self) -> None:
        """Print the results for people, on standard error: the events go to standard output."""
        note(
            f"{self.file}: {self.records} records make {self.events} events, "
            f"{self.rejected} would be rejected"
        )
        _print_earlier_stages(self.earlier_stages)
        if self.left_over:
            note("left over, in context.original alone:")
            for name, count in self.left_over.most_common():
                note(f"{count:>8}  {name}")
        _print_notes(self.notes)


def rehearse_file(
    source: Path, format_: Format, *, as_json: bool, stages: LastStages, is_last_file: bool
) -> Rehearsal:
    """Print the events of a file without appending them: JSON lines, or indented for people.

    `context.original` is left out: it is the record itself. Secrets are masked, as in an import.

    Raises: MalformedError for a damaged file.
    """
    rehearsal = Rehearsal(source)
    mapper = FileMapper(format_)
    dropped = stages.dropped
    for record in _records(source, format_, stages, is_last_file):
        rehearsal.records += 1
        try:
            mapped = mapper.explain(record.raw)
        except MalformedError as error:
            rehearsal.rejected += 1
            rehearsal.notes[f"refused, {_note_of(str(error))}"] += 1
            _print_line({"line": record.line, "rejected": str(error)}, as_json=as_json)
            continue
        for each in mapped:
            rehearsal.events += 1
            rehearsal.left_over.update(each.left_over)
            rehearsal.notes.update(_notes_of(each.event))
            event = mask(_without_original(each.event))
            line = {"line": record.line, "event": event, "left_over": each.left_over}
            _print_line(line, as_json=as_json)
    rehearsal.earlier_stages = stages.dropped - dropped
    rehearsal.records += rehearsal.earlier_stages
    return rehearsal


def _without_original(event: dict[str, Any]) -> dict[str, Any]:
    context = event.get("context", {})
    shown = {name: value for name, value in context.items() if name not in ORIGINALS}
    others = {name: value for name, value in event.items() if name != "context"}
    return {**others, "context": shown} if shown else others


def _print_line(line: dict[str, Any], *, as_json: bool) -> None:
    text = json.dumps(line, ensure_ascii=False, indent=None if as_json else 2)
    click.echo(escape_json(text))


def _records(
    source: Path, format_: Format, stages: LastStages, is_last_file: bool
) -> Iterator[Record]:
    is_stdin = source == STANDARD_INPUT
    stream = cast("io.BufferedReader", sys.stdin.buffer) if is_stdin else source
    try:
        yield from stages.select(format_.read(stream))
    except MalformedError:
        # No other file follows.
        yield from stages.held()
        raise
    if is_last_file:
        yield from stages.held()


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    """Yield batches of records. Raises: MalformedError, after the records before the damage."""
    damage: MalformedError | None = None

    def until_damage() -> Iterator[Record]:
        nonlocal damage
        try:
            yield from records
        except MalformedError as error:
            damage = error

    source = until_damage()
    while batch := list(_first_records(source)):
        yield batch
    if damage is not None:
        raise damage


def _first_records(records: Iterator[Record]) -> Iterator[Record]:
    """Yield the records of the next batch."""
    size = 0
    for record in islice(records, BATCH_RECORDS):
        yield record
        size += len(record.raw)
        if size >= BATCH_BYTES:
            return


def _import_batch(
    ledger: LedgerClient,
    batch: list[Record],
    mapper: FileMapper,
    file_time: str,
    report: ImportReport,
    rejected: RejectedFile,
) -> None:
    mapped: list[tuple[Record, dict[str, Any]]] = []
    for record in batch:
        try:
            mapped.extend((record, each.event) for each in mapper.explain(record.raw))
        except MalformedError as error:
            report.rejected += 1
            report.notes[f"refused, {_note_of(str(error))}"] += 1
            rejected.write(record, str(error), getattr(error, "field", None))
    if not mapped:
        return
    results = ledger.append_many([{"time": file_time, **event} for _, event in mapped])
    for (record, event), result in zip(mapped, results, strict=True):
        if isinstance(result, Receipt):
            report.appended += not result.is_duplicate
            report.duplicates += result.is_duplicate
            report.notes.update(_notes_of(event))
        else:
            report.rejected += 1
            report.notes[f"refused, {_note_of(result.problem.detail)}"] += 1
            rejected.write(record, result.problem.detail, result.problem.field)
