"""The parts of deploy/container, run as they are there, but without a container engine."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from ledger.service.token_admin import make_token
from ledger_client import LedgerClient
from tests.service.serving import event, send

ROOT = Path(__file__).parents[2]
CONTAINER = ROOT / "deploy" / "container"
LEDGER = str(Path(sys.executable).with_name("ledger"))
WAIT_S = 240.0


def services() -> dict[str, dict[str, Any]]:
    """The parts of the compose file by their name."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((CONTAINER / "compose.yaml").read_text())[
        "services"
    ]
    return found


def instructions() -> list[tuple[str, str]]:
    """The instructions of the container file, each with its text on one line."""
    text = (CONTAINER / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def test_each_part_is_without_root_and_privileges_on_a_read_only_file_system() -> None:
    for name, part in services().items():
        assert part["read_only"] is True, name
        assert part["cap_drop"] == ["ALL"], name
        assert part["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in part, name
    users = [text for word, text in instructions() if word == "USER"]
    assert users == ["10001:10001"]


def test_what_the_container_file_copies_is_there() -> None:
    for word, text in instructions():
        if word == "COPY" and not text.startswith("--from"):
            for source in text.split()[:-1]:
                assert (ROOT / source).exists(), source
    volumes = {part.split(":")[0] for each in services().values() for part in each["volumes"]}
    (made,) = [text for _, text in instructions() if "install -d" in text]
    assert {f"/data/{name}" for name in volumes} <= set(made.split())


@pytest.fixture
def addresses() -> dict[str, str]:
    """A free address for each part that serves."""
    found = {}
    with ExitStack() as opened:
        for name in services():
            if name != "init":
                free = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
                found[name] = f"127.0.0.1:{free.getsockname()[1]}"
    return found


@pytest.fixture
def running(tmp_path: Path, addresses: dict[str, str]) -> Iterator[Path]:
    """The parts of the compose file but one witness, made by the script, run by its commands."""
    variables = {
        **os.environ,
        "LEDGER": f"{shlex.quote(sys.executable)} -m ledger",
        "LEDGER_ADDRESS": f"http://{addresses['ledger']}",
        **{f"WITNESS_ADDRESS_{n}": f"http://{addresses[f'witness-{n}']}" for n in (1, 2, 3)},
    }
    command = ["sh", str(CONTAINER / "init.sh"), str(tmp_path), "example.com/audit"]
    made = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    with ExitStack() as stack:
        for name, address in addresses.items():
            if name == "witness-3":  # It is down: two are a quorum.
                continue
            words = [word.replace("/data/", f"{tmp_path}/") for word in services()[name]["command"]]
            words[words.index("--listen") + 1] = address
            child = subprocess.Popen([LEDGER, *words], stderr=subprocess.DEVNULL)
            stack.callback(child.wait, WAIT_S)
            stack.callback(child.terminate)
        yield tmp_path


def until(is_so: Any) -> None:
    end_s = time.monotonic() + WAIT_S
    while True:
        try:
            if is_so():
                return
        except OSError:
            pass
        assert time.monotonic() < end_s
        time.sleep(0.1)


def ask(address: str, target: str) -> Any:
    answer = send(f"http://{address}", target, method="GET", body=None, headers={})
    return json.loads(answer.body)


def test_the_parts_join_a_head_is_cosigned_and_the_mirror_holds_it(
    running: Path, addresses: dict[str, str]
) -> None:
    until(lambda: ask(addresses["ledger"], "/healthz"))
    token = make_token(running / "ledger", name="app", scopes=("append",), tenant=None)
    policy = running / "ledger" / "policy"
    with LedgerClient(f"http://{addresses['ledger']}", token, policy=policy) as client:
        receipt = client.append(event(), wait_witnessed=True)
    until(lambda: ask(addresses["mirror"], "/v1/log")["published_size"] > receipt.index)
    log = ask(addresses["ledger"], "/v1/log")
    assert len([each for each in log["witnesses"] if each.get("cosigned_size")]) == 2

    (check,) = [text for word, text in instructions() if word == "HEALTHCHECK"]
    words = json.loads(re.sub(r"^.*CMD ", "", check))
    health = {**os.environ, "LEDGER_HEALTH": f"http://{addresses['witness-1']}/healthz"}
    command = [sys.executable, *words[1:]]
    assert subprocess.run(command, env=health, check=False).returncode == 0
    health["LEDGER_HEALTH"] = "http://127.0.0.1:9/healthz"
    failed = subprocess.run(command, env=health, stderr=subprocess.DEVNULL, check=False)
    assert failed.returncode != 0
