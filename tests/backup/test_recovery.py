"""An old copy of a ledger that was put back: noticed, held, and recovered from."""

import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest

from ledger.service.data_dir import DirectoryPaths
from ledger.service.recovery import end_hold, take_over, take_receipts
from ledger.store.environment import Environment
from ledger.store.log import LogStore
from ledger.store.tokens import AccessStore
from ledger_client import LedgerClient, Receipt
from ledger_client.cli.app import run
from ledger_core.tlog.errors import UnavailableError, VerificationError
from ledger_core.tlog.proof import Proof, format_proof
from ledger_core.tlog.tile import TILE_WIDTH
from tests.backup.test_backup import Made, make_and_revoke_token
from tests.query.test_damaged_bundle import damage
from tests.service.check_log import check_ledger
from tests.service.serving import Ledger, event, make_ledger, serving

OLD, NEW = 50, 90


class Rolled(Made):
    """A ledger whose log is an old copy; `newer` is the folder as it was."""

    newer: Path


@pytest.fixture
def rolled(tmp_path: Path) -> Rolled:
    directory = tmp_path / "ledger"
    made = Rolled(directory, make_ledger(directory))
    made.newer = tmp_path / "newer"
    made.append(OLD, "u_1")
    shutil.copytree(directory, tmp_path / "old")
    made.append(NEW - OLD, "u_2")
    make_and_revoke_token(directory, "later")
    made.append(1)
    shutil.copytree(directory, made.newer)
    put_back(tmp_path / "old", directory)
    return made


def put_back(old: Path, directory: Path) -> None:
    for name in ("log", "access", "private"):
        shutil.rmtree(directory / name)
        shutil.copytree(old / name, directory / name)


def write_receipts(folder: Path, receipts: Sequence[Receipt]) -> None:
    for receipt in receipts:
        assert isinstance(receipt.proof, Proof)
        name = str(folder / f"entry-{receipt.index}")
        Path(f"{name}.leaf.json").write_bytes(receipt.leaf)
        Path(f"{name}.tlog-proof").write_text(format_proof(receipt.proof), encoding="utf-8")


class Receipts(NamedTuple):
    """A ledger whose log is an old copy, and the receipts of what it lacks."""

    made: Made
    folder: Path
    kept: Sequence[Receipt]


@pytest.fixture
def with_receipts(tmp_path: Path) -> Receipts:
    directory, folder = tmp_path / "ledger", tmp_path / "receipts"
    made = Made(directory, make_ledger(directory))
    made.append(OLD)
    shutil.copytree(directory, tmp_path / "old")
    folder.mkdir()
    with made.client() as client:
        kept = [client.append(event()) for _ in range(3)]
    write_receipts(folder, kept)
    put_back(tmp_path / "old", directory)
    return Receipts(made, folder, kept)


def size(directory: Path) -> int:
    with closing(LogStore.open(DirectoryPaths(directory).log)) as log:
        return log.head().tree_size


