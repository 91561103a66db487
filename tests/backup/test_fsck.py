"""fsck of all parts: tokens, private values, keys, settings and files, against the log."""

import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec
import pytest

from ledger.service.data_dir import DirectoryPaths
from ledger.service.fsck import (
    Findings,
    Problem,
    check_directory,
    check_files,
    check_heads_and_keys,
    check_marker,
)
from ledger.service.token_admin import make_token, open_access, token_event
from ledger.store import keyspace
from ledger.store.environment import Environment
from ledger.store.erasable_values import MAP_BYTES, Erasure, PrivateStore
from ledger.store.log import LogStore
from ledger.store.tokens import DATABASES as ACCESS
from ledger.store.tokens import TokenLimits
from ledger.store.tokens import _encode as encode_token
from ledger_client import private
from ledger_client.cli.app import run
from ledger_core.event.times import parse_time
from ledger_core.tlog.errors import MalformedError, UnavailableError
from ledger_core.tlog.policy import parse_policy
from tests.backup.test_backup import Made, make_and_revoke_token
from tests.backup.test_backup import run as run_alone
from tests.service.serving import ORIGIN, event, make_ledger, serving

Change = Callable[[bytes], bytes]

UNTIL: Final = parse_time("3000-01-01T00:00:00.000000Z")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A ledger with tokens, a revoked one, private values and an erased subject; not served."""
    directory = tmp_path_factory.mktemp("fsck") / "ledger"
    made = Made(directory, make_ledger(directory))
    (directory / "secrets.toml").write_text("", encoding="utf-8")
    shutil.copytree(directory / "access", directory.parent / "first-access")
    make_and_revoke_token(directory, "revoked")
    made.append(20, "u_1")
    made.append(20, "u_2")
    shutil.copytree(directory / "private", directory.parent / "old-private")
    with made.client() as client:
        client.erase("u_2", reason="GDPR request 8")
    made.append(5)
    return made


@pytest.fixture
def made(whole: Made, tmp_path: Path) -> Made:
    shutil.copytree(whole.directory, tmp_path / "ledger")
    return Made(tmp_path / "ledger", whole.tokens)


def problems(directory: Path) -> list[str]:
    found = check_directory(DirectoryPaths(directory)).problems
    return [f"{part}: {problem}" for part, problem in found]


def change_rows(path: Path, names: tuple[bytes, ...], database: bytes, change: Change) -> None:
    environment = Environment.open(path, names, readonly=False, map_bytes=MAP_BYTES)
    with environment.write() as transaction:
        for key, value in list(transaction.rows(database)):
            transaction.put(database, key, change(value))
    environment.close()


def test_a_whole_ledger_passes(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert problems(made.directory) == []
    assert run(["fsck", str(made.directory), "--strict", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["tokens"], told["private_values"], told["problems"]) == (7, 20, [])
    assert run(["fsck", str(made.directory)]) == 0
    assert "7 tokens and 20 private values agree" in capsys.readouterr().out


HUGE_BYTES = 1 << 42
"""Of a sparse file. It takes no room on the disk, and no machine has such memory."""

SMALL_FILES = (
    *("policy", "ledger.toml", "secrets.toml", "principals.toml", "private.toml", "retention.toml"),
    *("sinks.toml", "alarms.toml", "archive.toml", "mirrors.toml", "legal-holds.json"),
    *("pruning.json", "hold.json", "recovering.json", "promoted.json", "started.json", "published"),
    *("key", "private.key", "digest.key", "evidence/1/theirs"),
    *("sinks/siem/dead.jsonl", "sinks/siem/position.json", "sinks/siem/state.json"),
)


@pytest.mark.parametrize("name", SMALL_FILES)
def test_a_huge_file_is_named_and_not_read_into_memory(
    made: Made, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (made.directory / "sinks.toml").write_text(
        '[siem]\ntype = "file"\npath = "/nowhere/out.jsonl"\n', encoding="utf-8"
    )
    path = made.directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.truncate(path, HUGE_BYTES)
    assert run(["fsck", str(made.directory)]) == 1
    said = capsys.readouterr().err
    assert str(path) in said
    assert "has more than" in said or "is larger than a key file can be" in said


def test_slots_behind_the_used_ones_are_not_read_into_memory(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = made.directory / "private" / "keys"
    used = keys.stat().st_size
    os.truncate(keys, HUGE_BYTES)
    assert run(["fsck", str(made.directory)]) == 1
    assert f"private: the file keys has {HUGE_BYTES} bytes" in capsys.readouterr().err
    assert run(["backup", str(made.directory), str(tmp_path / "copy")]) == 0
    (copied,) = (tmp_path / "copy").glob("parts-*/private/keys")
    assert copied.stat().st_size == used


def test_a_damaged_record_of_a_token_is_named_and_the_token_refused(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    access = made.directory / "access"
    kept = tmp_path / "kept"
    shutil.copytree(access, kept)
    change_rows(
        access, ACCESS, keyspace.TOKENS, lambda row: row.replace(b'"revoked"', b'"rewoked"')
    )
    assert any("access: the record of the token" in each for each in problems(made.directory))
    shutil.rmtree(access)
    shutil.copytree(kept, access)
    change_rows(
        access, ACCESS, keyspace.TOKENS, lambda row: row.replace(b'["append"]', b'["admin"]')
    )
    assert any("has another checksum" in each for each in problems(made.directory))
    with serving(made.directory, made.tokens) as served:
        answer = served.ask("/v1/events/0", token="append")
        assert (answer.status, answer.slug) == (500, "damaged")
        assert served.ask("/v1/events/0").status == 200
    assert run(["token", "list", str(made.directory)]) == 0
    said = capsys.readouterr()
    assert "has another checksum; make another token instead" in said.err
    assert run(["token", "revoke", str(made.directory), "append"]) != 0
    assert "has another checksum; make another token instead" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "has"),
    [
        ({"scopes": ("admin",)}, "scopes 'admin', where its event says 'append'"),
        ({"tenant": "acme"}, "tenant 'acme', where its event says none"),
        ({"networks": ("10.0.0.0/8",)}, "networks '10.0.0.0/8', where its event says none"),
        ({"actions": ("a.*", "b.c")}, "actions 'a.*, b.c', where its event says none"),
        ({"limits": TokenLimits(bytes_per_minute=0)}, "bytes_per_minute 0"),
        ({"scopes": ("erase",), "tenant": "a"}, "'append'; tenant 'a', where"),
    ],
)
def test_a_token_with_other_rights_than_its_event_says_is_named(
    made: Made, changed: dict[str, object], has: str
) -> None:
    """Whoever edits the record can write its checksum too; the event is in the log."""
    with open_access(made.directory) as access:
        (record,) = (each for each in access.records() if each.name == "append")
        edited = msgspec.structs.replace(record, **changed)
        with access.environment.write() as transaction:
            for key, row in list(transaction.rows(keyspace.TOKENS)):
                if msgspec.json.decode(row)["name"] == "append":
                    transaction.put(keyspace.TOKENS, key, encode_token(key, edited))
    (said,) = problems(made.directory)
    assert said.startswith("access: the token 'append' of ")
    assert has in said
    assert said.endswith(": revoke it, and make another one")


@pytest.mark.parametrize(
    "expires", [None, "2998-01-01T00:00:00.000000Z", "3001-01-01T00:00:00.000000Z"]
)
def test_a_token_that_expires_later_than_its_event_says_is_named(
    made: Made, expires: str | None
) -> None:
    """One that expires earlier was replaced by another one."""
    make_token(made.directory, name="dated", scopes=("read",), tenant=None, expires_unix_us=UNTIL)
    with open_access(made.directory) as access:
        (record,) = (each for each in access.records() if each.name == "dated")
        edited = msgspec.structs.replace(record, expires=expires)
        with access.environment.write() as transaction:
            for key, row in list(transaction.rows(keyspace.TOKENS)):
                if msgspec.json.decode(row)["name"] == "dated":
                    transaction.put(keyspace.TOKENS, key, encode_token(key, edited))
    assert len(problems(made.directory)) == (expires is None or expires > "3000")


def test_a_revoked_token_is_not_revived_by_an_older_copy(made: Made, tmp_path: Path) -> None:
    directory = made.directory
    with open_access(directory) as access:
        (record,) = [each for each in access.records() if each.name == "read"]
    # The copy from before the revocation.
    shutil.copytree(directory / "access", tmp_path / "before")

    with open_access(directory) as access:
        access.revoke(
            "read",
            revoked="2026-11-25T02:03:36.123456Z",
            event=token_event("ledger.token.revoked", record, 1_790_000_000_000_000),
        )
    with serving(directory, made.tokens) as served:
        assert served.ask("/v1/events/0", token="read").status == 401
    shutil.rmtree(directory / "access")
    shutil.copytree(tmp_path / "before", directory / "access")
    assert problems(directory) == ["access: the token 'read' is in use, but was revoked"]
    with serving(directory, made.tokens) as served:
        assert served.ask("/v1/events/0", token="read").status == 401
        assert served.ask("/v1/events/0").status == 200


def test_values_that_were_erased_and_keys_that_are_zeros_are_named(made: Made, whole: Made) -> None:
    directory = made.directory
    keys = directory / "private" / "keys"
    kept = keys.read_bytes()
    keys.write_bytes(bytes(len(kept)))
    (found,) = problems(directory)
    assert "is zeros, but no erasure says so" in found
    keys.write_bytes(kept[:-1])
    assert any("has" in each and "slots" in each for each in problems(directory))
    keys.write_bytes(bytes([kept[0] ^ 1]) + kept[1:])
    assert any("can't be unwrapped" in each for each in problems(directory))
    shutil.rmtree(directory / "private")
    shutil.copytree(whole.directory.parent / "old-private", directory / "private")
    assert any("was erased with all values of" in each for each in problems(directory))


def test_a_value_that_comes_before_the_event_of_an_erasure_is_a_new_one(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    erase = PrivateStore.erase

    def erase_and_store(store: PrivateStore, *names: str, event_json: bytes) -> Erasure:
        erasure = erase(store, *names, event_json=event_json)
        # On a thread of the service, which logs the erasure after this.
        client.append(event(context={"name": private("later", subject="u_1")}))
        return erasure

    with made.client() as client:
        size = client.append(event()).index + 1
        with monkeypatch.context() as patched:
            patched.setattr(PrivateStore, "erase", erase_and_store)
            erased = client.erase("u_1", reason="GDPR request 9")
        assert (erased.values, erased.index) == (20, size + 1)
        logged = json.loads(client.event(erased.index).leaf)["event"]
        assert logged["context"] == {"values": 20, "tree_size": size}
        assert client.event(size).private == {"/context/name": "later"}
    assert problems(made.directory) == []


def test_keys_that_are_zeros_are_no_erasures_to_readers_and_senders(made: Made) -> None:
    keys = made.directory / "private" / "keys"
    keys.write_bytes(bytes(keys.stat().st_size))
    with serving(made.directory, made.tokens) as served:
        answer = served.ask("/v1/events/10")
        assert (answer.status, answer.slug) == (500, "damaged")
        assert "zeros" in answer.json()["detail"]
        # Who may not see private values reads the event.
        assert served.ask("/v1/events/10", token="read").status == 200
        # The subject that was erased before.
        assert served.ask("/v1/events/30").json().get("private", []) == []


def test_a_key_that_was_erased_and_is_back_is_named(made: Made, whole: Made) -> None:
    shutil.copy(whole.directory.parent / "old-private" / "keys", made.directory / "private")
    assert problems(made.directory) == [
        "private: the key in slot 1 can be read, but its subject was erased"
    ]


def test_a_damaged_event_of_the_outbox_is_named_and_never_logged(made: Made) -> None:
    with open_access(made.directory) as access:
        access.enqueue(msgspec.json.encode(event(reason="as it was written")))
    change_rows(
        made.directory / "access",
        ACCESS,
        keyspace.OUTBOX,
        lambda row: row.replace(b"as it was", b"as it is."),
    )
    assert any("of the outbox" in each for each in problems(made.directory))
    with serving(made.directory, made.tokens) as served:
        assert served.ask("/v1/events?q=reason:written").json()["total"] == 0
    with open_access(made.directory) as access:
        assert len(access.outbox()) == 1


def test_a_missing_store_or_file_is_said(made: Made) -> None:
    directory = made.directory
    (directory / "secrets.toml").unlink()
    assert problems(directory) == [
        "files: secrets.toml was there when the ledger was last started, and is gone"
    ]
    shutil.rmtree(directory / "private")
    assert len(problems(directory)) == 2
    # In a process of its own: the command sets up logging for the whole process.
    served = run_alone("serve", directory, "--listen", "127.0.0.1:0", "--log-level", "error")
    assert served.returncode == 4
    assert "was there when the ledger was last started" in served.stderr


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("ledger.toml", b"listen = 3\n", "ledger.toml: "),
        ("private.toml", b"x = 1\n", "private.toml: "),
        ("policy", b"nonsense\n", "policy: "),
        ("key", b"PRIVATE\n", "key: "),
        ("private.key", b"\n", "private.key: "),
        ("hold.json", b"{}", "hold.json: "),
        ("started.json", b"3", "started.json: "),
        ("access/data.mdb", b"", "access: "),
        ("private/data.mdb", bytes(9000), "private: "),
        ("log/data.mdb", bytes(9000), "log: "),
        ("evidence/1/theirs", b"x", "evidence/1: "),
    ],
)
def test_a_damaged_part_is_one_line_and_no_traceback(
    made: Made, name: str, content: bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = made.directory / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    file.write_bytes(content)
    file.chmod(0o600)
    assert run(["fsck", str(made.directory)]) == 1
    assert said in capsys.readouterr().err


def small_problems(directory: Path) -> list[Problem]:
    """What is wrong with the small files of a ledger."""
    findings, paths = Findings(), DirectoryPaths(directory)
    with findings.part("policy"):
        policy = parse_policy(paths.policy.read_bytes())
        check_heads_and_keys(paths, policy, ORIGIN, findings)
        with closing(LogStore.open(paths.log)) as log:
            check_marker(paths, policy, log, findings)
    check_files(paths, findings)
    return findings.problems


def test_one_flipped_bit_of_any_small_file_is_named(made: Made) -> None:
    directory = made.directory
    fields = '[[fields]]\npath = "/targets/*/name"\nsubject = "/targets/*/id"\n'
    (directory / "private.toml").write_text(fields)
    with serving(directory, made.tokens) as served:
        assert served.append(event()).status == 200
    assert problems(directory) == []
    names = sorted(
        path.name
        for path in directory.iterdir()
        if path.is_file() and path.name != "writer.lock" and path.stat().st_size
    )
    assert {"digest.key", "private.key", "key", "policy", "ledger.toml", "published"} < set(names)
    rng = random.Random(7)
    for name in names:
        file = directory / name
        whole = file.read_bytes()
        places = range(len(whole)) if name == "digest.key" else rng.sample(range(len(whole)), 5)
        for at in places:
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            assert small_problems(directory), (name, at)
        file.write_bytes(whole)
    assert problems(directory) == []


def test_a_key_that_was_changed_or_is_gone_ends_the_start(made: Made) -> None:
    directory = made.directory
    with serving(directory, made.tokens):
        pass
    for name in ("digest.key", "private.key"):
        file = directory / name
        whole = file.read_text()
        file.write_text(whole.replace(whole[0], "0" if whole[0] != "0" else "1", 1))
        with (
            pytest.raises(MalformedError, match=f"{name} is not the key that the ledger was last"),
            serving(directory, made.tokens),
        ):
            pass
        file.unlink()
        with (
            pytest.raises(UnavailableError),
            serving(directory, made.tokens),
        ):
            pass
        file.write_text(whole)
        file.chmod(0o600)
    with serving(directory, made.tokens) as served:
        assert served.append(event()).status == 200


def test_an_empty_folder_is_no_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fsck", str(tmp_path)]) == 4
    assert f"there is no ledger in {tmp_path}" in capsys.readouterr().err


def test_events_of_others_do_not_pass_for_token_events(made: Made) -> None:
    with serving(made.directory, made.tokens) as served:
        context = {"action": "ledger.token.revoked"}
        assert served.append(event(context=context)).status == 200
    assert problems(made.directory) == []


def test_an_older_copy_of_the_log_alone_is_named_by_the_marker(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.directory / "log", tmp_path / "old-log")
    made.append(3)
    shutil.rmtree(made.directory / "log")
    shutil.copytree(tmp_path / "old-log", made.directory / "log")
    assert any(
        each.startswith("published: the head of size") and "run ledger recover" in each
        for each in problems(made.directory)
    )
