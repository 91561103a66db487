"""The reference pages miss nothing that the code has: variables, arguments, parts, commands."""

import inspect
import re
from collections.abc import Iterator
from typing import Final

import click
import pytest

from docs.generate import DOCS, PARTS
from ledger.service.settings import SETTINGS
from ledger.tlog_mirror.settings import TLOG_MIRROR_SETTINGS
from ledger.witness.settings import WITNESS_SETTINGS
from ledger_client import Recorder
from ledger_client.cli.app import COMMANDS, EXIT_CODES, cli
from ledger_client.recording.options import RecorderOptions
from ledger_client.recording.recorder import RecordArguments
from tests.docs.messages import ROOT, texts_of_code

PROGRAMS: Final = (*WITNESS_SETTINGS, *TLOG_MIRROR_SETTINGS)
PAGES: Final = {path: path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md")}
TEXT: Final = "\n".join(PAGES.values())
COMMAND_LINE: Final = PAGES[DOCS / "command-line.md"]
RECORDER: Final = PAGES[DOCS / "recorder.md"]


def variables_of_commands(command: click.Command) -> Iterator[str]:
    """The variables of all options of a command and of those below it."""
    yield from (str(option.envvar) for option in command.params if option.envvar)
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert below is not None
                yield from variables_of_commands(below)


def section(page: str, heading: str) -> str:
    return page.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


def test_every_generated_part_stands_in_one_page() -> None:
    for name in PARTS:
        pages = [path.name for path, text in PAGES.items() if f"<!-- generated: {name} -->" in text]
        assert len(pages) == 1, name


def test_every_test_that_a_page_names_is_there() -> None:
    named = [
        (page.name, *found)
        for page, text in PAGES.items()
        for found in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+)| -k (\w+))?`", text)
    ]
    assert len(named) > 150
    for page, file, name, part in named:
        assert (ROOT / file).is_file(), f"{page} names {file}"
        tests = re.findall(r"def (test_\w+)", (ROOT / file).read_text(encoding="utf-8"))
        assert not name or name in tests, f"{page} names {name}"
        assert not part or any(part in test for test in tests), f"{page} names -k {part}"


def test_every_variable_of_the_code_is_in_the_reference() -> None:
    listed = set(re.findall(r"`(_?[A-Z][A-Z_]*[A-Z])`", section(COMMAND_LINE, "Variables")))
    listed |= set(re.findall(r"`(LEDGER_[A-Z_]*[A-Z])`", section(COMMAND_LINE, "Which ledger")))
    of_settings = {setting.variable for setting in (*SETTINGS, *PROGRAMS)}
    assert of_settings <= set(re.findall(r"`(LEDGER_[A-Z_]*[A-Z])`", TEXT))
    literals = {text for text in texts_of_code() if re.fullmatch(r"_?LEDGER_[A-Z_]*[A-Z]", text)}
    used = {*variables_of_commands(cli), *literals} - of_settings
    assert len(used) > 15
    assert used - listed == set()
    assert {each for each in listed if "LEDGER_" in each} - used == set()


def test_every_exit_code_is_in_the_reference() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", section(COMMAND_LINE, "Exit codes"), re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == EXIT_CODES


def test_every_argument_of_a_recorder_is_in_the_reference() -> None:
    documented = set(re.findall(r"`(\w+)`", section(RECORDER, "The arguments of `Recorder`")))
    signature = inspect.signature(Recorder.__init__)
    own = set(signature.parameters) - {"self", "options"}
    assert own | set(inspect.signature(RecorderOptions).parameters) <= documented
    assert len(own) == 6
    documented = set(re.findall(r"`(\w+)`", section(RECORDER, "The arguments of `record`")))
    assert {"action", *RecordArguments.__annotations__} <= documented


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_stands_in_a_page(name: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"\bledger (?:--\w+ \w+ )?{name}\b", TEXT + readme)
