"""How a command reaches a ledger: options that the client's commands share."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from ledger_client import LedgerClient
from ledger_core.tlog.errors import MalformedError

URL_DEFAULT = "http://127.0.0.1:8765"


class Connection:
    """What the options say; `open` makes the client."""

    def __init__(
        self,
        url: str,
        token_file: Path | None,
        token: str | None,
        policy: Path | None,
        state: Path | None,
    ) -> None:
        self._url = url
        self._token = read_token(token_file, token)
        self._policy = policy
        self._state = state

    def open(self) -> LedgerClient:
        """A client for this ledger. Raises: click.UsageError for an unfit URL or token."""
        if self._policy is None:
            raise click.UsageError("Missing option '--policy'.")
        try:
            return LedgerClient(self._url, self._token, policy=self._policy, state=self._state)
        except MalformedError:
            raise
        except ValueError as error:
            raise click.UsageError(str(error)) from None


def token_options(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Add --token-file and its variable; the command gets `token_file` and `token`."""
    command = click.option("--token", envvar="LEDGER_TOKEN", hidden=True)(command)
    return click.option(
        "--token-file",
        envvar="LEDGER_TOKEN_FILE",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="A file with the access token; else LEDGER_TOKEN holds it. It is no option of its own "
        "because every process on the machine can read another's command line.",
    )(command)


def read_token(token_file: Path | None, token: str | None) -> str | None:
    """The token that `token_options` say."""
    return token_file.read_text(encoding="ascii").strip() if token_file else token


url_option = click.option(
    "--url", envvar="LEDGER_URL", default=URL_DEFAULT, show_default=True, help="The service."
)
policy_option = click.option(
    "--policy",
    envvar="LEDGER_POLICY",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The policy file that the ledger's operator handed over: whom to believe. Needed.",
)


def connection_options(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Add the options; the command gets one Connection as `connection`."""

    @url_option
    @token_options
    @policy_option
    @click.option(
        "--state",
        envvar="LEDGER_STATE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Remember accepted heads in this file, and refuse a ledger that changed its past.",
    )
    @functools.wraps(command)
    def connected(
        *,
        url: str,
        token_file: Path | None,
        token: str | None,
        policy: Path | None,
        state: Path | None,
        **others: Any,
    ) -> int | None:
        return command(connection=Connection(url, token_file, token, policy, state), **others)

    return connected


def parse_reference(text: str) -> int | str:
    """An index, or the id of an event, as a command line names it."""
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return str(UUID(text))
    except ValueError:
        raise click.BadParameter(
            "want the index of an event or its id, a UUID", param_hint="ID|INDEX"
        ) from None
