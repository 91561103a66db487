"""A command finds its ledger by flag, variable or named context, and explains itself."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ledger_client.cli.app import COMMANDS, EXIT_CODES, cli
from ledger_client.cli.config_file import defaults_of, read_config
from tests.cli.conftest import Command, Output, run_here
from tests.conftest import TESTS_DIR
from tests.served import ServedLedger


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config" / "ledger" / "config.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("CONFIG", "CONTEXT", "URL", "POLICY", "TOKEN", "TOKEN_FILE", "STATE", "INSECURE"):
        monkeypatch.delenv(f"LEDGER_{name}", raising=False)
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    made = {"policy": tmp_path / 'it\'s a "policy"', "token_file": tmp_path / "token"}
    for path in made.values():
        path.write_text("x")
    return made


def add(name: str, url: str, files: dict[str, Path], *more: str) -> Output:
    options = ("--policy", files["policy"], "--token-file", files["token_file"])
    return run_here("context", "add", name, "--url", url, *options, *more)


def test_contexts_are_added_listed_chosen_and_removed(config: Path, files: dict[str, Path]) -> None:
    assert run_here("context", "list").err.startswith("no context yet")
    assert add("prod", "https://a.example", files).code == 0
    assert add("stage", "https://b.example", files, "--state", "heads").code == 0
    assert add("prod", "https://c.example", files).code == 2
    assert config.stat().st_mode & 0o777 == 0o600
    assert (
        run_here("context", "list").out
        == "* prod   https://a.example\n  stage  https://b.example\n"
    )
    assert run_here("context", "use", "stage").code == 0
    shown = json.loads(run_here("context", "show", "--json").out)
    assert shown == {
        "name": "stage",
        "url": "https://b.example",
        "policy": str(files["policy"]),
        "token_file": str(files["token_file"]),
        "state": str(Path("heads").absolute()),
    }
    assert add("prod", "https://c.example", files, "--force", "--insecure").code == 0
    assert read_config(config).contexts["prod"]["insecure"] is True
    assert run_here("context", "remove", "stage").code == 0
    missing = run_here("context", "show")
    assert (missing.code, "ledger context use" in missing.err) == (2, True)
    wrong = run_here("context", "use", "prd")
    assert (wrong.code, "there are: prod" in wrong.err) == (2, True)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("current = ", "config.toml: "),
        ("curent = 'a'", "want `current`"),
        ("current = 'a'", "no context 'a'"),
        ("[contexts.a]\npolicy = 'x'", "has no url"),
        ("[contexts.a]\nurl = 'x'\ntoken = 'y'", "'token' in a is unknown"),
        ("[contexts.a]\nurl = 1", "has no url"),
        ("[contexts.'a b']\nurl = 'x'", "is no name"),
    ],
)
def test_a_file_that_is_wrong_is_explained(config: Path, text: str, named: str) -> None:
    config.parent.mkdir(parents=True)
    config.write_text(text)
    said = run_here("query", "x")
    assert (said.code, named in said.err) == (2, True)


CONTEXT = {"url": "https://a.example", "policy": "p", "token_file": "t", "state": "s"}


@pytest.mark.parametrize(
    ("variables", "command", "arguments", "given"),
    [
        ({}, "query", ["x"], ["policy", "state", "token_file", "url"]),
        ({"LEDGER_TOKEN": "x"}, "query", [], ["policy", "state", "url"]),
        ({}, "query", ["--url", "https://a.example/"], ["policy", "state", "token_file", "url"]),
        ({}, "query", ["--url", "https://b.example"], []),
        ({}, "query", ["--url=https://b.example"], []),
        ({"LEDGER_URL": "https://b.example"}, "query", [], []),
        ({}, "monitor", ["https://b.example"], []),
        ({}, "query", ["https://b.example"], ["policy", "state", "token_file", "url"]),
    ],
)
def test_nothing_of_a_context_is_used_for_another_address(
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    command: str,
    arguments: list[str],
    given: list[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert sorted(defaults_of(CONTEXT, command, arguments)) == given


def test_a_command_takes_its_ledger_from_the_context(
    ledger: ServedLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text(ledger.token)
    files = {"policy": ledger.policy, "token_file": token}
    assert add("here", ledger.url, files).code == 0
    assert add("other", "http://127.0.0.1:9", files).code == 0
    assert json.loads(run_here("show", "0", "--json").out)["index"] == 0
    assert run_here("--context", "other", "show", "0").code == 4
    monkeypatch.setenv("LEDGER_CONTEXT", "other")
    assert run_here("show", "0").code == 4
    assert run_here("--context", "here", "show", "0").code == 0


def test_without_arguments_it_says_what_to_do() -> None:
    said = run_here()
    assert said.code == 0
    for step in ("ledger demo", "ledger init", "ledger query", "ledger playbook"):
        assert step in said.out


def test_help_groups_the_commands_by_who_needs_them() -> None:
    said = run_here("--help").out
    titles = ("To record", "To ask", "To verify", "To operate")
    assert [title in said for title in titles] == [True] * 4
    assert said.index("To ask") < said.index("  playbook ") < said.index("To verify")


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("qurey",), "Did you mean query?"),
        (("expot",), "Did you mean export?"),
        (("search",), "Did you mean query?"),
        (("tail",), "Did you mean query --follow?"),
        (("token", "creat"), "Did you mean 'create'?"),
        (("query", "--polcy"), "Did you mean '--policy'?"),
        (("xyzzy",), "See ledger --help."),
    ],
)
def test_a_misspelt_command_or_option_is_corrected(arguments: tuple[str, ...], meant: str) -> None:
    said = run_here(*arguments)
    assert (said.code, meant in said.err) == (2, True)


def parameters(command: Any, path: tuple[str, ...] = ()) -> Any:
    """Each option of each command, with the words that name the command."""
    if hasattr(command, "list_commands"):
        context = None
        for name in COMMANDS if command is cli else command.commands:
            yield from parameters(command.get_command(context, name), (*path, name))
        return
    yield path, command.params


def test_help_names_the_variable_of_each_option_and_every_command_has_json() -> None:
    without_json = {
        ("serve",),
        ("demo",),
        ("listen", "syslog"),
        ("mirror", "serve"),
        ("signer", "serve"),
    }
    for path, found in parameters(cli):
        for each in found:
            if each.param_type_name == "option" and each.envvar:
                assert each.show_envvar, (path, each.name)
        has_json = any("--json" in each.opts for each in found)
        assert has_json != (path in without_json), path


def test_the_page_has_every_exit_code() -> None:
    page = (TESTS_DIR.parent / "docs" / "command-line.md").read_text()
    for code, meaning in EXIT_CODES.items():
        assert f"| {code} | {meaning} |" in page


def test_refused_not_found_and_a_broken_pipe_end_differently(
    command: Command, ledger: ServedLedger
) -> None:
    missing = command("show", "999999")
    assert (missing.returncode, "no event has the index 999999" in missing.stderr) == (6, True)
    assert command("show", "0", LEDGER_TOKEN="wl_wrong").returncode == 7
    many = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "ledger",
            "sql",
            "SELECT * FROM range(1000000)",
            ledger.directory,
            "--csv",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert many.stdout is not None
    many.stdout.readline()
    many.stdout.close()
    assert many.wait(120) == 141


@pytest.mark.parametrize("variable", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_where_none_is_wanted(
    command: Command, ledger: ServedLedger, variable: tuple[str, str]
) -> None:
    shown = {}
    for name, more in (("with", {}), ("without", dict([variable]))):
        terminal, end = os.openpty()
        environ = {
            **{key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TERM")},
            **ledger.variables,
            "TERM": "xterm",
            **more,
        }
        subprocess.run(
            [sys.executable, "-m", "ledger", "show", "0"], env=environ, stdout=end, check=True
        )
        os.close(end)
        shown[name] = os.read(terminal, 1 << 16).decode()
        os.close(terminal)
    assert "\x1b[" in shown["with"]
    assert "\x1b" not in shown["without"]
