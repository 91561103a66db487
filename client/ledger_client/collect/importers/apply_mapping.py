"""Maps one record to one event, by the tables of a mapping.

| event | |
|---|---|
| `id` | derived from the mapping's name and the whole record, or from the value of its `id` |
| `time` | the first one that can be read; otherwise 1970-01-01, noted |
| `actor` | `unknown`, noted, when the record names none |
| `action` | required: without it the record is refused |
| `context.import_notes` | each value that had to be changed |
| `context.original` | the record itself, untouched |

The time of the import is never used: it is not when the event happened, and differs at the next
import.
"""

import re
from collections.abc import Iterator
from typing import Any, TypeVar

from ledger_client.collect.importers.expressions import Expression, RecordReader
from ledger_client.collect.importers.mapping_schema import (
    ActorTable,
    ChangeTable,
    EventTable,
    OutcomeTable,
    PrincipalTable,
    SourceTable,
    TargetTable,
)
from ledger_client.collect.importers.raw_record import add_original
from ledger_core.event.canonical import format_time, parse_time
from ledger_core.event.ids import derived_id
from ledger_core.event.model import LIMITS, EventError
from ledger_core.event.truncation import Fitter, canonical_text, without_empty

UNKNOWN_TIME = format_time(0)

_is_port = re.compile(r"[0-9]{1,5}").fullmatch
_Table = TypeVar("_Table", TargetTable, ChangeTable)


def map_event(
    table: EventTable,
    reader: RecordReader,
    root: dict[str, Any],
    *,
    record: dict[str, Any],
    name: str,
    natural_id: Expression | None,
    time_zone: str | None,
) -> dict[str, Any]:
    """Map `root` to an event that the ledger accepts; `record` is the original.

    Raises: EventError for a record without an action, or with a value that JSON can't express.
    """
    text = canonical_text(record)
    natural = reader.first(natural_id, root)
    fields = _Fields(reader, root, Fitter())
    event = {
        "id": derived_id(name, (text if natural is None else canonical_text(natural)).encode()),
        "time": fields.time(table.time, time_zone),
        "actor": fields.actor(table.actor),
        "action": fields.action(table.action),
        "targets": fields.targets(table.targets),
        "source": fields.source(table.source),
        "outcome": fields.outcome(table.outcome),
        "reason": fields.long_text(table.reason, "reason"),
        "changes": fields.changes(table.changes),
        "tenant": fields.id(table.tenant, "tenant"),
    }
    context = fields.context(table)
    return add_original(without_empty(event), context=context, record=record, text=text)