def test_the_marker_shows_an_old_copy_and_a_newer_folder_mends_it(
    rolled: Rolled, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, before = rolled.directory, size(rolled.directory)
    with serving(directory, rolled.tokens) as served:
        refused = served.append(event())
        assert (refused.status, refused.slug) == (503, "log-held")
        assert f"the log here has {before} entries" in refused.json()["detail"]
        assert int(refused.headers["Retry-After"]) >= 1
        assert "ledger recover" in served.ask("/readyz").json()["reasons"][0]
        assert served.ask("/v1/events/3").status == 200
    # A restart without the marker goes on being held.
    (directory / "published").unlink()
    with serving(directory, rolled.tokens) as served:
        assert served.append(event()).slug == "log-held"
    assert size(directory) == before

    assert run(["recover", str(directory)]) == 1
    assert "MISSING here  the marker" in capsys.readouterr().out
    assert run(["recover", str(directory), "--from", str(rolled.newer), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tree_size"] == size(rolled.newer) == before + told["taken"]["entries"]
    assert told["taken"]["values"] == NEW - OLD
    with serving(directory, rolled.tokens) as served:
        assert served.append(event()).status == 200
        assert served.ask(f"/v1/events/{before + 3}").json()["private"]
        found = served.ask("/v1/events?q=action:ledger.recovered").json()["events"]
        assert found[0]["event"]["context"]["taken"]["moved"] == 0
        check_ledger(served)


def test_events_that_were_taken_meanwhile_are_moved_behind_the_others(
    rolled: Rolled, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, before = rolled.directory, size(rolled.directory)
    (directory / "published").unlink()
    with serving(directory, rolled.tokens) as served:
        meanwhile = [event() for _ in range(30)]
        assert served.append(*meanwhile).json()["results"][0]["index"] == before
    published = (directory / "published").read_bytes()
    with serving(rolled.newer, rolled.tokens) as served:
        known = served.ask("/checkpoint").body
        assert served.ask("/v1/checkpoints", method="POST", body=known).json()["known"]
    # A client that has seen the longer log shows it.
    with serving(directory, rolled.tokens) as served:
        forged = known.replace(b"example.com/audit\n", b"example.com/other\n", 1)
        assert served.ask("/v1/checkpoints", method="POST", body=forged).slug == "checkpoint"
        assert served.append(event()).status == 200
        shown = served.ask("/v1/checkpoints", method="POST", body=known, token=None)
        assert shown.json()["known"] is False
        assert served.append(event()).slug == "log-held"

    assert run(["recover", str(directory), "--from", str(rolled.newer)]) == 1
    assert "moved behind them: 31 events; 0 have an id" in capsys.readouterr().out.replace(",", "")
    # The other branch's own head is missing now; a person has seen that.
    assert run(["recover", str(directory), "--accept"]) == 0
    with serving(directory, rolled.tokens) as served:
        kept = served.ask(f"/v1/events/{meanwhile[0]['id']}").json()
        assert kept["index"] >= size(rolled.newer)
        assert kept["received"]["by"] == "admin"
        assert served.ask("/v1/checkpoints", method="POST", body=known).json()["known"]
        assert not served.ask("/v1/checkpoints", method="POST", body=published).json()["known"]
    assert list(directory.glob("log.before-*"))


@pytest.mark.parametrize("contact", ["append", "checkpoint", "monitor"])
def test_the_first_client_or_monitor_that_saw_more_shows_it_to_an_old_copy(
    rolled: Rolled, tmp_path: Path, contact: str, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, before = rolled.directory, size(rolled.directory)
    (directory / "published").unlink()
    state, policy = tmp_path / "state", directory / "policy"

    def meet(served: Ledger) -> int:
        """Have the contact; returns the size of the head that it remembers afterwards."""
        if contact == "monitor":
            command = ["monitor", served.url, "--policy", str(policy), "--state", str(state)]
            if run([*command, "--once"]) == 1:
                raise VerificationError("the monitor has printed why")
            return int(served.ask("/checkpoint").text.split("\n")[1])
        token = rolled.tokens["admin"]
        with LedgerClient(served.url, token, policy=policy, state=state) as client:
            # The head that proves an append is signed for it, and published later.
            head = client.append(event()).head if contact == "append" else client.checkpoint()
            assert head is not None
            return head.checkpoint.tree_size

    with serving(rolled.newer, rolled.tokens) as served:
        known = meet(served)
    with serving(directory, rolled.tokens) as served:
        with pytest.raises(VerificationError):
            meet(served)
        assert served.append(event()).slug == "log-held"
    assert size(directory) <= before + 1
    capsys.readouterr()
    assert run(["recover", str(directory)]) == 1
    shown = capsys.readouterr().out
    assert "a client" in shown
    assert str(known) in shown


def test_receipts_bring_back_what_was_acknowledged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "ledger"
    made = Made(directory, make_ledger(directory))
    made.append(OLD)
    shutil.copytree(directory, tmp_path / "old")
    receipts = tmp_path / "receipts"
    receipts.mkdir()
    with made.client() as client:
        kept = [client.append(event()) for _ in range(5)]
    write_receipts(receipts, kept[:3] + kept[4:])
    put_back(tmp_path / "old", directory)
    before = size(directory)
    assert run(["recover", str(directory), "--receipts", str(receipts)]) == 1
    assert size(directory) == before + 3
    assert f"no receipt for 1 entries: {before + 3};" in capsys.readouterr().err
    name = str(receipts / f"entry-{kept[3].index}")
    assert isinstance(kept[3].proof, Proof)
    Path(f"{name}.leaf.json").write_bytes(kept[2].leaf)
    Path(f"{name}.tlog-proof").write_text(format_proof(kept[3].proof), encoding="utf-8")
    assert run(["recover", str(directory), "--receipts", str(receipts)]) == 1
    assert f"entry-{kept[3].index}.tlog-proof" in capsys.readouterr().err
    Path(f"{name}.leaf.json").write_bytes(kept[3].leaf)
    assert run(["recover", str(directory), "--receipts", str(receipts)]) == 0
    with serving(directory, made.tokens) as served:
        assert served.append(event()).status == 200
        check_ledger(served)


def test_an_event_of_an_application_revokes_no_token_when_it_is_brought_back(
    tmp_path: Path,
) -> None:
    directory, folder = tmp_path / "ledger", tmp_path / "receipts"
    made = Made(directory, make_ledger(directory))
    made.append(OLD)
    shutil.copytree(directory, tmp_path / "old")
    folder.mkdir()
    context = {"action": "ledger.token.revoked"}
    with made.client() as client:
        kept = client.append(
            {**event(context=context), "targets": [{"type": "ledger.token", "id": "admin"}]}
        )
    write_receipts(folder, [kept])
    put_back(tmp_path / "old", directory)
    before = in_use(directory)
    assert "admin" in before
    assert take_receipts(DirectoryPaths(directory), folder).entries == 1
    assert in_use(directory) == before


def in_use(directory: Path) -> set[str]:
    """The names of the tokens that are not revoked."""
    with closing(AccessStore.open(DirectoryPaths(directory).access)) as access:
        return {each.name for each in access.records() if each.revoked is None}


def test_a_receipt_of_an_event_that_is_at_another_index_changes_nothing(
    with_receipts: Receipts, capsys: pytest.CaptureFixture[str]
) -> None:
    made, folder, kept = with_receipts
    (made.directory / "published").unlink()
    again = json.loads(kept[1].leaf)["event"]
    with serving(made.directory, made.tokens) as served:
        assert served.append(again).json()["results"][0]["index"] == kept[0].index
    before = size(made.directory)
    assert run(["recover", str(made.directory), "--receipts", str(folder)]) == 1
    said = capsys.readouterr().err
    assert f"entry {kept[1].index} is of an event that the log has at {kept[0].index}" in said
    assert not (made.directory / "recovering.json").exists()
    assert size(made.directory) == before


def test_a_newer_folder_with_a_damaged_bundle_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, newer = tmp_path / "ledger", tmp_path / "newer"
    made = Made(directory, make_ledger(directory))
    made.append(OLD)
    shutil.copytree(directory, tmp_path / "old")
    made.append(TILE_WIDTH)
    shutil.copytree(directory, newer)
    damage(newer / "log", 0)
    put_back(tmp_path / "old", directory)
    before = size(directory)
    assert run(["recover", str(directory), "--from", str(newer)]) != 0
    assert "bundle 0 is damaged" in capsys.readouterr().err
    assert not (directory / "recovering.json").exists()
    assert size(directory) == before


KILLED = 9
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")


def _recover_until(recover: Callable[[], object], number: int) -> None:
    """Recover, in a process that is killed before its n-th change of a file or a name."""
    done = count()

    def kill() -> None:
        if next(done) == number:
            os._exit(KILLED)

    def audit(name: str, arguments: tuple[object, ...]) -> None:
        if name in CHANGES or (name == "open" and int(str(arguments[2])) & os.O_CREAT):
            kill()

    write = Environment.write

    def killing_write(self: Environment) -> object:
        kill()
        return write(self)

    setattr(Environment, "write", killing_write)  # noqa: B010 - this process is for it alone
    sys.addaudithook(audit)
    recover()


def _from(directory: Path, newer: Path) -> None:
    take_over(DirectoryPaths(directory), newer, now="2026-11-25T02:03:36.123456Z")


def test_receipts_that_are_killed_at_any_change_are_taken_by_the_same_command_again(
    with_receipts: Receipts, tmp_path: Path
) -> None:
    made, folder, kept = with_receipts
    directory, context = tmp_path / "killed", multiprocessing.get_context("fork")
    wanted = size(made.directory) + len(kept)
    journals = 0
    for number in count():
        shutil.copytree(made.directory, directory)
        take = partial(take_receipts, DirectoryPaths(directory), folder)
        process = context.Process(target=_recover_until, args=(take, number))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == KILLED
        if (directory / "recovering.json").exists():
            journals += 1
            take()
            assert size(directory) == wanted
            assert not (directory / "recovering.json").exists()
        else:
            assert size(directory) in (size(made.directory), wanted)
        shutil.rmtree(directory)
    assert journals > 1
    with serving(directory, made.tokens) as served:
        assert served.append(event()).status == 200
        check_ledger(served)


def test_a_recovery_that_is_killed_at_any_change_is_done_by_the_same_command_again(
    rolled: Rolled, tmp_path: Path
) -> None:
    (rolled.directory / "published").unlink()
    before = size(rolled.directory)
    with serving(rolled.directory, rolled.tokens) as served:
        assert served.append(*(event() for _ in range(3))).status == 200
    directory, context = tmp_path / "killed", multiprocessing.get_context("fork")
    wanted = size(rolled.newer) + size(rolled.directory) - before
    ends = set()
    for number in count():
        shutil.copytree(rolled.directory, directory)
        take = partial(_from, directory, rolled.newer)
        process = context.Process(target=_recover_until, args=(take, number))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == KILLED
        if (directory / "recovering.json").exists():
            if (directory / "log").exists() not in ends:
                ends.add((directory / "log").exists())
                with (
                    pytest.raises(UnavailableError, match="run the same `ledger recover` again"),
                    serving(directory, rolled.tokens),
                ):
                    pass
            take_over(DirectoryPaths(directory), rolled.newer, now="2026-11-25T02:04:36.123456Z")
            assert size(directory) == wanted
        else:
            assert size(directory) in (size(rolled.directory), wanted)
        shutil.rmtree(directory)
    assert ends == {True, False}
    end_hold(DirectoryPaths(directory))  # A head of the events that were moved is missing.
    with serving(directory, rolled.tokens) as served:
        assert served.append(event()).status == 200
        check_ledger(served)
