"""`ledger playbook`: the first questions of an incident, each one command. Each shows its query."""

import shlex
from typing import Final, NamedTuple

import click

from ledger_client.cli.client_options import Connection, connection_options
from ledger_client.cli.console import note
from ledger_client.cli.counts import COUNT_NAMES, CountOptions, show_page_counts
from ledger_client.cli.query import SHOWN_MAX, explained
from ledger_client.cli.query import command as query_command
from ledger_client.cli.render import JSON, table
from ledger_core.query.ast import Is, format_query
from ledger_core.query.counting import NAMES


class Recipe(NamedTuple):
    """A recipe: what it shows, and the arguments of `ledger query`.

    `subject` is the field whose value the command takes, and `options` begin with the query. A
    recipe with `is_new` takes --since for what is new, another one for its events.
    """

    help: str
    subject: str
    options: tuple[str, ...]
    is_new: bool = False


RECIPES: Final = {
    "spray": Recipe(
        "Networks from which logins of many accounts failed: a password spray.", "",
        ("login outcome:failure,denied", "--count", "source/24", "--distinct", "actor"),
    ),
    "failures": Recipe(
        "What failed or was denied most, by account and action.", "",
        ("outcome:failure,denied", "--count", "actor,action"),
    ),
    "privileges": Recipe(
        "Roles, permissions and second factors that were changed.", "",
        ("role OR permission OR mfa OR field:/role", "--order", "time"),
    ),
    "exports": Recipe(
        "Who exported data, and how many bytes if context.bytes says so.", "",
        ("exported OR export OR downloaded", "--count", "actor", "--numbers", "context.bytes"),
    ),
    "denied": Recipe(
        "Denied actions by the type of their target.", "",
        ("outcome:denied", "--count", "action,target.type"),
    ),
    "hours": Recipe(
        "When something was done, by the hour of the day in UTC.", "",
        ("", "--histogram", "hour-of-day"),
    ),
    "late": Recipe(
        "Events that the ledger received more than an hour late.", "",
        ("late:>1h", "--order", "time"),
    ),
    "new-sources": Recipe(
        "Addresses of an account that it had not before --since.", "actor",
        ("", "--count", "source"), is_new=True,
    ),
    "new-actions": Recipe(
        "Actions that an account did for the first time after --since.", "actor",
        ("", "--count", "action"), is_new=True,
    ),
    "rare-actions": Recipe(
        "The rarest actions of an account.", "actor", ("", "--count", "action", "--rarest"),
    ),
    "token": Recipe(
        "From where and by whom a credential was used.", "credential",
        ("", "--count", "source,actor"),
    ),
    "reach": Recipe(
        "What a credential touched: different targets by type.", "credential",
        ("has:target", "--count", "target.type", "--distinct", "target"),
    ),
}  # fmt: skip

SINCE_DEFAULT: Final = "-7d"


def arguments_of(name: str, subject: str | None, since: str | None) -> list[str]:
    """The arguments of `ledger query` for a recipe. Raises: click.UsageError."""
    recipe = RECIPES[name]
    if bool(subject) != bool(recipe.subject):
        wants = f"takes the value of {recipe.subject}" if recipe.subject else "takes no value"
        raise click.UsageError(f"The recipe {name} {wants}.")
    query, *options = recipe.options
    parts = [f"({query})" if " OR " in query and since else query]
    if subject:
        parts.insert(0, format_query(Is(NAMES[recipe.subject], subject)))
    if recipe.is_new:
        options += ["--new-since", since or SINCE_DEFAULT]
    elif since:
        parts.append(f"since:{since}")
    return [" ".join(filter(None, parts)), *options]


@click.command("playbook")
@click.argument("name", type=click.Choice(tuple(RECIPES)), required=False)
@click.argument("subject", required=False)
@connection_options
@click.option("--since", metavar="TIME", help="Since this time, as -7d or 2026-11-24.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def command(
    name: str | None,
    subject: str | None,
    connection: Connection,
    since: str | None,
    as_json: bool,
) -> None:
    """Ask one of the first questions of an incident; without a name, list them.

    Each is a `ledger query`, which is shown, so that it can be refined.
    """
    if name is None:
        for each, recipe in RECIPES.items():
            value = f" {recipe.subject.upper()}" if recipe.subject else ""
            click.echo(f"  {each + value:24}  {recipe.help}")
        return
    arguments = arguments_of(name, subject, since)
    note(f"ledger query {shlex.join(arguments)}")
    given = query_command.make_context("query", arguments.copy()).params
    query = " ".join(given["words"])
    counting = CountOptions(**{name: given[name] for name in COUNT_NAMES})
    with connection.open() as ledger, explained(query):
        if counting:
            show_page_counts(counting.ask(ledger, query, verify=True), as_json=as_json)
        else:
            found = ledger.query(query, order=given["order"], limit=SHOWN_MAX)
            (JSON if as_json else table()).show_all(found)
