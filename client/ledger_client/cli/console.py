"""Printing: text for people by default, JSON for programs with --json.

Events and servers choose much of the text. No character of it that a terminal obeys (escapes, line
breaks, marks that turn the direction) is printed: text for people has U+FFFD in its place, and JSON
has `\\u001b`. So the other modules of the command line print through this one.
"""

import json
import sys
from typing import Any

import click
import msgspec

from ledger_core.event.times import format_time
from ledger_core.tlog.text import is_visible, printable

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def print_json(value: Any) -> None:
    """Print one JSON document: indented on a terminal, otherwise on one line."""
    click.echo(json_text(value, is_indented=sys.stdout.isatty()))


def json_text(value: Any, *, is_indented: bool = False) -> str:
    """JSON whose strings have no character that a terminal obeys."""
    text = escape_json(msgspec.json.encode(value).decode())
    return msgspec.json.format(text, indent=2) if is_indented else text


def escape_json(text: str) -> str:
    """The same JSON, with each character that can't be printed as `\\u` and its number."""
    if is_visible(text):
        return text
    # Line breaks are those of the layout: in a string they are escaped already.
    return "".join(
        char if is_visible(char) or char == "\n" else json.dumps(char)[1:-1] for char in text
    )


def print_line(text: str) -> None:
    """Print one line of text for people."""
    click.echo(printable(text))


def print_fields(fields: dict[str, object], *, indent: str = "") -> None:
    """Print names and values in two columns: a line for each value of a tuple, none for None."""
    shown = {printable(name): value for name, value in fields.items() if value is not None}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        label = name
        for line in value if isinstance(value, tuple) else (value,):
            text = printable(str(line))
            click.echo(f"{indent}{click.style(label.rjust(width), dim=True)}  {text}")
            label = ""


def print_result(as_json: bool, value: Any, fields: dict[str, object]) -> None:
    """Print `value` for programs, or `fields` for people."""
    if as_json:
        print_json(value)
    else:
        print_fields(fields)


def note(message: str) -> None:
    """Print a remark on standard error, so that a pipe does not get it."""
    click.echo(printable_lines(message), err=True)


def printable_lines(text: str) -> str:
    """Text of several lines, each without the characters that a terminal obeys."""
    return "\n".join(map(printable, text.split("\n")))


def counted(number: int, noun: str) -> str:
    """`1 event`, `2,587 events`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_second(unix_s: int) -> str:
    """`2026-11-25T02:03:36Z`; the bare number when a clock was so wrong that no date fits."""
    try:
        return f"{format_time(unix_s * 1_000_000).partition('.')[0]}Z"
    except ValueError:
        return f"{unix_s} s after 1970"
