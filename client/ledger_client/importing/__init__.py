"""Importing what other systems recorded: records in, events of ours out. No network here.

    for record in read_records(Path("trail.json.gz")):
        event = MAPPERS["cloudtrail"](record.raw)     # raises EventError, with the reason

A mapper gives every record the same id each time, so a second import adds nothing.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ledger_client.importing import cloudtrail, jsonl
from ledger_client.importing.sources import Record, read_records

Mapper = Callable[[bytes], dict[str, Any]]

MAPPERS: Mapping[str, Mapper] = MappingProxyType(
    {"jsonl": jsonl.map_json, "cloudtrail": cloudtrail.map_json}
)

__all__ = ["MAPPERS", "Mapper", "Record", "read_records"]
