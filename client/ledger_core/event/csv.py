"""Events as rows of a table: the columns of every CSV export, and their order.

    index,id,time,received_time,received_by,actor_type,actor_id,…
    17,0192f0c1-…,2026-11-25T02:03:36.123456Z,2026-11-25T02:03:36.130001Z,billing-api,user,u_12345,…

Columns are added at the end and never change their place. Times are UTC, with a `Z`. Targets,
changes and context are each one cell of JSON; the first target has cells of its own too.

A cell that a spreadsheet would run as a formula gets an apostrophe in front, and so does one that
begins with an apostrophe. Where semicolons or tabs separate the cells, a cell also begins behind
each of them, and a line behind each line break: a formula there gets its apostrophe too. Removing
one at each such place gives the text back. In cells of JSON the sign is written as `\\u003d`.

Source: RFC 4180; OWASP, "CSV Injection".
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET

from ledger_core.event.model import Event, Received
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.hashing import leaf_hash

COLUMNS: Final = (
    "index", "id", "time", "received_time", "received_by", "actor_type", "actor_id", "actor_name",
    "session", "credential", "on_behalf_of_type", "on_behalf_of_id", "action", "outcome",
    "target_type", "target_id", "target_name", "targets", "source_ip", "source_port",
    "source_service", "user_agent", "reason", "changes", "context", "tenant", "recorder_instance",
    "recorder_seq", "leaf_hash",
)  # fmt: skip

_SIGNS: Final = "-=+@'\uff1d\uff0b\uff0d\uff20"
"""Signs that begin a formula in one spreadsheet or another, the full-width ones too."""

_FORMULA: Final = re.compile(rf"^(?=[{_SIGNS}\t\r\n])|(?<=[;\t\r\n])(?=[{_SIGNS}])")
_FORMULA_IN_JSON: Final = re.compile(rf"(?<=;)[{_SIGNS}]")

Cell = str | int


class _Leaf(msgspec.Struct, frozen=True, gc=False):
    """A leaf of the log, which was checked when it was appended."""

    event: Event
    received: Received
    v: Literal[1]


_decode_leaf = msgspec.json.Decoder(_Leaf).decode
_encode = msgspec.json.Encoder(order="sorted").encode


def format_header() -> str:
    """Write the header line."""
    return format_rows([COLUMNS])


def format_rows(rows: Iterable[Iterable[Cell]]) -> str:
    """Write rows as CSV, each with its CRLF."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue()


def table_row(leaf_index: int, leaf: bytes) -> list[Cell]:
    """Return the cells of one entry. Raises: MalformedError for bytes that are not a leaf."""
    try:
        fields = _decode_leaf(leaf)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise MalformedError(f"entry {leaf_index} is not a leaf") from None
    event, received = fields.event, fields.received
    actor, targets = event.actor, event.targets or ()
    return [
        leaf_index,
        *_cells(event, "id", "time"),
        *_cells(received, "time", "by"),
        *_cells(actor, "type", "id", "name", "session", "credential"),
        *_cells(actor.on_behalf_of, "type", "id"),
        *_cells(event, "action", "outcome"),
        *_cells(targets[0] if targets else UNSET, "type", "id", "name"),
        _json(targets),
        *_cells(event.source, "ip", "port", "service", "user_agent"),
        *_cells(event, "reason"),
        _json(event.changes),
        _json(event.context),
        *_cells(event, "tenant"),
        *_cells(event.recorder, "instance", "seq"),
        leaf_hash(leaf).hex(),
    ]


def _cells(part: Any, *names: str) -> Iterator[Cell]:
    """Yield fields, a text as one that no spreadsheet runs; "" for an absent field or part."""
    for name in names:
        value = getattr(part, name, UNSET)
        if value is UNSET:
            yield ""
        else:
            yield _FORMULA.sub("'", value) if isinstance(value, str) else value


def _json(value: Any) -> str:
    """Return JSON. It begins with a bracket; a formula can only stand behind a `;` in a string."""
    if value is UNSET or not value:
        return ""
    return _FORMULA_IN_JSON.sub(lambda sign: f"\\u{ord(sign[0]):04x}", _encode(value).decode())
