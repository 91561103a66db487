"""The table of commands, and the one place that maps errors to exit codes (`EXIT_CODES`).

A command's module is imported when the command runs, so `ledger --help` is fast. The commands of
the service are found by entry points, so the client's commands work where it isn't installed.
"""

import importlib
import io
import os
import sys
import warnings
from contextlib import nullcontext, suppress
from http import HTTPStatus
from importlib.metadata import entry_points
from typing import Any, Final, NamedTuple

import click

from ledger_client.cli.config_file import NAME_VARIABLE, chosen_context, defaults_of
from ledger_client.runtime.process_end import end_process
from ledger_core.near_names import near_names

EXIT_NOT_VERIFIED: Final = 1
EXIT_MALFORMED: Final = 2
EXIT_REJECTED: Final = 3
EXIT_UNAVAILABLE: Final = 4
EXIT_STALE: Final = 5
EXIT_NOT_FOUND: Final = 6
EXIT_REFUSED: Final = 7
EXIT_INTERRUPTED: Final = 130
EXIT_BROKEN_PIPE: Final = 141

EXIT_CODES: Final = {
    0: "done, or verified",
    EXIT_NOT_VERIFIED: "not verified: well-formed but untrue; or numbers of a recorder are missing",
    EXIT_MALFORMED: "malformed input, or a wrong command line",
    EXIT_REJECTED: "done, but lines were rejected or secrets were found",
    EXIT_UNAVAILABLE: "the service, the network or the disk can't be used; worth trying again",
    EXIT_STALE: "stale: the log showed no new head in time, or an older one",
    EXIT_NOT_FOUND: "not found: there is no such event, token, sink or subject",
    EXIT_REFUSED: "refused by the ledger, or by the check before sending",
    EXIT_INTERRUPTED: "interrupted by Ctrl-C",
    EXIT_BROKEN_PIPE: "broken pipe: the reader of the output has closed it",
}

COMPLETION_VARIABLE: Final = "_LEDGER_COMPLETE"


class NotFoundError(click.ClickException):
    """The command line names something that does not exist."""

    exit_code = EXIT_NOT_FOUND


SERVER_PARTS: Final = "ledger.server_parts"
"""The group of entry points by which the service joins this command line."""


class _Command(NamedTuple):
    place: str | None
    help: str


# A command with a place, "module:attribute", is the client's own. The distribution
# `witnessed-ledger` registers the others as entry points.
_GROUPS: Final[dict[str, dict[str, _Command]]] = {
    "To begin": {
        "context": _Command("context:command", "Name the ledgers that you use, and choose one."),
        "demo": _Command(None, "Show the main job, step by step."),
    },
    "To record, in applications": {
        "append": _Command("append:command", "Append an event and verify that it is in the log."),
        "import": _Command("import_:command", "Append events from files."),
        "listen": _Command("listen:command", "Append events that hosts send as syslog."),
        "doctor": _Command("doctor:command", "Check the settings of a recorder or client."),
    },
    "To ask, in an incident": {
        "query": _Command("query:command", "Find, count or follow events, each verified."),
        "around": _Command("pivots:around", "Show what else happened around an event."),
        "timeline": _Command("pivots:timeline", "Show what an actor did, and what was done to it."),
        "seen": _Command("pivots:seen", "Show when an address was first and last seen."),
        "playbook": _Command(
            "playbook:command", "Ask the first questions of an incident, one command each."
        ),
        "sql": _Command("sql:command", "Ask events by SQL, with DuckDB on this machine."),
        "fields": _Command(
            "fields:command", "List what a query can ask for, with frequent values."
        ),
        "show": _Command("show:show", "Show an event, verified."),
        "export": _Command(
            "export:command", "Write what a query finds to a file, with proofs if wanted."
        ),
    },
    "To verify, as an auditor": {
        "verify": _Command("verify:command", "Verify an event, or a file of evidence, offline."),
        "verify-export": _Command(
            "verify_export:command", "Check a SIEM's copy of the log, and name what it lacks."
        ),
        "verify-archive": _Command(None, "Check a whole log from a bucket alone."),
        "prove": _Command("show:prove", "Write an event and its proof to files."),
        "consistency": _Command("consistency:command", "Check that the log only grew."),
        "heads": _Command("heads:command", "List the signed heads that the log keeps."),
        "policy": _Command("policy:command", "Name what makes a policy weak."),
        "monitor": _Command(
            "monitor:command", "Follow a log from another host and check all of it."
        ),
        "gaps": _Command("gaps:command", "List the numbers of recorders that are missing."),
        "scan": _Command("scan:command", "Find secrets in a file or in the ledger."),
    },
    "To operate a ledger": {
        "init": _Command(None, "Make a ledger in a folder."),
        "token": _Command(None, "Make, rotate, list and revoke access tokens."),
        "key": _Command(None, "Show, rotate and encrypt the keys that sign."),
        "signer": _Command(None, "Sign with a PKCS#11 token, in a process of its own."),
        "serve": _Command(None, "Serve a ledger over HTTP."),
        "status": _Command(None, "Show size, head, witnesses, sinks, disk and lag."),
        "mirror": _Command(None, "Keep a verified copy of a log on another host, and serve it."),
        "tlog-mirror": _Command(None, "Keep copies of logs that send their entries here."),
        "sink": _Command(None, "Send each entry to the tools that you watch already."),
        "archive": _Command(None, "Keep a copy of a log in a bucket, and see how far it is."),
        "alarm": _Command(None, "Fire when events come that should not happen."),
        "witness": _Command(None, "Run a witness for other people's logs."),
        "erase": _Command("erase:command", "Destroy the private values of a person, for good."),
        "retention": _Command(None, "Remove old entries, under a policy and legal holds."),
        "parquet": _Command(None, "Write full segments as Parquet, for ledger sql."),
        "reindex": _Command(None, "Rebuild the index from the log."),
        "fsck": _Command(None, "Recompute a stored ledger and name what is wrong."),
        "backup": _Command(None, "Copy a ledger to a folder, also while it is served."),
        "restore": _Command(None, "Make a ledger from a backup or an archive."),
        "recover": _Command(None, "Show what an old copy of a ledger lacks, and take it over."),
    },
}
"""The commands by who needs them, in the order in which a newcomer meets them."""

