"""The pieces that several commands share: log lines, flags of settings, a progress bar."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from ledger.runtime.log_lines import FILE_VARIABLE, FORMAT_VARIABLE, FORMATS, LEVEL_VARIABLE, LEVELS
from ledger.runtime.settings_table import Setting
from ledger.runtime.ssh_agent import AgentKey, parse_public_key
from ledger_client.cli.client_options import EXISTING_FILE
from ledger_client.runtime.files import read_utf8
from ledger_core.tlog.keys import ED25519, VerifierKey

AGENT_TRIAL = b"witnessed-ledger: does this agent sign?\n"
"""No text of a note."""


def log_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --log-format, --log-level and --log-file."""
    command = click.option(
        "--log-level",
        type=click.Choice(tuple(LEVELS)),
        default="info",
        envvar=LEVEL_VARIABLE,
        show_envvar=True,
        show_default=True,
        help="Minimum level to log.",
    )(command)
    command = click.option(
        "--log-file",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar=FILE_VARIABLE,
        show_envvar=True,
        help="File for log lines, of all processes; without it standard error. One that is renamed "
        "is made anew.",
    )(command)
    return click.option(
        "--log-format",
        type=click.Choice(FORMATS),
        default="auto",
        envvar=FORMAT_VARIABLE,
        show_envvar=True,
        show_default=True,
        help="auto: text on a terminal, JSON otherwise.",
    )(command)


def flags_of(
    settings: Sequence[Setting], *names: str
) -> Callable[[Callable[..., int | None]], Callable[..., int | None]]:
    """Options for the settings of these names, or for all."""

    def decorate(command: Callable[..., int | None]) -> Callable[..., int | None]:
        for setting in reversed(settings):
            if not names or setting.name in names:
                command = click.option(
                    setting.flag,
                    type=setting.type,
                    default=setting.default,
                    show_default=True,
                    envvar=setting.variable,
                    show_envvar=True,
                    help=setting.help,
                )(command)
        return command

    return decorate


def agent_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --ssh-agent and --ssh-key, which `agent_key` reads."""
    command = click.option(
        "--ssh-key",
        type=EXISTING_FILE,
        help="The public key of the agent that signs: NAME.pub, as ssh-keygen writes it.",
    )(command)
    return click.option(
        "--ssh-agent",
        type=click.Path(exists=True, path_type=Path),
        help="The socket of an ssh-agent that holds the new Ed25519 key; the service never has it.",
    )(command)


def agent_key(name: str, ssh_agent: Path | None, ssh_key: Path | None) -> AgentKey | None:
    """The key that an agent holds, after a signature of it; None without the options.

    Raises: UsageError; UnavailableError, MalformedError.
    """
    if ssh_agent is None and ssh_key is None:
        return None
    if ssh_agent is None or ssh_key is None:
        raise click.UsageError("--ssh-agent and --ssh-key need each other")
    public_key = parse_public_key(read_utf8(ssh_key))
    try:
        key = AgentKey(ssh_agent.absolute(), VerifierKey(name, ED25519, public_key))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    key.sign(AGENT_TRIAL)
    return key


@contextmanager
def progress_bar(label: str, *, is_quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar on standard error, on a terminal only. Call the result with done and total."""
    is_hidden = is_quiet or not sys.stderr.isatty()
    with click.progressbar(length=0, label=label, file=sys.stderr, hidden=is_hidden) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        yield progress
