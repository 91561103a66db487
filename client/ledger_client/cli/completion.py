"""Completes a query in the shell: fields, keys of the context, and values that the ledger has.

`eval "$(_LEDGER_COMPLETE=bash_source ledger)"` turns it on; zsh_source and fish_source likewise.
The ledger is asked with the options and variables of the command line. Without an answer the fields
of the language are completed alone.

bash puts what it completes into the command line as it is, and whoever has an event logged chooses
keys and values: those with a sign that a shell obeys, such as `u_1;reboot`, are left out.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from ledger_client import LedgerClient, RetryPolicy
from ledger_client.cli.client_options import URL_DEFAULT, read_token
from ledger_client.results import Fields
from ledger_core.query.ast import Has, Is, format_query
from ledger_core.query.fields import LANGUAGE
from ledger_core.tlog.text import is_visible

_is_plain = re.compile(r"[\w.:/@%+=-]+").fullmatch
_TIMEOUT_S = 3.0
"""Nobody waits longer for a completion."""


def complete_query(
    ctx: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The fields, or the values of a field, that go on as the last word of a query does."""
    before = [str(word) for word in ctx.params.get("words") or ()]
    # bash splits words at colons: `actor:u_` comes as `actor`, `:` and `u_`.
    if incomplete == ":" and before:
        name, begun, prefix = before[-1], "", ""
    elif before[-1:] == [":"]:
        name, begun, prefix = before[-2] if len(before) > 1 else "", incomplete, ""
    else:
        name, colon, begun = incomplete.rpartition(":")
        prefix = f"{name}{colon}"
    found = _ask(ctx)
    if not name:
        names = [field.name for field in LANGUAGE if field.name != "context"]
        names += [_key_name(key.path) for key in found.context] if found else []
        return _items(names, begun, end=":")
    if name == "has":
        keys = [_key_name(key.path) for key in found.context] if found else []
        values = [*(field.name for field in LANGUAGE if field.number is not None), *keys]
    else:
        values = _values_of(name, found) if found else []
    return _items(values, begun, prefix=prefix)


def _items(
    texts: Iterable[str], begun: str, *, prefix: str = "", end: str = ""
) -> list[CompletionItem]:
    """The texts that begin so, without those that are more than a word to a shell."""
    return [
        CompletionItem(f"{prefix}{text}{end}")
        for text in texts
        if text.startswith(begun) and _is_plain(text) and is_visible(text)
    ]


def _values_of(name: str, found: Fields) -> list[str]:
    """The known values of a field, as a query has them."""
    aliases = {alias: field.name for field in LANGUAGE for alias in field.aliases}
    by_name = {_key_name(key.path): key.values for key in found.context}
    by_name |= {field.name: field.values for field in found.fields}
    values = by_name.get(aliases.get(name, name), ())
    return [format_query(Is("actor", each.value)).removeprefix("actor:") for each in values]


def _key_name(path: str) -> str:
    return format_query(Has("context", path)).removeprefix("has:")


def _ask(ctx: click.Context) -> Fields | None:
    """The ledger's answer; None where it can't be asked, since completion shows no errors."""
    given = ctx.params
    url, token_file = given.get("url") or URL_DEFAULT, given.get("token_file")
    insecure = bool(given.get("insecure"))
    try:
        token = read_token(token_file and Path(token_file), url=url, insecure=insecure)
        with LedgerClient(
            url,
            token,
            policy=Path(given["policy"]),
            timeout_s=_TIMEOUT_S,
            retry=RetryPolicy(attempts_max=1),
            insecure=insecure,
        ) as ledger:
            return ledger.fields()
    except Exception:  # noqa: BLE001 - whatever is wrong, the command itself will say it.
        return None
