"""`ledger tlog-mirror push`: mirrors are added, tried, paused and removed beside a service."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ledger.demo.child_service import Service, make_ledger
from ledger.follow.position import FollowerPaths
from ledger.mirror_push.config import KIND, read_mirrors
from ledger.service.data_dir import DirectoryPaths, open_tokens
from ledger.service.start_record import changed_files
from ledger_client import LedgerClient
from ledger_client.runtime.files import FileLock, FileLockedError
from ledger_core.tlog.cosignature import CosignatureSigner
from ledger_core.tlog.keys import ED25519_COSIGNATURE, SEED_BYTES
from tests.cli.conftest import Output, run_here
from tests.mirror_push.test_served_push import (
    EVENT,
    WAIT_S,
    confirmed,
    logged,
    mirror_for,
    serve_mirror,
)
from tests.served import FLAGS, ORIGIN
from tests.tlog_mirror.sending import SIGNERS, make_tlog_mirror
from tests.waiting import until

VKEYS = tuple(part for signer in SIGNERS for part in ("--vkey", str(signer.verifier)))
OTHER = CosignatureSigner.generate(
    SIGNERS[0].verifier.name, algorithm=ED25519_COSIGNATURE, seed=bytes([9]) * SEED_BYTES
)
OTHER_VKEY = str(OTHER.verifier)


@dataclass(frozen=True)
class Pushing:
    """A served ledger, and a mirror that takes its log."""

    directory: Path
    client: LedgerClient
    url: str

    def push(self, act: str, *arguments: str) -> Output:
        return run_here("tlog-mirror", "push", act, self.directory, *arguments)

    def asked(self, act: str, *arguments: str) -> Any:
        """What a command says to a program."""
        done = self.push(act, *arguments, "--json")
        assert done.code == 0, done.err
        return json.loads(done.out)


def is_running(directory: Path, name: str) -> bool:
    """Whether the process of a mirror has its lock."""
    try:
        with FileLock(FollowerPaths(directory, KIND, name).lock):
            return False
    except FileLockedError:
        return True


@pytest.fixture(scope="module")
def pushing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushing]:
    folder = tmp_path_factory.mktemp("push")
    directory = folder / "ledger"
    token = make_ledger(directory, origin=ORIGIN)
    paths = mirror_for(directory, folder / "m")
    with (
        serve_mirror(paths.root) as mirror,
        Service(directory, listen="127.0.0.1:0", flags=FLAGS) as service,
        LedgerClient(service.url, token, policy=directory / "policy") as client,
    ):
        client.append_many([EVENT] * 300)
        client.checkpoint()
        yield Pushing(directory, client, mirror.url)


def test_a_mirror_is_added_tried_paused_and_removed(pushing: Pushing) -> None:
    directory = pushing.directory
    quick = ("--interval-s", "0.05", "--retry-max-s", "0.2")
    added = pushing.push("add", "m1", "--url", pushing.url, *VKEYS, *quick)
    assert added.code == 0, added.err
    # What the operator of the mirror needs.
    assert "ledger tlog-mirror add-log DIRECTORY --vkey 'example.com/audit+" in added.err
    until(lambda: confirmed(directory) >= 300, WAIT_S)

    def has_all() -> bool:
        found = pushing.asked("test", "m1")
        return bool(found["cosigned_size"] == found["tree_size"] == found["kept"])

    until(has_all, WAIT_S)
    tried = pushing.push("test", "m1")
    assert "takes this log and has all " in tried.out
    assert f"as {SIGNERS[0].verifier.name}" in tried.out

    running = {"mirror": "m1", "was_paused": False}
    assert pushing.asked("pause", "m1") == {**running, "paused": True}
    assert "was paused already" in pushing.push("pause", "m1").err
    assert pushing.asked("list")[0]["paused"]
    until(lambda: not is_running(directory, "m1"), WAIT_S)
    pushing.client.append_many([EVENT] * 300)
    pushing.client.checkpoint()
    assert pushing.asked("list")[0]["lag"] >= 300
    assert "behind  paused" in pushing.push("list").out
    # A mirror that lacks entries shows what it has cosigned before, once a head covers them.
    until(lambda: pushing.asked("test", "m1")["tree_size"] >= 600, WAIT_S)
    behind = pushing.asked("test", "m1")
    assert behind["kept"] < behind["tree_size"]
    assert 300 <= behind["cosigned_size"] < behind["tree_size"]

    pushing.asked("resume", "m1")
    assert "'m1' was not paused" in pushing.push("resume", "m1").err
    assert pushing.asked("resume", "m1") == {**running, "paused": False}
    until(lambda: confirmed(directory) >= len(logged(directory)) - 1, WAIT_S)
    pushing.asked("pause", "m1")
    pushing.asked("remove", "m1")
    assert read_mirrors(directory) == {}
    assert changed_files(DirectoryPaths(directory)) == []
    # A mirror that is added anew is not the one that was paused, and begins at its beginning.
    pushing.asked("add", "m1", "--url", pushing.url, *VKEYS, *quick)
    assert not FollowerPaths(directory, KIND, "m1").paused.exists()
    until(lambda: confirmed(directory) >= 600, WAIT_S)
    pushing.asked("remove", "m1")


def test_a_wrong_key_address_or_log_is_named(pushing: Pushing, tmp_path: Path) -> None:
    directory = tmp_path / "other"
    pushing.asked("add", "wrong", "--url", pushing.url, "--vkey", OTHER_VKEY)
    pushing.asked("add", "away", "--url", "http://127.0.0.1:9", *VKEYS)
    stranger = make_tlog_mirror(tmp_path / "stranger", [])
    try:
        pushing.asked("add", "right", "--url", pushing.url, *VKEYS)
        until(lambda: pushing.asked("test", "right")["cosigned_size"] is not None, WAIT_S)
        wrong = pushing.push("test", "wrong")
        assert wrong.code == 1
        assert "known key" in wrong.err or "none of its keys" in wrong.err
        away = pushing.push("test", "away")
        assert away.code == 4
        assert "the mirror can't be reached: " in away.err
        with serve_mirror(stranger.root) as mirror:
            pushing.asked("add", "stranger", "--url", mirror.url, *VKEYS)
            unknown = pushing.push("test", "stranger")
        assert unknown.code == 4
        assert "answered 404" in unknown.err
    finally:
        for name in read_mirrors(pushing.directory):
            pushing.asked("remove", name)
    make_ledger(directory, origin=ORIGIN)
    for arguments, message in (
        (("--url", "ftp://m.example", *VKEYS), "url: want https://host"),
        (("--url", "http://m.example", *VKEYS), "insecure = true (--insecure) allows it"),
        (("--url", "https://m.example", "--vkey", "no key"), "vkeys: "),
        (("--url", "https://m.example", *VKEYS, "--timeout-s", "0"), "timeout_s"),
        (("--url", "https://m.example"), "--vkey is missing"),
        (VKEYS, "url"),
    ):
        refused = run_here("tlog-mirror", "push", "add", directory, "m1", *arguments)
        assert refused.code == 2, (arguments, refused.err)
        assert message in refused.err
    assert run_here("tlog-mirror", "push", "test", directory, "m1").code == 6
    assert not (directory / "mirrors.toml").exists()


def test_what_is_done_to_a_mirror_is_an_event(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    make_ledger(directory, origin=ORIGIN)
    add = ("--url", "https://m.example", *VKEYS)
    for act, *more in (("add", *add), ("pause",), ("resume",), ("remove",)):
        assert run_here("tlog-mirror", "push", act, directory, "m1", *more).code == 0
    with closing(open_tokens(DirectoryPaths(directory))) as access:
        acts = [json.loads(event) for _, event in access.outbox()][1:]
    assert [each["action"] for each in acts] == [
        f"ledger.tlog_mirror.{act}" for act in ("added", "paused", "resumed", "removed")
    ]
    assert acts[0]["context"] == {"to": "https://m.example"}


def test_a_table_that_an_editor_wrote_keeps_its_comments(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    make_ledger(directory, origin=ORIGIN)
    key = SIGNERS[0].verifier
    written = f'# of our auditors\n[a]\nurl = "https://a.example" # by Monday\nvkeys = ["{key}"]\n'
    (directory / "mirrors.toml").write_text(written)
    add = ("--url", "https://m.example", "--no-gzip", *VKEYS)
    assert run_here("tlog-mirror", "push", "add", directory, "m1", *add).code == 0
    assert not read_mirrors(directory)["m1"].gzip
    assert run_here("tlog-mirror", "push", "remove", directory, "m1").code == 0
    assert (directory / "mirrors.toml").read_text().strip() == written.strip()
    assert run_here("tlog-mirror", "push", "remove", directory, "a").code == 0
    assert read_mirrors(directory) == {}
