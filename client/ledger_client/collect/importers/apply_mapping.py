"""Maps one record to one event, by the tables of a mapping.

| event | |
|---|---|
| `id` | derived from the mapping's name and the whole record, or from the value of its `id` |
| `time` | the first one that can be read; without one the record is refused, or stands at 1970 |
| `actor` | `unknown`, noted, when the record names none |
| `action` | required: without it the record is refused |
| `context.import_notes` | each value that had to be changed |
| `context.original` | the record itself, untouched |
| `context.original_text` | its JSON text: it nests too deep, or has a value that no event has |
| `context.original_omitted` | why it is missing: the leaf would be too long |

The time of the import is never used: it is not when the event happened, and differs at the next
import.
"""

import re
from collections.abc import Iterator
from math import isfinite
from typing import Any, TypeVar

import rfc8785

from ledger_client.collect.importers import Undated
from ledger_client.collect.importers import mapping_schema as tables
from ledger_client.collect.importers.expressions import Expression, RecordReader
from ledger_client.collect.times import read_time
from ledger_core.event.canonical import LEAF_BYTES_MAX, decode_event_object
from ledger_core.event.diagnostics import parse_json
from ledger_core.event.ids import derived_id
from ledger_core.event.model import LIMITS, EventError
from ledger_core.event.times import format_time
from ledger_core.event.truncation import Fitter, canonical_text, without_empty

UNKNOWN_TIME = format_time(0)
RECEIVED_BYTES_MAX = 2048
"""Left free in the leaf for the server's part: `by` of 256 characters, each an escape."""
INTEGER_CHARS_MAX = 1000

_is_port = re.compile(r"[0-9]{1,5}").fullmatch
_Table = TypeVar("_Table", tables.TargetTable, tables.ChangeTable)


def read_record(raw: bytes) -> tuple[dict[str, Any], bool]:
    """Read one JSON object, in which no key stands twice; and whether RFC 8785 keeps its numbers.

    It writes `1.50` as 1.5 and `-0` as 0. Raises: EventError.
    """
    as_written: list[bool] = []

    def read_integer(digits: str) -> int:
        as_written.append(digits != "-0")
        return _read_integer(digits)

    def read_float(text: str) -> float:
        number = float(text)
        as_written.append(isfinite(number) and rfc8785.dumps(number) == text.encode())
        return number

    record = parse_json(
        raw, read_object=_read_object, read_integer=read_integer, read_float=read_float
    )
    if not isinstance(record, dict):
        raise EventError("a record is a JSON object", rule="wrong-type")
    return record, all(as_written)


def natural_id(expression: Expression | None, reader: RecordReader, root: dict[str, Any]) -> Any:
    """Return what the record's own id is; None if it has none, or an empty one."""
    found = (each for each in reader.values(expression, root) if each not in ("", [], {}))
    return next(found, None)


def map_event(
    table: tables.EventTable,
    reader: RecordReader,
    root: dict[str, Any],
    *,
    record: dict[str, Any],
    name: str,
    written: str | None,
    natural: Any,
    time_zone: str | None,
    undated: Undated,
) -> dict[str, Any]:
    """Map `root` to an event that the ledger accepts; `record` is the original.

    `written` is the text of a record whose numbers RFC 8785 would write in another way.

    Raises: EventError for a record without an action, or with a value that JSON can't express.
    """
    text = canonical_text(record)
    fields = _Fields(reader, root, Fitter())
    action = fields.action(table.action)
    event = {
        "id": derived_id(name, (text if natural is None else canonical_text(natural)).encode()),
        "time": fields.time(table.time, time_zone, undated),
        "actor": fields.actor(table.actor),
        "action": action,
        "targets": fields.targets(table.targets),
        "source": fields.source(table.source),
        "outcome": fields.outcome(table.outcome),
        "reason": fields.text(table.reason, "reason", "reason"),
        "changes": fields.changes(table.changes),
        "tenant": fields.id(table.tenant, "tenant"),
    }
    context = fields.context(table)
    return _add_original(
        without_empty(event), context=context, record=record, text=text, written=written
    )


def _add_original(
    event: dict[str, Any],
    *,
    context: dict[str, Any],
    record: dict[str, Any],
    text: str,
    written: str | None,
) -> dict[str, Any]:
    """Add the context, with the record in the first form that the limits allow.

    Raises: EventError if the ledger refuses the event even without the record.
    """
    originals: list[dict[str, Any]] = [{"original": record}, {"original_text": text}]
    if written is not None:
        originals.insert(0, {"original_text": written})
    for original in originals:
        whole = {**event, "context": {**context, **original}}
        try:
            _, event_json = decode_event_object(whole)
        except EventError as error:
            if error.rule != "leaf-too-large" and not error.field.startswith("context.original"):
                raise
            continue
        if len(event_json) <= LEAF_BYTES_MAX - RECEIVED_BYTES_MAX:
            return whole
    omitted = f"the record has {len(text)} bytes, too many for a leaf of {LEAF_BYTES_MAX}"
    whole = {**event, "context": {**context, "original_omitted": omitted}}
    decode_event_object(whole)
    return whole


