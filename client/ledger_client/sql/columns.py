"""The columns of events in SQL: those of CSV, each with its type and its place in the leaf.

Times are timestamps, ids UUIDs, `targets`, `changes` and `context` JSON; an absent value is NULL.
"""

from typing import Final

from ledger_core.event.csv import COLUMNS as COLUMNS

VERSION: Final = 1
"""Of the columns. Files of other versions are made again from the log."""

DERIVED: Final = tuple(name for name in COLUMNS if name not in ("index", "leaf_hash"))
"""The columns whose values are in the leaf."""

_PATHS: Final = {
    "received_time": "received.time",
    "received_by": "received.by",
    "session": "event.actor.session",
    "credential": "event.actor.credential",
    "source_ip": "event.source.ip",
    "source_port": "event.source.port",
    "source_service": "event.source.service",
    "user_agent": "event.source.user_agent",
    "recorder_instance": "event.recorder.instance",
    "recorder_seq": "event.recorder.seq",
    **{
        f"{prefix}_{name}": f"event.{place}.{name}"
        for prefix, place in (
            ("actor", "actor"),
            ("on_behalf_of", "actor.on_behalf_of"),
            ("target", "targets[0]"),
        )
        for name in ("type", "id", "name")
    },
}
_TYPES: Final = {
    "id": "UUID",
    "time": "TIMESTAMPTZ",
    "received_time": "TIMESTAMPTZ",
    "source_port": "INTEGER",
    "recorder_seq": "BIGINT",
    "targets": "JSON",
    "changes": "JSON",
    "context": "JSON",
}


def path_of(name: str) -> str:
    """The place of a column in the leaf, as a JSON path of DuckDB."""
    return f"$.{_PATHS.get(name, f'event.{name}')}"


def typed(name: str, text: str) -> str:
    """The SQL that gives a column its type; `text` is SQL for its value as text."""
    return f"{text}::{_TYPES[name]}" if name in _TYPES else text


def stored_types(name: str) -> tuple[str, ...]:
    """The types that a column of a Parquet file may have, as DuckDB describes them."""
    kind = "BIGINT" if name == "index" else _TYPES.get(name, "VARCHAR")
    return {"JSON": ("JSON", "VARCHAR"), "TIMESTAMPTZ": ("TIMESTAMP WITH TIME ZONE",)}.get(
        kind, (kind,)
    )


def select_columns(line: str) -> str:
    """The list of a SELECT over `line`, SQL for a row of an export of JSON lines.

    Each column is computed by itself, so a query pays for those that it names.
    """
    special = {
        "index": f"json_extract_string({line}, '$.index')::BIGINT",
        "leaf_hash": f"hex(from_base64(json_extract_string({line}, '$.leaf_hash'))).lower()",
    }
    return ", ".join(
        f'{special.get(name) or typed(name, _text(line, name))} AS "{name}"' for name in COLUMNS
    )


def _text(line: str, name: str) -> str:
    return f"json_extract_string({line}, '{path_of(name)}')"
