"""Printing: text for people by default, JSON for programs with --json."""

import sys
from typing import Any

import click
import msgspec

from ledger_core.event.canonical import format_time

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def print_json(value: Any) -> None:
    """Print one JSON document: indented on a terminal, otherwise on one line."""
    encoded = msgspec.json.encode(value)
    if sys.stdout.isatty():
        encoded = msgspec.json.format(encoded, indent=2)
    click.echo(encoded.decode())


def print_fields(fields: dict[str, object], *, indent: str = "") -> None:
    """Print names and values in two columns: a line for each value of a tuple, none for None."""
    shown = {name: value for name, value in fields.items() if value is not None}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        label = name
        for line in value if isinstance(value, tuple) else (value,):
            click.echo(f"{indent}{click.style(label.rjust(width), dim=True)}  {line}")
            label = ""


def print_result(as_json: bool, value: Any, fields: dict[str, object]) -> None:
    """Print `value` for programs, or `fields` for people."""
    if as_json:
        print_json(value)
    else:
        print_fields(fields)


def note(message: str) -> None:
    """Print a remark on standard error, so that a pipe does not get it."""
    click.echo(message, err=True)


def format_second(unix_s: int) -> str:
    """`2026-11-25T02:03:36Z`; the bare number when a clock was so wrong that no date fits."""
    try:
        return f"{format_time(unix_s * 1_000_000).partition('.')[0]}Z"
    except ValueError:
        return f"{unix_s} s after 1970"
