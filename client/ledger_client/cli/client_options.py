"""The options by which a command reaches a ledger, and the types of file arguments."""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import click

from ledger_client import LedgerClient
from ledger_client.messages import check_loopback
from ledger_client.runtime.files import read_limited, read_utf8
from ledger_core.tlog.errors import MalformedError
from ledger_core.tlog.policy import POLICY_BYTES_MAX, Policy, parse_policy

URL_DEFAULT = "http://127.0.0.1:8765"

EXISTING_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
NEW_FILE = click.Path(path_type=Path, dir_okay=False)
EXISTING_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
NEW_FOLDER = click.Path(path_type=Path, file_okay=False)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Report a ValueError as a wrong command line; a MalformedError keeps its own exit code."""
    try:
        yield
    except MalformedError:
        raise
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def refuse_existing(*paths: Path, force: bool) -> None:
    """Raises: click.UsageError when there is a file or a link at one of the paths of an output."""
    for path in paths:
        if os.path.lexists(path) and not force:
            raise click.UsageError(f"{path} exists: use --force to replace it, or -o another file")


class Connection:
    """The values of `connection_options`; `open` makes the client."""

    def __init__(
        self,
        url: str,
        token_file: Path | None,
        policy: Path | None,
        state: Path | None,
        *,
        insecure: bool,
    ) -> None:
        self._url = url
        self._token = read_token(token_file, url=url, insecure=insecure)
        self._policy = policy
        self._state = state
        self._insecure = insecure

    def policy(self) -> Policy:
        """The policy by which heads are verified. Raises: click.UsageError without --policy."""
        return parse_policy(read_limited(self._policy_file(), POLICY_BYTES_MAX))

    def _policy_file(self) -> Path:
        if self._policy is None:
            context = click.get_current_context()
            option = next(each for each in context.command.params if each.name == "policy")
            raise click.MissingParameter(ctx=context, param=option)
        return self._policy

    def open(self) -> LedgerClient:
        """Make a client for this ledger. Raises: click.UsageError for a bad URL or token."""
        policy = self._policy_file()
        with usage_errors():
            return LedgerClient(
                self._url,
                self._token,
                policy=policy,
                state=self._state,
                insecure=self._insecure,
            )


def token_options(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Add --token-file, its variable and --insecure, by which the command calls `read_token`."""
    command = click.option(
        "--insecure",
        is_flag=True,
        envvar="LEDGER_INSECURE",
        show_envvar=True,
        help="Send the token over http:// to another host, readable to everybody on the way.",
    )(command)
    return click.option(
        "--token-file",
        envvar="LEDGER_TOKEN_FILE",
        show_envvar=True,
        type=EXISTING_FILE,
        help="A file with the access token. Without it the token is read from LEDGER_TOKEN; it is "
        "never an option, because every process on a machine can read the command lines.",
    )(command)


def read_token(token_file: Path | None, *, url: str, insecure: bool) -> str | None:
    """The token of --token-file, else that of LEDGER_TOKEN.

    Raises: click.UsageError where it would be sent unencrypted to another host, and for no address.
    """
    token = os.environ.get("LEDGER_TOKEN") or None
    with usage_errors():
        parts = urlsplit(url)
    if (token_file or token) and parts.scheme == "http" and not insecure:
        with usage_errors():
            check_loopback(parts.hostname or "", option="--insecure")
    return read_utf8(token_file).strip() if token_file else token


url_option = click.option(
    "--url",
    envvar="LEDGER_URL",
    show_envvar=True,
    default=URL_DEFAULT,
    show_default=True,
    help="The service.",
)
required_policy_option, policy_option = (
    click.option(
        "--policy",
        required=is_required,
        envvar="LEDGER_POLICY",
        show_envvar=True,
        type=EXISTING_FILE,
        help="The policy file that the ledger's operator gave you: log keys, witnesses, quorum.",
    )
    for is_required in (True, False)
)


def connection_options(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Add the options of a client; the command gets a Connection as `connection`."""

    @url_option
    @token_options
    @policy_option
    @click.option(
        "--state",
        envvar="LEDGER_STATE",
        show_envvar=True,
        type=NEW_FILE,
        help="Remember accepted heads in this file; refuse a head that contradicts them.",
    )
    @functools.wraps(command)
    def connected(
        *,
        url: str,
        token_file: Path | None,
        policy: Path | None,
        state: Path | None,
        insecure: bool,
        **others: Any,
    ) -> int | None:
        connection = Connection(url, token_file, policy, state, insecure=insecure)
        return command(connection=connection, **others)

    return connected


def parse_reference(text: str) -> int | str:
    """Parse the index or the id of an event."""
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return str(UUID(text))
    except ValueError:
        raise click.BadParameter(
            "want the index of an event or its id, a UUID", param_hint="ID|INDEX"
        ) from None
