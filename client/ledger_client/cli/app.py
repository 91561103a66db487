"""The command group, and the one place where errors become exit codes.

    0  done, or verified
    1  not verified: well-formed, but untrue; or numbers of a recorder are missing
    2  malformed input, a wrong command line, or a request that the ledger refused
    3  done, with something to look at: lines that were rejected, secrets that were found
    4  unavailable: the service, the network or the disk; worth trying again
    5  stale: nothing was false, but there was no fresh word of the log
  130  interrupted

A command's module is imported when the command runs, so `ledger --help` answers at once. The
commands of the service are found by entry points, so the client's work where it isn't installed.
"""

import importlib
import sys
from importlib.metadata import entry_points
from typing import Any, Final, NamedTuple

import click

EXIT_NOT_VERIFIED: Final = 1
EXIT_MALFORMED: Final = 2
EXIT_REJECTED: Final = 3
EXIT_UNAVAILABLE: Final = 4
EXIT_STALE: Final = 5
EXIT_INTERRUPTED: Final = 130

SERVER_PARTS: Final = "ledger.server_parts"
"""The group of entry points by which the service joins this command line."""


class _Command(NamedTuple):
    module: str | None
    help: str


# In the order in which a newcomer meets them. A command with a module is the client's own. The
# others belong to the service; the distribution `witnessed-ledger` registers them as entry points.
COMMANDS: Final = {
    "init": _Command(None, "Make a ledger in a folder."),
    "token": _Command(None, "Make, list and revoke access tokens."),
    "serve": _Command(None, "Serve a ledger over HTTP."),
    "append": _Command("append", "Append an event and verify that it is in the log."),
    "import": _Command("import_", "Append events from files."),
    "listen": _Command("listen", "Append what hosts send as syslog."),
    "query": _Command("query", "Find events, each verified; count them; follow."),
    "around": _Command("around", "What happened around an event, and why it shows."),
    "timeline": _Command("timeline", "What an actor did, and what was done to it."),
    "seen": _Command("seen", "When an address was first and last seen."),
    "export": _Command("export", "Write what a query finds to a file; evidence too."),
    "show": _Command("show", "Show an event, verified."),
    "prove": _Command("prove", "Write an event and its proof to files."),
    "verify": _Command("verify", "Verify an event, or a file of evidence, offline."),
    "consistency": _Command("consistency", "Check that the log only grew."),
    "monitor": _Command("monitor", "Follow a log from elsewhere and check all of it."),
    "gaps": _Command("gaps", "List the numbers of recorders that are missing."),
    "witness": _Command(None, "Run a witness for other people's logs."),
    "erase": _Command("erase", "Destroy what is private of somebody, for good."),
    "scan": _Command("scan", "Say where secrets are, in a file or in the ledger."),
    "reindex": _Command(None, "Make the index anew from the log."),
    "fsck": _Command(None, "Recompute a stored ledger and name what is wrong."),
    "demo": _Command(None, "See the main job done, step by step."),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and help before it imports them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one command."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        if entry.module is None:
            command: click.Command = load_server_part(cmd_name, needed_by=f"ledger {cmd_name}")
        else:
            command = importlib.import_module(f"ledger_client.cli.{entry.module}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


def load_server_part(name: str, *, needed_by: str) -> Any:
    """What the service's distribution offers the command line under a name.

    Raises: click.UsageError, which says what to install, where it isn't installed.
    """
    for entry_point in entry_points(group=SERVER_PARTS, name=name):
        return entry_point.load()
    raise click.UsageError(
        f"`{needed_by}` needs the service, which isn't installed: pip install witnessed-ledger"
    )


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="witnessed-ledger-client", prog_name="ledger")
def cli() -> None:
    """An audit log whose every answer can be checked without trusting the server."""


def main() -> None:
    """Run the command line and exit with the code that the table above gives."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; the exit code. Errors go to standard error."""
    try:
        result = cli.main(args=arguments, prog_name="ledger", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough (`ledger show 3 | head -1`).
        sys.stderr.close()
        return 0
    except ModuleNotFoundError as error:
        from ledger_client.extras import MissingExtraError, missing_extra

        missing = missing_extra(f"`ledger {' '.join(arguments[:1])}`", error)
        if not isinstance(missing, MissingExtraError):
            raise
        click.echo(f"error: {missing}", err=True)
        return EXIT_MALFORMED
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        click.echo(f"error: {error}", err=True)
        return code
    return result if isinstance(result, int) else 0


def _exit_code(error: Exception) -> int | None:
    """The exit code of one of the house's errors; None for a mistake of our own."""
    # Imported late: `ledger --help` needs none of it.
    from ledger_client import RejectedError
    from ledger_client.audit.monitor import StaleError
    from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError

    match error:
        case StaleError():
            return EXIT_STALE
        case VerificationError():
            return EXIT_NOT_VERIFIED
        case MalformedError() | RejectedError():
            return EXIT_MALFORMED
        case UnavailableError() | OSError():
            return EXIT_UNAVAILABLE
    return None
