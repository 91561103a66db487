"""Real servers that fork: the events of each child come, each once, with their actor."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import celery
import pytest

from ledger_client import audit_context
from ledger_client.integrations.celery import audit_tasks
from tests.integrations.conftest import ROOT_DIR, wait_for_port
from tests.recording.conftest import Running, name, numbers, running
from tests.waiting import until

__all__ = ["name", "running"]  # Fixtures.

COUNT = 6


@pytest.fixture
def settings(running: Running, name: str, tmp_path: Path) -> dict[str, Any]:
    """The recorder's, and the folders in which Celery queues its messages."""
    queue = tmp_path / "queue"
    queue.mkdir()
    return {
        "recorder": {
            "url": running.url,
            "token": running.token,
            "spool": str(tmp_path / "spool"),
            "policy": str(running.policy),
            "actor": ("process", "parent"),
            "tenant": name,
            "linger_s": 0.01,
        },
        "folders": {
            "data_folder_in": str(queue),
            "data_folder_out": str(queue),
            "control_folder": str(tmp_path / "control"),
        },
    }


def start(settings: dict[str, Any], output: Path, *command: str) -> "subprocess.Popen[bytes]":
    environ = {"SHOP": json.dumps(settings), "LEDGER_RECORDER": "real", "C_FORCE_ROOT": "1"}
    with output.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**os.environ, **environ},
            cwd=ROOT_DIR,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )


def events_once(running: Running, name: str, count: int, end: Callable[[], object]) -> Any:
    """The events of a test, once so many are there and its program has ended."""
    try:
        with running.client() as client:
            until(lambda: client.search(f'tenant:"{name}"', limit=0, verify=False).total >= count)
    finally:
        end()
    events = running.recorded(name)
    # Nothing twice, and no number of a recorder is missing.
    assert len(events) == count
    for found in numbers(events).values():
        assert sorted(found) == list(range(1, len(found) + 1))
    return events


def test_the_children_of_a_celery_worker(
    running: Running, name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    app = celery.Celery("shop", broker="filesystem://")
    app.conf.broker_transport_options = settings["folders"]
    audit_tasks()
    for number in range(COUNT):
        with audit_context(actor=("user", f"u_{number}")):
            app.send_task("refund", args=(f"p_{number}",))
    with audit_context(actor=("user", "u_killed")):
        app.send_task("refund_and_die", args=("p_killed",))
    app.send_task("refund", args=("p_nobody",))
    options = ("--pool=prefork", "--concurrency=2", "--max-tasks-per-child=2", "--loglevel=ERROR")
    module = "tests.integrations.apps.celery_app"
    worker = start(
        settings,
        tmp_path / "output",
        "celery",
        "-A",
        module,
        "worker",
        "--without-mingle",
        *options,
    )

    def end() -> None:
        worker.terminate()
        worker.wait(60)

    events = events_once(running, name, COUNT + 3, end)
    refunds = {
        event["targets"][0]["id"]: event["actor"]["id"]
        for event in events
        if event["action"] == "payment.refunded"
    }
    assert refunds == {
        **{f"p_{number}": f"u_{number}" for number in range(COUNT)},
        "p_killed": "u_killed",
        "p_nobody": "parent",
    }
    # The parent recorded too, and a child ends after two tasks.
    assert len(numbers(events)) > (COUNT + 3) // 2


def test_the_workers_of_gunicorn_with_preload(
    running: Running, name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    options = ("--preload", "--workers=2", "--max-requests=4", "-b", f"127.0.0.1:{port}")
    output = tmp_path / "output"
    server = start(
        settings, output, "gunicorn", "tests.integrations.apps.preload_app:app", *options
    )

    def end() -> None:
        server.terminate()
        server.wait(60)

    try:
        wait_for_port(port, server, output)
        pids = set()
        for number in range(COUNT):
            # A worker that ends may close a connection that it has not answered.
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/u_{number}", timeout=60
            ) as answer:
                pids.add(int(answer.read()))
            if number == 1:
                os.kill(pids.pop(), signal.SIGKILL)
    except BaseException:
        end()
        raise
    events = events_once(running, name, COUNT + 1, end)
    assert {event["actor"]["id"] for event in events if event["action"] == "page.read"} == {
        f"u_{number}" for number in range(COUNT)
    }
    assert len(numbers(events)) >= 3
