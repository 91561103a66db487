"""`ledger monitor` and `ledger verify` among real ledgers, witnesses and second histories."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ledger.demo.child_service import Service, Witness, make_ledger, require_witnesses, witnesses
from ledger_client import LedgerClient
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.keys import ED25519_COSIGNATURE
from ledger_core.tlog.note import Note, format_note, parse_note
from ledger_core.tlog.policy import parse_policy
from ledger_core.tlog.proof import Proof, format_proof, parse_proof
from tests.cli.conftest import Command, Done
from tests.client.liar import Liar, Message
from tests.served import ORIGIN, ServedLedger

FLAGS = ("--log-level", "error", "--publish-interval-s", "0.05")
EVENT = {"action": "user.changed", "actor": {"id": "u_1"}, "outcome": "success"}


@dataclass(frozen=True)
class History:
    """A ledger's folder, and how to serve it and add to it."""

    directory: Path
    token: str

    @property
    def policy(self) -> Path:
        return self.directory / "policy"

    def serve(self) -> Service:
        return Service(self.directory, listen="127.0.0.1:0", flags=FLAGS)

    def append(self, url: str, count: int, actor: str = "u_1") -> None:
        with LedgerClient(url, self.token, policy=self.policy) as ledger:
            ledger.append_many([EVENT | {"actor": {"id": actor}}] * count, wait_witnessed=True)

    def grow(self, count: int, actor: str = "u_1") -> None:
        with self.serve() as service:
            self.append(service.url, count, actor)

    def forked(self, to: Path) -> "History":
        """A copy of the whole folder, signing key included: what root on the host can make."""
        shutil.copytree(self.directory, to)
        return History(to, self.token)


@pytest.fixture
def history(tmp_path: Path) -> History:
    directory = tmp_path / "audit"
    token = make_ledger(directory, origin=ORIGIN)
    return History(directory, token)


@pytest.fixture
def monitor(command: Command, history: History) -> Callable[..., Done]:
    """Run `ledger monitor URL … --once`, with the token and the policy of the history."""

    def run(url: str, *arguments: str | Path, **variables: str) -> Done:
        variables = {"LEDGER_TOKEN": history.token, **variables}
        policy = ("--policy", history.policy, "--state", "state")
        return command("monitor", url, *policy, "--once", *arguments, **variables)

    return run


def evidence(tmp_path: Path) -> dict[str, bytes]:
    (folder,) = (tmp_path / "state" / "evidence").iterdir()
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_head_and_its_entries_are_a_line_for_people_and_json_for_programs(
    history: History, monitor: Callable[..., Done]
) -> None:
    with history.serve() as service:
        history.append(service.url, 300)
        done = monitor(service.url)
        assert (done.returncode, done.stderr) == (0, "")
        (line,) = done.stdout.splitlines()
        assert "  size 301  root " in line
        assert line.endswith("  entries 301 checked  cosigned by no witness")
        history.append(service.url, 10)
        (line,) = monitor(service.url, "--json", LEDGER_TOKEN="").stdout.splitlines()
        told = json.loads(line)
        assert (told["origin"], told["tree_size"]) == (ORIGIN, 311)
        assert (told["entries_checked"], told["cosignatures"]) == (None, [])
        # What was checked with a token is not forgotten by a look without one.
        told = json.loads(monitor(service.url, "--json").stdout)
        assert told["entries_checked"] == 311


def test_two_histories_under_one_key_convict_the_log(
    history: History, monitor: Callable[..., Done], tmp_path: Path
) -> None:
    history.grow(300)
    second = history.forked(tmp_path / "second")
    history.grow(5)
    second.grow(9, actor="u_2")
    with history.serve() as service:
        assert monitor(service.url).returncode == 0
    with second.serve() as service:
        done = monitor(service.url)
        assert done.returncode == 1
        assert "error: the log forked or was rewritten" in done.stderr
        assert "; evidence saved in state/evidence/" in done.stderr
        assert "Traceback" not in done.stderr
    kept = evidence(tmp_path)
    policy = parse_policy(history.policy.read_bytes())
    # Both are signed by the log: anybody who has the policy can see that.
    heads = [policy.check(kept[name]) for name in ("accepted.note", "offered.note")]
    assert [head.checkpoint.tree_size for head in heads] == [306, 310]
    assert "proof.txt" in kept
    with history.serve() as service:
        assert monitor(service.url).returncode == 0


