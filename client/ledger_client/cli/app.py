"""The table of commands, and the one place that maps errors to exit codes.

    0  done, or verified
    1  not verified: well-formed but untrue; or numbers of a recorder are missing
    2  malformed input, a wrong command line, or a request that the ledger refused
    3  done, but lines were rejected or secrets were found
    4  unavailable: the service, the network or the disk; worth trying again
    5  stale: nothing was false, but the log showed no new head in time, or an older one
  130  interrupted

A command's module is imported when the command runs, so `ledger --help` is fast. The commands of
the service are found by entry points, so the client's commands work where it isn't installed.
"""

import importlib
import io
import sys
import warnings
from contextlib import suppress
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
    place: str | None
    help: str


# In the order in which a newcomer meets them. A command with a place, "module:attribute", is the
# client's own. The distribution `witnessed-ledger` registers the others as entry points.
COMMANDS: Final = {
    "init": _Command(None, "Make a ledger in a folder."),
    "token": _Command(None, "Make, list and revoke access tokens."),
    "serve": _Command(None, "Serve a ledger over HTTP."),
    "append": _Command("append:command", "Append an event and verify that it is in the log."),
    "import": _Command("import_:command", "Append events from files."),
    "listen": _Command("listen:command", "Append events that hosts send as syslog."),
    "query": _Command("query:command", "Find, count or follow events, each verified."),
    "around": _Command("pivots:around", "Show what else happened around an event."),
    "timeline": _Command("pivots:timeline", "Show what an actor did, and what was done to it."),
    "seen": _Command("pivots:seen", "Show when an address was first and last seen."),
    "playbook": _Command(
        "playbook:command", "Ask the first questions of an incident, one command each."
    ),
    "sql": _Command("sql:command", "Ask events by SQL, with DuckDB on this machine."),
    "export": _Command(
        "export:command", "Write what a query finds to a file, with proofs if wanted."
    ),
    "show": _Command("show:show", "Show an event, verified."),
    "prove": _Command("show:prove", "Write an event and its proof to files."),
    "verify": _Command("verify:command", "Verify an event, or a file of evidence, offline."),
    "fields": _Command("fields:command", "List what a query can ask for, with frequent values."),
    "policy": _Command("policy:command", "Name what makes a policy weak."),
    "consistency": _Command("consistency:command", "Check that the log only grew."),
    "heads": _Command("heads:command", "List the signed heads that the log keeps."),
    "monitor": _Command("monitor:command", "Follow a log from another host and check all of it."),
    "doctor": _Command("doctor:command", "Check the settings of a recorder or client."),
    "gaps": _Command("gaps:command", "List the numbers of recorders that are missing."),
    "mirror": _Command(None, "Keep a verified copy of a log on another host, and serve it."),
    "sink": _Command(None, "Send each entry to the tools that you watch already."),
    "witness": _Command(None, "Run a witness for other people's logs."),
    "erase": _Command("erase:command", "Destroy the private values of a person, for good."),
    "scan": _Command("scan:command", "Find secrets in a file or in the ledger."),
    "reindex": _Command(None, "Rebuild the index from the log."),
    "parquet": _Command(None, "Write full segments as Parquet, for ledger sql."),
    "fsck": _Command(None, "Recompute a stored ledger and name what is wrong."),
    "backup": _Command(None, "Copy a ledger to a folder, also while it is served."),
    "restore": _Command(None, "Make a ledger from a backup."),
    "recover": _Command(None, "Show what an old copy of a ledger lacks, and take it over."),
    "demo": _Command(None, "Show the main job, step by step."),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and help before it imports them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        if entry.place is None:
            command: click.Command = load_server_part(cmd_name, needed_by=f"ledger {cmd_name}")
            return command
        module, _, attribute = entry.place.partition(":")
        own: click.Command = getattr(importlib.import_module(f"{__package__}.{module}"), attribute)
        return own

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


def load_server_part(name: str, *, needed_by: str) -> Any:
    """Load an entry point of the service's distribution.

    Raises: click.UsageError saying what to install, where the service isn't installed.
    """
    for entry_point in entry_points(group=SERVER_PARTS, name=name):
        # A service without one of its packages counts as not installed.
        with suppress(ModuleNotFoundError):
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
    """Run the command line and exit with its code."""
    warnings.formatwarning = lambda message, *_others, **_more: f"warning: {message}\n"
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code. Errors go to standard error."""
    try:
        result = cli.main(args=arguments, prog_name="ledger", standalone_mode=False)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        click.echo(_printable(shown.getvalue()), err=True, nl=False)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of the pipe has closed it, as in `ledger show 3 | head -1`.
        sys.stderr.close()
        return 0
    except ImportError as error:
        from ledger_client.extras import MissingExtraError, missing_extra

        missing = error
        if isinstance(error, ModuleNotFoundError):
            missing = missing_extra(f"`ledger {' '.join(arguments[:1])}`", error)
        if not isinstance(missing, MissingExtraError):
            raise
        click.echo(f"error: {missing}", err=True)
        return EXIT_MALFORMED
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        click.echo(f"error: {_printable(str(error))}", err=True)
        return code
    return result if isinstance(result, int) else 0


def _printable(message: str) -> str:
    from ledger_client.cli.console import printable_lines  # Slow to import, and rarely needed.

    return printable_lines(message)


def _exit_code(error: Exception) -> int | None:
    """The exit code of an expected error; None for a fault of the program."""
    # Imported late, because `ledger --help` needs none of these.
    from ledger_client import OlderHeadError, RejectedError
    from ledger_client.audit.monitor import StaleError
    from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError

    match error:
        case StaleError() | OlderHeadError():
            return EXIT_STALE
        case VerificationError():
            return EXIT_NOT_VERIFIED
        case MalformedError() | RejectedError():
            return EXIT_MALFORMED
        case UnavailableError() | OSError():
            return EXIT_UNAVAILABLE
    return None
