"""Importing the client loads nothing of the server, and nothing before it is needed."""

import subprocess
import sys

import pytest

import ledger_client

SERVER = ("lmdb", "zstandard", "uvloop", "ledger.store", "ledger.service", "ledger.log.sequencer")


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after running this."""
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    return set(output.split())


def test_importing_the_client_imports_nothing_else_of_ours() -> None:
    loaded = loaded_by("import ledger_client")
    assert not loaded & {*SERVER, "aiohttp", "asyncio", "msgspec", "nacl", "http.client", "ledger"}
    assert {name for name in loaded if name.startswith("ledger")} == {"ledger_client"}


def test_the_client_for_threads_needs_neither_aiohttp_nor_the_server() -> None:
    loaded = loaded_by(
        "from ledger_client import LedgerClient\nLedgerClient('http://127.0.0.1:1').close()"
    )
    assert not loaded & {*SERVER, "aiohttp", "asyncio"}


def test_the_client_for_asyncio_needs_nothing_of_the_server() -> None:
    loaded = loaded_by("from ledger_client import AsyncLedgerClient")
    assert "aiohttp" in loaded
    assert not loaded & set(SERVER)


WITHOUT_EXTRAS = (
    "import sys\nsys.modules.update(dict.fromkeys(('aiohttp', 'cryptography', 'jmespath')))"
)


def test_without_its_extra_the_client_for_asyncio_says_what_to_install() -> None:
    script = f"{WITHOUT_EXTRAS}\nfrom ledger_client import AsyncLedgerClient"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "pip install 'witnessed-ledger-client[async]'" in done.stderr


def test_the_command_line_and_the_monitor_need_no_extra() -> None:
    loaded_by(f"{WITHOUT_EXTRAS}\nimport ledger_client.audit.monitor_loop")
    script = f"{WITHOUT_EXTRAS}\nfrom ledger_client.cli.app import main\nmain()"
    for command in ("monitor", "import", "query"):
        done = subprocess.run(
            [sys.executable, "-c", script, command, "--help"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_every_name_is_there_and_no_other() -> None:
    for name in ledger_client.__all__:
        assert getattr(ledger_client, name).__name__ == name
    assert dir(ledger_client) == sorted(ledger_client.__all__)
    with pytest.raises(AttributeError, match="LedgerKlient"):
        ledger_client.LedgerKlient  # noqa: B018 - asking for it is the test
