"""A key file under a passphrase opens with it alone, from where the environment says."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from ledger.cli.key import command, public_keys
from ledger.demo.child_service import make_ledger
from ledger.runtime import encrypted_keys
from ledger.runtime.keys import decrypt_keys, encrypt_keys, read_keys, write_keys
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.keys import PrivateKey
from ledger_core.tlog.note import Signer
from tests.service.serving import serving

PASSPHRASE = b"correct horse battery staple"
KEYS = [Signer.generate("example.com/log", seed=bytes([number]) * 32).key for number in (1, 2)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derivation that takes no time, and an environment without a passphrase."""
    monkeypatch.setattr(encrypted_keys, "PASSES", 1)
    monkeypatch.setattr(encrypted_keys, "MEMORY_BYTES", 1 << 13)
    for name in ("LEDGER_KEY_PASSPHRASE_FILE", "LEDGER_KEY_PASSPHRASE_FD", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.touch(0o600)
    path.write_bytes(PASSPHRASE + b"\n")
    return path


def made(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    write_keys(path, KEYS)
    encrypt_keys(path, PASSPHRASE)
    return path


def opened(path: Path) -> list[PrivateKey]:
    return list(read_keys(path, keys_max=2))


def same(keys: list[PrivateKey]) -> bool:
    return [key.encode() for key in keys] == [key.encode() for key in KEYS]


def test_it_opens_by_file_descriptor_and_credential(
    tmp_path: Path, passphrase: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    for key in KEYS:
        assert key.encode().encode() not in path.read_bytes()
    with pytest.raises(UnavailableError, match="is encrypted: name a file"):
        opened(path)
    monkeypatch.setenv("LEDGER_KEY_PASSPHRASE_FILE", str(passphrase))
    assert same(opened(path))
    monkeypatch.delenv("LEDGER_KEY_PASSPHRASE_FILE")

    reading, writing = os.pipe()
    os.write(writing, PASSPHRASE)
    os.close(writing)
    monkeypatch.setenv("LEDGER_KEY_PASSPHRASE_FD", str(reading))
    assert same(opened(path))
    assert same(opened(path))  # It can be read once only, and is asked for again.
    monkeypatch.delenv("LEDGER_KEY_PASSPHRASE_FD")

    credentials = tmp_path / "credentials"
    credentials.mkdir()
    passphrase.rename(credentials / "ledger-key-passphrase")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert same(opened(path))
    decrypt_keys(path)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    assert same(opened(path))


def test_another_passphrase_and_each_flipped_bit_are_refused_and_no_message_holds_a_key(
    tmp_path: Path, passphrase: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path)
    monkeypatch.setenv("LEDGER_KEY_PASSPHRASE_FILE", str(passphrase))
    whole = path.read_bytes()
    start = len(encrypted_keys.PREFIX)
    for place in range(start, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(MalformedError) as refused:
            opened(path)
        assert PASSPHRASE.decode() not in str(refused.value)
    path.write_bytes(whole)
    assert same(opened(path))
    passphrase.write_bytes(b"another passphrase\n")
    with pytest.raises(MalformedError, match="does not open with this passphrase"):
        opened(path)
    passphrase.write_bytes(b"short\n")
    with pytest.raises(UnavailableError, match="has 5 bytes"):
        opened(path)
    passphrase.chmod(0o644)
    with pytest.raises(UnavailableError, match="chmod 600"):
        opened(path)


@pytest.mark.parametrize(("mode", "is_taken"), [(0o400, True), (0o440, True), (0o444, False)])
def test_a_credential_of_root_is_readable_to_the_group_that_its_unit_or_pod_has(
    passphrase: Path, monkeypatch: pytest.MonkeyPatch, mode: int, is_taken: bool
) -> None:
    passphrase.chmod(mode)
    monkeypatch.setattr(os, "geteuid", lambda: passphrase.stat().st_uid + 1)
    if is_taken:
        assert encrypted_keys.read_passphrase(passphrase) == PASSPHRASE
    else:
        with pytest.raises(UnavailableError, match="others can read"):
            encrypted_keys.read_passphrase(passphrase)


def test_a_ledger_is_served_with_its_key_under_a_passphrase(
    tmp_path: Path, passphrase: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "ledger"
    token = make_ledger(directory, origin="example.com/audit")
    before = public_keys(directory)
    encrypt = ["encrypt", str(directory), "--passphrase-file", str(passphrase)]
    done = CliRunner().invoke(command, encrypt)
    assert done.exit_code == 0, done.output
    with (
        pytest.raises(UnavailableError, match="is encrypted"),
        serving(directory, {"own": token}),
    ):
        pass
    monkeypatch.setenv("LEDGER_KEY_PASSPHRASE_FILE", str(passphrase))
    assert public_keys(directory) == before
    with serving(directory, {"own": token}) as ledger:
        assert ledger.ask("/checkpoint", token=None).status == 200
    assert CliRunner().invoke(command, ["decrypt", str(directory)]).exit_code == 0
    monkeypatch.delenv("LEDGER_KEY_PASSPHRASE_FILE")
    assert public_keys(directory) == before