COMMANDS: Final = {name: entry for group in _GROUPS.values() for name, entry in group.items()}

_OTHER_WORDS: Final = {
    word: command
    for command, words in {
        "query": "events find grep log logs ls search",
        "query --follow": "follow tail watch",
        "query --count": "count stats top",
        "show": "cat event get",
        "append": "add record send write",
        "serve": "run server start",
        "verify": "audit check validate",
        "fsck": "repair",
        "retention": "delete prune",
    }.items()
    for word in words.split()
}
"""Commands that do what other tools call so."""

INTRODUCTION: Final = """\
ledger: an audit log whose every answer can be checked without trusting the server.

  Try it      ledger demo                        the main job, step by step, on this machine
  Serve one   ledger init DIR --origin NAME      then: ledger token create DIR, ledger serve DIR
  Use one     ledger context add NAME --url URL --policy FILE --token-file FILE
              ledger append --actor user:u_1 --action user.login --outcome success
              ledger query actor:u_1 since:-24h
  In trouble  ledger playbook                    the first questions of an incident

`ledger --help` lists all commands, and `ledger COMMAND --help` explains one.
"""


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

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options before the command, and give the command the chosen context."""
        rest = super().parse_args(ctx, args)
        given = [*ctx._protected_args, *ctx.args]  # noqa: SLF001 - click has no public name for it
        name = given[0] if given else ""
        entry = COMMANDS.get(name)
        if entry is not None and entry.place is not None and name != "context":
            with suppress(click.ClickException) if ctx.resilient_parsing else nullcontext():
                found = chosen_context(ctx.params.get("context_name"))
                if found is not None:
                    ctx.default_map = {name: defaults_of(found[1], name, given[1:])}
        return rest

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may be meant."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            other = _OTHER_WORDS.get(args[0])
            near = [other] if other else near_names(args[0], COMMANDS, count=2)
            meant = f" Did you mean {' or '.join(near)}?" if near else " See ledger --help."
            ctx.fail(f"No such command {args[0]!r}.{meant}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands by who needs them, without importing any."""
        width = max(map(len, COMMANDS))
        for title, group in _GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:{width}}", each.help) for name, each in group.items()])


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


def has_plain_output() -> bool:
    """Whether the environment asks for text without colours and bars: NO_COLOR, TERM=dumb."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


@click.command(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="witnessed-ledger-client", prog_name="ledger")
@click.option(
    "--context",
    "context_name",
    envvar=NAME_VARIABLE,
    show_envvar=True,
    metavar="NAME",
    help="The ledger to ask, as ledger context names it.",
)
@click.pass_context
def cli(ctx: click.Context, /, **_given: str | None) -> None:
    """An audit log whose every answer can be checked without trusting the server."""
    if has_plain_output():
        ctx.color = False
    if ctx.invoked_subcommand is None:
        click.echo(INTRODUCTION, nl=False)


def main() -> None:
    """Run the command line and exit with its code."""
    warnings.formatwarning = lambda message, *_others, **_more: f"warning: {message}\n"
    if COMPLETION_VARIABLE in os.environ:
        cli.main(prog_name="ledger", complete_var=COMPLETION_VARIABLE)
    end_process(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code. Errors go to standard error."""
    try:
        # Not `cli.main`, which ends with exit code 1 when a pipe is broken.
        with cli.make_context("ledger", list(arguments)) as context:
            result = cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        # click indents the choices of an option by a tab.
        click.echo(_printable(shown.getvalue().expandtabs(4)), err=True, nl=False)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of the pipe has closed it, as in `ledger show 3 | head -1`. What is still in
        # the buffer goes nowhere, so that the interpreter does not complain at its end.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
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
        case RejectedError():
            return EXIT_NOT_FOUND if error.problem.status == HTTPStatus.NOT_FOUND else EXIT_REFUSED
        case MalformedError():
            return EXIT_MALFORMED
        case UnavailableError() | OSError():
            return EXIT_UNAVAILABLE
    return None
