"""`ledger scan`, as a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ledger.service.settings import Settings
from ledger_client import LedgerClient
from tests.service.serving import QUICK, event, make_ledger, serving

PASSWORD = "zxq-hunter-2-zxq"


def _run(*arguments: str, **environ: str) -> Any:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
    return subprocess.run(
        [sys.executable, "-m", "ledger", "scan", *arguments],
        capture_output=True,
        text=True,
        env=kept | environ,
        timeout=60,
        check=False,
    )


def test_a_file_is_scanned_without_a_ledger(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(
        "\n".join(
            [
                json.dumps(event(context={"password": PASSWORD})),
                "not json, but password: " + PASSWORD,
                json.dumps({"any": {"record": f"https://u:{PASSWORD}@example.com/"}}),
                json.dumps(event()),
            ]
        )
    )
    done = _run(str(file))
    assert done.returncode == 3
    assert done.stdout.splitlines() == [
        f"{file}:1  context.password  password",
        f"{file}:3  any.record  url-password",
    ]
    assert f"{file}:2: skipped, not a JSON object" in done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    clean = tmp_path / "clean.jsonl"
    clean.write_text(json.dumps(event()))
    assert _run(str(clean)).returncode == 0
    assert _run().returncode == 2


def test_the_events_of_a_ledger_are_scanned_since_a_time(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    settings = Settings(
        listen=QUICK.listen,
        publish_interval_s=QUICK.publish_interval_s,
        outbox_interval_s=QUICK.outbox_interval_s,
        secrets="off",
    )
    with serving(directory, make_ledger(directory), settings) as served:
        environ = {
            "LEDGER_URL": served.url,
            "LEDGER_TOKEN": served.tokens["admin"],
            "LEDGER_POLICY": str(directory / "policy"),
        }
        with LedgerClient(
            served.url, served.tokens["admin"], policy=directory / "policy", mask=None
        ) as client:
            first = client.append(event(context={"password": PASSWORD}))
            second = client.append(event(context={"pin": PASSWORD}))
            client.append(event())
            client.inclusion(second.index + 1)
        everything = _run("--since", "0", "--json", **environ)
        assert everything.returncode == 3
        rows = [json.loads(line) for line in everything.stdout.splitlines()]
        assert rows == [
            {"where": str(first.index), "path": "context.password", "rule": "password"},
            {"where": str(second.index), "path": "context.pin", "rule": "card-code"},
        ]
        later = _run("--since", second.received.time, **environ)
        assert later.stdout == f"{second.index}  context.pin  card-code\n"
        assert PASSWORD not in everything.stdout + everything.stderr + later.stderr


@pytest.mark.shared
def test_the_samples_are_scanned_as_the_judged_list_says(shared_dir: Path) -> None:
    samples = sorted(map(str, (shared_dir / "samples").glob("*.jsonl")))
    done = _run(*samples)
    assert done.returncode == 3
    assert len(done.stdout.splitlines()) == 8
