"""A log whose key is in an ssh-agent: OpenSSH's own, and agents that hang, lie and go away."""

import asyncio
import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ledger.cli.options import agent_key
from ledger.log.publisher import Publisher, PublisherOptions
from ledger.log.sequencer import Sequencer
from ledger.log.signing import SignerUnavailableError
from ledger.runtime import ssh_agent
from ledger.runtime.keys import encrypt_keys, read_keys
from ledger.runtime.ssh_agent import AgentKey, parse_public_key
from ledger.service.data_dir import DirectoryPaths, create_directory
from ledger.service.key_rotation import rotate
from ledger.store.writer import LogWriter
from ledger_core.tlog.checkpoint import Checkpoint, SignedCheckpoint, format_checkpoint
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.keys import ED25519, SignerKey, VerifierKey
from ledger_core.tlog.note import Signer
from ledger_core.tlog.policy import format_policy, parse_policy
from tests.mirror.mirroring import ready, state
from tests.service.serving import ORIGIN, event, make_ledger, send, serving
from tests.store.entries import MAP_BYTES, entries, new_log
from tests.waiting import until, until_listening

SEED = b"s" * 32
KEY = SignerKey("example.com/l", algorithm=ED25519, seed=SEED)


class Agent:
    """OpenSSH's agent, with one key that this process has never read."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "agent.sock"
        self.public_key = folder / "key.pub"
        self._key = folder / "key"
        self._process: subprocess.Popen[bytes] | None = None
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self._key))

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            ["ssh-agent", "-D", "-a", str(self.socket)], stdout=subprocess.DEVNULL
        )
        until_listening(self.socket)
        self.add("-q", str(self._key))

    def add(self, *arguments: str, stdin: bytes = b"") -> None:
        environ = {**os.environ, "SSH_AUTH_SOCK": str(self.socket)}
        subprocess.run(["ssh-add", *arguments], env=environ, check=True, input=stdin)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    agent.start()
    yield agent
    agent.stop()


@pytest.mark.openssh
def test_a_ledger_signs_by_an_agent_and_has_no_key(agent: Agent, tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    key = agent_key(ORIGIN, agent.socket, agent.public_key)
    assert key is not None
    create_directory(directory, origin=ORIGIN, key=key)
    paths = DirectoryPaths(directory)
    assert paths.key.read_text() == f"ssh-agent:{agent.socket} {key.verifier_key}\n"
    with serving(directory, {}) as ledger:
        until(lambda: ask_head(ledger.url) == 200, "a head is published")
        note = send(ledger.url, "/checkpoint", method="GET", body=None, headers={}).body
        assert ledger.policy.check(note).log_key == str(key.verifier_key)


def ask_head(url: str) -> int:
    return send(url, "/checkpoint", method="GET", body=None, headers={}).status


@pytest.mark.openssh
def test_a_ledger_goes_over_to_an_agent_by_a_rotation_and_waits_while_it_is_away(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_agent, "TIMEOUT_S", 0.2)
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    key = agent_key(ORIGIN, agent.socket, agent.public_key)
    rotate(DirectoryPaths(directory), make_seed=lambda: SEED, key=key)
    with serving(directory, tokens) as ledger:
        assert ledger.append(event(), query="?proof=1").status == 200

        def published() -> int:
            head = ledger.ask("/checkpoint").text
            return int(head.split("\n")[1])

        outages: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
            "gave no answer": (
                lambda: agent.send(signal.SIGSTOP),
                lambda: agent.send(signal.SIGCONT),
            ),
            "lacks the key, or is locked": (
                lambda: agent.add("-q", "-D"),
                lambda: agent.add("-q", str(agent.public_key.with_suffix(""))),
            ),
            "Connection refused": (agent.stop, agent.start),
        }
        for reason, (begin, end) in outages.items():
            until(lambda: published() == state(ledger)["tree_size"], "all is published")
            begin()
            before = published()
            appended = ledger.append(event())
            assert appended.status == 200, appended.text
            until(lambda: reason in str(ready(ledger)["warnings"]), reason)  # noqa: B023
            unproven = ledger.append(event(), query="?proof=1")
            assert (unproven.status, unproven.slug) == (503, "unavailable"), unproven.text
            assert "are in the log" in unproven.text
            assert published() == before
            end()
            index = appended.json()["results"][0]["index"]
            until(lambda: published() > index, "the head is published")  # noqa: B023


@contextmanager
def answering(path: Path, *answers: bytes) -> Iterator[None]:
    """An agent that gives these answers, one a connection, and then hangs."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        thread.join(60)
        assert not thread.is_alive()


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def answer(signature: bytes, kind: bytes = b"ssh-ed25519") -> bytes:
    return string(b"\x0e" + string(string(kind) + string(signature)))


