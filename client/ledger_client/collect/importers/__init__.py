"""Importers: read records of other systems and map them to events. No network.

    format = load_format("cloudtrail")
    for record in read_records(path, wrappers=format.wrappers, lines=format.lines):
        for event in format.map(record.raw):          # raises EventError, with the reason
            ...

A format gives each record the same ids every time, so a second import adds nothing. All formats are
mapping files, the built-in ones and those that users write, but for `jsonl`, which holds events.

Its modules, in reading order:

    record_reader   files of records: JSON lines, documents, gzip
    auditd          lines of the Linux audit daemon, grouped into events
    mapping         a mapping file, read and compiled
    mapping_schema  the tables of a mapping file
    expressions     JMESPath over one record, with the functions of mappings
    apply_mapping   one record to one event
    raw_record      records read strictly, and kept in `context.original`
    jsonl           events, one to a line
"""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Protocol

from ledger_client.collect.importers.record_reader import Lines, Record, read_records

FORMATS: Final = (
    "jsonl",
    "auditd",
    "azure",
    "cloudtrail",
    "gcp",
    "github",
    "gsuite",
    "journald",
    "kubernetes",
    "okta",
    "teleport",
)

ORIGINALS: Final = ("original", "original_text", "original_omitted")
"""Keys of `context`. One of them holds the record itself, or the reason why it is missing."""

__all__ = [
    "FORMATS",
    "ORIGINALS",
    "Format",
    "Mapped",
    "Record",
    "load_format",
    "load_format_file",
    "read_records",
]


@dataclass(frozen=True, slots=True)
class Mapped:
    """One event of a record, and the members of the record that no expression read."""

    event: dict[str, Any]
    left_over: list[str]


class Format(Protocol):
    """One kind of record, and how its records become events."""

    @property
    def name(self) -> str:
        """The name of the format. The ids of its events are derived from it."""

    @property
    def wrappers(self) -> tuple[str, ...]:
        """The keys under which documents of this kind hold their records."""

    @property
    def lines(self) -> Lines:
        """The kind of lines in its files."""

    def map(self, raw: bytes) -> list[dict[str, Any]]:
        """Return the events of a record, mostly one.

        Raises: EventError, with the reason.
        """

    def explain(self, raw: bytes) -> list[Mapped]:
        """Return the events of a record with the members that they left over; as `map`."""


def load_format(name: str) -> Format:
    """Load one of `FORMATS`. JMESPath is imported only here."""
    if name == "jsonl":
        from ledger_client.collect.importers.jsonl import JsonLines

        return JsonLines()
    if name not in FORMATS:
        raise ValueError(f"no such format: {name}")
    from ledger_client.collect.importers.mapping import parse_mapping

    file = files("ledger_client.collect.importers") / "mappings" / f"{name}.toml"
    return parse_mapping(file.read_text(encoding="utf-8"))


def load_format_file(path: Path) -> Format:
    """Load a user's mapping file.

    Raises: MalformedError, naming the file and the place in it; OSError.
    """
    from ledger_client.collect.importers.mapping import load_mapping

    return load_mapping(path)
