"""The rows of an answer to SQL as cells of a table and as CSV."""

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import click

from ledger_client.sql.database import Answer
from ledger_client.sql.values import to_text
from ledger_core.event.csv import plain_cell, plain_json
from ledger_core.tlog.text import printable


def row_texts(answer: Answer, row: Sequence[Any], zone: ZoneInfo | None) -> list[str]:
    """The cells of a row."""
    return [to_text(value, kind, zone=zone) for value, kind in zip(row, answer.types, strict=True)]


def csv_texts(answer: Answer, row: Sequence[Any], zone: ZoneInfo | None) -> list[str]:
    """The cells of a row of CSV, of which no spreadsheet runs one as a formula."""
    kinds = zip(row_texts(answer, row, zone), row, answer.types, strict=True)
    return [_plain(text, value, type_name) for text, value, type_name in kinds]


def _plain(text: str, value: object, type_name: str) -> str:
    if isinstance(value, int | float | Decimal):
        return text
    is_json = type_name == "JSON" or isinstance(value, list | tuple | Mapping)
    return plain_json(text) if is_json and text[:1] in "[{" else plain_cell(text)


def is_number(type_name: str) -> bool:
    """Whether a type of DuckDB is one of numbers."""
    return type_name.startswith(("BIGINT", "DECIMAL", "DOUBLE", "FLOAT", "HUGEINT", "INTEGER", "U"))


def csv_text(rows: Sequence[Sequence[str]]) -> str:
    """Rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue()


def print_csv(text: str) -> None:
    """Print CSV; a terminal gets no control characters."""
    if sys.stdout.isatty():
        text = "".join(each if each in "\r\n" else printable(each) for each in text)
    click.echo(text.encode(), nl=False)
