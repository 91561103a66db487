"""Each example, run by the one command of its README, on the scratch ledger that it makes."""

import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ledger_client import LedgerClient
from ledger_client.errors import RejectedError
from tests.integrations.conftest import ROOT_DIR, wait_for_port
from tests.waiting import until

README = (ROOT_DIR / "docs/examples/README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"`(python docs/examples/\w+/app\.py)`", README)
EXPORTS = re.compile(
    r"^export LEDGER_URL=(\S+) LEDGER_TOKEN=(\S+) LEDGER_POLICY=(\S+)$", re.MULTILINE
)
FORM = "application/x-www-form-urlencoded"

Ask = Callable[..., http.client.HTTPResponse]


def test_the_readme_has_the_command_of_each_example() -> None:
    apps = (ROOT_DIR / "docs/examples").glob("*/app.py")
    assert sorted(COMMANDS) == sorted(f"python {path.relative_to(ROOT_DIR)}" for path in apps)


@pytest.mark.parametrize("key", ["flask", "fastapi", "aiohttp"])
def test_a_change_of_role_is_recorded_and_one_that_is_forbidden_too(
    key: str, tmp_path: Path
) -> None:
    body, kind = (
        (b'{"role": "admin"}', "application/json")
        if key == "fastapi"
        else (
            b"role=admin",
            FORM,
        )
    )
    with example(key, tmp_path) as (ask, entries):
        for user, status in (("jo", 403), ("ann", 200)):
            headers = {"X-User": user, "Content-Type": kind}
            assert ask("PUT", "/users/jo/role", body, headers).status == status
        denied, changed = entries(2)
    assert [denied["outcome"], changed["outcome"]] == ["denied", "success"]
    assert [denied["actor"]["id"], changed["actor"]["id"]] == ["jo", "ann"]
    assert changed["targets"] == [{"type": "user", "id": "jo"}]
    assert changed["changes"] == [{"path": "/role", "before": "member", "after": "admin"}]
    assert changed["source"]["ip"] == "127.0.0.1"
    assert changed["source"]["service"] == f"{key}-example"


def test_in_django_logins_groups_and_denials_are_recorded(tmp_path: Path) -> None:
    path = "/users/jo/groups/admins"
    with example("django", tmp_path) as (ask, entries):
        assert ask("POST", path, b"", {}).status == 403
        login = ask("POST", "/login", b"user=ann&password=ann", {"Content-Type": FORM})
        assert login.status == 200
        cookie = str(login.headers["Set-Cookie"]).partition(";")[0]
        assert ask("POST", path, b"", {"Cookie": cookie}).status == 200
        events = entries(7)
    assert [(event["action"], event["outcome"], event["actor"]["id"]) for event in events] == [
        ("auth.user.created", "success", "django"),
        ("auth.user.created", "success", "django"),
        ("auth.group.created", "success", "django"),
        ("group.joined", "denied", "anonymous"),
        ("user.login", "success", "1"),
        ("auth.user.updated", "success", "1"),
        ("group.joined", "success", "1"),
    ]
    assert events[5]["changes"] == [{"path": "/groups", "after": [1]}]


def test_a_call_of_a_tool_is_recorded_with_the_agent_and_its_person(tmp_path: Path) -> None:
    def call(person: str, ask: Ask) -> int:
        arguments = {"user": "jo", "role": "admin", "ticket": "T-1"}
        params = {"name": "change_role", "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        headers = {
            "Authorization": f"Bearer {person}",
            "Accept": "application/json, text/event-stream",
            "Content-Type": "application/json",
        }
        return ask("POST", "/mcp", json.dumps(message).encode(), headers).status

    with example("mcp", tmp_path) as (ask, entries):
        assert [call(person, ask) for person in ("kim", "ann", "nobody")] == [200, 200, 401]
        denied, changed = entries(2)
    for event, person, outcome in ((denied, "kim", "denied"), (changed, "ann", "success")):
        assert event["outcome"] == outcome
        assert event["actor"] == {
            "type": "agent",
            "id": "assistant",
            "on_behalf_of": {"type": "user", "id": person},
        }
        assert [target["id"] for target in event["targets"]] == ["change_role", "jo"]
        assert event["context"]["arguments"]["ticket"] == {"masked": "setting"}
        assert event["source"]["ip"] == "127.0.0.1"


@contextmanager
def example(key: str, folder: Path) -> Iterator[tuple[Ask, Callable[[int], list[dict[str, Any]]]]]:
    """Run an example; gives a way to ask it, and one to the first so many events of its ledger."""
    (command,) = (each for each in COMMANDS if f"/{key}/" in each)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {name: text for name, text in os.environ.items() if not name.startswith("LEDGER_")}
    output = folder / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *shlex.split(command)[1:]],
            env={**environ, "PORT": str(port), "LEDGER_RECORDER": "real"},
            cwd=ROOT_DIR,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for_port(port, process, output)
        match = EXPORTS.search(output.read_text())
        assert match is not None, output.read_text()
        url, token, policy = match.groups()

        def ask(
            method: str, path: str, body: bytes, headers: dict[str, str]
        ) -> http.client.HTTPResponse:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            answer.read()
            connection.close()
            return answer

        def entries(count: int) -> list[dict[str, Any]]:
            with LedgerClient(url, token, policy=policy) as ledger:

                def is_there() -> bool:
                    try:
                        ledger.event(count)
                    except RejectedError:
                        return False
                    return True

                until(is_there)
                # Entry 0 says that the token was made.
                leaves = [ledger.event(index).leaf for index in range(1, count + 1)]
                return [msgspec.json.decode(leaf)["event"] for leaf in leaves]

        yield ask, entries
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
    # The policy is DIR/audit/policy.
    assert not Path(policy).parents[1].exists(), "the scratch ledger was not cleared away"
