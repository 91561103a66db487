"""Importers: read records of other systems and map them to events. No network.

    format = load_format("cloudtrail")
    for record in format.read(path):
        for event in format.map(record.raw):          # raises EventError, with the reason
            ...

A format gives each record the same ids every time, so a second import adds nothing. All formats are
mapping files, the built-in ones and those that users write, but for `jsonl`, which holds events.

Its modules, in reading order:

    auditd          lines of the Linux audit daemon, grouped into events
    journal         the export format of the systemd journal
    windows         events of Windows in XML
    csv_rows        rows of CSV as objects
    pairs           pairs in a line, and those of Keycloak's events
    record_reader   files of records: JSON lines, documents and the forms above; compression
    stages          of the records of one request, the last one alone
    mapping_schema  the tables of a mapping file
    evaluation      the nodes of an expression as Python functions
    expressions     JMESPath over one record, with the functions of mappings
    apply_mapping   one record to one event
    mapping         a mapping file, read and compiled
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.resources import files
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from ledger_client.collect.importers.record_reader import Lines, Record, read_records
from ledger_client.collect.importers.stages import LastStages, Stage
from ledger_core.event.canonical import decode_event
from ledger_core.event.ids import derived_id

FORMATS: Final = (
    "jsonl", "auditd", "azure", "cloudtrail", "gcp", "github", "gitlab", "gsuite", "journald",
    "keycloak", "kubernetes", "office365", "okta", "pgaudit", "teleport", "vault", "windows",
)  # fmt: skip

Undated = Literal["refuse", "keep"]
"""For a record without a time that can be read: refuse it, or place it at 1970 with a note."""

ORIGINALS: Final = ("original", "original_text", "original_omitted")
"""Keys of `context`. One of them holds the record itself, or the reason why it is missing."""

__all__ = [
    "FORMATS",
    "ORIGINALS",
    "FileMapper",
    "Format",
    "LastStages",
    "Mapped",
    "Record",
    "Undated",
    "load_format",
    "load_format_file",
    "read_records",
]


@dataclass(frozen=True, slots=True)
class Mapped:
    """One event of a record, and the members of the record that no expression read."""

    event: dict[str, Any]
    left_over: list[str]
    is_id_of_record: bool
    """Its id is derived from the whole record, so an equal record has the same one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One kind of record, and how its records become events."""

    name: str
    """The ids of its events are derived from it."""
    explain: Callable[[bytes], list[Mapped]]
    """Return the events of a record, mostly one. Raises: EventError, with the reason."""
    wrappers: tuple[str, ...] = ()
    """The keys under which documents of this kind hold their records."""
    lines: Lines = "json"
    columns: tuple[str, ...] = ()
    """Of CSV whose first row doesn't name them."""
    stage: Callable[[bytes], Stage | None] | None = None
    """Return the stage of a record; None for a format whose requests have one record each."""

    def read(self, source: Path | BufferedIOBase) -> Iterator[Record]:
        """Yield the records of a file, as `read_records`."""
        return read_records(source, wrappers=self.wrappers, lines=self.lines, columns=self.columns)

    def map(self, raw: bytes) -> list[dict[str, Any]]:
        """Return the events of a record alone. Raises: EventError."""
        return [mapped.event for mapped in self.explain(raw)]


class FileMapper:
    """Maps the records of one file. The place of a record among its equals is part of its id.

    So equal records are as many events, and a second import of the file still adds nothing. Cost:
    some 150 bytes of memory for each record without an id of its own.
    """

    def __init__(self, format_: Format) -> None:
        self._format = format_
        self._seen: Counter[bytes] = Counter()

    def explain(self, raw: bytes) -> list[Mapped]:
        """As `Format.explain`. Raises: EventError."""
        return [self._numbered(mapped) for mapped in self._format.explain(raw)]

    def _numbered(self, mapped: Mapped) -> Mapped:
        if not mapped.is_id_of_record:
            return mapped
        key = bytes.fromhex(mapped.event["id"].replace("-", ""))
        place = self._seen[key]
        self._seen[key] += 1
        if not place:
            return mapped
        of_place = derived_id(self._format.name, b"%b %d" % (key, place))
        return replace(mapped, event={**mapped.event, "id": of_place})


def load_format(name: str, undated: Undated = "refuse") -> Format:
    """Load one of `FORMATS`. JMESPath is imported only here."""
    if name == "jsonl":
        return Format(name=name, explain=_explain_event, wrappers=("events",))
    if name not in FORMATS:
        raise ValueError(f"no such format: {name}")
    from ledger_client.collect.importers.mapping import parse_mapping

    file = files("ledger_client.collect.importers") / "mappings" / f"{name}.toml"
    return parse_mapping(file.read_text(encoding="utf-8"), undated)


def load_format_file(path: Path, undated: Undated = "refuse") -> Format:
    """Load a user's mapping file. Raises: MalformedError, naming the place in it; OSError."""
    from ledger_client.collect.importers.mapping import load_mapping

    return load_mapping(path, undated)


def _explain_event(raw: bytes) -> list[Mapped]:
    """Read an event; if it has no id, one is derived from its canonical bytes.

    A missing time stays missing: it is filled in when the event is appended, as for every event.

    Raises: EventError.
    """
    event, event_json = decode_event(raw)
    members: dict[str, Any] = msgspec.to_builtins(event)
    with_id = {"id": derived_id("jsonl", event_json), **members}
    return [Mapped(with_id, left_over=[], is_id_of_record="id" not in members)]
