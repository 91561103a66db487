"""`ledger context`: name the ledgers that you use, and choose one."""

from pathlib import Path
from typing import Any

import click

from ledger_client.cli.client_options import EXISTING_FILE, NEW_FILE
from ledger_client.cli.config_file import (
    Config,
    ConfigError,
    check_context,
    chosen_context,
    config_path,
    format_config,
    read_config,
)
from ledger_client.cli.console import json_option, note, print_fields, print_json, print_line
from ledger_client.runtime.files import write_atomically


@click.group("context")
def command() -> None:
    """Name ledgers with their address, policy, token file and state, and choose one.

    They are in ~/.config/ledger/config.toml (LEDGER_CONFIG names another file). A flag or a
    variable wins over the context; --context or LEDGER_CONTEXT chooses another one.
    """


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the contexts; * marks the current one."""
    config = read_config(config_path())
    if as_json:
        print_json({"current": config.current, "contexts": config.contexts})
        return
    if not config.contexts:
        note("no context yet; make one: ledger context add NAME --url … --policy FILE")
    width = max(map(len, config.contexts), default=0)
    for name, context in config.contexts.items():
        print_line(f"{'*' if name == config.current else ' '} {name:{width}}  {context['url']}")


@command.command("show")
@click.argument("name", required=False)
@json_option
def show(name: str | None, as_json: bool) -> None:
    """Show a context, by default the one that commands use now."""
    found = chosen_context(name)
    if found is None:
        raise ConfigError("no context is chosen: ledger context use NAME")
    shown, context = found
    if as_json:
        print_json({"name": shown, **context})
    else:
        print_fields({"context": shown, **context})


@command.command("use")
@click.argument("name")
@json_option
def use(name: str, as_json: bool) -> None:
    """Make a context the current one."""
    config = read_config(config_path())
    config.named(name)
    config.current = name
    _write(config)
    _say(f"{name} is the current context", {"current": name}, as_json=as_json)


@command.command("add")
@click.argument("name")
@click.option("--url", required=True, help="The service.")
@click.option("--policy", type=EXISTING_FILE, help="The policy file of its operator.")
@click.option(
    "--token-file", type=EXISTING_FILE, help="A file with the token; the token is never copied."
)
@click.option("--state", type=NEW_FILE, help="Remember accepted heads in this file.")
@click.option("--insecure", is_flag=True, help="Send the token over http:// to another host.")
@click.option("--force", is_flag=True, help="Replace a context of this name.")
@json_option
def add(name: str, url: str, force: bool, as_json: bool, **given: Any) -> None:
    """Add a context; the first one becomes the current one. Files are kept by their whole path."""
    config = read_config(config_path())
    if name in config.contexts and not force:
        raise click.UsageError(f"there is a context {name}: use --force to replace it")
    context: dict[str, Any] = {"url": url}
    for key, value in given.items():
        if isinstance(value, Path):
            context[key] = str(value.absolute())
        elif value:
            context[key] = value
    check_context(name, context, where="ledger context add")
    config.contexts[name] = context
    config.current = config.current or name
    _write(config)
    _say(f"{name}: {config_path()}", {"name": name, **context}, as_json=as_json)


@command.command("remove")
@click.argument("name")
@json_option
def remove(name: str, as_json: bool) -> None:
    """Remove a context; its files stay."""
    config = read_config(config_path())
    config.named(name)
    del config.contexts[name]
    config.current = None if config.current == name else config.current
    _write(config)
    _say(f"{name} is removed", {"removed": name}, as_json=as_json)


def _write(config: Config) -> None:
    path = config_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, format_config(config).encode())


def _say(text: str, value: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(value)
    else:
        note(text)
