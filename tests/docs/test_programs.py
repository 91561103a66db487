"""The Python of the pages: each block compiles and imports what exists; whole programs run."""

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from ledger.demo.child_service import Service, make_ledger
from ledger_client import LedgerClient
from tests.docs.blocks import RUNNABLE, Block, all_blocks
from tests.docs.test_commands import NOT_RUN, PROGRAMS, SCRIPTS, reason_not_to_run
from tests.served import ORIGIN, ServedLedger

BLOCKS: Final = [block for block in all_blocks() if block.language == "python"]
WAIT_S: Final = 120

COMPILED_ONLY: Final[Mapping[str, str]] = {
    "docs/integrations.md": "parts of an application; docs/examples has whole ones, which run",
    "docs/testing.md": "tests/recording/test_testing.py runs all of them, as the page says",
    "docs/tokens.md": "needs a client certificate; tests/tls has one",
}
"""By page: why its programs are not run here, and what runs instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The programs of a page, one after another, behind what the page leaves to the reader."""

    page: str
    before: str = ""
    replace: Mapping[str, str] = field(default_factory=dict)


ADDRESSES: Final = {
    '"http://127.0.0.1:8765"': "url",
    '"https://ledger.example.com"': "url",
    '"wl_…"': "token",
}
PROGRAMS_RUN: Final = (
    Program(page="README.md"),
    Program(
        page="docs/background-jobs.md",
        before="""
import dramatiq
from dramatiq.brokers.stub import StubBroker
dramatiq.set_broker(StubBroker())
""",
    ),
    Program(
        page="docs/erasable-fields.md",
        before="full_name = 'N. N.'",
    ),
    Program(page="docs/python-client.md"),
    Program(
        page="docs/recorder.md",
        before="""
import contextvars, threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ledger_client import with_audit_context
work = print

@dataclass
class User:
    id: str
    role: str

user = User("u_777", "member")
""",
        replace={
            '"/var/spool/admin-web/audit"': "'spool'",
        },
    ),
    Program(
        page="docs/searching.md",
        before="""
import threading, time
from ledger_client import LedgerClient
ledger = LedgerClient(url, token, policy="ledger.policy")

def append():
    with LedgerClient(url, token, policy="ledger.policy") as other:
        while True:
            other.append({"actor": {"id": "u_5"}, "action": "iam.made", "outcome": "denied"})
            time.sleep(0.2)

threading.Thread(target=append, daemon=True).start()

def alert(entry):
    raise SystemExit(0)
""",
        replace={"around(4711": "around(1"},
    ),
    Program(page="docs/secrets.md"),
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedLedger]:
    directory = tmp_path_factory.mktemp("docs") / "audit"
    token = make_ledger(directory, origin=ORIGIN)
    with Service(directory, listen="127.0.0.1:0", flags=("--log-level", "error")) as service:
        with LedgerClient(service.url, token, policy=directory / "policy") as client:
            client.append({"actor": {"id": "u_5"}, "action": "user.made", "outcome": "denied"})
        yield ServedLedger(service.url, token, directory)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}:{block.first_line}")
def test_a_program_compiles_and_imports_what_exists(block: Block) -> None:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    compile(block.text, block.page, "exec", flags=flags)
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ledger"):
            module = importlib.import_module(str(node.module))
            assert [each.name for each in node.names if not hasattr(module, each.name)] == []


@pytest.mark.parametrize("program", PROGRAMS_RUN, ids=lambda program: program.page)
def test_the_programs_of_a_page_run(program: Program, tmp_path: Path, served: ServedLedger) -> None:
    for name in ("audit", "DIR"):
        (tmp_path / name).symlink_to(served.directory)
    (tmp_path / "ledger.policy").write_bytes(served.policy.read_bytes())
    text = "\n".join(block.text for block in BLOCKS if block.page == program.page)
    assert text
    for old, new in {**ADDRESSES, **program.replace}.items():
        text = text.replace(old, new)
    given = f"url, token = {served.url!r}, {served.token!r}\n{program.before}\n"
    done = subprocess.run(
        [sys.executable, "-c", given + text],
        cwd=tmp_path,
        env={**os.environ, "LEDGER_RECORDER": "real"},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_each_program_of_the_pages_is_run_or_says_why_not() -> None:
    scripted = {block for script in (*SCRIPTS, *PROGRAMS) for block in script.blocks()}
    run = {program.page for program in PROGRAMS_RUN}
    for block in all_blocks():
        if block.language not in RUNNABLE or block in scripted:
            continue
        is_python = block.language == "python"
        known = is_python and (block.page in run or block.page in COMPILED_ONLY)
        assert known or reason_not_to_run(block), (block.page, block.heading, block.first_line)


def test_no_reason_is_left_over() -> None:
    for page, start in NOT_RUN:
        fits = [
            block
            for block in all_blocks()
            if block.page == page and block.language in RUNNABLE and block.text.startswith(start)
        ]
        assert fits, (page, start)
    assert set(COMPILED_ONLY) <= {block.page for block in BLOCKS}
    assert not set(COMPILED_ONLY) & {program.page for program in PROGRAMS_RUN}
