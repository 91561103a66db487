"""Erasable fields from end to end: a real service, real clients, and a search of every file."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from base64 import b64encode, urlsafe_b64decode
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest
from msgspec import structs

from ledger.service.backup import back_up, restore
from ledger.service.private_fields import parse_fields
from ledger.service.token_admin import make_token
from ledger.store.erasable_values import PrivateStore
from ledger_client import (
    AsyncLedgerClient,
    LedgerClient,
    Receipt,
    RejectedError,
    VerificationError,
    private,
)
from ledger_client.transport import Transport
from ledger_core.event.commitments import Opening, encode_salt
from ledger_core.tlog.errors import MalformedError
from tests.files import files_below
from tests.service.check_log import check_ledger
from tests.service.serving import (
    JSON,
    MSGPACK,
    NDJSON,
    QUICK,
    Ledger,
    event,
    make_ledger,
    send,
    serving,
)

NAME = "Zoë Unmistakable-Quillfeather"
DIAGNOSIS = {"code": "F41.1-unmistakable", "note": "Sehr vertraulich: unmistakable"}
BYTES = [text.encode() for text in (NAME, DIAGNOSIS["code"], DIAGNOSIS["note"])]


def _patient_event(subject: str = "u_12345", **fields: Any) -> dict[str, Any]:
    return event(
        targets=[{"type": "patient", "id": "p_1", "name": private(NAME, subject)}],
        context={"diagnosis": private(DIAGNOSIS, subject=subject), "ward": "7"},
        **fields,
    )


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Ledger]:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    tokens["opener"] = make_token(directory, name="opener", scopes=("read", "private"), tenant=None)
    with serving(directory, tokens) as ledger:
        yield ledger
        check_ledger(ledger)


def _open(served: Ledger, token: str = "admin", **others: Any) -> LedgerClient:
    return LedgerClient(
        served.url, served.tokens[token], policy=served.directory / "policy", **others
    )


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _files_with(needles: list[bytes], *folders: Path) -> list[Path]:
    return [
        file
        for folder in folders
        for file in files_below(folder)
        if any(needle in file.read_bytes() for needle in needles)
    ]


def test_readers_with_the_scope_see_the_value_and_others_its_commitment(served: Ledger) -> None:
    with _open(served) as client:
        receipt = client.append(_patient_event())
    assert receipt.head is not None
    logged = json.loads(receipt.leaf)["event"]
    assert logged["targets"][0]["name"].startswith("commitment.")
    assert logged["context"]["diagnosis"].keys() == {"commitment"}
    with _open(served, "opener") as opener:
        entry = opener.event(receipt.index)
        assert entry.private == {"/targets/0/name": NAME, "/context/diagnosis": DIAGNOSIS}
        assert entry.leaf == receipt.leaf
    with _open(served, "read") as reader:
        assert reader.event(receipt.index).private == {}
    answer = served.ask(f"/v1/events/{receipt.index}", token="read")
    assert "private" not in answer.json()
    assert not any(needle in answer.body for needle in BYTES)
    assert (
        served.ask(f"/v1/events/{receipt.index}", token="opener").headers["Cache-Control"]
        == "no-store"
    )
    assert _files_with(BYTES, served.directory) == []


def test_no_copy_of_an_erased_value_key_or_salt_is_left_in_any_file(
    served: Ledger, tmp_path: Path
) -> None:
    with _open(served, state=_made(tmp_path / "state") / "heads") as client:
        results = client.append_many([_patient_event() for _ in range(300)])
        receipts = [result for result in results if isinstance(result, Receipt)]
        assert len(receipts) == 300
        kept = client.append(_patient_event("u_other"))
        secrets = BYTES + [
            needle
            for index in (receipts[0].index, receipts[-1].index)
            for opening in served.ask(f"/v1/events/{index}", token="opener").json()["private"]
            for needle in _forms_of_salt(opening["salt"])
        ]
        private_folder = served.directory / "private"
        wrapped_before = (private_folder / "keys").read_bytes()[:72]
        erased = client.erase("u_12345", reason="ticket DSR-7")
        assert erased.values == 600
        entry = client.event(erased.index)
        assert entry.event.action == "ledger.private.erased"
        assert entry.event.reason == "ticket DSR-7"
        assert b'"targets":[{"id":"u_12345","type":"ledger.subject"}]' in entry.leaf
        assert client.event(receipts[0].index).private == {}
        assert client.event(receipts[0].index).leaf == receipts[0].leaf
        assert client.event(kept.index).private["/targets/0/name"] == NAME
        assert [e.leaf for e in client.events(receipts[0].index, receipts[0].index + 300)] == [
            receipt.leaf for receipt in receipts
        ]
        client.erase("u_other", reason="the test greps for their bytes, which are the same")
    backup = shutil.copytree(served.directory, tmp_path / "backup")
    compact = tmp_path / "compact"
    compact.mkdir()
    _copy_compact(private_folder, compact)
    assert _files_with([*secrets, wrapped_before], served.directory, backup, compact) == []
    answer = served.ask(f"/v1/events/{receipts[0].index}", token="opener")
    assert not any(needle in answer.body for needle in BYTES)


def _forms_of_salt(salt: str) -> list[bytes]:
    raw = urlsafe_b64decode(salt + "=")
    return [raw, salt.encode(), b64encode(raw).rstrip(b"="), raw.hex().encode()]


def _copy_compact(source: Path, target: Path) -> None:
    """Copy as a backup tool does, in a process of its own: LMDB is opened once in each."""
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, lmdb\n"
            "lmdb.open(sys.argv[1], readonly=True, max_dbs=8, lib_version=0)"
            ".copy(sys.argv[2], compact=True)",
            str(source),
            str(target),
        ],
        check=True,
        timeout=60,
    )


def test_a_copy_from_before_an_erasure_is_opened_by_the_wrapping_key_alone(
    served: Ledger, tmp_path: Path
) -> None:
    with _open(served) as client:
        receipt = client.append(_patient_event())
    backup = shutil.copytree(served.directory / "private", tmp_path / "backup" / "private")
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ledger_core.event.commitments import Commitment\n"
        "from ledger.runtime.keys import read_secret_key\n"
        "from ledger.store.erasable_values import PrivateStore, event_key\n"
        "key = read_secret_key(Path(sys.argv[2]), key_bytes=32)\n"
        "store = PrivateStore.open(Path(sys.argv[1]), key)\n"
        "commitment = Commitment(sys.argv[3], sys.argv[4])\n"
        "print(store.find(commitment, event_key(sys.argv[5], None)).value)\n"
    )
    answer = served.ask(f"/v1/events/{receipt.index}", token="read").json()
    commitment = answer["event"]["targets"][0]["name"].removeprefix("commitment.")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            str(backup),
            str(served.directory / "private.key"),
            "/targets/0/name",
            commitment,
            answer["event"]["id"],
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert done.stdout == f"{NAME}\n"


def test_repeating_an_append_changes_nothing_and_a_wrong_value_is_refused(served: Ledger) -> None:
    with _open(served) as client:
        marked = _patient_event()
        receipt = client.append(marked)
        leaf_event = json.loads(receipt.leaf)["event"]
        openings = served.ask(f"/v1/events/{receipt.index}", token="opener").json()["private"]
        again = served.append({"event": leaf_event, "private": openings})
        assert again.json()["results"][0]["duplicate"]
        lied = [openings[0] | {"value": "another"}]
        refused = served.append({"event": leaf_event, "private": lied})
        assert refused.json()["results"][0]["error"]["type"] == "/v1/problems#private"
        # Salts are random, so the same words marked again are another event.
        with pytest.raises(RejectedError, match="has this id"):
            client.append(marked)


def test_a_retry_brings_back_nothing_that_was_erased(served: Ledger) -> None:
    with _open(served) as client:
        receipt = client.append(_patient_event())
        opened = served.ask(f"/v1/events/{receipt.index}", token="opener").json()["private"]
        sent = {"event": json.loads(receipt.leaf)["event"], "private": opened}
        assert client.erase("u_12345", reason="DSR-7").values == 2
        for subject in ("u_12345", "u_else"):
            again = {**sent, "private": [{**each, "subject": subject} for each in opened]}
            assert served.append(again).json()["results"][0]["duplicate"] is True
            assert "private" not in served.ask(f"/v1/events/{receipt.index}").json()
            assert client.erase(subject, reason="DSR-7").values == 0


def test_a_copied_commitment_opens_in_no_event_but_its_own(served: Ledger) -> None:
    with _open(served) as client:
        receipt = client.append(_patient_event(tenant="acme"))
    opened = served.ask(f"/v1/events/{receipt.index}", token="opener").json()["private"]
    assert len(opened) == 2
    for tenant in ("acme", "other"):
        copied = json.loads(receipt.leaf)["event"] | event(
            context=json.loads(receipt.leaf)["event"]["context"], tenant=tenant
        )
        index = served.append(copied).json()["results"][0]["index"]
        assert "private" not in served.ask(f"/v1/events/{index}", token="opener").json()


def test_envelopes_come_as_batches_lines_and_msgpack_too(served: Ledger) -> None:
    with _open(served) as client:
        receipt = client.append(_patient_event())
    leaf_event = json.loads(receipt.leaf)["event"]
    openings = served.ask(f"/v1/events/{receipt.index}", token="opener").json()["private"]
    envelope = {"event": leaf_event, "private": openings}
    batch = served.append(envelope, event())
    lines = served.ask(
        "/v1/events",
        method="POST",
        body=b"\n".join(json.dumps(each).encode() for each in (envelope, event())),
        content_type=NDJSON,
    )
    packed = served.ask(
        "/v1/events", method="POST", body=msgpack.packb(envelope), content_type=MSGPACK
    )
    for answer in (batch, lines, packed):
        assert answer.status == 200, answer.text
        assert answer.json()["results"][0]["duplicate"]


def test_a_value_that_opens_another_commitment_is_a_lie_and_is_not_saved(
    served: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _open(served) as client:
        receipt = client.append(_patient_event())
    honest = Transport.send

    def lying(self: Transport, request: Any) -> Any:
        response = honest(self, request)
        return replace(response, body=response.body.replace(b"F41.1", b"F41.2"))

    monkeypatch.setattr(Transport, "send", lying)
    with (
        _open(served, "opener", state=_made(tmp_path / "state") / "heads") as opener,
        pytest.raises(VerificationError, match="private value") as caught,
    ):
        opener.event(receipt.index)
    assert NAME not in str(caught.value)
    assert _files_with(BYTES, tmp_path / "state") == []


def test_the_service_commits_to_the_fields_of_its_settings_and_the_client_verifies(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    (directory / "private.toml").write_text(
        "[[fields]]\npath = '/targets/*/name'\nsubject = '/targets/*/id'\n"
        "[[fields]]\npath = '/context/diagnosis'\nsubject = '/targets/0/id'\n"
    )
    sent = event(
        targets=[{"id": "p_1", "name": NAME}, {"id": "p_2", "name": "Another Patient"}],
        context={"diagnosis": DIAGNOSIS, "ward": "7"},
    )
    with serving(directory, tokens) as served:
        with _open(served) as client:
            receipt = client.append(sent)
            assert receipt.head is not None
            assert client.append(sent).is_duplicate
            entry = client.event(receipt.index)
            assert entry.private == {
                "/targets/0/name": NAME,
                "/targets/1/name": "Another Patient",
                "/context/diagnosis": DIAGNOSIS,
            }
            client.erase("p_1", reason="asked")
            assert client.event(receipt.index).private == {"/targets/1/name": "Another Patient"}
            with pytest.raises(RejectedError, match="whose it is"):
                client.append(event(context={"diagnosis": DIAGNOSIS}))
        assert _files_with(BYTES, directory) == []
        check_ledger(served)


def test_a_service_that_masks_keeps_private_values_and_each_outcome_in_its_place(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    (directory / "private.toml").write_text(
        "[[fields]]\npath = '/targets/*/name'\nsubject = '/targets/*/id'\n"
        "[[fields]]\npath = '/context/a'\nsubject = '/context/b'\n"
    )
    opening = Opening("/context/diagnosis", "u_1", encode_salt(bytes(32)), "F41.1")
    enveloped = {
        "event": event(
            targets=[{"id": "p_1", "name": NAME}],
            context={"diagnosis": {"commitment": opening.commitment}, "password": "zxq-hunter-2"},
        ),
        "private": [msgspec.to_builtins(opening)],
    }
    with serving(directory, tokens, structs.replace(QUICK, secrets="mask")) as served:
        answer = served.append(event(), event(context={"a": 1}), enveloped, event(id="not one"))
        assert answer.status == 207
        results = answer.json()["results"]
        assert [result.get("error", {}).get("field") for result in results] == [
            None,
            "/context/a",
            None,
            "id",
        ]
        assert results[2]["masked"] == [{"path": "context.password", "rule": "password"}]
        assert [each["path"] for each in results[2]["committed"]] == ["/targets/0/name"]
        read = served.ask(f"/v1/events/{results[2]['index']}").json()
        assert {each["path"]: each["value"] for each in read["private"]} == {
            "/context/diagnosis": "F41.1",
            "/targets/0/name": NAME,
        }
        assert read["event"]["context"]["password"] == {"masked": "password"}
        check_ledger(served)


def test_erasures_wait_at_the_turn_of_their_token_and_not_on_threads_of_others(
    served: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def spy(name: str) -> Callable[..., object]:
        step: Callable[..., object] = getattr(PrivateStore, name)

        def run(*arguments: Any, **named: Any) -> object:
            threads.append(threading.current_thread().name)
            return step(*arguments, **named)

        return run

    for name in ("count", "erase", "finish"):
        monkeypatch.setattr(PrivateStore, name, spy(name))
    with _open(served) as client:
        client.erase("u_12345", reason="DSR-7")
    assert len(threads) == 3
    # The default threads are few, and the publisher uses them too.
    assert all(name.startswith("ledger-append") for name in threads)


def test_erasing_needs_the_scope_admin_and_a_token_without_a_tenant(served: Ledger) -> None:
    body = json.dumps({"subject": "u_1", "reason": "r"}).encode()
    asked = {
        name: served.ask(
            "/v1/private/erasures", method="POST", body=body, token=name, content_type=JSON
        )
        for name in ("append", "opener", "admin acme")
    }
    assert {name: answer.status for name, answer in asked.items()} == {
        "append": 403,
        "opener": 403,
        "admin acme": 403,
    }
    for bad in (
        b"{}",
        b'{"subject":"","reason":"r"}',
        b"[]",
        b'{"subject":"a\\u0000","reason":""}',
    ):
        answer = served.ask("/v1/private/erasures", method="POST", body=bad, content_type=JSON)
        assert answer.status in (400, 422), answer.text


def _erase(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
    return subprocess.run(
        [sys.executable, "-m", "ledger", "erase", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=kept | environ,
        timeout=60,
        check=False,
    )


def test_the_command_erases_beside_a_running_service_and_through_it(served: Ledger) -> None:
    with _open(served) as client:
        here = client.append(_patient_event("here"))
        through = client.append(_patient_event("through"))
        directory, reason = str(served.directory), ("--reason", "by hand", "--json")
        unsure = _erase(directory, "--subject", "here", *reason)
        assert (unsure.returncode, "Use --yes" in unsure.stderr) == (2, True)
        misspelt = _erase(directory, "--subject", "hear", *reason, "--yes")
        assert (misspelt.returncode, "no private value is of 'hear'" in misspelt.stderr) == (
            6,
            True,
        )
        assert client.event(here.index).private
        done = _erase(directory, "--subject", "here", *reason, "--yes")
        assert done.returncode == 0, done.stderr
        event_id = json.loads(done.stdout)["id"]
        assert json.loads(done.stdout)["values"] == 2
        assert client.event(here.index).private == {}
        for _ in range(200):
            answer = send(
                served.url,
                f"/v1/events/{event_id}",
                method="GET",
                body=None,
                headers={"Authorization": f"Bearer {served.tokens['admin']}"},
            )
            if answer.status == 200:
                break
            time.sleep(0.05)
        assert answer.json()["event"]["reason"] == "by hand"
        assert client.event(through.index).private
        done = _erase(
            served.url,
            "--subject",
            "through",
            "--reason",
            "by request",
            "--yes",
            LEDGER_TOKEN=served.tokens["admin"],
        )
        assert done.returncode == 0, done.stderr
        again = _erase(
            *(served.url, "--subject", "through", "--reason", "by request", "--yes"),
            LEDGER_TOKEN=served.tokens["admin"],
        )
        assert (again.returncode, "is the subject misspelt?" in again.stderr) == (6, True)
        assert client.event(through.index).private == {}
    assert _files_with(BYTES, served.directory) == []


def test_an_erasure_before_a_crash_is_logged_at_the_next_start(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    with serving(directory, tokens) as served, _open(served) as client:
        receipt = client.append(_patient_event())
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ledger.service.data_dir import DirectoryPaths\n"
        "from ledger.service.secret_stores import open_private\n"
        "store = open_private(DirectoryPaths(Path(sys.argv[1])), make_key=bytes)\n"
        "store.erase('u_12345', event_json=sys.argv[2].encode())\n"
    )
    said = event(action="ledger.private.erased")
    subprocess.run(
        [sys.executable, "-c", program, str(directory), json.dumps(said)], check=True, timeout=60
    )
    with serving(directory, tokens) as served, _open(served) as client:
        assert client.event(said["id"]).event.action == "ledger.private.erased"
        assert client.event(receipt.index).private == {}


@pytest.mark.anyio
async def test_the_asynchronous_client_marks_reads_and_erases_as_well(served: Ledger) -> None:
    async with AsyncLedgerClient(
        served.url, served.tokens["admin"], policy=served.directory / "policy"
    ) as client:
        receipt = await client.append(_patient_event())
        assert (await client.event(receipt.index)).private["/targets/0/name"] == NAME
        assert (await client.erase("u_12345", reason="r")).values == 2
        assert (await client.event(receipt.index)).private == {}


def test_a_ledger_whose_wrapping_key_is_gone_does_not_start(tmp_path: Path) -> None:
    directory = tmp_path / "ledger"
    tokens = make_ledger(directory)
    with serving(directory, tokens):
        pass
    assert (directory / "private.key").stat().st_mode & 0o777 == 0o600
    (directory / "private.key").unlink()
    with pytest.raises(Exception, match="no key file"), serving(directory, tokens):
        pass


@pytest.mark.parametrize(
    "text",
    [
        "[[",
        "x = 1",
        "[[fields]]\npath = '/actor/id'\nsubject = '/actor/id'",
        "[[fields]]\npath = 'context.a'\nsubject = '/actor/id'",
        "[[fields]]\npath = '/context/a'",
    ],
)
def test_a_file_of_fields_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(MalformedError, match=r"private\.toml"):
        parse_fields(text)


def test_a_subject_whose_id_looks_like_a_secret_is_erased_here_and_in_older_backups(
    tmp_path: Path,
) -> None:
    """The log shows a digest of such an id, and an older copy has only the log to follow."""
    card = "4111111111111111"
    tokens = make_ledger(tmp_path / "ledger")
    (tmp_path / "ledger" / "private.toml").write_text(
        '[[fields]]\npath = "/targets/*/name"\nsubject = "/targets/*/id"\n'
    )
    with serving(tmp_path / "ledger", tokens) as ledger, _open(ledger) as client:
        user = {"type": "user", "id": card, "name": NAME}
        named = ledger.append(event(targets=[user])).json()["results"][0]["index"]
        noted = client.append(event(context={"note": private(NAME, card)})).index
    back_up(ledger.directory, tmp_path / "backup", made="2026", with_keys=True)
    with serving(ledger.directory, tokens) as ledger, _open(ledger) as client:
        assert client.erase(card, reason="DSR-7").values == 2
        assert not client.event(named).private
        assert not client.event(noted).private
    restored = tmp_path / "restored"
    restore(tmp_path / "backup", restored, erasures=ledger.directory, is_complete=True)
    with serving(restored, tokens) as ledger, _open(ledger) as client:
        assert not client.event(named).private
        assert not client.event(noted).private
