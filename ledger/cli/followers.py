"""Shared by the commands of followers: options of their tables, a name, pauses, acts as events."""

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin

import click
import msgspec

from ledger.cli.folders import LEDGER, MIRROR, directory_of
from ledger.follow.position import FollowerPaths, FollowerReport
from ledger.follow.tables import FollowerConfig
from ledger.object_storage.open_log import open_log
from ledger.runtime.settings_table import settings_of
from ledger.runtime.validation import explain_invalid
from ledger.service.data_dir import DirectoryPaths
from ledger.service.operator_events import record_act
from ledger.service.start_record import missing_files
from ledger_client.cli.app import NotFoundError
from ledger_client.cli.console import format_second, json_option, note, print_json
from ledger_client.runtime.files import keep_owner

C = TypeVar("C")
S = TypeVar("S", bound=msgspec.Struct)

FILE_KEYS: Final = ("token_file", "credentials_file", "ca_file", "client_cert", "client_key")


def find_follower(what: str, known: Mapping[str, C], name: str) -> C:
    """The configuration of a follower. Raises: NotFoundError for a name that none has."""
    if name not in known:
        names = ", ".join(known) or "none"
        raise NotFoundError(f"no {what} is named {name!r}; there is {names}")
    return known[name]


def note_none(directory: Path, path: Path, *, otherwise: str, as_json: bool = False) -> None:
    """Say that there are no followers: the file that names them is gone, or `otherwise`.

    The second is not for programs, which see an empty list.
    """
    if path.name in missing_files(DirectoryPaths(directory)):
        note(
            f"{path} was there when the service was last started, and is gone: put it back, as "
            "from a backup"
        )
    elif not as_json:
        note(otherwise)


def config_options(
    kind: type[FollowerConfig], *left_out: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add an option for every key of a follower's table but some; `given_config` reads them."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for setting in reversed(settings_of(kind, "")):
            if setting.name in left_out:
                continue
            flag = setting.flag
            options: dict[str, Any] = {"help": setting.help, "default": None}
            if setting.type is bool:
                options["is_flag"] = True
                flag = f"{flag}/--no-{flag[2:]}" if setting.default is True else flag
            elif (number := _number_type(setting.type)) is not None:
                options["type"] = number
            elif setting.type not in {str, Any}:
                options |= {"multiple": True, "default": ()}
            command = click.option(flag, setting.name, **options)(command)
        return command

    return decorate


def _number_type(of: Any) -> type | None:
    """int or float for the type of a number, or of one that may be left out; None for others."""
    for each in (of, *get_args(of)):
        plain = get_args(each)[0] if get_origin(each) is Annotated else each
        if plain is int or plain is float:
            return plain
    return None


def given_config(kind: type[S], values: Mapping[str, Any]) -> S:
    """The table of a follower of the options that were given. Raises: UsageError."""
    given = {key: value for key, value in values.items() if value not in (None, ())}
    # The service may have another working directory than this command.
    given |= {key: str(Path(given[key]).absolute()) for key in FILE_KEYS if given.get(key)}
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise click.UsageError(explain_invalid(error, kind)) from None


def log_size(directory: Path) -> int:
    """The number of entries in the log of a ledger or a mirror."""
    with closing(open_log(directory / "log")) as store:
        return store.head().tree_size


def record_follower(directory: Path, what: str, act: str, name: str, **facts: Any) -> None:
    """Record an act upon a follower as the event `ledger.WHAT.ACT`."""
    targets = [(f"ledger.{what}", name)]
    record_act(DirectoryPaths(directory), f"ledger.{what}.{act}", targets=targets, context=facts)


def add_pausing(
    group: click.Group,
    read: Callable[[Path], Mapping[str, Any]],
    *,
    what: str,
    kind: str,
    event: str,
    pause_help: str,
) -> None:
    """Add `pause` and `resume` to the commands of a kind of follower; its position stays.

    `read` gives the followers of a folder. `event`: as `record_follower` takes it.
    """

    @group.command("pause", help=pause_help)
    @directory_of(LEDGER, MIRROR)
    @click.argument("name")
    @json_option
    def pause(directory: Path, name: str, as_json: bool) -> None:
        find_follower(what, read(directory), name)
        paths = FollowerPaths(directory, kind, name)
        was_paused = paths.paused.exists()
        paths.make()
        paths.paused.touch(mode=0o600)
        keep_owner(paths.paused)
        # The event also then: a crash may have come between the two acts of the command before.
        record_follower(directory, event, "paused", name)
        said = "was paused already" if was_paused else "is paused"
        facts = {what: name, "paused": True, "was_paused": was_paused}
        report_act(f"{what} {name!r} {said}", as_json, **facts)

    @group.command("resume", help="Send again, from where it was paused.")
    @directory_of(LEDGER, MIRROR)
    @click.argument("name")
    @json_option
    def resume(directory: Path, name: str, as_json: bool) -> None:
        find_follower(what, read(directory), name)
        paused = FollowerPaths(directory, kind, name).paused
        was_paused = paused.exists()
        paused.unlink(missing_ok=True)
        record_follower(directory, event, "resumed", name)
        said = "is sent to again" if was_paused else "was not paused"
        facts = {what: name, "paused": False, "was_paused": was_paused}
        report_act(f"{what} {name!r} {said}", as_json, **facts)


def progress_row(report: FollowerReport, size: int) -> dict[str, Any]:
    """How far a follower of a log of this size is, and its failure, for a list as JSON."""
    return {
        "next_index": report.next_index,
        "lag": max(0, size - report.next_index),
        "paused": report.is_paused,
        "error": report.state.error,
        "error_since_unix_s": report.state.since_unix_s or None,
    }


def state_line(report: FollowerReport) -> str:
    """Whether a follower runs, is paused, or fails and since when."""
    if report.is_paused:
        return "paused"
    if not report.state.error:
        return "in order"
    return f"fails since {format_second(report.state.since_unix_s)}: {report.state.error}"


def report_act(said: str, as_json: bool, **facts: Any) -> None:
    """Say what was done: to a person, or to a program."""
    if as_json:
        print_json(facts)
    else:
        note(said)
