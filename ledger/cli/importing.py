"""Importing a file: its records mapped, sent in batches, and what was refused set aside.

Used by `ledger import` and the demo. Importing the same file again adds nothing, since the ids
come from the records; so an import that broke off is simply run again.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import click

from ledger.cli.output import note
from ledger.tlog.errors import MalformedError
from ledger_client import LedgerClient, Receipt
from ledger_client.importing import MAPPERS, Record, read_records

BATCH_EVENTS: Final = 1000


@dataclass(slots=True)
class ImportReport:
    """What became of the records of one file."""

    file: Path
    appended: int = 0
    duplicates: int = 0
    rejected: int = 0
    rejected_file: Path | None = None

    def print(self) -> None:
        """For people."""
        click.echo(
            f"   {self.file}: {self.appended} appended and verified, {self.duplicates} were there "
            f"already, {self.rejected} rejected"
        )
        if self.rejected_file is not None:
            note(f"   the rejected ones and why: {self.rejected_file}")


class _RejectedFile:
    """FILE.rejected.jsonl, made when there is something to put in it; a stale one is removed."""

    def __init__(self, source: Path) -> None:
        self.path = source.with_name(f"{source.name}.rejected.jsonl")
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        self.path.unlink(missing_ok=True)
        return self

    def add(self, record: Record, reason: str, field: str | None) -> None:
        """One line: where the record stands, why it was refused, and the record itself."""
        if self._file is None:
            self._file = self.path.open("wb")
        line: dict[str, Any] = {"line": record.line, "reason": reason}
        if field:
            line["field"] = field
        line["record"] = record.raw.decode(errors="replace")
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()


def import_file(
    ledger: LedgerClient, source: Path, format_: str, *, quiet: bool = False
) -> ImportReport:
    """Append the records of a file and verify each batch.

    Raises: MalformedError for a damaged file, after what stood before the damage was appended; as
    `LedgerClient.append_many`.
    """
    report = ImportReport(source)
    with (
        _RejectedFile(source) as rejected,
        click.progressbar(
            length=source.stat().st_size, label=source.name, hidden=quiet, file=sys.stderr
        ) as bar,
    ):
        read_to = 0
        for batch in _batches(read_records(source)):
            _import_batch(ledger, batch, format_, report, rejected)
            bar.update(batch[-1].file_offset - read_to)
            read_to = batch[-1].file_offset
        if report.rejected:
            report.rejected_file = rejected.path
    return report


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    """Batches of records; what stands before a damaged part is handed on first."""
    damage: MalformedError | None = None

    def until_damage() -> Iterator[Record]:
        nonlocal damage
        try:
            yield from records
        except MalformedError as error:
            damage = error

    source = until_damage()
    while batch := list(islice(source, BATCH_EVENTS)):
        yield batch
    if damage is not None:
        raise damage


def _import_batch(
    ledger: LedgerClient,
    batch: list[Record],
    format_: str,
    report: ImportReport,
    rejected: _RejectedFile,
) -> None:
    mapper = MAPPERS[format_]
    mapped: list[tuple[Record, dict[str, Any]]] = []
    for record in batch:
        try:
            mapped.append((record, mapper(record.raw)))
        except MalformedError as error:
            report.rejected += 1
            rejected.add(record, str(error), getattr(error, "field", None))
    if not mapped:
        return
    results = ledger.append_many([event for _, event in mapped])
    for (record, _), result in zip(mapped, results, strict=True):
        if isinstance(result, Receipt):
            report.appended += not result.is_duplicate
            report.duplicates += result.is_duplicate
        else:
            report.rejected += 1
            rejected.add(record, result.problem.detail, result.problem.field)
