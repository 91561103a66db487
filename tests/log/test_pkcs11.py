"""`ledger signer` with a token of SoftHSM: the key never leaves it, and a ledger signs with it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest

from ledger.cli.options import agent_key
from ledger.runtime.ssh_agent import format_public_key
from ledger.service.data_dir import create_directory
from ledger.service.token_admin import make_token
from ledger.signer.agent import SigningAgent
from ledger.signer.pkcs11_token import Pkcs11Token
from ledger_core.tlog.errors import UnavailableError
from ledger_core.tlog.keys import ED25519, SignerKey
from tests.mirror.mirroring import ready
from tests.service.serving import ORIGIN, event, serving
from tests.waiting import until

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "4711"
KEY = SignerKey(ORIGIN, algorithm=ED25519, seed=b"k" * 32)

pytestmark = pytest.mark.softhsm


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token has its time to sign on a busy machine too."""
    monkeypatch.setattr("ledger.runtime.ssh_agent.TIMEOUT_S", 60.0)


class Token:
    """A token of SoftHSM in a folder, with one Ed25519 key that openssl made."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "signer.sock"
        self.pin_file = folder / "pin"
        self.public_key = folder / "log.pub"
        tokens, config, key = folder / "tokens", folder / "softhsm2.conf", folder / "key.pem"
        tokens.mkdir()
        config.write_text(f"directories.tokendir = {tokens}\n")
        self.pin_file.write_text(f"{PIN}\n")
        self.pin_file.chmod(0o600)
        self.environ = {**os.environ, "SOFTHSM2_CONF": str(config)}
        make = f"softhsm2-util --init-token --free --label ledger --pin {PIN} --so-pin 123456"
        put = f"softhsm2-util --import {key} --token ledger --pin {PIN} --label log --id 01"
        for command in (f"openssl genpkey -algorithm ed25519 -out {key}", make, put):
            subprocess.run(command.split(), env=self.environ, check=True, capture_output=True)
        key.unlink()
        self.public_key.write_text(self.signer("keys").stdout)

    def command(self, action: str, *more: str) -> list[str]:
        """A command about this token; a later option wins."""
        where = f"--module {MODULE} --token ledger --pin-file {self.pin_file}".split()
        return [sys.executable, "-m", "ledger", "signer", action, *where, *more]

    def signer(self, action: str, *more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(action, *more),
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
        )

    @contextmanager
    def serving(self) -> Iterator[None]:
        process = subprocess.Popen(
            [*self.command("serve"), "--socket", str(self.socket)],
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("serving on ")
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()
        assert process.returncode == 0


def test_a_ledger_signs_with_a_token_and_waits_while_the_signer_is_away(tmp_path: Path) -> None:
    token, directory = Token(tmp_path), tmp_path / "ledger"
    with token.serving():
        key = agent_key(ORIGIN, token.socket, token.public_key)
        create_directory(directory, origin=ORIGIN, key=key)
        listed = subprocess.run(
            ["ssh-add", "-L"],
            env={**os.environ, "SSH_AUTH_SOCK": str(token.socket)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert listed.stdout == token.public_key.read_text()
        other = tmp_path / "other.pub"
        other.write_text(format_public_key(KEY.verifier_key.public_key, "other"))
        with pytest.raises(UnavailableError, match="lacks the key"):
            agent_key(ORIGIN, token.socket, other)
        assert token.socket.stat().st_mode & 0o777 == 0o660
        with pytest.raises(UnavailableError, match="another process answers"):
            SigningAgent(token.socket, Mock(spec=Pkcs11Token))
    tokens = {"admin": make_token(directory, name="admin", scopes=("admin",), tenant=None)}
    with serving(directory, tokens) as ledger:
        assert ledger.append(event()).status == 200
        until(lambda: "No such file" in str(ready(ledger).get("warnings")), "no signer")
        with token.serving():
            until(lambda: ledger.ask("/checkpoint").status == 200, "a head is published")
            assert ledger.append(event(), query="?proof=1").status == 200
    token.pin_file.write_text("0000\n")
    assert "PinIncorrect" in token.signer("keys").stderr
    token.pin_file.chmod(0o644)
    assert "others can read the PIN" in token.signer("keys").stderr


REFUSED = """
from pathlib import Path
from ledger.signer.pkcs11_token import Pkcs11Token
from ledger_core.tlog.errors import UnavailableError

token = Pkcs11Token(Path({module!r}), label="ledger", pin={pin!r})
for token._pin in ("0000", {pin!r}):
    try:
        token.open()
    except UnavailableError as error:
        print(error)
"""


def test_a_pin_that_was_refused_is_not_tried_again(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REFUSED.format(module=str(MODULE), pin=PIN)],
        env=Token(tmp_path).environ,
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first == second
    assert "PinIncorrect; this PIN is not tried again" in first


def test_a_signer_takes_the_place_of_a_socket_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("no socket")
    with pytest.raises(UnavailableError, match="is no socket"):
        SigningAgent(path, Mock(spec=Pkcs11Token))
    assert path.read_text() == "no socket"
    with pytest.raises(UnavailableError, match="AF_UNIX path too long"):
        SigningAgent(tmp_path / ("x" * 120), Mock(spec=Pkcs11Token))
