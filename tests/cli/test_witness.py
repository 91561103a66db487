"""`ledger witness`, from an empty folder to a witness that runs and ends in order."""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ledger.store.commit_errors import StorageFullError
from ledger.witness.store import HeadStore
from ledger_client.cli.app import run
from tests.witness.asking import add_checkpoint, ask, check_cosigned
from tests.witness.logs import Log
from tests.witness.witnesses import make_witness, serve_witness

LOG = Log("example.com/audit")
NAME = "witness.example/w1"
MAP_BYTES = 1 << 16
PAGE_BYTES = 4096
Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


@pytest.fixture
def witness(tmp_path: Path) -> Run:
    """Run `ledger witness …` in an empty folder."""

    def run(*arguments: str) -> Done:
        return subprocess.run(
            [sys.executable, "-m", "ledger", "witness", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=60,
            check=False,
        )

    return run


def test_a_witness_is_made_told_of_a_log_served_and_shown(witness: Run, tmp_path: Path) -> None:
    made = witness("init", "w", "--name", NAME, "--ml-dsa", "--json")
    assert (made.returncode, made.stderr) == (0, "")
    vkeys = json.loads(made.stdout)["verifier_keys"]
    assert [vkey.split("+")[0] for vkey in vkeys] == [NAME] * 2
    assert (tmp_path / "w" / "key").stat().st_mode & 0o777 == 0o600
    added = witness("add-log", "w", "--vkey", LOG.vkey, "--json")
    assert json.loads(added.stdout) == {"origin": LOG.origin, "verifier_keys": [LOG.vkey]}
    with serve_witness(tmp_path / "w") as service:
        check_cosigned(add_checkpoint(service.url, LOG.grow(0, 7)), LOG.note(7), vkeys)
        # It tells what it knows while it runs.
        status = json.loads(witness("status", "w", "--json").stdout)
    assert status["verifier_keys"] == vkeys
    (known,) = status["logs"]
    assert (known["origin"], known["tree_size"]) == (LOG.origin, 7)
    assert known["origin_hash"] == LOG.origin_hash.hex()
    checked = witness("fsck", "w")
    assert (checked.returncode, checked.stdout) == (0, "1 log: rows, heads and signatures agree\n")
    shown = witness("status", "w").stdout
    assert all(word in shown for word in (*vkeys, LOG.origin, known["root_hash"]))


def test_one_without_ml_dsa_has_one_key(witness: Run) -> None:
    made = witness("init", "w", "--name", NAME)
    assert made.returncode == 0
    assert made.stdout.count(f"{NAME}+") == 1
    assert f"{NAME}+" in witness("status", "w").stdout


def test_a_witness_is_not_made_twice_and_its_keys_stay(witness: Run, tmp_path: Path) -> None:
    witness("init", "w", "--name", NAME)
    key = (tmp_path / "w" / "key").read_bytes()
    again = witness("init", "w", "--name", NAME)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert (tmp_path / "w" / "key").read_bytes() == key


@pytest.mark.parametrize("name", ["", "two words", "a+b", "x" * 256])
def test_a_name_that_no_signature_line_can_carry_is_refused(
    witness: Run, tmp_path: Path, name: str
) -> None:
    made = witness("init", "w", "--name", name)
    assert made.returncode == 2
    assert not (tmp_path / "w").exists()


def test_a_log_takes_another_origin_and_more_keys(witness: Run) -> None:
    witness("init", "w", "--name", NAME)
    keys = [LOG.vkey, str(LOG.stranger.verifier)]
    for vkey in keys:
        added = witness("add-log", "w", "--origin", "example.com/other", "--vkey", vkey, "--json")
        assert added.returncode == 0
    assert json.loads(added.stdout) == {"origin": "example.com/other", "verifier_keys": keys}


@pytest.mark.parametrize("vkey", ["junk", "example.com/x+00000000+AQ==", ""])
def test_a_key_that_is_none_is_refused(witness: Run, vkey: str) -> None:
    witness("init", "w", "--name", NAME)
    added = witness("add-log", "w", "--vkey", vkey)
    assert added.returncode == 2
    assert "Traceback" not in added.stderr


def fill(store: HeadStore) -> None:
    for number in count():
        store.add_log(f"example.com/{number}/{'x' * 200}", [LOG.vkey])


def test_a_map_that_is_full_names_the_option_and_a_larger_one_takes_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = make_witness(tmp_path / "w", [])
    store = HeadStore.open(paths.heads, readonly=False, map_bytes=MAP_BYTES)
    with closing(store), pytest.raises(StorageFullError):
        fill(store)
    origin = f"example.com/{'y' * 200}"
    add = ["witness", "add-log", str(paths.root), "--vkey", LOG.vkey, "--origin", origin]
    monkeypatch.setenv("LEDGER_WITNESS_MAP_BYTES", str(MAP_BYTES))
    assert run(add) != 0
    assert "raise --map-bytes" in capsys.readouterr().err
    assert run([*add, "--map-bytes", str(16 * MAP_BYTES)]) == 0


def test_its_own_key_is_no_logs(witness: Run) -> None:
    made = json.loads(witness("init", "w", "--name", NAME, "--ml-dsa", "--json").stdout)
    for vkey in made["verifier_keys"]:
        assert witness("add-log", "w", "--vkey", vkey).returncode == 2


def test_a_second_that_serves_it_is_refused(witness: Run, tmp_path: Path) -> None:
    witness("init", "w", "--name", NAME)
    with serve_witness(tmp_path / "w"):
        second = witness("serve", "w", "--listen", "127.0.0.1:0")
    assert second.returncode == 4
    assert "being written by process" in second.stderr


def test_a_folder_without_a_witness_is_unavailable(witness: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for command in (("serve", "empty"), ("status", "empty")):
        assert witness(*command).returncode == 4
    assert witness("add-log", "empty", "--vkey", LOG.vkey).returncode == 4
    assert list((tmp_path / "empty").iterdir()) == []


def test_an_address_that_is_none_or_taken_is_refused(witness: Run, tmp_path: Path) -> None:
    witness("init", "w", "--name", NAME)
    witness("init", "v", "--name", NAME)
    assert witness("serve", "w", "--listen", "nowhere").returncode == 2
    with serve_witness(tmp_path / "v") as service:
        taken = urlsplit(service.url).netloc
        assert witness("serve", "w", "--listen", taken).returncode == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_though_a_connection_is_open(
    witness: Run, tmp_path: Path, number: signal.Signals
) -> None:
    witness("init", "w", "--name", NAME)
    with subprocess.Popen(
        [sys.executable, "-m", "ledger", "witness", "serve", "w", "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip().removeprefix("serving on ")
        assert ask(url, "GET", "/healthz").status == 200
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        os.kill(process.pid, number)
        _, errors = process.communicate(timeout=60)
        connection.close()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert [json.loads(line)["event"] for line in errors.splitlines()] == ["serving", "stopping"]
    with serve_witness(tmp_path / "w") as service:
        assert ask(service.url, "GET", "/healthz").status == 200


def test_fsck_names_a_damaged_head(witness: Run, tmp_path: Path) -> None:
    assert witness("init", "w", "--name", NAME).returncode == 0
    assert witness("add-log", "w", "--vkey", LOG.vkey).returncode == 0
    with serve_witness(tmp_path / "w") as service:
        add_checkpoint(service.url, LOG.grow(0, 7))
    data = tmp_path / "w" / "heads" / "data.mdb"
    content = data.read_bytes()
    data.write_bytes(
        content.replace(LOG.origin_hash, bytes([LOG.origin_hash[0] ^ 1]) + LOG.origin_hash[1:])
    )
    checked = witness("fsck", "w")
    assert checked.returncode == 1
    assert "the store is damaged, and this witness must not sign" in checked.stderr
    assert witness("fsck", ".").returncode == 4


def test_fsck_names_a_zeroed_page_without_a_traceback(witness: Run, tmp_path: Path) -> None:
    assert witness("init", "w", "--name", NAME).returncode == 0
    assert witness("add-log", "w", "--vkey", LOG.vkey).returncode == 0
    data = tmp_path / "w" / "heads" / "data.mdb"
    content = data.read_bytes()
    named = 0
    # The first two pages are LMDB's own, of which it needs one.
    for page in range(2, len(content) // PAGE_BYTES):
        start = page * PAGE_BYTES
        zeroed = content[:start] + bytes(PAGE_BYTES) + content[start + PAGE_BYTES :]
        data.write_bytes(zeroed)
        checked = witness("fsck", "w")
        assert checked.returncode in (0, 1, 4), checked.stderr
        assert "Traceback" not in checked.stderr
        named += checked.returncode != 0
    assert named
