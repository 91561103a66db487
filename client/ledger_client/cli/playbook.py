"""`ledger playbook`: the first questions of an incident, each one command. Each shows its query."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import click

from ledger_client.cli.client_options import Connection, connection_options, usage_errors
from ledger_client.cli.console import json_option, note, print_json, printable_lines
from ledger_client.cli.counts import COUNT_NAMES, CountOptions, show_page_counts
from ledger_client.cli.query import SHOWN_MAX, explained, note_total, show_pages
from ledger_client.cli.query import command as query_command
from ledger_client.cli.render import JSON, table
from ledger_client.cli.sql import SqlOptions, ask_sql
from ledger_client.plans.search import PAGE_EVENTS_MAX
from ledger_client.runtime.clock import unix_us
from ledger_client.sql.recipes import RECIPES as SQL_RECIPES
from ledger_client.sql.recipes import SqlRecipe, sql_of
from ledger_core.near_names import near_names
from ledger_core.query.ast import Between, Is, format_query, resolve
from ledger_core.query.counting import NAMES
from ledger_core.query.parser import parse_query
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.text import printable


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
    "reads": Recipe(
        "Who read events, how, and how many, where audit_reads is on.", "",
        ("action:ledger.read.*", "--count", "actor,action", "--numbers", "context.rows"),
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
    _check_subject(name, subject, recipe.subject)
    query, *options = recipe.options
    parts = [f"({query})" if " OR " in query and since else query]
    if subject:
        parts.insert(0, format_query(Is(NAMES[recipe.subject], subject)))
    if recipe.is_new:
        options += ["--new-since", since or SINCE_DEFAULT]
    elif since:
        parts.append(f"since:{since}")
    return [" ".join(filter(None, parts)), *options]


def _check_subject(name: str, subject: str | None, wanted: str) -> None:
    if bool(subject) != bool(wanted):
        wants = f"takes a value: {wanted}" if wanted else "takes no value"
        raise click.UsageError(f"The recipe {name} {wants}.")


def _check_name(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    """Raises: click.UsageError for a name that no recipe has."""
    names = (*RECIPES, *SQL_RECIPES)
    if name is not None and name not in names:
        near = near_names(name, names, count=2)
        meant = f"Did you mean {' or '.join(near)}?" if near else "ledger playbook lists them."
        raise click.UsageError(f"There is no recipe {name!r}. {meant}")
    return name


def _complete_name(_: click.Context, __: click.Parameter, begin: str) -> list[str]:
    return [name for name in (*RECIPES, *SQL_RECIPES) if name.startswith(begin)]


@click.command("playbook")
@click.argument(
    "name",
    metavar="[RECIPE]",
    required=False,
    callback=_check_name,
    shell_complete=_complete_name,
)
@click.argument("subject", required=False)
@connection_options
@click.option("--since", metavar="TIME", help="Since this time, as -7d or 2026-11-24.")
@click.option(
    "--from",
    "paths",
    metavar="DIR|EXPORT",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="For the recipes by SQL: a ledger's folder or an export, as ledger sql takes them. May be"
    " repeated. Default: the events that it needs are fetched from the ledger.",
)
@click.option("--show", is_flag=True, help="Show the query or the SQL without running it.")
@json_option
def command(
    name: str | None,
    subject: str | None,
    connection: Connection,
    since: str | None,
    paths: tuple[Path, ...],
    show: bool,
    as_json: bool,
) -> None:
    """Ask one of the first questions of an incident; without a name, list them.

    Each is a `ledger query` or a `ledger sql`, which is shown, so that it can be refined.
    """
    if name is None:
        _list_recipes(as_json=as_json)
    elif name in SQL_RECIPES:
        _run_sql(SQL_RECIPES[name], name, subject, since, paths, connection, show, as_json)
    elif paths:
        raise click.UsageError(f"The recipe {name} asks the ledger itself: use it without --from.")
    else:
        _run_query(arguments_of(name, subject, since), connection, show, as_json)
        if name == "reads" and not (show or as_json):
            note("reads without audit_reads are in no event, only in the log lines of the service")


def _list_recipes(*, as_json: bool) -> None:
    every: dict[str, Recipe | SqlRecipe] = {**RECIPES, **SQL_RECIPES}
    if as_json:
        print_json(
            [
                {"name": name, "takes": each.subject or None, "help": each.help}
                for name, each in every.items()
            ]
        )
        return
    recipes: Mapping[str, Recipe | SqlRecipe]
    for heading, recipes in (("by query", RECIPES), ("by SQL (the extra sql)", SQL_RECIPES)):
        click.secho(heading, bold=True)
        for name, recipe in recipes.items():
            value = f" {recipe.subject.upper()}" if recipe.subject else ""
            click.echo(f"  {name + value:24}  {recipe.help}")


def _run_query(arguments: list[str], connection: Connection, show: bool, as_json: bool) -> None:
    click.echo(printable(f"ledger query {shlex.join(arguments)}"), err=not show)
    if show:
        return
    given = query_command.make_context("query", arguments.copy()).params
    query = " ".join(given["words"])
    counting = CountOptions(**{name: given[name] for name in COUNT_NAMES})
    with connection.open() as ledger, explained(query):
        if counting:
            page = counting.ask(ledger, query, verify=True)
            show_page_counts(page, as_json=as_json)
            if not as_json:
                note_total(page, query)
        else:
            limit = None if as_json else SHOWN_MAX
            pages = ledger.pages(
                query, order=given["order"], limit=limit, page_events=PAGE_EVENTS_MAX
            )
            show_pages(pages, JSON if as_json else table(), query)


def _run_sql(
    recipe: SqlRecipe,
    name: str,
    subject: str | None,
    since: str | None,
    paths: tuple[Path, ...],
    connection: Connection,
    show: bool,
    as_json: bool,
) -> None:
    _check_subject(name, subject, recipe.subject)
    where = recipe.where
    since_us = None
    if since:
        where = f"({where}) since:{since}" if where else f"since:{since}"
        since_us = since_of(since, now_unix_us=unix_us())
    with usage_errors():
        sql = sql_of(recipe, subject, since_us)
    options = SqlOptions(
        paths=paths, where="" if paths else where, form="json" if as_json else "table"
    )
    sources = shlex.join(map(str, paths)) or (f"--where {shlex.quote(where)}" if where else "")
    click.echo(printable_lines(_as_typed(sql, sources)), err=not show)
    if not show:
        ask_sql(sql, options, connection)


def _as_typed(sql: str, sources: str) -> str:
    """The command for a shell: the SQL as a here-document, where no quote needs an escape."""
    if "SQL" in sql.splitlines():
        return f"ledger sql {shlex.quote(sql)} {sources}"
    return f"{f'ledger sql - {sources}'.rstrip()} <<'SQL'\n{sql.rstrip()}\nSQL"


def since_of(since: str, *, now_unix_us: int) -> int:
    """The time that `--since` means. Raises: click.UsageError."""
    try:
        expression = resolve(parse_query(f"since:{since}"), now_unix_us)
    except MalformedError as error:
        raise click.UsageError(f"--since {since}: {error}") from None
    if not (isinstance(expression, Between) and expression.start is not None):
        raise click.UsageError(f"--since {since}: want a time, as -7d or 2026-11-24")
    return expression.start.unix_us
