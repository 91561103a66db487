"""Mapping files: how the records of one product become events.

    name = "billing"

    [event]
    time = "at"
    action = "join('.', ['invoice', verb])"

    [event.actor]
    id = "by.login"

    [[event.targets]]
    id = "invoice"
    type = "'invoice'"

    [event.outcome]
    failure = "error"
    success = "!error"

Every value under `event` is a JMESPath expression, or a list of them. The types below are the
format; `docs/importers.md` documents it. `apply_mapping` maps each record.
"""

import re
import tomllib
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ledger_client.collect.importers import Format, Mapped, Undated
from ledger_client.collect.importers.apply_mapping import map_event, natural_id, read_record
from ledger_client.collect.importers.expressions import Expression, RecordReader
from ledger_client.collect.importers.mapping_schema import EventTable, StagesTable
from ledger_client.collect.importers.record_reader import Lines
from ledger_client.collect.importers.stages import Stage
from ledger_core.event.model import EventError, whole_text
from ledger_core.tlog.errors import MalformedError
from ledger_core.toml import parse_toml

MAPPING_BYTES_MAX = 1024 * 1024

_is_name = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}").fullmatch


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: str
    event: EventTable | Annotated[list[EventTable], Meta(min_length=1)]
    lines: Lines = "json"
    columns: list[str] = []
    wrappers: list[str] = []
    keys: Literal["exact", "any-case"] = "exact"
    time_zone: Annotated[str, whole_text(r"Z|[+-][0-9]{2}:[0-9]{2}")] | None = None
    record: Expression | None = None
    spread: Expression | None = None
    id: Expression | None = None
    stages: StagesTable | None = None


def _explain(file: _File, undated: Undated, raw: bytes) -> list[Mapped]:
    record, is_exact = read_record(raw)
    written = None if is_exact else raw.decode()
    try:
        return [_map_part(file, undated, part, written) for part in _parts(file, record)]
    except RecursionError:
        raise EventError("the record nests too deep to be mapped", rule="too-deep") from None


def _parts(file: _File, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the record, or the parts that it spreads into, with the record's own members."""
    if file.spread is None:
        return [record]
    parts = _reader(file).first(file.spread, record)
    is_list = isinstance(parts, list) and all(isinstance(part, dict) for part in parts)
    if not parts or not is_list:
        return [record]
    own = {key: member for key, member in record.items() if member != parts}
    return [{**own, **part} for part in parts]


def _stage(file: _File, table: StagesTable, raw: bytes) -> Stage | None:
    """Return the stage of a record; None for one that can't be read, which the mapping refuses."""
    try:
        record, _ = read_record(raw)
        reader = RecordReader(any_case=file.keys == "any-case", whole=record)
        root = _root(file, reader, record)
        request = reader.text(table.request, root)
        return Stage(request, reader.is_true(table.last, root)) if request else None
    except (EventError, RecursionError):
        return None


def _root(file: _File, reader: RecordReader, record: dict[str, Any]) -> dict[str, Any]:
    found = (each for each in reader.values(file.record, record) if isinstance(each, dict))
    return next(found, record)


def _map_part(file: _File, undated: Undated, record: dict[str, Any], written: str | None) -> Mapped:
    reader = RecordReader(any_case=file.keys == "any-case", whole=record)
    root = _root(file, reader, record)
    natural = natural_id(file.id, reader, root)
    # A separate reader, because a member that only a condition read isn't in the event.
    conditions = _reader(file)
    for table in file.event if isinstance(file.event, list) else [file.event]:
        if table.when is None or conditions.is_true(table.when, root):
            event = map_event(
                table,
                reader,
                root,
                record=record,
                written=written,
                name=file.name,
                natural=natural,
                time_zone=file.time_zone,
                undated=undated,
            )
            left_over = reader.left_over(root, record)
            return Mapped(event, left_over, is_id_of_record=natural is None)
    message = "the mapping has no table for such a record"
    raise EventError(message, rule="missing-field", field="action")


def _reader(file: _File) -> RecordReader:
    return RecordReader(any_case=file.keys == "any-case")


def parse_mapping(text: str, undated: Undated = "refuse") -> Format:
    """Read a mapping file.

    Raises: MalformedError, naming the place: `event.actor.id: not a JMESPath expression: …`.
    """
    try:
        file = msgspec.convert(parse_toml(text), _File, dec_hook=_decode_expression)
    except tomllib.TOMLDecodeError as error:
        raise MalformedError(f"not TOML: {error}") from None
    except msgspec.ValidationError as error:
        message, _, place = str(error).rpartition(" - at `$.")
        raise MalformedError(f"{place.rstrip('`')}: {message}" if message else place) from None
    if not _is_name(file.name):
        raise MalformedError("name: at most 64 of a-z, 0-9, `_`, `.`, `-` are allowed")
    return Format(
        name=file.name,
        explain=partial(_explain, file, undated),
        wrappers=tuple(file.wrappers),
        lines=file.lines,
        columns=tuple(file.columns),
        stage=partial(_stage, file, file.stages) if file.stages else None,
    )


def load_mapping(path: Path, undated: Undated = "refuse") -> Format:
    """Read a mapping file from disk. Raises: MalformedError, naming the file; OSError."""
    with path.open("rb") as file:
        content = file.read(MAPPING_BYTES_MAX + 1)
    if len(content) > MAPPING_BYTES_MAX:
        raise MalformedError(f"{path}: a mapping has at most {MAPPING_BYTES_MAX} bytes")
    try:
        return parse_mapping(content.decode(), undated)
    except UnicodeDecodeError:
        raise MalformedError(f"{path}: not UTF-8") from None
    except MalformedError as error:
        raise MalformedError(f"{path}: {error}") from None


def _decode_expression(kind: type, value: Any) -> Any:
    if kind is not Expression:
        raise NotImplementedError
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(each, str) for each in texts):
        raise ValueError("an expression is a text or a list of texts")
    return Expression(texts)