def test_a_restored_backup_is_a_log_that_shrank(
    history: History, monitor: Callable[..., Done], tmp_path: Path
) -> None:
    history.grow(10)
    backup = history.forked(tmp_path / "backup")
    history.grow(10)
    with history.serve() as service:
        assert monitor(service.url).returncode == 0
    with backup.serve() as service:
        done = monitor(service.url)
    assert done.returncode == 1
    assert "it shrank" in done.stderr


@pytest.fixture
def cosigned(history: History, tmp_path: Path) -> Iterator[tuple[Witness, ...]]:
    """The history's policy now wants two of three witnesses, which run."""
    with witnesses(tmp_path / "witnesses", 3, log_policy=history.policy) as running:
        require_witnesses(history.policy, running, threshold=2)
        yield running


def test_witnesses_are_told_with_their_times_and_asked_for_their_heads(
    history: History, cosigned: tuple[Witness, ...], monitor: Callable[..., Done]
) -> None:
    with history.serve() as service:
        history.append(service.url, 10)
        since = int(time.time())
        done = monitor(service.url, "--ask-witnesses", "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
    assert told["entries_checked"] == 11
    names = {each["witness"] for each in told["cosignatures"]}
    assert len(names) >= 2
    assert names <= {"w1", "w2", "w3"}
    assert all(abs(each["cosigned_at_unix_s"] - since) < 60 for each in told["cosignatures"])


def test_a_head_without_its_quorum_is_not_verified(
    history: History, cosigned: tuple[Witness, ...], monitor: Callable[..., Done], tmp_path: Path
) -> None:
    def strip(message: Message) -> None:
        if message.target == "/checkpoint":
            note = parse_note(message.body)
            message.body = format_note(Note(note.text, note.signatures[:2])).encode()

    with history.serve() as service, Liar(service.url) as liar:
        history.append(service.url, 10)
        liar.lie_to_client = strip
        done = monitor(liar.url)
    assert done.returncode == 1
    assert "1 of 2 needed" in done.stderr
    assert set(evidence(tmp_path)) == {"offered.note", "verdict.txt"}


def test_cosignatures_that_are_too_old_are_stale(
    history: History, cosigned: tuple[Witness, ...], monitor: Callable[..., Done], tmp_path: Path
) -> None:
    with history.serve() as service:
        history.append(service.url, 10)
        with LedgerClient(service.url, history.token, policy=history.policy) as ledger:
            cosigned_at = max(t for _, t in ledger.checkpoint().cosignatures)
        while time.time() < cosigned_at + 2:
            time.sleep(0.1)
        done = monitor(service.url, "--stale-after", "1")
    assert done.returncode == 5
    assert "stale: no quorum of witnesses has stood by the head of size 11 for" in done.stderr
    assert done.stdout.count("\n") == 1
    assert set(evidence(tmp_path)) == {"checkpoint.note", "verdict.txt"}


def test_a_split_view_is_found_by_asking_a_witness(
    history: History, monitor: Callable[..., Done], tmp_path: Path
) -> None:
    """The auditor is shown a history of their own, whose heads no witness was shown."""
    history.grow(10)
    second = history.forked(tmp_path / "second")
    with witnesses(tmp_path / "witnesses", 1, log_policy=history.policy) as (w1,):
        require_witnesses(history.policy, (w1,), threshold=1)
        history.grow(5)
        # What an auditor has who does not demand the witness, and knows where it is.
        line = f"witness w1 {w1.vkeys[0]} {w1.url}\nquorum none\n"
        text = second.policy.read_text().replace("quorum none\n", line)
        (tmp_path / "auditor").write_text(text)
        second.grow(9, actor="u_2")
        with second.serve() as service:
            options = ("--policy", tmp_path / "auditor", "--ask-witnesses")
            assert monitor(service.url, *options[:2]).returncode == 0
            done = monitor(service.url, *options)
    assert done.returncode == 1
    assert f"error: a head that the witness at {w1.url} shows: the log forked" in done.stderr
    policy = parse_policy((tmp_path / "auditor").read_bytes())
    kept = evidence(tmp_path)
    shown = policy.check(kept["offered.note"])
    assert (shown.checkpoint.tree_size, shown.cosignatures[0][0]) == (16, "w1")
    assert policy.check(kept["accepted.note"]).checkpoint.tree_size == 20


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        (
            "/tile/entries/001",
            404,
            "the log withholds tile/entries/001, which its head of size 601",
        ),
        ("/tile/entries/001", 200, "entry 300 as it was served is not in the tree"),
    ],
)
def test_withheld_and_altered_entries_are_named(
    history: History,
    monitor: Callable[..., Done],
    tmp_path: Path,
    path: str,
    status: int,
    said: str,
) -> None:
    def lie(answer: Message) -> None:
        if answer.target == path:
            answer.status = status
            parts = answer.body.split(b'"u_1"')
            answer.body = b'"u_1"'.join(parts[:45]) + b'"u_2"' + b'"u_1"'.join(parts[45:])

    with history.serve() as service, Liar(service.url) as liar:
        history.append(service.url, 600)
        liar.lie_to_client = lie
        done = monitor(liar.url)
    assert done.returncode == 1
    assert said in done.stderr
    assert ("tile-entries-001.bin" in evidence(tmp_path)) == (status == 200)


