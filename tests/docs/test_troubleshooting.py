"""docs/troubleshooting.md: each message is one that the code has, each log line has its row."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from ledger.service.http.problems import PROBLEMS
from ledger_client.cli.app import run
from tests.docs.messages import ROOT, texts_of_code

PAGE: Final = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
HEADINGS: Final = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
LEVELS: Final = {"warning", "error", "critical", "exception"}
MISSING_POLICY: Final = "Missing option '--policy' (env var: 'LEDGER_POLICY')"
"""click makes this one."""
KINDS: Final = {"follower", "worker", "sink", "archive"}
"""What the f-strings of names such as `…_ended` and `…_fails` put in."""


def rows(heading: str) -> list[tuple[list[str], str]]:
    """The texts in code of each row's first cell, and the rest of the row."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found = re.findall(r"^\| (.*`.*?) \| (.* \| .*) \|$", section, re.MULTILINE)
    return [(re.findall(r"`([^`]+)`", cell), rest) for cell, rest in found]


def log_calls(folder: Path) -> Iterator[tuple[str, str]]:
    """Level and name of each log line that the modules of a folder write by a literal."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Name(id="log_failure"), args=[ast.Constant(value=str(name)), *_]
                ):
                    yield "error", name
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="_log"), attr=level),
                    args=[ast.Constant(value=str(line)), *_],
                ):
                    yield level, line.split(maxsplit=1)[0].rstrip(":")


@pytest.fixture(scope="module")
def texts() -> set[str]:
    return texts_of_code()


def is_of_the_code(message: str, texts: set[str]) -> bool:
    """Whether one text of the code has the pieces of a message, in their order."""
    pieces = [piece.strip() for piece in message.split("…") if piece.strip()]
    pattern = re.compile(".*".join(map(re.escape, pieces)), re.DOTALL)
    return bool(pieces) and any(pattern.search(text) for text in texts)


@pytest.mark.parametrize("heading", [each for each in HEADINGS if not each.startswith("Log lines")])
def test_each_message_is_one_that_the_code_prints(heading: str, texts: set[str]) -> None:
    assert rows(heading)
    for messages, rest in rows(heading):
        for message in messages:
            if message == MISSING_POLICY:
                continue
            if found := re.fullmatch(r"(\d{3}) ([a-z-]+)", message):
                assert PROBLEMS[found[2]].status == int(found[1]), message
            else:
                assert is_of_the_code(message, texts), message
        assert rest.rpartition(" | ")[2], f"{messages} has no way out"


def test_the_log_lines_are_those_that_service_and_recorder_write() -> None:
    for heading, folder in (
        ("Log lines of the service", ROOT / "ledger"),
        ("Log lines of the recorder", ROOT / "client/ledger_client/recording"),
    ):
        listed = {name for names, _ in rows(heading) for name in names}
        written = {name for level, name in log_calls(folder) if level in LEVELS}
        assert written - listed == set(), heading
        known = texts_of_code()
        for name in listed - written:
            kind, _, state = name.partition("_")
            is_made = kind in KINDS & known and bool({f"…_{state}", state} & known)
            assert is_made or any(text.split(" ")[0] == name for text in known), name


def test_a_missing_policy_names_its_variable(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["query", "actor:u_5"]) == 2
    assert MISSING_POLICY in capsys.readouterr().err
    assert f"`{MISSING_POLICY}`" in PAGE
