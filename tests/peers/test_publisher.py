"""Our log among witnesses that other people wrote, and its forks before them."""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from aics_tlog import parse_note, parse_vkey, verify_checkpoint

from ledger.demo.child_service import Service, make_ledger
from ledger.service.data_dir import DirectoryPaths
from ledger_client import LedgerClient, Receipt
from ledger_core.tlog.keys import ED25519_COSIGNATURE, MLDSA44_COSIGNATURE, VerifierKey
from ledger_core.tlog.policy import parse_policy
from ledger_core.tlog.text import format_base64
from tests.peers.logcheck import logcheck
from tests.peers.witnesses import PeerWitness, litewitness, omniwitness, sunlight
from tests.waiting import until
from tests.witness.witnesses import RunningWitness, aics_witness, our_witness

pytestmark = pytest.mark.go

ORIGIN = "example.com/audit"
EVENT = {"actor": {"id": "u_1"}, "action": "user.login", "outcome": "success"}
NOWHERE = "http://127.0.0.1:9"
FLAGS = ("--log-level", "error", "--publish-interval-s", "0.1", "--heartbeat-interval-s", "0.5")


@dataclass(frozen=True)
class OurLog:
    """The log that the witnesses are told of."""

    origin: str
    vkey: str


@dataclass(frozen=True)
class Network:
    """A ledger that is not served yet, and the witnesses of its policy."""

    directory: Path
    token: str
    log: OurLog
    witnesses: dict[str, PeerWitness | RunningWitness]

    @property
    def policy(self) -> Path:
        return DirectoryPaths(self.directory).policy


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A ledger whose policy wants all five witnesses, three of them with two keys."""
    directory = tmp_path / "audit"
    token = make_ledger(directory, origin=ORIGIN)
    policy = DirectoryPaths(directory).policy
    (log_line,) = [
        line for line in policy.read_text(encoding="utf-8").splitlines() if line.startswith("log ")
    ]
    log = OurLog(ORIGIN, log_line.split()[1])
    with ExitStack() as stack:
        witnesses: dict[str, PeerWitness | RunningWitness] = {
            "lite": stack.enter_context(litewitness([log.vkey])),
            "omni": stack.enter_context(omniwitness([log.vkey])),
            "sunlight": stack.enter_context(sunlight([log.vkey])),
            "aics": stack.enter_context(aics_witness(tmp_path / "aics", [log])),
            "ours": stack.enter_context(our_witness(tmp_path / "ours", [log])),
        }
        lines, names = [log_line], []
        for name, witness in witnesses.items():
            for vkey in witness.vkeys:
                names.append(f"{name}-{VerifierKey.parse(vkey).algorithm}")
                lines.append(f"witness {names[-1]} {vkey} {witness.url}")
        lines += [f"group everybody all {' '.join(names)}", "quorum everybody", ""]
        policy.write_text("\n".join(lines), encoding="utf-8")
        yield Network(directory, token, log, witnesses)


def ask(url: str, path: str) -> tuple[int, Any]:
    try:
        with urlopen(f"{url}{path}") as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        with error:
            return error.code, json.load(error)


def _is_not_ready(url: str) -> bool:
    return ask(url, "/readyz")[0] == HTTPStatus.SERVICE_UNAVAILABLE


def _is_unpublished(url: str) -> bool:
    status, answer = ask(url, "/readyz")
    return status == HTTPStatus.OK and any("not published" in each for each in answer["warnings"])


def test_witnesses_of_five_makers_cosign_our_log_with_both_kinds_of_key(
    network: Network, tmp_path: Path
) -> None:
    policy = parse_policy(network.policy.read_bytes())
    with (
        Service(network.directory, listen="127.0.0.1:0", flags=FLAGS) as service,
        LedgerClient(service.url, network.token, policy=policy, state=tmp_path / "state") as client,
    ):
        receipts = [client.append(EVENT | {"reason": str(number)}) for number in range(3)]
        receipts += [
            result for result in client.append_many([EVENT] * 600) if isinstance(result, Receipt)
        ]
        assert len(receipts) == 603
        assert all(receipt.is_witnessed for receipt in receipts)
        head = client.checkpoint()
        kinds = [name.rsplit("-", 1)[1] for name, _ in head.cosignatures]
        assert kinds.count(str(ED25519_COSIGNATURE)) == 5
        assert kinds.count(str(MLDSA44_COSIGNATURE)) == 3

        # Another implementation finds the quorum of the keys that it knows.
        result = verify_checkpoint(
            parse_note(head.note.encode()),
            parse_vkey(network.log.vkey),
            [parse_vkey(str(w.verifier)) for w in policy.witnesses if "-4" in w.name],
            quorum=5,
        )
        assert result.ok

        # A program on Go's libraries reads the same policy, the checkpoint and the tiles.
        report = logcheck(
            service.url,
            network.policy,
            leaves={r.index: format_base64(r.leaf_hash) for r in receipts},
        )
        assert report["included"] == [receipt.index for receipt in receipts]
        assert len(report["cosigners"]) == len(head.cosignatures)

        status, answer = ask(service.url, "/v1/log")
        assert status == 200
        assert {w["cosigned_size"] for w in answer["witnesses"]} == {answer["published_size"]}


def test_each_of_them_refuses_a_fork_and_one_that_shows_its_head_stops_the_publisher(
    network: Network, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    policy_text = network.policy.read_text(encoding="utf-8")
    with (
        Service(network.directory, listen="127.0.0.1:0", flags=FLAGS) as service,
        LedgerClient(service.url, network.token, policy=network.policy) as client,
    ):
        client.append(EVENT)
    shutil.copytree(network.directory, backup)
    with (
        Service(network.directory, listen="127.0.0.1:0", flags=FLAGS) as service,
        LedgerClient(service.url, network.token, policy=network.policy) as client,
    ):
        published = client.append(EVENT).head
        assert published is not None
    log_line = policy_text.splitlines()[0]
    for name, witness in network.witnesses.items():
        fork = tmp_path / f"fork-{name}"
        shutil.copytree(backup, fork)
        vkey = witness.vkeys[0]
        paths = DirectoryPaths(fork)
        # A witness that has the other history holds the log, so none is asked before it has grown.
        paths.policy.write_text(_policy(log_line, name, vkey, NOWHERE), encoding="utf-8")
        with (
            Service(fork, listen="127.0.0.1:0", flags=FLAGS) as service,
            LedgerClient(service.url, network.token, policy=paths.policy) as client,
        ):
            # As large as the tree that the witness knows, and another.
            client.append_many([EVENT] * 2, verify=False)
        paths.policy.write_text(_policy(log_line, name, vkey, witness.url), encoding="utf-8")
        shows_its_head = name in ("aics", "ours")
        with Service(fork, listen="127.0.0.1:0", flags=FLAGS) as service:
            until(partial(_is_not_ready if shows_its_head else _is_unpublished, service.url))
        if not shows_its_head:
            # They serve no checkpoints there, and a refusal alone proves nothing.
            assert not paths.evidence.exists()
            continue
        (evidence,) = paths.evidence.iterdir()
        assert b"witness" in (evidence / "reason").read_bytes()
        assert published.checkpoint.origin.encode() in (evidence / "theirs").read_bytes()


def _policy(log_line: str, name: str, vkey: str, url: str) -> str:
    return f"{log_line}\nwitness {name} {vkey} {url}\nquorum {name}\n"
