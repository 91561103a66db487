"""The rows of an answer to SQL as cells of a table and as CSV."""

import csv
import io
import sys
from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

import click

from ledger_client.sql.database import Answer
from ledger_client.sql.values import to_text
from ledger_core.tlog.text import printable


def row_texts(answer: Answer, row: Sequence[Any], zone: ZoneInfo | None) -> list[str]:
    """The cells of a row."""
    return [to_text(value, kind, zone=zone) for value, kind in zip(row, answer.types, strict=True)]


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
