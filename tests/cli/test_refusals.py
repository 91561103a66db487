"""Commands refuse what would send a secret away or touch somebody else's file."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from ledger.cli.init import command as init
from ledger.log.evidence import save_evidence
from ledger.log.public_policy import public_url
from ledger_client.cli.client_options import read_token
from ledger_core.tlog.errors import VerificationError
from tests.cli.conftest import run_here


@pytest.mark.parametrize("url", ["http://ledger.example.com", "http://192.0.2.1:8765", "HTTP://h/"])
def test_a_token_is_not_sent_unencrypted_to_another_host(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("LEDGER_TOKEN", "secret")
    with pytest.raises(Exception, match="can read the token"):
        read_token(None, url=url, insecure=False)
    assert read_token(None, url=url, insecure=True) == "secret"
    monkeypatch.delenv("LEDGER_TOKEN")
    assert read_token(None, url=url, insecure=False) is None


@pytest.mark.parametrize(
    "url",
    ["https://ledger.example.com", "http://127.0.0.1:1", "http://[::1]:1", "http://localhost"],
)
def test_a_token_is_sent_to_this_machine_and_over_tls(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("LEDGER_TOKEN", "secret")
    assert read_token(None, url=url, insecure=False) == "secret"


@pytest.mark.parametrize(
    "arguments",
    [
        ("query", "--url", "http://[", "--policy", "{policy}"),
        ("erase", "http://[", "--subject", "u_1", "--reason", "asked", "--yes"),
        ("verify-archive", "s3://[", "--policy", "{policy}"),
        ("restore", "https://[", "{folder}/new", "--policy", "{policy}"),
        ("witness", "add-logs", "{folder}/witness", "http://["),
    ],
    ids=lambda arguments: arguments[0],
)
def test_an_address_that_is_none_is_named_and_nothing_breaks(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    assert run_here("init", tmp_path / "audit", "--origin", "example.com/a").code == 0
    assert run_here("witness", "init", tmp_path / "witness", "--name", "w.example.com").code == 0
    places = {"policy": tmp_path / "audit" / "policy", "folder": tmp_path}
    done = run_here(*(each.format(**places) for each in arguments))
    assert done.code == 2
    assert "Invalid IPv6 URL" in done.err


@pytest.mark.parametrize("name", ["policy", "ledger.toml", "key"])
def test_init_follows_no_link(tmp_path: Path, name: str) -> None:
    directory, victim = tmp_path / "audit", tmp_path / "victim"
    directory.mkdir()
    (directory / name).symlink_to(victim)
    done = CliRunner().invoke(init, [str(directory), "--origin", "example.com/audit"])
    assert done.exit_code == 2
    assert not victim.exists()
    assert [each.name for each in directory.iterdir()] == [name]


def test_init_makes_no_ledger_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "audit").symlink_to(tmp_path / "real")
    done = CliRunner().invoke(init, [str(tmp_path / "audit"), "--origin", "example.com/audit"])
    assert done.exit_code == 2
    assert list((tmp_path / "real").iterdir()) == []


def test_evidence_is_readable_to_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    folder.mkdir(mode=0o755)
    error = VerificationError("a fork", evidence={"theirs": b"note"})
    place = save_evidence(folder, error, time_unix_s=0)
    assert place is not None
    assert [path.stat().st_mode & 0o777 for path in (folder, place, place / "theirs")] == [
        0o700,
        0o700,
        0o600,
    ]


def test_the_address_of_a_witness_is_shown_without_credentials() -> None:
    url = "https://user:secret@witness.example:8443/w1/?key=secret#secret"
    assert public_url(url) == "https://witness.example:8443/w1/"
