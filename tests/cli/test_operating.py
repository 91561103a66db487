"""`ledger doctor DIR`, `ledger status` and `ledger key show`, as an operator runs them."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from ledger.cli.alarm import command as alarm_command
from ledger.cli.backup import backup as backup_command
from ledger.cli.doctor import _MENDS, _with_mend
from ledger.cli.key import command as key_command
from ledger.cli.sink import command as sink_command
from ledger.cli.status import command as status_command
from ledger.demo.child_service import make_ledger
from ledger.service.data_dir import DirectoryPaths, open_tokens
from ledger.service.token_admin import make_token
from ledger_client.cli.doctor import command as doctor_command
from ledger_client.runtime.clock import unix_us
from ledger_core.tlog.keys import SEED_BYTES
from ledger_core.tlog.note import Signer
from ledger_core.tlog.policy import parse_policy
from tests.cli.conftest import Command
from tests.client.peer import Peer
from tests.recording.test_outages import answering
from tests.served import ORIGIN, ServedLedger
from tests.tlog_mirror.sending import SIGNERS, make_tlog_mirror
from tests.tls.asking import Pair
from tests.waiting import until
from tests.witness.witnesses import make_witness

DOWN = "http://127.0.0.1:9"
HOUR_US = 3_600_000_000

Found = dict[str, list[tuple[str, str]]]


def run(command: click.Command, *arguments: object, **variables: str) -> tuple[int, str]:
    """Run a command in this process, which is not that of the service; exit code and output."""
    done = CliRunner(env={"LEDGER_URL": None, "LEDGER_POLICY": None, **variables}).invoke(
        command, [str(each) for each in arguments], standalone_mode=False
    )
    if done.exception is not None:
        raise done.exception
    return int(done.return_value or 0), done.stdout


def doctor(directory: Path, url: str, **variables: str) -> tuple[int, Found]:
    """Exit code, and verdict and text of each finding by its check."""
    code, text = run(doctor_command, directory, "--url", url, "--json", **variables)
    found: Found = {}
    for each in json.loads(text):
        found.setdefault(each["check"], []).append((each["verdict"], each["text"]))
    return code, found


def test_a_sound_ledger_fails_no_check_and_its_weak_policy_is_named(ledger: ServedLedger) -> None:
    code, found = doctor(ledger.directory, ledger.url)
    assert code == 0
    assert found["service"] == [("ok", f"answers at {ledger.url}")]
    assert {verdict for each in found.values() for verdict, _ in each} == {"ok", "warning"}
    assert found["policy"][0][0] == "warning"
    assert "quorum none" in found["policy"][0][1]
    assert "audit_reads = 1" in found["audit"][0][1]


def test_each_fault_has_what_mends_it(tmp_path: Path, ledger: ServedLedger) -> None:
    directory = tmp_path / "other"
    make_ledger(directory, origin="example.com/other")
    paths = DirectoryPaths(directory)
    make_token(
        directory,
        name="ending",
        scopes=("read",),
        tenant=None,
        expires_unix_us=unix_us() + HOUR_US,
    )
    folder = tmp_path / "pair"
    folder.mkdir()
    pair = Pair(folder)
    pair.key.chmod(0o644)
    paths.key.chmod(0o644)
    paths.policy.write_text("nonsense")
    paths.hold.write_text("{}")
    code, found = doctor(
        directory,
        DOWN,
        LEDGER_TLS_CERT=str(pair.cert),
        LEDGER_TLS_KEY=str(pair.key),
        LEDGER_FREE_BYTES_MIN=str(1 << 60),
    )
    assert code == 1
    mends = {
        "service": f"ledger serve {directory}",
        "key": f"chmod 600 {paths.key}",
        "policy": f"ledger key show {directory}",
        "TLS": f"chmod o= {pair.key}",
        "log": f"ledger recover {directory}",
        "tokens": f"ledger token rotate {directory} ending",
        "disk": "less than free_bytes_min",
    }
    for check, mend in mends.items():
        assert any(mend in text for verdict, text in found[check] if verdict != "ok"), check
    _, found = doctor(directory, ledger.url)
    assert f"another log answers at {ledger.url}: {ORIGIN}" in found["service"][0][1]
    with Peer(answering(400, b'{"detail": "this port speaks TLS"}')) as peer:
        _, found = doctor(directory, peer.url)
    assert "this port speaks TLS; give its --url" in found["service"][0][1]
    (directory / "principals.toml").write_text("[certificates.a]\nsubject = 'CN=a'\n")
    _, found = doctor(directory, DOWN)
    assert "scopes" in found["principals"][0][1]
    paths.settings.write_text("workers = 1000\n")
    code, found = doctor(directory, DOWN)
    assert code == 1
    assert list(found) == ["settings"]
    assert "workers" in found["settings"][0][1]


def test_status_reads_the_folder_and_asks_the_service(ledger: ServedLedger, tmp_path: Path) -> None:
    def status() -> Any:
        return json.loads(run(status_command, ledger.directory, "--url", ledger.url, "--json")[1])

    until(lambda: status()["published_size"] > 0, "a head is published")
    found = status()
    assert found["origin"] == ORIGIN
    assert found["tree_size"] >= found["published_size"] > 0
    assert found["free_bytes"] > 0
    assert found["service"]["answers"] is True
    assert found["service"]["ready"] is True
    _, text = run(status_command, ledger.directory, LEDGER_URL=ledger.url)
    assert f"ready at {ledger.url}" in text
    assert "published" in text

    directory = tmp_path / "stopped"
    make_ledger(directory, origin="example.com/stopped")
    (directory / "sinks.toml").write_text("")
    code, text = run(status_command, directory, "--url", DOWN)
    assert code == 0
    assert f"does not answer at {DOWN}" in text
    assert "0, published 0" in text
    assert "1 in use" in text
    assert "1 event to be logged" in text


def test_what_doctor_names_is_a_command(command: Command) -> None:
    for mend in _MENDS.values():
        name, _, arguments = mend.partition(" {directory}")
        if name.startswith("ledger "):
            done = command(*name.split()[1:], "--help")
            assert done.returncode == 0, mend
            assert ("NAME" in done.stdout.partition("\n")[0]) == ("NAME" in arguments), mend
    told = _with_mend("the follower archive/a is behind", Path("DIR"))
    assert told.endswith(": ledger archive status DIR")


def test_a_key_under_a_passphrase_is_opened_with_a_file(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    make_ledger(directory, origin="example.com/locked")
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("correct horse battery\n")
    passphrase.chmod(0o600)
    run(key_command, "encrypt", directory, "--passphrase-file", passphrase)
    _, found = doctor(directory, DOWN)
    [(verdict, text)] = found["key"]
    assert verdict == "failed"
    assert "LEDGER_KEY_PASSPHRASE_FILE" in text
    assert "put back" not in text
    run(key_command, "decrypt", directory, "--passphrase-file", passphrase)
    _, found = doctor(directory, DOWN)
    assert found["key"][0][0] == "ok"
    with closing(open_tokens(DirectoryPaths(directory))) as access:
        acts = [json.loads(event)["action"] for _, event in access.outbox()]
    assert acts[-2:] == ["ledger.key.encrypted", "ledger.key.decrypted"]


def test_a_sink_and_a_token_that_are_not_there_are_not_found(
    command: Command, ledger: ServedLedger
) -> None:
    for arguments in (
        ("sink", "test", ledger.directory, "nope"),
        ("sink", "remove", ledger.directory, "nope"),
        ("token", "rotate", ledger.directory, "nope"),
        ("token", "revoke", ledger.directory, "nope"),
    ):
        done = command(*arguments)
        assert (done.returncode, "'nope'" in done.stderr) == (6, True), done.stderr


def test_a_remark_of_two_lines_and_the_choices_of_an_option_are_lines(
    command: Command, tmp_path: Path
) -> None:
    make_ledger(tmp_path / "a", origin=ORIGIN)
    unasked = command("token", "create", tmp_path / "a", "--name", "a")
    assert unasked.returncode == 2
    assert "\n    append,\n" in unasked.stderr
    command("init", "new", "--origin", "example.com/new")
    refused = command("serve", "new", "--tls-cert", "none.crt")
    assert "Make one:\n  ledger token create new" in refused.stderr
    assert "\N{REPLACEMENT CHARACTER}" not in unasked.stderr + refused.stderr


def test_a_mirror_is_asked_for_nothing_that_only_a_ledger_has(
    ledger: ServedLedger, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(ledger.token)
    given = ("--log", ledger.url, "--policy", ledger.policy, "--token-file", "token")
    assert command("mirror", "init", "copy", *given).returncode == 0
    assert command("token", "create", "copy", "--name", "reader", "--scope", "read").returncode == 0
    _, text = run(status_command, tmp_path / "copy", "--url", DOWN)
    assert "mirror's lag" in text
    assert "to be logged" not in text
    _, found = doctor(tmp_path / "copy", DOWN)
    assert "audit" not in found
    assert found["tokens"] == [("ok", "1 in use")]


def test_reads_that_are_no_events_are_named(command: Command) -> None:
    done = command("playbook", "reads")
    assert done.returncode == 0, done.stderr
    assert "reads without audit_reads are in no event" in done.stderr


def test_a_lost_policy_is_made_again_from_the_key(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    make_ledger(directory, origin="example.com/lost")
    paths = DirectoryPaths(directory)
    _, shown = run(key_command, "show", directory)
    assert shown + "quorum none\n" == paths.policy.read_text()
    assert paths.key.read_text().strip() not in shown

    make_witness(tmp_path / "w", [])
    lines = run(key_command, "show", tmp_path / "w")[1].splitlines()
    with_url = [f"{line} https://w.example" for line in lines]
    policy = [*shown.splitlines(), *with_url, f"quorum {lines[0].split()[1]}", ""]
    witnesses = parse_policy("\n".join(policy).encode()).witnesses
    assert [str(each.verifier) for each in witnesses] == [line.split()[2] for line in lines]
    found = json.loads(run(key_command, "show", tmp_path / "w", "--json")[1])
    assert found["kind"] == "witness"
    assert found["policy_lines"] == lines


def test_the_keys_of_a_mirror_of_logs_are_those_of_a_witness_in_a_policy(tmp_path: Path) -> None:
    paths = make_tlog_mirror(tmp_path / "m")
    lines = run(key_command, "show", paths.root)[1].splitlines()
    log_line = f"log {Signer.generate('example.com/a', seed=bytes(SEED_BYTES)).verifier}"
    policy = "\n".join([log_line, *lines, f"quorum {lines[0].split()[1]}", ""])
    witnesses = parse_policy(policy.encode()).witnesses
    assert {str(each.verifier) for each in witnesses} == {str(each.verifier) for each in SIGNERS}
    found = json.loads(run(key_command, "show", paths.root, "--json")[1])
    assert found["kind"] == "tlog-mirror"


def test_the_command_finds_the_part_of_the_service(ledger: ServedLedger, command: Command) -> None:
    done = command("doctor", ledger.directory, LEDGER_URL=ledger.url)
    assert done.returncode == 0, done.stderr
    assert f"     ok  service  answers at {ledger.url}" in done.stdout
    assert command("doctor").returncode == 2


def test_what_an_operator_does_is_an_event(tmp_path: Path) -> None:
    directory, to = tmp_path / "ledger", tmp_path / "backup"
    make_ledger(directory, origin="example.com/acts")
    run(sink_command, "add", directory, "siem", "--type", "webhook", "--url", "https://s.example")
    for act in (("pause",), ("resume",), ("rewind", "--to", "0"), ("remove",)):
        run(sink_command, act[0], directory, "siem", *act[1:])
    run(alarm_command, "init", directory)
    run(backup_command, directory, to)
    with closing(open_tokens(DirectoryPaths(directory))) as access:
        _, *acts = [json.loads(event) for _, event in access.outbox()]
    assert [each["action"] for each in acts] == [
        *("ledger.sink.added", "ledger.sink.paused", "ledger.sink.resumed"),
        *("ledger.sink.rewound", "ledger.sink.removed", "ledger.alarm.file_made"),
        "ledger.backup.made",
    ]
    assert acts[0]["targets"] == [{"type": "ledger.sink", "id": "siem"}]
    assert acts[0]["context"] == {"type": "webhook", "to": "https://s.example"}
    assert acts[-1]["context"] == {"to": str(to), "with_keys": False, "erasures": "follow"}
    # The backup is of before: it does not have the event about itself.
    assert all(each["actor"]["type"] == "operator" for each in acts)
