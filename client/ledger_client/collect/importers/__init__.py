"""Importing what other systems recorded: records in, events of ours out. No network here.

    format = load_format("cloudtrail")
    for record in read_records(path, wrappers=format.wrappers, lines=format.lines):
        for event in format.map(record.raw):          # raises EventError, with the reason
            ...

A format gives every record the same ids each time, so a second import adds nothing. All formats
but `jsonl`, which is our own, are mapping files, and so is what people write for themselves.
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
"""The keys of `context` of which one holds the record itself, or says why not."""

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
    """One event of a record, and the members of the record that it took nothing from."""

    event: dict[str, Any]
    left_over: list[str]


class Format(Protocol):
    """What one kind of record is, and how its records become events."""

    @property
    def name(self) -> str:
        """Its name, which the ids of its events are derived with."""

    @property
    def wrappers(self) -> tuple[str, ...]:
        """The keys under which documents of this kind hold their records."""

    @property
    def lines(self) -> Lines:
        """What the lines of its files are."""

    def map(self, raw: bytes) -> list[dict[str, Any]]:
        """Give the events of a record, mostly one.

        Raises: EventError, with the reason.
        """

    def explain(self, raw: bytes) -> list[Mapped]:
        """Give the events of a record with what they left over; as `map`."""


def load_format(name: str) -> Format:
    """Load one of `FORMATS`. JMESPath is imported here, and not before."""
    if name == "jsonl":
        from ledger_client.collect.importers.jsonl import JsonLines

        return JsonLines()
    if name not in FORMATS:
        raise ValueError(f"no such format: {name}")
    from ledger_client.collect.importers.mapping import parse_mapping

    file = files("ledger_client.collect.importers") / "mappings" / f"{name}.toml"
    return parse_mapping(file.read_text(encoding="utf-8"))


def load_format_file(path: Path) -> Format:
    """Load a mapping file of somebody's own.

    Raises: MalformedError, naming the file and the place in it; OSError.
    """
    from ledger_client.collect.importers.mapping import load_mapping

    return load_mapping(path)
