"""Backups: of one point in time under load, incremental, whole after a run that ended early."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ledger.cli.erase import erase_here
from ledger.demo.child_service import Service
from ledger.service import backup_files
from ledger.service.backup import (
    MANIFEST,
    back_up,
    backup_paths,
    erase_only,
    read_manifest,
    restore,
)
from ledger.service.backup_erasures import LINE_BYTES_MAX, erasures_of, read_erasures
from ledger.service.data_dir import DirectoryPaths
from ledger.service.private_fields import PrivateFields
from ledger.service.secret_stores import open_private
from ledger.service.start_record import remember_files
from ledger.service.token_admin import make_token, open_access, token_event
from ledger.store.fsck import check_store
from ledger.store.key_slots import KEYS_FILE
from ledger.store.log import LogStore
from ledger.store.minimum_index import Pruning
from ledger.store.pruning import prune_log
from ledger.store.tokens import AccessStore
from ledger_client import LedgerClient, private
from ledger_core.event.canonical import parse_leaf
from ledger_core.event.commitments import find_commitments
from ledger_core.event.times import format_time
from ledger_core.tlog.errors import MalformedError, UnavailableError, VerificationError
from ledger_core.tlog.policy import parse_policy
from tests.service.serving import event, make_ledger, serving

MADE = format_time(1_790_000_000_000_000)
BACKUPS = int(os.environ.get("LEDGER_TEST_BACKUPS", "3"))
"""`LEDGER_TEST_BACKUPS=50` makes as many as docs/reliability.md says."""
VALUE = "Zoë Unmistakable-Quillfeather"


@dataclass
class Made:
    """A ledger, served while it is asked to do something."""

    directory: Path
    tokens: dict[str, str]

    @contextmanager
    def client(self) -> Iterator[LedgerClient]:
        policy = self.directory / "policy"
        with (
            serving(self.directory, self.tokens) as served,
            LedgerClient(served.url, self.tokens["admin"], policy=policy) as client,
        ):
            yield client

    def append(self, count: int, subject: str = "") -> None:
        """Append events in one request; with a subject they have a private value each."""
        context = {"name": private(VALUE, subject=subject)} if subject else {}
        with self.client() as client:
            client.append_many([event(context=context) for _ in range(count)])


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "ledger", make_ledger(tmp_path / "ledger"))


def make_and_revoke_token(directory: Path, name: str) -> None:
    make_token(directory, name=name, scopes=("append",), tenant=None)
    with open_access(directory) as access:
        (record,) = [each for each in access.records() if each.name == name]
        told = token_event("ledger.token.revoked", record, 1_790_000_000_000_000)
        access.revoke(name, revoked=MADE, event=told)


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    command = [sys.executable, "-m", "ledger", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def check(paths: DirectoryPaths, private_key: Path) -> None:
    """Hold the parts of a copy against each other, as they are to be at one point in time."""
    log = LogStore.open(paths.log)
    keys = [each.verifier for each in parse_policy(paths.policy.read_bytes()).logs]
    head = check_store(log, log_keys=keys).head
    with log.environment.read() as snapshot:
        found = log.leaves_between(snapshot, 0, head.tree_size)
        leaves = [parse_leaf(leaf) for leaves in found for leaf in leaves]
    erased = {each.subject for each in erasures_of(log, 0)}
    log.close()
    with closing(AccessStore.open(paths.access)) as access:
        waiting = [json.loads(each) for _, each in access.outbox()]
        records = access.records()
    told = {
        (each["action"], each["targets"][0]["id"])
        for each in (*(json.loads(leaf.event_json) for leaf in leaves), *waiting)
        if each["action"].startswith("ledger.token.")
    }
    for record in records:
        assert ("ledger.token.created", record.name) in told
        assert (("ledger.token.revoked", record.name) in told) == (record.revoked is not None)
    copied = DirectoryPaths(paths.root)
    if not copied.private_key.exists():
        shutil.copy(private_key, copied.private_key)
    with closing(open_private(copied, make_key=lambda: b"")) as store:
        erased |= {json.loads(each.event_json)["targets"][0]["id"] for each in store.unlogged()}
        erased |= {e["targets"][0]["id"] for e in waiting if e["action"] == "ledger.private.erased"}
        opener = PrivateFields(store, (), lambda _id, _tenant: None)
        for leaf in leaves:
            if list(find_commitments(json.loads(leaf.event_json))):
                subjects = [each.subject for each in opener.open(leaf.event_json)]
                # All values of a subject carry its name in the event's reason.
                assert (leaf.event.reason in erased) == (subjects == [])


def test_backups_under_load_hold_one_point_in_time_each(made: Made, tmp_path: Path) -> None:
    stop = threading.Event()
    directory, rounds = made.directory, 0

    def load() -> None:
        nonlocal rounds
        with LedgerClient(service.url, made.tokens["admin"], policy=directory / "policy") as client:
            while not stop.is_set():
                subject = f"u_{rounds}"
                value = private(VALUE, subject=subject)
                client.append_many(
                    [event(reason=subject, context={"name": value}) for _ in range(20)]
                )
                client.append_many([event() for _ in range(30)], verify=False)
                make_and_revoke_token(directory, f"token {rounds}")
                client.erase(subject, reason="a request") if rounds % 2 else None
                rounds += 1

    with Service(directory, listen="127.0.0.1:0", stderr=subprocess.DEVNULL) as service:
        thread = threading.Thread(target=load)
        thread.start()
        try:
            sizes = []
            for number in range(BACKUPS):
                seen = rounds
                # A process of its own: none opens an environment twice.
                done = run("backup", directory, tmp_path / "backup", "--verify", "added", "--json")
                sizes.append(json.loads(done.stdout)["tree_size"])
                copy = tmp_path / f"restored-{number}"
                assert restore(tmp_path / "backup", copy).head.tree_size == sizes[-1]
                check(DirectoryPaths(copy), directory / "private.key")
                while rounds == seen and thread.is_alive():
                    thread.join(0.01)
        finally:
            stop.set()
            thread.join()
    assert sizes == sorted(set(sizes))


def test_a_later_run_adds_what_is_new(made: Made, tmp_path: Path) -> None:
    made.append(300)
    first = back_up(made.directory, tmp_path / "to", made=MADE)
    assert first.entries == first.head.tree_size >= 300
    made.append(700)
    second = back_up(made.directory, tmp_path / "to", made=MADE)
    assert second.entries == second.head.tree_size - first.head.tree_size == 700
    again = back_up(made.directory, tmp_path / "to", made=MADE)
    assert (again.entries, again.head) == (0, second.head)
    assert len(list((tmp_path / "to").glob("parts-*"))) == 1
    manifest = read_manifest(tmp_path / "to")
    assert manifest.root_hash == again.head.root_hash.hex()
    assert set(manifest.files) == {"policy", "ledger.toml"}


def test_a_restored_ledger_is_served_and_goes_on(made: Made, tmp_path: Path) -> None:
    made.append(300, "u_1")
    done = back_up(made.directory, tmp_path / "to", made=MADE, with_keys=True)
    restore(tmp_path / "to", tmp_path / "new", is_complete=True)
    with serving(tmp_path / "new", made.tokens) as again:
        assert again.ask("/v1/log").json()["tree_size"] == done.head.tree_size
        assert again.ask(f"/v1/events/{done.head.tree_size - 1}").json()["private"]
        assert again.append(event()).status == 200
        restored = again.ask("/v1/events/0").body
    with serving(made.directory, made.tokens) as served:
        assert restored == served.ask("/v1/events/0").body


def test_a_run_that_ended_early_leaves_the_backup_before_it(made: Made, tmp_path: Path) -> None:
    made.append(300)
    to = tmp_path / "to"
    done = back_up(made.directory, to, made=MADE)
    shutil.copytree(to, tmp_path / "kept", ignore=shutil.ignore_patterns("log"))
    made.append(600)
    make_and_revoke_token(made.directory, "later")
    newer = back_up(made.directory, to, made=MADE)
    # As after a kill before the manifest was replaced: the log alone has grown.
    parts = read_manifest(tmp_path / "kept").parts
    shutil.copy(tmp_path / "kept" / MANIFEST, to / MANIFEST)
    shutil.copytree(tmp_path / "kept" / parts, to / parts)
    assert restore(to, tmp_path / "restored").head == done.head
    shutil.copy(made.directory / "private.key", tmp_path / "private.key")
    check(DirectoryPaths(tmp_path / "restored"), tmp_path / "private.key")
    after = back_up(made.directory, to, made=MADE)
    assert (after.head, after.entries) == (newer.head, 0)
    assert len(list(to.glob("parts-*"))) == 1


def test_what_was_erased_is_erased_in_backups_too(made: Made, tmp_path: Path) -> None:
    made.append(5, "u_1")
    made.append(5, "u_2")
    to, old = tmp_path / "to", tmp_path / "old"
    for each in (to, old):
        back_up(made.directory, each, made=MADE, with_keys=True)
    with made.client() as client:
        client.erase("u_1", reason="GDPR request 8")
    assert opened(old) == {"u_1": 5, "u_2": 5}

    back_up(made.directory, to, made=MADE, with_keys=True)
    assert opened(to) == {"u_2": 5}
    assert erase_only(made.directory, old).erased == 5
    assert opened(old) == {"u_2": 5}
    # Restored, the old backup logs the erasure, which its log does not have yet.
    restore(old, tmp_path / "restored", is_complete=True)
    with serving(tmp_path / "restored", made.tokens) as again:
        found = again.ask("/v1/events?q=action:ledger.private.erased").json()
        assert [each["event"]["reason"] for each in found["events"]] == ["GDPR request 8"]


def test_what_the_rest_of_a_pruned_log_erased_is_erased_in_an_older_backup(
    made: Made, tmp_path: Path
) -> None:
    """It destroyed nothing: the values of the later erasures stayed in the backup too."""
    made.append(5, "u_1")
    old = tmp_path / "old"
    back_up(made.directory, old, made=MADE, with_keys=True)
    made.append(600)
    with made.client() as client:
        client.erase("u_1", reason="GDPR request 8")
    with closing(LogStore.open(made.directory / "log")) as log:
        event_index = log.head().tree_size - 1
    prune_log(made.directory / "log", Pruning(512, event_index))
    done = erase_only(made.directory, old)
    assert (done.erased, done.keeps_pruned) == (5, True)
    assert opened(old) == {}


@pytest.mark.parametrize("name", ["private/data.mdb", "legal-holds.json", "sinks.toml"])
def test_a_backup_keeps_its_copy_of_what_is_gone_from_the_ledger(
    made: Made, tmp_path: Path, name: str
) -> None:
    """The run that followed the loss replaced the copy, which may have been the last one."""
    for small in ("legal-holds.json", "sinks.toml"):
        (made.directory / small).write_text("", encoding="utf-8")
    (made.directory / "legal-holds.json").write_text('{"v":1,"holds":[]}', encoding="utf-8")
    made.append(5, "u_1")
    paths, to = DirectoryPaths(made.directory), tmp_path / "to"
    remember_files(paths)
    back_up(made.directory, to, made=MADE, with_keys=True)
    lost = made.directory / name
    lost.rename(tmp_path / "lost")
    with pytest.raises(UnavailableError, match=f"{name} in .* and is gone: put it back"):
        back_up(made.directory, to, made=MADE, with_keys=True)
    assert opened(to) == {"u_1": 5}
    assert len(list(to.glob(f"parts-*/{name}"))) == 1
    (tmp_path / "lost").rename(lost)
    back_up(made.directory, to, made=MADE, with_keys=True)


def test_a_backup_keeps_its_copy_of_a_key_in_whose_place_is_another_one(
    made: Made, tmp_path: Path
) -> None:
    made.append(5, "u_1")
    paths, to = DirectoryPaths(made.directory), tmp_path / "to"
    remember_files(paths)
    back_up(made.directory, to, made=MADE, with_keys=True)
    (made.directory / "private.key").write_text("00" * 32 + "\n", encoding="ascii")
    with pytest.raises(UnavailableError, match=r"private.key in .* not as it was then"):
        back_up(made.directory, to, made=MADE, with_keys=True)
    assert opened(to) == {"u_1": 5}


def opened(backup: Path) -> dict[str, int]:
    """Count the values of each subject that a backup opens."""
    counts: dict[str, int] = {}
    paths = backup_paths(backup)
    log = LogStore.open(paths.log)
    with closing(open_private(paths, make_key=lambda: b"")) as store:
        opener = PrivateFields(store, (), lambda _id, _tenant: None)
        for index in range(log.head().tree_size):
            for each in opener.open(parse_leaf(log.leaf(index) or b"").event_json):
                counts[each.subject] = counts.get(each.subject, 0) + 1
    log.close()
    return counts


@pytest.mark.parametrize("source", ["ledger", "export"])
def test_restoring_an_old_backup_erases_what_was_erased_since(
    made: Made, tmp_path: Path, source: str
) -> None:
    made.append(5, "u_1")
    made.append(5, "u_2")
    to, newer = tmp_path / "to", made.directory
    back_up(made.directory, to, made=MADE, with_keys=True)
    with made.client() as client:
        client.erase("u_2", reason="GDPR request 9")
    if source == "export":
        newer = tmp_path / "erased.jsonl"
        with serving(made.directory, made.tokens) as served:
            export = served.ask("/v1/export?q=action:ledger.private.erased").text
        newer.write_text(export, encoding="utf-8")
    assert restore(to, tmp_path / "new", erasures=newer).erased == 5
    with closing(AccessStore.open(tmp_path / "new" / "access")) as access:
        (waiting,) = [json.loads(each) for _, each in access.outbox()]
    assert waiting["reason"] == "GDPR request 9"


def test_another_log_is_not_added_to_a_backup(made: Made, tmp_path: Path) -> None:
    made.append(10)
    back_up(made.directory, tmp_path / "to", made=MADE)
    other = tmp_path / "other"
    make_ledger(other)
    with pytest.raises(VerificationError, match="it is older than its own backup"):
        back_up(other, tmp_path / "to", made=MADE)
    with serving(other, made.tokens) as another:
        del another
    with pytest.raises(UnavailableError, match="neither empty nor a backup"):
        back_up(other, made.directory, made=MADE)
    shutil.copytree(tmp_path / "to", tmp_path / "damaged")
    (tmp_path / "damaged" / read_manifest(tmp_path / "to").parts / "policy").write_bytes(b"x")
    with pytest.raises(VerificationError, match="policy is not the file that was backed up"):
        restore(tmp_path / "damaged", tmp_path / "new")
    (tmp_path / "damaged" / MANIFEST).write_bytes(b'{"format": 2}')
    with pytest.raises(MalformedError, match=r"backup\.json"):
        restore(tmp_path / "damaged", tmp_path / "new")


def test_a_link_in_the_folder_of_backups_leads_to_no_key_of_the_ledger(
    made: Made, tmp_path: Path
) -> None:
    made.append(2, "u_1")
    to, keys = tmp_path / "to", made.directory / "private" / KEYS_FILE
    back_up(made.directory, to, made=MADE)
    before = keys.read_bytes()
    (to / "parts-folder").symlink_to(made.directory)
    for name in ("parts-private", "parts-keys", "parts-linked"):
        (to / name).mkdir()
    (to / "parts-private" / "private").symlink_to(made.directory / "private")
    (to / "parts-keys" / "private").mkdir()
    (to / "parts-keys" / "private" / KEYS_FILE).symlink_to(keys)
    (to / "parts-linked" / "private").mkdir()
    (to / "parts-linked" / "private" / KEYS_FILE).hardlink_to(keys)
    back_up(made.directory, to, made=MADE)
    assert keys.read_bytes() == before
    assert len(list(to.glob("parts-*"))) == 1


def link_in_evidence(parts: Path) -> None:
    (parts / "evidence").mkdir()
    (parts / "evidence" / "again").symlink_to(parts)


def link_for_policy(parts: Path) -> None:
    (parts / "policy").rename(parts / "evidence")
    (parts / "policy").symlink_to(parts / "evidence")


def pipe(parts: Path) -> None:
    os.mkfifo(parts / "private.toml")


@pytest.mark.parametrize("change", [link_in_evidence, link_for_policy, pipe])
def test_a_backup_with_anything_but_files_and_folders_is_not_restored(
    made: Made, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    to = tmp_path / "to"
    back_up(made.directory, to, made=MADE)
    change(to / read_manifest(to).parts)
    with pytest.raises(VerificationError, match="is a link, or no file"):
        restore(to, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("parts", ["..", "log", "", "parts-x/..", "parts-x"])
def test_the_parts_of_a_backup_are_in_it(made: Made, tmp_path: Path, parts: str) -> None:
    to = tmp_path / "to"
    back_up(made.directory, to, made=MADE)
    (to / "parts-x").symlink_to(to / read_manifest(to).parts)
    changed = json.loads((to / MANIFEST).read_bytes()) | {"parts": parts}
    (to / MANIFEST).write_text(json.dumps(changed))
    with pytest.raises(MalformedError, match="there is no folder"):
        backup_paths(to)


@pytest.mark.parametrize(
    "line",
    [
        *(b"{}", b"[]", b'{"event":5}', b'{"a":"\xff"}', b'{"a":' + b"[" * 100_000),
        b'{"event":{"action":"ledger.private.erased","targets":[]}}',
        b'{"event":{"action":"ledger.private.erased","targets":[{"id":5}]}}',
        b'{"index":"x","event":{"action":"ledger.private.erased","targets":[{"id":"u"}]}}',
    ],
)
def test_a_line_of_erasures_that_is_no_event_is_named(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "erased.jsonl").write_bytes(b'{"event":{"action":"a.b"}}\n' + line)
    with pytest.raises(MalformedError, match="line 2: not an event"):
        read_erasures(tmp_path / "erased.jsonl", 0)


def test_erasures_are_read_from_an_export_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "erased.jsonl"
    row = b'{"event":{"action":"ledger.private.erased","targets":[{"id":"u_1"}]},"index":7}\n'
    text = '{"trailer":{"rows":%d,"sha256":"%s","tree_size":9}}\n'
    whole = text % (1, hashlib.sha256(row).hexdigest())
    file.write_bytes(row + whole.encode())
    assert [each.subject for each in read_erasures(file, 0)] == ["u_1"]
    twice = text % (2, hashlib.sha256(row * 2).hexdigest())
    for data, reason in (
        (row, "it is cut short"),
        (b"", "it is cut short"),
        (row * 3 + twice.encode(), "has 3 rows, its trailer says 2"),
        (row.replace(b"u_1", b"u_2") + whole.encode(), "or they were changed"),
        ((row + whole.encode()) * 2, "line 3: it goes on behind its trailer"),
        (row + b'{"trailer":{"rows":"1"}}\n', "line 2: not a trailer"),
    ):
        file.write_bytes(data)
        with pytest.raises(MalformedError, match=reason):
            read_erasures(file, 0)
    file.write_bytes(row + b" " * (LINE_BYTES_MAX + 1))
    with pytest.raises(MalformedError, match=f"a line of more than {LINE_BYTES_MAX} bytes"):
        read_erasures(file, 0)


def test_a_plain_file_of_a_backup_has_a_limit(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(made.directory, tmp_path / "to", made=MADE)
    monkeypatch.setattr(backup_files, "FILE_BYTES_MAX", 10)
    with pytest.raises(MalformedError, match="more than 10 bytes"):
        restore(tmp_path / "to", tmp_path / "new")


def test_the_commands(made: Made, tmp_path: Path) -> None:
    made.append(300, "u_1")
    to, new = tmp_path / "to", tmp_path / "new"

    done = run("backup", made.directory, to)
    assert done.returncode == 0, done.stderr
    assert "entries, " in done.stdout
    assert "not in it: key, private.key, digest.key; keep" in done.stderr
    erase_here(made.directory, "u_1", "a request")
    done = run("backup", made.directory, to, "--json", "--verify", "added")
    assert json.loads(done.stdout)["tree_size"] >= 300
    key, private_key = made.directory / "key", made.directory / "private.key"
    done = run("restore", to, new, "--key", key, "--private-key", private_key)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"put your copy of digest.key at {new / 'digest.key'} too; ")
    assert done.stderr.endswith(f"\nit takes no events yet; next: ledger recover {new}\n")
    # Nothing is known to be missing, but it takes no events.
    undecided = run("recover", new, "--offline")
    assert (undecided.returncode, "no event is taken" in undecided.stderr) == (1, True)
    assert run("recover", new, "--accept").returncode == 0
    assert run("recover", new, "--offline").returncode == 0
    assert run("fsck", new).returncode == 0
    done = run("restore", to, new)
    assert (done.returncode, "is not empty" in done.stderr) == (2, True)
    # Without its private key nothing is changed by a recovery, so it can be given then.
    made.append(1, "u_1")
    assert run("restore", to, tmp_path / "keyless", "--key", key).returncode == 0
    done = run("recover", tmp_path / "keyless", "--from", made.directory)
    assert (done.returncode, "put your copy of private.key" in done.stderr) == (4, True)
    unfinished = tmp_path / "keyless" / "recovering.json"
    assert not unfinished.exists()
    # What was interrupted is ended by the same command, not by a decision.
    unfinished.write_text('{"start":0,"source":"newer"}')
    done = run("recover", tmp_path / "keyless", "--accept", "--offline")
    assert (done.returncode, "was interrupted" in done.stderr) == (4, True)
    assert "takes events again" not in done.stderr + done.stdout