class _Fields:
    """Makes the fields of one event, and notes each change."""

    def __init__(self, reader: RecordReader, root: dict[str, Any], fitter: Fitter) -> None:
        self._reader = reader
        self._root = root
        self._fitter = fitter
        self._source_address = ""

    def time(self, expression: Expression | None, time_zone: str | None) -> str:
        for found in self._reader.values(expression, self._root):
            if isinstance(found, str) and (time := _read_time(found, time_zone)):
                return time
        self._fitter.note(
            "time", "the record has none that can be read, 1970-01-01 stands in for it"
        )
        return UNKNOWN_TIME

    def actor(self, table: ActorTable) -> dict[str, Any]:
        actor = self._principal(table, self._root, "actor")
        if actor is None:
            self._fitter.note("actor", "the record names none")
            actor = {"id": "unknown"}
        actor["session"] = self.id(table.session, "actor.session")
        actor["credential"] = self.id(table.credential, "actor.credential")
        if table.on_behalf_of is not None:
            actor["on_behalf_of"] = self._principal(
                table.on_behalf_of, self._root, "actor.on_behalf_of"
            )
        return without_empty(actor)

    def action(self, expression: Expression) -> str:
        text = self._reader.text(expression, self._root)
        action = self._fitter.action(text)
        if not action:
            raise EventError(
                f"the record has none, which would be its {expression}",
                rule="missing-field",
                field="action",
            )
        return action

    def targets(self, tables: list[TargetTable]) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for table, item in self._each(tables):
            target = self._principal(table, item, f"targets[{len(found)}]")
            if target is not None:
                found.setdefault(target["id"], target)
        return self._at_most("targets", [*found.values()])

    def source(self, table: SourceTable) -> dict[str, Any]:
        address = self._reader.text(table.ip, self._root)
        ip, port = self._fitter.address(address)
        if address and not ip:
            self._fitter.note("source.ip", "not an address, kept in context.source_address")
            self._source_address = address
        port = port or self._port(table.port)
        return without_empty(
            {
                "ip": ip,
                "port": port,
                "service": self.id(table.service, "source.service"),
                "user_agent": self._fitter.text(
                    self._reader.text(table.user_agent, self._root),
                    field="source.user_agent",
                    chars_max=LIMITS["user_agent"].most,
                ),
            }
        )

    def outcome(self, table: OutcomeTable) -> str:
        for outcome in ("denied", "failure", "success"):
            if self._reader.is_true(getattr(table, outcome), self._root):
                return outcome
        return "unknown"

    def changes(self, tables: list[ChangeTable]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for table, item in self._each(tables):
            field = f"changes[{len(found)}]"
            path = self._fitter.text(
                self._reader.text(table.path, item),
                field=f"{field}.path",
                chars_max=LIMITS["name"].most,
            )
            change = {
                name: self._fitter.value(value, field=f"{field}.{name}")
                for name, expression in (("before", table.before), ("after", table.after))
                if (value := self._reader.first(expression, item)) is not None
            }
            if path and change:
                found.append({"path": path, **change})
        return self._at_most("changes", found)

    def context(self, table: EventTable) -> dict[str, Any]:
        context = {
            name: self._fitter.value(
                self._reader.first(expression, self._root), field=f"context.{name}"
            )
            for name, expression in table.context.items()
        }
        context["source_address"] = self._fitter.value(
            self._source_address, field="context.source_address"
        )
        for note, expression in table.notes.items():
            if self._reader.is_true(expression, self._root):
                self._fitter.notes.append(note)
        context["import_notes"] = self._fitter.notes
        return {name: value for name, value in context.items() if value not in (None, "", [], {})}

    def id(self, expression: Expression | None, field: str) -> str:
        return self._fitter.id(self._reader.text(expression, self._root), field=field)

    def long_text(self, expression: Expression | None, field: str) -> str:
        text = self._reader.text(expression, self._root)
        return self._fitter.text(text, field=field, chars_max=LIMITS["reason"].most)

    def _principal(self, table: PrincipalTable, item: Any, field: str) -> dict[str, Any] | None:
        of_id = self._reader.text(table.id, item)
        if not of_id:
            return None
        return self._fitter.principal(
            field=field,
            of_id=of_id,
            of_type=self._reader.text(table.type, item),
            name=self._reader.text(table.name, item),
        )

    def _each(self, tables: list[_Table]) -> Iterator[tuple[_Table, Any]]:
        for table in tables:
            if table.each is None:
                yield table, self._root
                continue
            found = next(self._reader.values(table.each, self._root), None)
            for item in found if isinstance(found, list) else [found]:
                if item is not None:
                    yield table, item

    def _at_most(self, field: str, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        most = LIMITS[field].most
        if len(items) > most:
            self._fitter.note(field, f"the first {most} of {len(items)}")
        return items[:most]

    def _port(self, expression: Expression | None) -> int:
        digits = self._reader.text(expression, self._root)
        return int(digits) if _is_port(digits) and int(digits) <= LIMITS["port"].most else 0


def _read_time(text: str, time_zone: str | None) -> str | None:
    """Read a time in the forms of exports; without a zone only if the mapping names one."""
    text = text.strip().replace(" ", "T", 1)
    # What follows the seconds and their decimals is the zone.
    if not text[19:].lstrip(".0123456789"):
        text += time_zone or ""
    try:
        return format_time(parse_time(text))
    except EventError:
        return None
