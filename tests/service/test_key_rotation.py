"""The log's key is replaced while clients, a witness and a mirror go on, and old evidence holds."""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from ledger.cli.fsck import command as fsck_command
from ledger.cli.key import command as key_command
from ledger.demo.child_service import require_witnesses, witnesses
from ledger.runtime import encrypted_keys
from ledger.runtime.encrypted_keys import FILE_VARIABLE
from ledger.runtime.keys import encrypt_keys, read_keys
from ledger.runtime.ssh_agent import AgentKey
from ledger.service import key_rotation
from ledger.service.data_dir import DirectoryPaths, create_directory, read_signers
from ledger.service.key_rotation import SigningKeys, divide, retire, rotate
from ledger.service.policy_file import with_log_keys
from ledger.service.start_record import changed_files
from ledger.witness.data_dir import WitnessPaths, create_witness
from ledger.witness.store import HeadStore, HeadWriter, Update, create_heads
from ledger_client import LedgerClient
from ledger_core.evidence.verifier import check_evidence
from ledger_core.tlog.checkpoint import (
    Checkpoint,
    SignedCheckpoint,
    format_checkpoint,
    parse_signed_checkpoint,
)
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.errors import MalformedError, VerificationError
from ledger_core.tlog.hashing import EMPTY_ROOT_HASH
from ledger_core.tlog.keys import ED25519_COSIGNATURE
from ledger_core.tlog.note import Signer
from ledger_core.tlog.policy import Policy, parse_policy
from ledger_core.tlog.witness import cosign
from tests.cli.conftest import run_here
from tests.mirror.mirroring import listening, make_mirror, mirroring, state, wait_published
from tests.service.check_log import check_ledger
from tests.service.serving import ORIGIN, Ledger, event, make_ledger, serving
from tests.waiting import until

ROOT = Path(__file__).parents[2]
SEEDS = iter(bytes([number]) * 32 for number in range(1, 256))


def next_seed() -> bytes:
    return next(SEEDS)


def client_of(ledger: Ledger, policy: Path, state: Path | None = None) -> LedgerClient:
    """A client with a policy of its own, and the head that it accepted before."""
    return LedgerClient(ledger.url, token=ledger.tokens["admin"], policy=policy, state=state)


