"""`ledger heads`: list the signed heads that the log keeps, each verified."""

from itertools import islice

import click

from ledger_client import KeptHead
from ledger_client.cli.client_options import Connection, connection_options
from ledger_client.cli.console import format_second, json_option, json_text, note, print_line

SHOWN_MAX = 100


@click.command("heads")
@connection_options
@click.option(
    "--from",
    "start",
    type=click.IntRange(min=0),
    default=0,
    help="The smallest tree size. The first head from INDEX+1 on covers the event at INDEX.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=SHOWN_MAX,
    show_default=True,
    help="At most so many heads.",
)
@json_option
def command(connection: Connection, start: int, limit: int, as_json: bool) -> None:
    """List the signed heads that the log keeps, the smallest first.

    The log signed each head, and the published head extends it. The time is the one by which the
    quorum of the policy had cosigned: every event below the size existed before.
    """
    with connection.open() as ledger:
        found = ledger.kept_heads(start)
        shown = 0
        for head in islice(found, limit):
            if as_json:
                click.echo(json_text(_as_json(head)))
            else:
                print_line(_line(head))
            shown += 1
        if next(found, None) is not None:
            note(f"and more; --from {head.checkpoint.tree_size + 1} goes on")
        elif not shown:
            note(f"no head of size {start:,} or more is kept")


def _line(head: KeptHead) -> str:
    checkpoint = head.checkpoint
    return f"{checkpoint.tree_size:>12}  {checkpoint.root_hash.hex()[:16]}…  {_existed(head)}"


def _existed(head: KeptHead) -> str:
    if head.head is None:
        return f"does not meet the policy: {head.missing}"
    before = head.head.existed_before_unix_s
    names = ", ".join(name for name, _ in head.head.cosignatures)
    if before is None:
        return f"cosigned by {names}, at no stated time" if names else "signed by the log alone"
    return f"{format_second(before)} by {names}"


def _as_json(head: KeptHead) -> dict[str, object]:
    before = head.head.existed_before_unix_s if head.head else None
    return {
        "tree_size": head.checkpoint.tree_size,
        "root_hash": head.checkpoint.root_hash.hex(),
        "meets_policy": head.head is not None,
        "existed_before": None if before is None else format_second(before),
        "witnesses": [name for name, _ in head.head.cosignatures] if head.head else [],
        "checkpoint": head.note,
    }
