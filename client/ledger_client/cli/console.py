"""What commands print: text for people by default, JSON for programs with --json."""

import sys
from typing import Any

import click
import msgspec

from ledger_core.event.canonical import format_time

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def print_json(value: Any) -> None:
    """One JSON document, indented when it goes to a terminal, on one line otherwise."""
    encoded = msgspec.json.encode(value)
    if sys.stdout.isatty():
        encoded = msgspec.json.format(encoded, indent=2)
    click.echo(encoded.decode())


def print_fields(fields: dict[str, object], *, indent: str = "") -> None:
    """Names and values in two columns; a tuple takes a line a value, what is None is left out."""
    shown = {name: value for name, value in fields.items() if value is not None}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        label = name
        for line in value if isinstance(value, tuple) else (value,):
            click.echo(f"{indent}{click.style(label.rjust(width), dim=True)}  {line}")
            label = ""


def note(message: str) -> None:
    """Something for the person, not for the pipe: on standard error."""
    click.echo(message, err=True)


def format_second(unix_s: int) -> str:
    """`2026-11-25T02:03:36Z`; a number for a clock that was centuries off, which is no mistake."""
    try:
        return f"{format_time(unix_s * 1_000_000).partition('.')[0]}Z"
    except ValueError:
        return f"{unix_s} s after 1970"
