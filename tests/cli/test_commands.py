"""The command line, as people and programs use it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ledger.demo.child_service import Service, make_ledger
from ledger_client import LedgerClient, Receipt
from ledger_client.cli.app import COMMANDS
from tests.cli.conftest import Command
from tests.served import ORIGIN, ServedLedger

LOGIN = ("--actor", "user:u_1", "--action", "user.login", "--outcome", "success")


def test_an_event_from_flags_is_appended_shown_proved_and_verified_offline(
    command: Command, ledger: ServedLedger, tmp_path: Path
) -> None:
    done = command(
        *("append", *LOGIN, "--target", "tenant:acme", "--ip", "203.0.113.9"),
        *("--service", "admin-web", "--reason", "OPS-12", "--context", "request_id=r-1"),
        *("--tenant", "acme", "--json"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    receipt = json.loads(done.stdout)
    assert receipt["verified"] is True
    shown = json.loads(command("show", receipt["index"].__str__(), "--json").stdout)
    assert shown["event"] == {
        "action": "user.login",
        "actor": {"type": "user", "id": "u_1"},
        "context": {"request_id": "r-1"},
        "id": receipt["id"],
        "outcome": "success",
        "reason": "OPS-12",
        "source": {"ip": "203.0.113.9", "service": "admin-web"},
        "targets": [{"type": "tenant", "id": "acme"}],
        "tenant": "acme",
        "time": shown["event"]["time"],
    }
    assert command("prove", receipt["id"], "-o", "login").returncode == 0
    offline = {"LEDGER_URL": "http://127.0.0.1:1", "LEDGER_TOKEN": ""}
    verified = command("verify", "login.leaf.json", "login.tlog-proof", **offline)
    assert verified.returncode == 0
    assert verified.stdout.startswith("verified")
    assert "user.login (success)" in verified.stdout
    leaf = (tmp_path / "login.leaf.json").read_bytes()
    (tmp_path / "login.leaf.json").write_bytes(leaf.replace(b"u_1", b"u_2"))
    altered = command("verify", "login.leaf.json", "login.tlog-proof", **offline)
    assert altered.returncode == 1
    assert "is not in the tree" in altered.stderr
    (tmp_path / "login.leaf.json").write_bytes(leaf + b"\n")
    malformed = command("verify", "login.leaf.json", "login.tlog-proof", **offline)
    assert malformed.returncode == 2
    assert malformed.stderr == "error: not a leaf: its bytes are not in canonical form\n"


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        (("prove", "0", "-o", "p"), ("p.leaf.json", "p.tlog-proof")),
        (("export", "-o", "p.jsonl"), ("p.jsonl", "p.jsonl.proof")),
        (("export", "--format", "evidence", "-o", "p.zip"), ("p.zip",)),
    ],
)
def test_a_command_that_writes_files_replaces_none_unasked(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], written: tuple[str, ...]
) -> None:
    target = tmp_path / "precious"
    for name in written:
        for is_link in (False, True):
            target.write_bytes(b"precious")
            (tmp_path / name).symlink_to(target) if is_link else target.rename(tmp_path / name)
            refused = command(*arguments)
            assert refused.returncode == 2
            assert f"{name} exists: use --force" in refused.stderr
            assert (tmp_path / name).read_bytes() == b"precious"
            (tmp_path / name).unlink()
    # With --force the file behind a link is replaced, and the link stays.
    for name in written:
        (tmp_path / f"real-{name}").write_bytes(b"old")
        (tmp_path / name).symlink_to(tmp_path / f"real-{name}")
        (tmp_path / f"{name}.part").symlink_to(target)
    target.write_bytes(b"precious")
    assert command(*arguments, "--force").returncode == 0
    assert target.read_bytes() == b"precious"
    for name in written:
        assert (tmp_path / name).is_symlink()
        real = tmp_path / f"real-{name}"
        assert real.read_bytes() != b"old"
        assert real.stat().st_mode & 0o777 == 0o600


def test_an_export_to_standard_output_a_pipe_or_a_device(command: Command, tmp_path: Path) -> None:
    done = command("export", "index:0..0", "-o", "-")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, rows[0]["index"], rows[1]["trailer"]["rows"]) == (0, 0, 1)
    assert "the proofs need a file" in done.stderr
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        assert command("export", "index:0..0", "-o", pipe).returncode == 0
        assert reader.stdout is not None
        assert reader.stdout.read() == done.stdout
    assert pipe.is_fifo()
    assert command("export", "index:0..0", "-o", "/dev/null").returncode == 0
    assert list(tmp_path.iterdir()) == [pipe]
    assert command("export", "-o", "-", "--json").returncode == 2


def test_a_saved_head_is_written_behind_a_link_which_stays(
    command: Command, tmp_path: Path
) -> None:
    target = tmp_path / "kept" / "head"
    target.parent.mkdir()
    target.write_text("an earlier head", encoding="utf-8")
    (tmp_path / "head").symlink_to(target)
    assert command("consistency", "--save", "head").returncode == 0
    assert (tmp_path / "head").is_symlink()
    assert target.read_text(encoding="utf-8").startswith(ORIGIN)


def test_a_proof_of_another_log_or_a_broken_one_is_not_verified(
    command: Command, ledger: ServedLedger, tmp_path: Path
) -> None:
    assert command("prove", "0", "-o", "first").returncode == 0
    other = tmp_path / "other"
    assert command("init", other, "--origin", ORIGIN).returncode == 0
    stranger = command(
        "verify", "first.leaf.json", "first.tlog-proof", "--policy", other / "policy"
    )
    assert stranger.returncode == 1
    proof = tmp_path / "first.tlog-proof"
    proof.write_text(proof.read_text(encoding="utf-8").replace("index 0", "index 00"))
    broken = command("verify", "first.leaf.json", "first.tlog-proof")
    assert broken.returncode == 2


def test_an_event_on_standard_input_is_appended_and_a_repetition_is_said_to_be_one(
    command: Command,
) -> None:
    event = {
        "id": "0192f0c1-7c1a-7c3a-9d2f-3b1c2d3e4f50",
        "time": "2026-11-25T02:03:36.123456Z",
        "actor": {"id": "u_1"},
        "action": "user.logout",
        "outcome": "success",
    }
    first = json.loads(command("append", "--json", stdin=json.dumps(event, indent=2)).stdout)
    again = json.loads(command("append", "--json", stdin=json.dumps(event)).stdout)
    assert (first["duplicate"], again["duplicate"]) == (False, True)
    assert first["index"] == again["index"]
    other = command("append", stdin=json.dumps(event | {"outcome": "failure"}))
    assert other.returncode == 7
    assert "id" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (("append", "--actor", "u_1"), "", "an event needs --action, --outcome too"),
        (("append", *LOGIN[:4], "--outcome", "good"), "", "outcome: "),
        (("append", *LOGIN, "--context", "x"), "", "want KEY=VALUE"),
        (("append", *LOGIN, "--ip", "203.0.113.9:80"), "", "source.ip: "),
        (("append", *LOGIN, "--time", "2026-11-25T02:03:36"), "", "time: "),
        (("append",), "{", "not JSON"),
        (("append",), '{"action":"a","action":"b"}', "action: "),
        (("show", "none"), "", "want the index of an event or its id, a UUID"),
        (("consistency",), "", "nothing to compare with"),
        (("token", "list", "/nowhere"), "", "does not exist"),
        (("verify", "a", "b"), "", "does not exist"),
        (("nonsense",), "", "No such command"),
        (("serve", ".", "--colour"), "", "No such option"),
        (("append", *LOGIN, "--url", "ftp://x"), "", "must begin with http"),
    ],
)
def test_a_mistake_is_named_on_standard_error_with_exit_code_2(
    command: Command, arguments: tuple[str, ...], stdin: str, said: str
) -> None:
    done = command(*arguments, stdin=stdin)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_no_service_is_exit_code_4(command: Command) -> None:
    done = command("show", "0", LEDGER_URL="http://127.0.0.1:1")
    assert done.returncode == 4
    assert "Connection refused" in done.stderr


def test_a_wrong_token_is_refused_without_being_shown(command: Command) -> None:
    done = command("show", "0", LEDGER_TOKEN="wl_wrong")
    assert done.returncode == 7
    assert "wl_wrong" not in done.stderr


def test_tokens_are_made_listed_and_revoked_while_the_service_runs(
    command: Command, ledger: ServedLedger
) -> None:
    made = command("token", "create", ledger.directory, "--name", "portal", "--scope", "read")
    assert made.returncode == 0
    token = made.stdout.strip()
    assert token.startswith("wl_")
    assert "never shown again" in made.stderr
    assert command("show", "0", LEDGER_TOKEN=token).returncode == 0
    refused = command("append", *LOGIN, LEDGER_TOKEN=token)
    assert refused.returncode == 7
    listed = command("token", "list", ledger.directory)
    assert "portal  read  in use" in listed.stdout
    assert token not in listed.stdout
    taken = command("token", "create", ledger.directory, "--name", "portal", "--scope", "read")
    assert taken.returncode == 2
    assert "already" in taken.stderr
    assert command("token", "revoke", ledger.directory, "portal").returncode == 0
    assert command("show", "0", LEDGER_TOKEN=token).returncode == 7
    assert "revoked" in command("token", "list", ledger.directory).stdout
    assert command("token", "revoke", ledger.directory, "portal").returncode == 6
    assert token.encode() not in (ledger.directory / "access" / "data.mdb").read_bytes()


def test_a_token_in_a_file_is_read_from_there(
    command: Command, ledger: ServedLedger, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(ledger.token + "\n", encoding="ascii")
    assert command("show", "0", "--token-file", file, LEDGER_TOKEN="").returncode == 0


def test_consistency_is_proved_from_a_saved_head_and_from_the_state_file(
    command: Command, tmp_path: Path
) -> None:
    assert command("consistency", "--save", "old").returncode == 0
    assert command("append", *LOGIN).returncode == 0
    time.sleep(1.2)
    proved = json.loads(command("consistency", "--old", "old", "--json").stdout)
    assert proved["old_size"] < proved["tree_size"]
    assert command("show", "0", "--state", "state").returncode == 0
    assert command("consistency", "--state", "state").returncode == 0
    saved = (tmp_path / "old").read_text(encoding="utf-8").splitlines()
    saved[2] = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    (tmp_path / "old").write_text("\n".join(saved) + "\n", encoding="utf-8")
    assert command("consistency", "--old", "old").returncode == 1


def test_fsck_passes_beside_a_running_service(command: Command, ledger: ServedLedger) -> None:
    done = command("fsck", ledger.directory, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["tree_size"] > 0


def test_init_never_touches_what_exists(command: Command, tmp_path: Path) -> None:
    assert command("init", "audit", "--origin", ORIGIN).returncode == 0
    key = (tmp_path / "audit" / "key").read_bytes()
    again = command("init", "audit", "--origin", ORIGIN)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert (tmp_path / "audit" / "key").read_bytes() == key
    assert (tmp_path / "audit" / "key").stat().st_mode & 0o777 == 0o600
    assert command("init", "other", "--origin", "two words").returncode == 2


def test_serving_without_a_token_says_how_to_make_one(command: Command, tmp_path: Path) -> None:
    assert command("init", "audit", "--origin", ORIGIN).returncode == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "ledger", "serve", "audit", "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("serving on http://127.0.0.1:")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "ledger token create audit --name my-app" in said
    assert "Traceback" not in said


def test_a_second_service_on_the_same_ledger_is_refused(
    command: Command, ledger: ServedLedger
) -> None:
    done = command("serve", ledger.directory, "--listen", "127.0.0.1:0")
    assert done.returncode == 4
    assert "is being written by process" in done.stderr


def test_a_setting_comes_from_the_flag_then_the_variable_then_the_file(
    command: Command, tmp_path: Path
) -> None:
    assert command("init", "audit", "--origin", ORIGIN).returncode == 0
    (tmp_path / "audit" / "ledger.toml").write_text('listen = "127.0.0.1:x"\n', encoding="utf-8")
    from_file = command("serve", "audit")
    assert (from_file.returncode, "127.0.0.1:x" in from_file.stderr) == (2, True)
    from_variable = command("serve", "audit", LEDGER_LISTEN="127.0.0.1:y")
    assert "127.0.0.1:y" in from_variable.stderr
    from_flag = command("serve", "audit", "--listen", "127.0.0.1:z", LEDGER_LISTEN="127.0.0.1:y")
    assert "127.0.0.1:z" in from_flag.stderr
    (tmp_path / "audit" / "ledger.toml").write_text("colour = 1\n", encoding="utf-8")
    unknown = command("serve", "audit")
    assert (unknown.returncode, "colour" in unknown.stderr) == (2, True)


def test_a_key_that_others_may_read_is_refused(command: Command, tmp_path: Path) -> None:
    assert command("init", "audit", "--origin", ORIGIN).returncode == 0
    (tmp_path / "audit" / "key").chmod(0o644)
    done = command("serve", "audit", "--listen", "127.0.0.1:0")
    assert done.returncode == 4
    assert "want 0600" in done.stderr
    assert "PRIVATE" not in done.stderr


def test_every_command_has_help_and_is_in_the_table_of_the_readme(command: Command) -> None:
    listed = command("--help").stdout
    for name in COMMANDS:
        assert f"  {name} " in listed
        assert command(name, "--help").returncode == 0


WITHOUT = """
import sys
for name in {missing}:
    sys.modules[name] = None