class _Fields:
    """Makes the fields of one event, and notes each change."""

    def __init__(self, reader: RecordReader, root: dict[str, Any], fitter: Fitter) -> None:
        self._reader = reader
        self._root = root
        self._fitter = fitter
        self._source_address = ""

    def time(self, expression: Expression | None, time_zone: str | None, undated: Undated) -> str:
        for found in self._reader.values(expression, self._root):
            # A number is an epoch, as its digits are.
            is_text = isinstance(found, str) or type(found) in (int, float)
            if is_text and (time := read_time(str(found), time_zone)):
                if time.note:
                    self._fitter.note("time", time.note)
                return format_time(time.unix_us)
        if undated == "refuse":
            raise EventError("the record has none that can be read", rule="time", field="time")
        note = "the record has none that can be read, 1970-01-01 stands in for it"
        self._fitter.note("time", note)
        return UNKNOWN_TIME

    def actor(self, table: tables.ActorTable) -> dict[str, Any]:
        actor = self._principal(table, self._root, "actor")
        if actor is None:
            self._fitter.note("actor", "the record names none")
            actor = {"id": "unknown"}
        actor["session"] = self.id(table.session, "actor.session")
        actor["credential"] = self.id(table.credential, "actor.credential")
        if (other := table.on_behalf_of) is not None:
            actor["on_behalf_of"] = self._principal(other, self._root, "actor.on_behalf_of")
        return without_empty(actor)

    def action(self, expression: Expression) -> str:
        action = self._fitter.action(self._reader.text(expression, self._root))
        if not action:
            message = f"the record has none, which would be its {expression}"
            raise EventError(message, rule="missing-field", field="action")
        return action

    def targets(self, listed: list[tables.TargetTable]) -> list[dict[str, Any]]:
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for table, item in self._each(listed):
            target = self._principal(table, item, f"targets[{len(found)}]")
            if target is not None:
                found.setdefault((target["id"], target.get("type", "")), target)
        # A target without a type is the one that has the same id and a type.
        typed = {target_id for target_id, of_type in found if of_type}
        kept = [each for (at, of_type), each in found.items() if of_type or at not in typed]
        return self._at_most("targets", kept)

    def source(self, table: tables.SourceTable) -> dict[str, Any]:
        address = self._reader.text(table.ip, self._root)
        ip, port = self._fitter.address(address)
        if address and not ip:
            self._fitter.note("source.ip", "not an address, kept in context.source_address")
            self._source_address = address
        port = port or self._port(table.port)
        source = {
            "ip": ip,
            "port": port,
            "service": self.id(table.service, "source.service"),
            "user_agent": self.text(table.user_agent, "source.user_agent", "user_agent"),
        }
        return without_empty(source)

    def outcome(self, table: tables.OutcomeTable) -> str:
        for outcome in ("denied", "failure", "success"):
            if self._reader.is_true(getattr(table, outcome), self._root):
                return outcome
        return "unknown"

    def changes(self, listed: list[tables.ChangeTable]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for table, item in self._each(listed):
            field = f"changes[{len(found)}]"
            path = self.text(table.path, f"{field}.path", "name", item)
            change = {
                name: self._fitter.value(value, field=f"{field}.{name}")
                for name, expression in (("before", table.before), ("after", table.after))
                if (value := self._reader.first(expression, item)) is not None
            }
            if path and change:
                found.append({"path": path, **change})
        return self._at_most("changes", found)

    def context(self, table: tables.EventTable) -> dict[str, Any]:
        found = {
            name: self._reader.first(expression, self._root)
            for name, expression in table.context.items()
        }
        found["source_address"] = self._source_address
        context = {
            name: self._fitter.value(value, field=f"context.{name}")
            for name, value in found.items()
        }
        for note, expression in table.notes.items():
            if self._reader.is_true(expression, self._root):
                self._fitter.notes.append(note)
        context["import_notes"] = self._fitter.notes
        return {name: value for name, value in context.items() if value not in (None, "", [], {})}

    def id(self, expression: Expression | None, field: str) -> str:
        return self._fitter.id(self._reader.text(expression, self._root), field=field)

    def text(self, expression: Expression | None, field: str, limit: str, item: Any = None) -> str:
        """Return a text of the record, or of a part of it, cut to one of `LIMITS`."""
        text = self._reader.text(expression, self._root if item is None else item)
        return self._fitter.text(text, field=field, chars_max=LIMITS[limit].most)

    def _principal(
        self, table: tables.PrincipalTable, item: Any, field: str
    ) -> dict[str, Any] | None:
        of_id = self._reader.text(table.id, item)
        if not of_id:
            return None
        return self._fitter.principal(
            field=field,
            of_id=of_id,
            of_type=self._reader.text(table.type, item),
            name=self._reader.text(table.name, item),
        )

    def _each(self, listed: list[_Table]) -> Iterator[tuple[_Table, Any]]:
        for table in listed:
            found: Any = self._root
            if table.each is not None:
                found = next(self._reader.values(table.each, self._root), None)
            items = found if isinstance(found, list) else [found]
            yield from ((table, item) for item in items if item is not None)

    def _at_most(self, field: str, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        most = LIMITS[field].most
        if len(items) > most:
            self._fitter.note(field, f"the first {most} of {len(items)}")
        return items[:most]

    def _port(self, expression: Expression | None) -> int:
        digits = self._reader.text(expression, self._root)
        return int(digits) if _is_port(digits) and int(digits) <= LIMITS["port"].most else 0


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise EventError("a key stands twice in one object", rule="repeated-key")
    return members


def _read_integer(digits: str) -> int:
    got = len(digits)
    if got > INTEGER_CHARS_MAX:
        message = f"a number has {got} digits"
        raise EventError(message, rule="number", limit=INTEGER_CHARS_MAX, got=got)
    return int(digits)
