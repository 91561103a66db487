"""Commands and alarms that read every entry give the same answers when entries left the disk."""

import json
from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner

from ledger.alarms.config import alarms_path
from ledger.cli.alarm import command as alarm
from ledger.object_storage.place import Place
from ledger_client.cli.sql import command as sql
from tests.archive.archiving import ArchivedFolder, place_of
from tests.archive.releasing import release
from tests.archive.seaweed import ObjectServer

ENTRIES, END = 1_000, 512
ALARM = """[many]
query = "action:record.viewed"
count = 900
window_s = 86400
"""


def output(command: click.Command, arguments: list[str]) -> str:
    """What a command prints."""
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


@pytest.fixture
def folder_with_alarm(folder: ArchivedFolder) -> ArchivedFolder:
    """A ledger with an alarm that fires after 900 entries."""
    folder.grow(ENTRIES)
    alarms_path(folder.directory).write_text(ALARM, encoding="utf-8")
    return folder


@pytest.fixture
def away(folder_with_alarm: ArchivedFolder, store: ObjectServer) -> Callable[[], Place]:
    """Have the first entries leave the disk."""

    def leave() -> Place:
        place = place_of(store.endpoint, store.make_bucket())
        release(folder_with_alarm, place, END)
        return place

    return leave


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (sql, ("SELECT count(*) n, sum(index) s, min(action) FROM events", "{0}", "--json")),
        (alarm, ("replay", "{0}", "--json")),
    ],
    ids=["sql", "alarm replay"],
)
def test_an_answer_is_the_same_with_released_entries(
    folder_with_alarm: ArchivedFolder,
    away: Callable[[], Place],
    command: click.Command,
    arguments: tuple[str, ...],
) -> None:
    given = [each.replace("{0}", str(folder_with_alarm.directory)) for each in arguments]
    before = output(command, given)
    assert json.loads(before)
    away()
    assert output(command, given) == before