from ledger_client.cli.app import run
code = run({arguments})
loaded = [name for name in ("lmdb", "aiohttp", "msgspec", "nacl") if sys.modules.get(name)]
print("loaded", loaded)
sys.exit(code)
"""
SERVICE = ["ledger", "lmdb", "zstandard", "structlog", "uvloop"]


def without(missing: list[str], arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing=missing, arguments=arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "LEDGER_TOKEN": "x"},
    )


def test_help_answers_without_importing_what_it_does_not_need() -> None:
    done = without([], ["--help"])
    assert done.returncode == 0
    assert done.stdout.endswith("loaded []\n")


@pytest.mark.parametrize("name", ["init", "serve", "token", "fsck", "demo"])
def test_without_the_service_its_commands_say_what_to_install(name: str) -> None:
    done = without(SERVICE, [name, "--help"])
    assert done.returncode == 2
    assert f"`ledger {name}` needs the service" in done.stderr
    assert "pip install witnessed-ledger" in done.stderr


@pytest.mark.parametrize(
    "name", ["append", "import", "show", "prove", "verify", "consistency", "monitor"]
)
def test_without_the_service_the_client_commands_work(name: str) -> None:
    assert without(SERVICE, [name, "--help"]).returncode == 0


def test_the_demo_runs_to_its_end_and_shows_who_caught_what(command: Command) -> None:
    done = command("demo", "--once")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert " by w1\n" in done.stdout or " by w2\n" in done.stdout
    assert "ledger fsck caught it: " in done.stdout
    assert "the client  caught it: leaf " in done.stdout
    assert "the witnesses caught it: the witness w" in done.stdout
    assert "kept as evidence: ours, reason, said, theirs" in done.stdout


def test_ctrl_c_ends_the_demo_in_order(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "ledger", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "ledger show" in line:
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_what_was_acknowledged_survives_ctrl_c(tmp_path: Path, ledger: ServedLedger) -> None:
    directory = tmp_path / "audit"
    token = make_ledger(directory, origin=ORIGIN)
    event = {"actor": {"id": "u_1"}, "action": "user.login", "outcome": "success"}
    receipts: list[Receipt] = []
    for _ in range(2):
        with (
            Service(directory, listen="127.0.0.1:0", flags=("--log-level", "error")) as service,
            LedgerClient(service.url, token, policy=directory / "policy") as client,
        ):
            results = client.append_many([event] * 50)
            receipts += [result for result in results if isinstance(result, Receipt)]
            os.kill(service.process_id, signal.SIGINT)
    with (
        Service(directory, listen="127.0.0.1:0", flags=("--log-level", "error")) as service,
        LedgerClient(service.url, token, policy=directory / "policy") as client,
    ):
        assert len(receipts) == 100
        for receipt in receipts:
            assert client.event(receipt.index).leaf == receipt.leaf