GOOD = KEY.sign(b"message")
BAD_ANSWERS = {
    b"": "of type none",
    string(b""): "of type none",
    string(b"\x05"): "lacks the key",
    string(b"\x0c" + b"\0" * 4): "of type 0c",
    answer(GOOD)[:-1]: "cut",
    string(answer(GOOD)[4:] + b"x"): "more than it says",
    string(answer(GOOD)[4:-1]): "cut",
    answer(GOOD, b"ssh-rsa"): "another type",
    answer(KEY.sign(b"another")): "does not verify",
    answer(GOOD[:-1]): "64 bytes",
    struct.pack(">I", ssh_agent.MESSAGE_BYTES_MAX + 1): "at most",
    b"\xff\xff\xff\xff": "at most",
}


def test_no_answer_but_a_signature_that_verifies_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "agent"
    key = AgentKey(path, KEY.verifier_key)
    with answering(path, *BAD_ANSWERS, answer(GOOD)):
        for reason in BAD_ANSWERS.values():
            with pytest.raises(UnavailableError, match=reason):
                key.sign(b"message")
        assert key.sign(b"message") == GOOD


def test_a_key_file_names_the_socket_and_the_public_key_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = AgentKey(Path("/run/agent.sock"), KEY.verifier_key)
    path.write_text(f"{key.encode()}\n")
    path.chmod(0o600)
    assert read_keys(path, keys_max=1) == (key,)
    with pytest.raises(ValueError, match="no key to encrypt: an agent has it"):
        encrypt_keys(path, b"correct horse")
    for line in (
        f"ssh-agent:agent.sock {KEY.verifier_key}",
        f"ssh-agent: {KEY.verifier_key}",
        f"ssh-agent:/a  {KEY.verifier_key}",
        f"ssh-agent:/a\x07 {KEY.verifier_key}",
        "ssh-agent:/run/agent.sock",
        "ssh-agent:/run/agent.sock example.com/l+00000000+AQ==",
    ):
        path.write_text(f"{line}\n")
        with pytest.raises(MalformedError, match="is not a signer key"):
            read_keys(path, keys_max=1)
    with pytest.raises(ValueError, match="Ed25519 alone"):
        AgentKey(Path("/a"), VerifierKey("w", 4, KEY.verifier_key.public_key))


@pytest.mark.parametrize(
    "text", ["", "ssh-ed25519", "ssh-ed25519 ?", "ssh-ed25519 AAAA", "ssh-rsa AAAA", "\n"]
)
def test_what_is_no_public_key_of_ssh_is_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_public_key(text)
    blob = "AAAAC3NzaC1lZDI1NTE5AAAAI"
    assert len(parse_public_key(f"ssh-ed25519 {blob}{'A' * 43} a comment")) == 32


@pytest.mark.anyio
async def test_an_agent_that_fails_is_left_alone_for_a_while_and_said_once(tmp_path: Path) -> None:
    new_log(tmp_path / "log").close()
    signer = Signer(AgentKey(tmp_path / "agent", KEY.verifier_key))
    policy = parse_policy(format_policy([signer.verifier]).encode())
    sequencer = Sequencer(LogWriter.open(tmp_path / "log", map_bytes=MAP_BYTES))
    options = PublisherOptions(interval_s=3600)
    publisher = Publisher(sequencer, [signer], policy, evidence=tmp_path, options=options)
    with capture_logs() as lines:
        for _ in range(3):
            await sequencer.append(entries(0, 1))
            with pytest.raises(SignerUnavailableError, match="No such file"):
                await publisher.sign()
    assert [line["event"] for line in lines] == ["signer_failed"]
    await sequencer.stop()


class SlowKey:
    """A key of another process, which signs when it may."""

    def __init__(self, key: SignerKey) -> None:
        self.verifier_key = key.verifier_key
        self._key = key
        self.is_asked = threading.Event()
        self.may_sign = threading.Event()

    def encode(self) -> str:
        return self._key.encode()

    def sign(self, message: bytes) -> bytes:
        self.is_asked.set()
        self.may_sign.wait()
        return self._key.sign(message)


@pytest.mark.anyio
async def test_a_head_that_is_signed_while_another_history_shows_is_not_published(
    tmp_path: Path,
) -> None:
    new_log(tmp_path / "log").close()
    known = SignerKey(ORIGIN, algorithm=ED25519, seed=SEED)
    key = SlowKey(known)
    policy = parse_policy(format_policy([Signer(known).verifier]).encode())
    sequencer = Sequencer(LogWriter.open(tmp_path / "log", map_bytes=MAP_BYTES))
    options = PublisherOptions(interval_s=3600)
    publisher = Publisher(sequencer, [Signer(key)], policy, evidence=tmp_path, options=options)
    await sequencer.append(entries(0, 1))
    publishing = asyncio.create_task(publisher.publish())
    await asyncio.to_thread(key.is_asked.wait)
    other = Checkpoint(ORIGIN, 99, bytes(32))
    theirs = SignedCheckpoint(other, (Signer(known).sign(format_checkpoint(other)),))
    assert not publisher.show(theirs.note.encode(), by="a client")
    key.may_sign.set()
    with pytest.raises(VerificationError):
        await publishing
    assert publisher.published is None
    await sequencer.stop()
