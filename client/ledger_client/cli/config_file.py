"""Named contexts: the address, policy, token file and state of each ledger that somebody uses.

    ~/.config/ledger/config.toml

    current = "prod"

    [contexts.prod]
    url = "https://ledger.example.com"
    policy = "/home/ada/ledger.policy"
    token_file = "/home/ada/ledger.token"
    state = "/home/ada/ledger.state"

A flag wins over a variable, and a variable over the context. Of a context for another address than
the one that a flag or variable gives, nothing is used: its token would go to a stranger.
"""

import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from ledger_client.runtime.files import read_utf8
from ledger_core.toml import parse_toml

NAME_VARIABLE: Final = "LEDGER_CONTEXT"
FILE_VARIABLE: Final = "LEDGER_CONFIG"
KEYS: Final = {"url": str, "policy": str, "token_file": str, "state": str, "insecure": bool}
_is_name: Final = re.compile("[A-Za-z0-9_.-]{1,64}").fullmatch

Context = Mapping[str, Any]


class ConfigError(click.ClickException):
    """The file of contexts can't be used as it is; the message says where and why."""

    exit_code = 2


def config_path() -> Path:
    """The file of contexts, by LEDGER_CONFIG, XDG_CONFIG_HOME or the home folder."""
    own = os.environ.get(FILE_VARIABLE)
    if own:
        return Path(own)
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path("~/.config").expanduser())
    return Path(base, "ledger", "config.toml")


class Config:
    """The contexts by name, and the name of the current one, None for none."""

    def __init__(self, contexts: dict[str, dict[str, Any]], current: str | None) -> None:
        self.contexts = contexts
        self.current = current

    def named(self, name: str) -> Context:
        """The context of a name. Raises: ConfigError listing the names that there are."""
        if name not in self.contexts:
            known = ", ".join(self.contexts) or "none"
            raise ConfigError(f"there is no context {name!r}; there are: {known}")
        return self.contexts[name]


def read_config(path: Path) -> Config:
    """Read the file; without one there is no context. Raises: ConfigError."""
    try:
        data = parse_toml(read_utf8(path))
    except FileNotFoundError:
        return Config({}, None)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    contexts, current = data.pop("contexts", {}), data.pop("current", None)
    if data or not isinstance(contexts, dict) or not isinstance(current, str | None):
        raise ConfigError(f"{path}: want `current` and tables [contexts.NAME], got {[*data]}")
    for name, context in contexts.items():
        check_context(name, context, where=str(path))
    return Config(contexts, current)


def check_context(name: str, context: object, *, where: str) -> None:
    """Raises: ConfigError for a context that has no address, or something else."""
    if not _is_name(name):
        raise ConfigError(f"{where}: {name!r} is no name: want letters, digits, '.', '-' and '_'")
    if not isinstance(context, dict) or not isinstance(context.get("url"), str):
        raise ConfigError(f"{where}: the context {name} has no url")
    for key, value in context.items():
        if key not in KEYS:
            raise ConfigError(f"{where}: {key!r} in {name} is unknown; want {', '.join(KEYS)}")
        if not isinstance(value, KEYS[key]):
            raise ConfigError(f"{where}: {key} in {name}: want {KEYS[key].__name__}")


def format_config(config: Config) -> str:
    """The text of the file."""
    lines = [] if config.current is None else [f"current = {_text(config.current)}"]
    for name, context in config.contexts.items():
        lines += ["", f"[contexts.{_text(name)}]"]
        lines += [
            f"{key} = {'true' if value is True else 'false' if value is False else _text(value)}"
            for key, value in context.items()
        ]
    return "\n".join(lines).lstrip("\n") + "\n"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def chosen_context(name: str | None) -> tuple[str, Context] | None:
    """The context that a command uses: that of --context or LEDGER_CONTEXT, else the current one.

    Raises: ConfigError, also for a name that there isn't.
    """
    config = read_config(config_path())
    name = name or config.current
    return None if name is None else (name, config.named(name))


def defaults_of(context: Context, command: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The values of a context for a command line, by the names of the parameters."""
    given = os.environ.get("LEDGER_URL")
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if argument == "--url":
            given = following
        elif argument.startswith("--url="):
            given = argument.removeprefix("--url=")
        elif command in _WITH_ADDRESS and argument.startswith(("http://", "https://")):
            given = argument
    if given is not None and given.rstrip("/") != context["url"].rstrip("/"):
        return {}
    found = dict(context)
    if os.environ.get("LEDGER_TOKEN"):
        found.pop("token_file", None)
    return found


_WITH_ADDRESS: Final = ("erase", "monitor")
"""The commands whose argument is an address."""