def command(group: click.Command, *arguments: str | Path) -> str:
    """Run a command in this process; what it prints."""
    done = CliRunner().invoke(group, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def names_of(policy: Policy) -> list[str]:
    return [f"{log.verifier.key_id:08x}" for log in policy.logs]


def signed_by(ledger: Ledger) -> set[str]:
    """The ids of the log's keys that signed the published head."""
    head = parse_signed_checkpoint(ledger.ask("/checkpoint", token=None).body)
    return {f"{each.key_id:08x}" for each in head.signatures if each.name == ORIGIN}


def test_clients_a_witness_a_mirror_and_evidence_go_through_a_whole_rotation(
    tmp_path: Path,
) -> None:
    directory, folder = tmp_path / "ledger", tmp_path / "mirror"
    tokens, paths = make_ledger(directory), DirectoryPaths(directory)
    old_policy, both, new_policy = (tmp_path / name for name in ("old", "both", "new"))
    known = tmp_path / "client.json"
    bundles = {when: tmp_path / f"{when}.zip" for when in ("before", "between", "after")}

    def collect(ledger: Ledger, policy: Path, when: str) -> None:
        with client_of(ledger, policy, known) as client:
            client.append(event(action=f"made.{when}"))
            client.evidence("action:made.*", bundles[when])

    with witnesses(tmp_path, 1, log_policy=paths.policy) as (witness,):
        heads = WitnessPaths(tmp_path / "w1").heads
        require_witnesses(paths.policy, [witness], threshold=1)
        old_policy.write_bytes(paths.policy.read_bytes())
        with serving(directory, tokens) as ledger:
            own = make_mirror(folder, ledger)
            collect(ledger, old_policy, "before")
            old_key = signed_by(ledger)
            quick = listening(ledger.url.rpartition(":")[2])

        made = json.loads(command(key_command, "rotate", directory, "--json"))
        both.write_bytes(paths.policy.read_bytes())
        (new_key,) = made["new"]
        new_policy.write_text(old_policy.read_text().replace(made["old"][0], new_key))
        assert names_of(parse_policy(both.read_bytes())) == [*old_key, new_key.split("+")[1]]
        with pytest.raises(ValueError, match="no head was published with the new key yet"):
            retire(paths)

        # Each party still has the old key alone, and nothing is appended: a head has both at once.
        with serving(directory, tokens, quick) as ledger, mirroring(folder, own) as mirror:
            with client_of(ledger, new_policy) as client:
                until(lambda: len(signed_by(ledger)) == 2, "both have signed")
                assert client.checkpoint().cosignatures
            for policy in (old_policy, both, new_policy):
                with client_of(ledger, policy, tmp_path / f"{policy.name}.json") as client:
                    client.append(event())
            collect(ledger, old_policy, "between")
            wait_published(mirror, state(ledger)["tree_size"])
            check_ledger(mirror)
            with closing(HeadStore.open(heads, readonly=False)) as store:
                store.add_log(ORIGIN, [new_key])
                ledger.append(event(), query="?wait=witnessed")
                (_, cosigned) = store.logs()[0]
                assert cosigned is not None
                assert len(cosigned.signatures) == 3  # The log's two, and the witness's own.
        DirectoryPaths(folder).policy.write_bytes(both.read_bytes())

        said = json.loads(command(key_command, "retire", directory, "--json"))
        assert (said["old"], said["new"]) == (made["old"], made["new"])
        with serving(directory, tokens, quick) as ledger, mirroring(folder, own) as mirror:
            collect(ledger, both, "after")
            assert signed_by(ledger) == {new_key.split("+")[1]}
            with client_of(ledger, new_policy, tmp_path / "new.json") as client:
                client.append(event())
            with (
                client_of(ledger, old_policy, tmp_path / "old.json") as client,
                pytest.raises(VerificationError, match="ask its operator for the policy with both"),
            ):
                client.checkpoint()
            with closing(HeadStore.open(heads, readonly=False)) as store:
                store.remove_keys(ORIGIN, made["old"])
            ledger.append(event(), query="?wait=witnessed")
            wait_published(mirror, state(ledger)["tree_size"])
            check_ledger(mirror)
            acts = [e.event for e in client_acts(ledger, both)]
        assert [act.action for act in acts] == ["ledger.key.rotated", "ledger.key.retired"]
        assert all(act.context == {"old": made["old"], "new": made["new"]} for act in acts)
    command(fsck_command, directory)

    verifies = {
        (when, policy.name): verify(bundle, policy)
        for when, bundle in bundles.items()
        for policy in (old_policy, both, new_policy)
    }
    assert {pair for pair, is_true in verifies.items() if not is_true} == {
        ("before", "new"),
        ("after", "old"),
    }


def test_monitors_go_through_a_rotation_and_the_theft_of_the_old_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three monitors, which get the policies at different times and keep what they accepted."""
    directory = tmp_path / "ledger"
    tokens, paths = make_ledger(directory), DirectoryPaths(directory)
    old, both = tmp_path / "old", tmp_path / "both"
    old.write_bytes(paths.policy.read_bytes())
    monkeypatch.setenv("LEDGER_TOKEN", tokens["admin"])

    def monitor(ledger: Ledger, name: str, policy: Path) -> tuple[int, int, str]:
        """Exit code, entries checked, and errors of one look by a monitor."""
        arguments = ("--policy", policy, "--state", tmp_path / name, "--once", "--json")
        done = run_here("monitor", ledger.url, *arguments)
        # The service in this process writes its log lines there too.
        told = [json.loads(line) for line in done.out.splitlines() if line[:1] == "{"]
        return done.code, told[0]["entries_checked"] if told else 0, done.err

    def check(ledger: Ledger, name: str, policy: Path) -> None:
        code, entries, said = monitor(ledger, name, policy)
        assert (code, said) == (0, "")
        assert entries >= size  # What it reads is an event too, some time later.

    def grow(ledger: Ledger) -> int:
        ledger.append(event(), query="?wait=witnessed")
        return int(state(ledger)["published_size"])

    with serving(directory, tokens) as ledger:
        size = grow(ledger)
        for name in ("early", "between", "late"):
            check(ledger, name, old)
        quick = listening(ledger.url.rpartition(":")[2])
    command(key_command, "rotate", directory)
    both.write_bytes(paths.policy.read_bytes())
    with serving(directory, tokens, quick) as ledger:
        size = grow(ledger)
        check(ledger, "early", both)
        check(ledger, "between", old)  # It knows the old key alone.
    command(key_command, "retire", directory, "--distrust")
    with serving(directory, tokens, quick) as ledger:
        size = grow(ledger)
        for name in ("early", "between"):
            check(ledger, name, paths.policy)
        code, _, said = monitor(ledger, "late", paths.policy)
        assert (code, "verify once by a policy with both keys" in said) == (2, True)
        check(ledger, "late", both)
        check(ledger, "late", paths.policy)
        code, _, said = monitor(ledger, "newcomer", old)
        assert code == 1
        assert "ask its operator for the policy with both" in said
    # Each still convicts a log that has another history, whichever key has signed it.
    fork = tmp_path / "fork"
    shutil.copytree(directory, fork)
    with serving(directory, tokens, quick) as ledger:
        grow(ledger)
        for name in ("early", "between", "late"):
            assert monitor(ledger, name, paths.policy)[0] == 0
    with serving(fork, tokens, quick) as ledger:
        grow(ledger)
        grow(ledger)
        for name in ("early", "between", "late"):
            code, _, said = monitor(ledger, name, paths.policy)
            assert (code, "the log forked or was rewritten" in said) == (1, True), said


def client_acts(ledger: Ledger, policy: Path) -> list[Any]:
    """The events about keys, once both are in the log."""
    with client_of(ledger, policy) as client:
        return list(client.query("action:ledger.key.*", order="oldest"))


def verify(bundle: Path, policy: Path) -> bool:
    """Whether a bundle verifies by a policy; a fault of it is none of the policy's."""
    try:
        evidence = check_evidence(bundle, parse_policy(policy.read_bytes()))
    except VerificationError:
        return False
    assert evidence.faults == ()
    return True


class CrashError(Exception):
    """The process dies here."""


def die(*_: object, **__: object) -> bytes:
    raise CrashError


def new_ledger(folder: Path, *, is_post_quantum: bool = False) -> DirectoryPaths:
    second = next_seed() if is_post_quantum else None
    return create_directory(folder / "l", origin=ORIGIN, seed=next_seed(), mldsa44_seed=second)


def verifiers(keys: SigningKeys) -> tuple[list[str], list[str]]:
    """The vkeys of the old and of the current keys."""
    old, current = ([str(signer.verifier) for signer in some] for some in keys)
    return old, current


def publish(paths: DirectoryPaths) -> None:
    """Have a head that all keys have signed, as after a start of the service."""
    with serving(paths.root, {}) as ledger:
        until(lambda: len(signed_by(ledger)) == len(read_signers(paths)), "all have signed")


@pytest.mark.parametrize("step", ["_record", "replace_policy"])
def test_an_interrupted_rotation_is_ended_by_the_same_command_with_the_same_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    paths = new_ledger(tmp_path, is_post_quantum=True)
    before = paths.policy.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(key_rotation, step, die)
        with pytest.raises(CrashError):
            rotate(paths, make_seed=next_seed)
    assert paths.policy.read_bytes() == before
    interrupted = divide(read_signers(paths))
    assert [len(keys) for keys in interrupted] == [2, 2]
    # A service that starts meanwhile signs with all, and whoever knows the old ones verifies.
    publish(paths)
    with pytest.raises(ValueError, match="run ledger key rotate again"):
        retire(paths)
    assert verifiers(rotate(paths, make_seed=die)) == verifiers(interrupted)
    assert len(parse_policy(paths.policy.read_bytes()).logs) == 4
    with pytest.raises(ValueError, match="a rotation is under way"):
        rotate(paths, make_seed=die)


def test_an_interrupted_retirement_is_ended_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = new_ledger(tmp_path)
    with pytest.raises(ValueError, match="no rotation is under way"):
        retire(paths)
    keys = rotate(paths, make_seed=next_seed)
    publish(paths)
    with monkeypatch.context() as patch:
        patch.setattr(key_rotation, "replace_keys", die)
        with pytest.raises(CrashError):
            retire(paths)
    policy = paths.policy.read_bytes()
    assert verifiers(divide(read_signers(paths))) == verifiers(keys)
    retire(paths)
    assert paths.policy.read_bytes() == policy
    assert policy.count(b"# Retired") == 1
    assert [log.verifier for log in parse_policy(policy).logs] == [
        keys.old[0].verifier,
        keys.current[0].verifier,
    ]
    assert verifiers(divide(read_signers(paths))) == ([], verifiers(keys)[1])


def test_the_how_to_runs_as_written(tmp_path: Path) -> None:
    paths = new_ledger(tmp_path)
    created, _ = paths.policy.read_text().split("\n", 1)
    page = (ROOT / "docs" / "keys.md").read_text()
    section = page.split("## Rotate the log's key\n")[1].split("\n## ")[0]
    make, add, end, remove = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    create_witness(
        tmp_path / "w1",
        [CosignatureSigner.generate("w", algorithm=ED25519_COSIGNATURE, seed=next_seed())],
    )

    (tmp_path / "DIR").symlink_to(paths.root)

    def run(commands: str) -> str:
        """Run commands in the shell of the page; the ledger of the page is DIR."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        script = f"set -e\n{commands}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    new = run(f'{make}{add}echo "$NEW_VKEY"').split()[-1]
    publish(paths)
    with closing(HeadStore.open(WitnessPaths(tmp_path / "w1").heads, readonly=False)) as store:
        assert store.add_log(ORIGIN, [created.split()[1]]).vkeys == (new, created.split()[1])
        run(end + remove)
        assert store.logs()[0][0].vkeys == (new,)
    assert [str(signer.verifier) for signer in read_signers(paths)] == [new]


def test_a_stolen_key_leaves_the_policy_and_the_service_goes_on(tmp_path: Path) -> None:
    paths = new_ledger(tmp_path)
    paths.policy.write_bytes(b"# Ours.\n" + paths.policy.read_bytes())
    paths.policy.chmod(0o644)
    keys = rotate(paths, make_seed=next_seed)
    publish(paths)
    retire(paths, is_distrusted=True)
    text = paths.policy.read_text()
    assert [log.verifier for log in parse_policy(text.encode()).logs] == [keys.current[0].verifier]
    assert text.startswith(
        f"# Ours.\n# Retired and not trusted any more: log {keys.old[0].verifier}"
    )
    assert paths.policy.stat().st_mode & 0o777 == 0o644
    publish(paths)
    command(fsck_command, paths.root)


def test_a_key_is_not_replaced_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = new_ledger(tmp_path)
    (signer,) = read_signers(paths)
    assert isinstance(signer, Signer)
    before = paths.key.read_bytes()
    held = AgentKey(tmp_path / "agent", signer.key.verifier_key)
    with pytest.raises(ValueError, match="is the log's key already"):
        rotate(paths, make_seed=next_seed, key=held)
    assert paths.key.read_bytes() == before
    # One that is new is named again to end a rotation that was interrupted.
    held = AgentKey(tmp_path / "agent", Signer.generate(ORIGIN, seed=next_seed()).key.verifier_key)
    with monkeypatch.context() as patch:
        patch.setattr(key_rotation, "replace_policy", die)
        with pytest.raises(CrashError):
            rotate(paths, make_seed=die, key=held)
    rotate(paths, make_seed=die, key=held)
    assert len(read_signers(paths)) == 2


def test_a_key_under_a_passphrase_is_rotated_under_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = new_ledger(tmp_path)
    monkeypatch.setattr(encrypted_keys, "MEMORY_BYTES", 1 << 16)
    encrypt_keys(paths.key, b"a long passphrase")
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("a long passphrase\n")
    passphrase.chmod(0o600)
    monkeypatch.setenv(FILE_VARIABLE, str(passphrase))
    rotate(paths, make_seed=next_seed)
    assert b"PRIVATE+KEY" not in paths.key.read_bytes()
    assert len(read_keys(paths.key, keys_max=4)) == 2


def test_a_new_line_of_a_policy_has_the_url_of_the_old_one_and_all_else_stays() -> None:
    signer = Signer.generate(ORIGIN, seed=next_seed())
    old, other, new = (
        Signer.generate(name, seed=next_seed()).verifier for name in (ORIGIN, "b.example", ORIGIN)
    )
    text = f"# x\nlog {old} https://a.example/\n\n log\t{other}\nquorum none\n".encode()
    want = text.replace(b"\n\n", f"\nlog {new} https://a.example/\n\n".encode())
    assert with_log_keys(text, [old, new]) == want
    assert with_log_keys(want, [old, new]) == want
    with pytest.raises(MalformedError, match="no line of the log"):
        with_log_keys(f"log {other}\nquorum none\n".encode(), [signer.verifier])


def test_a_witness_keeps_the_key_by_which_it_can_verify_its_head(tmp_path: Path) -> None:
    old, new = (Signer.generate(ORIGIN, seed=next_seed()) for _ in range(2))
    own = CosignatureSigner.generate("w", algorithm=ED25519_COSIGNATURE, seed=next_seed())
    create_heads(tmp_path / "heads", vkeys=[str(own.verifier)])
    head = Checkpoint(ORIGIN, 0, EMPTY_ROOT_HASH)

    with closing(HeadWriter.open(tmp_path / "heads")) as writer:

        def cosign_by(*signers: Signer) -> None:
            text = format_checkpoint(head)
            signed = SignedCheckpoint(head, tuple(signer.sign(text) for signer in signers))
            writer.commit([Update(ORIGIN, lambda _: cosign(signed, [own], time_unix_s=1))])

        store = writer.store
        store.add_log(ORIGIN, [str(old.verifier), str(new.verifier)])
        with pytest.raises(ValueError, match="has no key"):
            store.remove_keys(ORIGIN, [str(own.verifier)])
        with pytest.raises(ValueError, match="would have no key"):
            store.remove_keys(ORIGIN, [str(old.verifier), str(new.verifier)])
        with pytest.raises(ValueError, match="no log with the origin"):
            store.remove_keys("b.example", [str(old.verifier)])
        cosign_by(old)
        with pytest.raises(ValueError, match="wait for its next head"):
            store.remove_keys(ORIGIN, [str(old.verifier)])
        cosign_by(old, new)
        assert store.remove_keys(ORIGIN, [str(old.verifier)]).vkeys == (str(new.verifier),)
        assert store.check_rows() == []


def test_what_our_commands_change_is_no_false_alarm_at_the_next_start(tmp_path: Path) -> None:
    directory, passphrase = tmp_path / "ledger", tmp_path / "passphrase"
    tokens, paths = make_ledger(directory), DirectoryPaths(directory)
    passphrase.touch(0o600)
    passphrase.write_text("correct horse\n")

    def run(*arguments: object) -> None:
        assert run_here(*map(str, arguments)).code == 0
        assert changed_files(paths) == []

    with serving(directory, tokens):
        pass
    run("key", "encrypt", directory, "--passphrase-file", passphrase)
    run("key", "decrypt", directory, "--passphrase-file", passphrase)
    run("key", "rotate", directory)
    with serving(directory, tokens) as ledger:
        ledger.append(event(), query="?wait=witnessed")
    run("key", "retire", directory)
    run("sink", "add", directory, "near", "--type", "file", "--path", tmp_path / "out")
    with serving(directory, tokens):
        pass
    run("sink", "remove", directory, "near")

    # What another one changed is named, also when a command of ours changes more of it.
    with paths.policy.open("a") as policy:
        policy.write("# by another hand\n")
    assert run_here("key", "rotate", str(directory)).code == 0
    assert changed_files(paths) == ["policy"]