def test_a_monitor_that_was_killed_goes_on_from_what_it_had_verified(
    history: History, monitor: Callable[..., Done], tmp_path: Path
) -> None:
    with history.serve() as service, Liar(service.url) as liar:
        history.append(service.url, 256 * 40)
        arguments = ("--policy", history.policy, "--state", tmp_path / "state", "--once")
        process = subprocess.Popen(
            [sys.executable, "-m", "ledger", "monitor", liar.url, *map(str, arguments)],
            env={**os.environ, "LEDGER_TOKEN": history.token},
        )
        while "/tile/entries/020" not in liar.targets:
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = json.loads((tmp_path / "state" / "progress.json").read_bytes())["progress"]
        assert kept["rebuilt"]["entries_checked"] in (256 * 16, 256 * 32)
        liar.targets.clear()
        done = monitor(liar.url, "--json")
        assert json.loads(done.stdout)["entries_checked"] == 256 * 40 + 1
    fetched = [target for target in liar.targets if target.startswith("/tile/entries/")]
    first = kept["rebuilt"]["entries_checked"] // 256
    assert fetched == [
        *(f"/tile/entries/{index:03}" for index in range(first, 40)),
        "/tile/entries/040.p/1",
    ]


def test_following_goes_on_until_it_is_interrupted(
    history: History, command: Command, tmp_path: Path
) -> None:
    with history.serve() as service:
        history.append(service.url, 3)
        arguments = ("--policy", history.policy, "--state", tmp_path / "state", "--interval", "0.1")
        process = subprocess.Popen(
            [sys.executable, "-m", "ledger", "monitor", service.url, *map(str, arguments)],
            env={**os.environ, "LEDGER_TOKEN": history.token},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert "  size 4  " in process.stdout.readline()
        history.append(service.url, 3)
        assert "  entries 7 checked  " in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        told, *_, last = said.splitlines()
        assert told == f"checking {service.url} every 0.1 s; Ctrl-C ends this"
        assert (process.returncode, last) == (130, "interrupted")


def test_a_log_that_stands_still_is_stale_when_no_quorum_says_otherwise(
    history: History, command: Command
) -> None:
    with history.serve() as service:
        done = command(
            *("monitor", service.url, "--policy", history.policy, "--state", "state"),
            *("--interval", "0.2", "--stale-after", "1"),
            LEDGER_TOKEN=history.token,
        )
    assert done.returncode == 5
    assert "stale: the log has not grown beyond" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("http://127.0.0.1:1", "--state", "state"), 4, "Connection refused"),
        (("ftp://x", "--state", "state"), 2, "must begin with http"),
        (("http://127.0.0.1:1",), 2, "Missing option '--state'"),
        (("http://127.0.0.1:1", "--state", "state", "--interval", "0"), 2, "--interval"),
        (("http://127.0.0.1:1", "--state", "state", "--stale-after", "-1"), 2, "--stale-after"),
        (("http://127.0.0.1:1", "--state", "state", "--ask-witnesses"), 2, "names no witness"),
    ],
)
def test_what_can_not_be_monitored_is_said(
    command: Command, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = command("monitor", *arguments, "--once")
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_in_use_and_the_folder_of_another_log_are_refused(
    ledger: ServedLedger, history: History, command: Command, tmp_path: Path
) -> None:
    assert command("monitor", ledger.url, "--state", "state", "--once").returncode == 0
    other = command(
        *("monitor", ledger.url, "--policy", history.policy, "--state", "state", "--once")
    )
    assert other.returncode == 2
    assert "keeps the head of a log with another key" in other.stderr


def cosign(note: str, signers: dict[str, tuple[CosignatureSigner, int]]) -> str:
    parsed = parse_note(note)
    lines = [signer.sign(parsed.text, time_unix_s=at) for signer, at in signers.values()]
    return format_note(Note(parsed.text, (*parsed.signatures, *lines)))


def test_a_proof_cosigned_by_three_witnesses_says_who_when_and_before_which_time(
    ledger: ServedLedger, command: Command, tmp_path: Path
) -> None:
    signers = {
        f"w{number}": (
            CosignatureSigner.generate(
                f"witness.example/w{number}",
                algorithm=ED25519_COSIGNATURE,
                seed=bytes([number]) * 32,
            ),
            1_764_036_216 + (0, 50, 9)[number - 1],
        )
        for number in (1, 2, 3)
    }
    who = ("--actor", "user:u_7", "--action", "user.deleted", "--outcome", "denied")
    index = json.loads(command("append", *who, "--json").stdout)["index"]
    assert command("prove", str(index), "-o", "deleted").returncode == 0
    proof = parse_proof((tmp_path / "deleted.tlog-proof").read_bytes())
    cosigned = Proof(proof.leaf_index, proof.hashes, cosign(proof.checkpoint, signers))
    (tmp_path / "deleted.tlog-proof").write_text(format_proof(cosigned))
    lines = [f"witness {name} {signer.verifier}" for name, (signer, _) in signers.items()]
    policy = ledger.policy.read_text()

    def verify(rule: str, *more: str) -> Done:
        text = policy.replace("quorum none", "\n".join([*lines, rule]))
        (tmp_path / "witnessed").write_text(text)
        files = ("deleted.leaf.json", "deleted.tlog-proof", "--policy", "witnessed")
        return command("verify", *files, *more, LEDGER_URL="http://127.0.0.1:1")

    quorum = "group two-of-three 2 w1 w2 w3\nquorum two-of-three"
    done = verify(quorum)
    assert done.returncode == 0
    size = parse_note(proof.checkpoint).text.splitlines()[1]
    shown = done.stdout.splitlines()
    assert shown[0] == "verified"
    assert [line.strip() for line in shown if "u_7" in line] == ["who  user u_7"]
    assert "    what  user.deleted (denied)" in done.stdout
    assert " by application\n" in done.stdout
    assert f"   entry  {index} of {ORIGIN}\n" in done.stdout
    assert f"    head  size {size}, root " in done.stdout
    assert shown[-4:] == [
        "cosigned  2025-11-25T02:03:36Z by w1",
        "          2025-11-25T02:04:26Z by w2",
        "          2025-11-25T02:03:45Z by w3",
        " existed  before 2025-11-25T02:03:45Z, as the policy's quorum states",
    ]
    told = json.loads(verify(quorum, "--json").stdout)
    assert told["verified"] is True
    assert told["existed_before"] == "2025-11-25T02:03:45Z"
    assert told["cosignatures"][1] == {
        "witness": "w2",
        "cosigned_at": "2025-11-25T02:04:26Z",
        "cosigned_at_unix_s": 1_764_036_266,
    }
    assert told["log_key"] in policy
    assert told["event"]["actor"] == {"type": "user", "id": "u_7"}
    assert told["received"]["by"] == "application"
    nobody_asked = verify("quorum none")
    assert "existed  before 2025-11-25T02:03:36Z, as w1 alone states" in nobody_asked.stdout
    assert json.loads(verify("quorum none", "--json").stdout)["existed_before"] is None
    all_of_them = json.loads(verify("group all-of all w1 w2 w3\nquorum all-of", "--json").stdout)
    assert all_of_them["existed_before"] == "2025-11-25T02:04:26Z"
    del signers["w2"], signers["w3"]
    one = Proof(proof.leaf_index, proof.hashes, cosign(proof.checkpoint, signers))
    (tmp_path / "deleted.tlog-proof").write_text(format_proof(one))
    missing = verify(quorum)
    assert missing.returncode == 1
    assert "1 of 2 needed, missing w2, w3" in missing.stderr
