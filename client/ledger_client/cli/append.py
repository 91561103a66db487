"""`ledger append`: append one event, from flags or standard input, and verify it."""

import sys
from typing import Any

import click

from ledger_client import Receipt, new_event_id
from ledger_client.cli.client_options import Connection, connection_options
from ledger_client.cli.console import json_option, print_result
from ledger_client.runtime.clock import unix_us
from ledger_core.event.canonical import INPUT_BYTES_MAX
from ledger_core.event.model import Event
from ledger_core.event.reader import Reader


@click.command("append")
@click.option("--actor", help="Who did it: ID or TYPE:ID (user:u_1).")
@click.option("--action", help="What was done: user.role_changed.")
@click.option("--outcome", help="success, failure, denied or unknown.")
@click.option(
    "--target", "targets", multiple=True, help="What it was done to: ID or TYPE:ID; repeatable."
)
@click.option("--ip", help="The address it came from.")
@click.option("--service", help="The service it came through.")
@click.option("--reason", help="Why: a ticket or a sentence.")
@click.option("--tenant", help="The tenant that the event belongs to.")
@click.option("--context", multiple=True, metavar="KEY=VALUE", help="Anything else; repeatable.")
@click.option("--id", "event_id", help="The event's UUID. Default: a new one.")
@click.option("--time", "event_time", help="When it happened, RFC 3339 with a zone. Default: now.")
@connection_options
@json_option
def command(connection: Connection, as_json: bool, **flags: Any) -> None:
    """Append one event and verify that it is in the ledger.

    Without flags the event is read as JSON from standard input. For many events: ledger import.
    """
    event = _event_of(flags)
    with connection.open() as ledger:
        receipt = ledger.append(event)
    _print(receipt, as_json)


def _event_of(flags: dict[str, Any]) -> Event:
    """Make the event and check it before it is sent, so that an error names the field."""
    reader = Reader(new_event_id, unix_us)
    if any(flags.values()):
        return reader.read_object(_from_flags(flags)).event
    if sys.stdin.isatty():
        raise click.UsageError("give --actor, --action and --outcome, or JSON on standard input")
    return reader.read(sys.stdin.buffer.read(INPUT_BYTES_MAX + 1)).event


def _from_flags(flags: dict[str, Any]) -> dict[str, Any]:
    missing = [f"--{name}" for name in ("actor", "action", "outcome") if not flags[name]]
    if missing:
        raise click.UsageError(f"an event needs {', '.join(missing)} too")
    event: dict[str, Any] = {
        "actor": _thing(flags["actor"]),
        "action": flags["action"],
        "outcome": flags["outcome"],
    }
    if flags["targets"]:
        event["targets"] = [_thing(target) for target in flags["targets"]]
    source = {key: flags[key] for key in ("ip", "service") if flags[key]}
    if source:
        event["source"] = source
    if flags["context"]:
        event["context"] = dict(_pair(text) for text in flags["context"])
    renamed = {"event_id": "id", "event_time": "time", "reason": "reason", "tenant": "tenant"}
    event |= {key: flags[flag] for flag, key in renamed.items() if flags[flag]}
    return event


def _thing(text: str) -> dict[str, str]:
    type_, colon, id_ = text.partition(":")
    return {"type": type_, "id": id_} if colon else {"id": text}


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter("want KEY=VALUE", param_hint="--context")
    return key, value


def _print(receipt: Receipt, as_json: bool) -> None:
    head = receipt.head
    print_result(
        as_json,
        {
            "index": receipt.index,
            "id": receipt.id,
            "received": receipt.received,
            "leaf_hash": receipt.leaf_hash.hex(),
            "duplicate": receipt.is_duplicate,
            "verified": head is not None,
        },
        {
            "entry": f"{receipt.index}{' (already in the log)' if receipt.is_duplicate else ''}",
            "id": receipt.id,
            "received": f"{receipt.received.time} by {receipt.received.by}",
            "verified": head and f"in the tree of size {head.checkpoint.tree_size}",
        },
    )
